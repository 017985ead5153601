"""A migrated database is what the tables in code say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, inspect

from dure.errors import RefusedError
from dure.store import ledger_schema, lending_schema, schema
from dure.store.database import Database
from dure.store.metadata import metadata
from dure.store.migrate import alembic_config, migrate

assert schema.acts.metadata is ledger_schema.journals.metadata is metadata
assert lending_schema.lending.metadata is metadata


@pytest.fixture
def migrated(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "migrated.sqlite")
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def created(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "created.sqlite")
    with made.write() as connection:
        metadata.create_all(connection)
    yield made
    made.close()


def objects(connection: Connection) -> dict[tuple[str, str], str]:
    """Triggers and indexes whole, tables by name: (type, name) -> SQL."""
    rows = connection.exec_driver_sql(
        "SELECT type, name, CASE type WHEN 'table' THEN '' ELSE coalesce(sql, '') END AS sql "
        "FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'"
    )
    return {(row.type, row.name): row.sql for row in rows}


def constraints(connection: Connection) -> dict[str, dict[str, list[str]]]:
    """What the tables refuse, by table."""
    asked = inspect(connection)
    return {
        table: {
            "checks": sorted(map(str, asked.get_check_constraints(table))),
            "foreign keys": sorted(map(str, asked.get_foreign_keys(table))),
            "uniques": sorted(map(str, asked.get_unique_constraints(table))),
            "keys": [str(asked.get_pk_constraint(table))],
            "columns": [str(column) for column in asked.get_columns(table)],
        }
        for table in asked.get_table_names()
        if table != "alembic_version"
    }


def test_the_migrations_lead_to_the_tables_in_code(migrated: Database):
    with migrated.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_a_migrated_database_has_what_one_made_from_code_has(migrated: Database, created: Database):
    with migrated.read() as one, created.read() as other:
        assert objects(one) == objects(other)
        assert constraints(one) == constraints(other)
        assert ("trigger", "acts_no_delete") in objects(one)
        assert ("trigger", "entries_post") in objects(one)


def test_migrating_again_changes_nothing(migrated: Database):
    with migrated.read() as connection:
        before = objects(connection)
    migrate(migrated)
    with migrated.read() as connection:
        assert objects(connection) == before


def test_a_newer_database_is_refused(migrated: Database):
    with migrated.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(RefusedError, match="start the newer version"):
        migrate(migrated)


def test_tasks_of_an_older_database_have_waited_since_their_job_was_accepted(tmp_path: Path):
    database = Database(tmp_path / "older.sqlite")
    config = alembic_config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with database.write() as connection:
        for row in (
            "INSERT INTO people VALUES ('kim', 'Kim', NULL, 0)",
            "INSERT INTO organisations VALUES ('o', 'O', 'university')",
            "INSERT INTO projects VALUES ('p', 'o', 'P')",
            "INSERT INTO allocations VALUES ('a', 'p', 'hours', 0, 9, 1, NULL, NULL, NULL, 0)",
            "INSERT INTO jobs VALUES (1, 'p', 'a', 'kim', 'n', '{}', 'queued', 1, 4200, NULL)",
            "INSERT INTO tasks VALUES (1,1, 0, 5, 'queued', 0, 0, 9, 0, NULL, NULL, NULL, NULL, 0)",
        ):
            connection.exec_driver_sql(row)
    migrate(database)
    with database.read() as connection:
        kept = connection.exec_driver_sql("SELECT queued_ms, recalls FROM tasks").one()
    database.close()
    assert tuple(kept) == (4_200, 0)
