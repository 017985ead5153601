"""A migrated database is what the tables in code say, on either database and from any release."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from dure.errors import RefusedError
from dure.store import leadership, ledger_schema, lending_schema, schema
from dure.store.database import Database
from dure.store.metadata import metadata
from dure.store.migrate import alembic_config, migrate
from dure.store.postgresql import url
from postgres import Server

assert schema.acts.metadata is ledger_schema.journals.metadata is metadata
assert lending_schema.lending.metadata is leadership.leadership.metadata is metadata


OLDER_ROWS = (
    "INSERT INTO people VALUES ('kim', 'Kim', NULL, 0)",
    "INSERT INTO organisations VALUES ('o', 'O', 'university')",
    "INSERT INTO projects VALUES ('p', 'o', 'P')",
    "INSERT INTO allocations VALUES ('a', 'p', 'hours', 0, 9, 1, NULL, NULL, NULL, 0)",
    "INSERT INTO jobs VALUES (1, 'p', 'a', 'kim', 'n', '{}', 'queued', 1, 4200, NULL)",
    """INSERT INTO tasks
       (id, job, array_index, priority, state, retries_left, platform_retries_left)
       VALUES (1, 1, 0, 5, 'queued', 0, 9)""",
)
"""A task that waits, as every released schema can hold it."""


@pytest.fixture
def migrated(empty: Database) -> Database:
    migrate(empty)
    return empty


@pytest.fixture
def created(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    if kind == "sqlite":
        made = Database(tmp_path / "created.sqlite")
    else:
        server: Server = request.getfixturevalue("postgres")
        made = Database(server.url(server.create()))
    with made.write() as connection:
        metadata.create_all(connection)
    yield made
    made.close()


def objects(connection: Connection) -> dict[tuple[str, str], str]:
    """Triggers, their functions and indexes whole, tables by name: (type, name) -> SQL."""
    if connection.dialect.name == "sqlite":
        rows = connection.exec_driver_sql(
            "SELECT type, name, CASE type WHEN 'table' THEN '' ELSE coalesce(sql, '') END AS sql "
            "FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' AND name <> 'alembic_version'",
            execution_options={"no_parameters": True},
        )
    else:
        rows = connection.exec_driver_sql(
            "SELECT 'trigger' AS type, tgname AS name, pg_get_triggerdef(oid) AS sql"
            " FROM pg_trigger WHERE NOT tgisinternal UNION ALL"
            " SELECT 'function', proname, pg_get_functiondef(oid) FROM pg_proc"
            " WHERE pronamespace = 'public'::regnamespace UNION ALL"
            " SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'"
            " AND tablename <> 'alembic_version' UNION ALL"
            " SELECT 'constraint', conname, pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE connamespace = 'public'::regnamespace"
            " AND conname <> 'alembic_version_pkc'"
        )
    return {(row.type, row.name): row.sql for row in rows}


def upgrade(database: Database, revision: str) -> None:
    config = alembic_config()
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)


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
        # PostgreSQL cannot compare the default of a column of JSON; `constraints` has it as text
        options = {"compare_server_default": connection.dialect.name == "sqlite"}
        context = MigrationContext.configure(connection, opts=options)
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


RELEASED = [
    script.revision
    for script in reversed(list(ScriptDirectory.from_config(alembic_config()).walk_revisions()))
]


@pytest.mark.parametrize("revision", RELEASED)
def test_every_released_schema_is_brought_to_the_present_one(
    empty: Database, created: Database, revision: str
):
    upgrade(empty, revision)
    with empty.write() as connection:
        for row in OLDER_ROWS:
            connection.exec_driver_sql(row)

    migrate(empty)

    with empty.read() as one, created.read() as other:
        assert objects(one) == objects(other)
        assert constraints(one) == constraints(other)
        assert one.exec_driver_sql("SELECT name FROM jobs").scalars().all() == ["n"]


def test_tasks_of_an_older_database_have_waited_since_their_job_was_accepted(empty: Database):
    upgrade(empty, "0001")
    with empty.write() as connection:
        for row in OLDER_ROWS:
            connection.exec_driver_sql(row)

    migrate(empty)

    with empty.read() as connection:
        kept = connection.exec_driver_sql("SELECT queued_ms, recalls FROM tasks").one()
    assert tuple(kept) == (4_200, 0)


@pytest.mark.engine
def test_a_database_that_sorts_by_a_language_is_refused(postgres: Server):
    postgres.administer(
        "CREATE DATABASE sorted TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    database = Database(postgres.url("sorted"))
    with pytest.raises(RefusedError, match="CREATE DATABASE dure TEMPLATE template0"):
        migrate(database)
    database.close()


@pytest.mark.parametrize(
    "address", ["", "dure", "mysql://dure@/dure", "postgresql://dure@db", "postgresql://db:x/dure"]
)
def test_what_is_no_address_of_a_database_is_refused(address: str):
    with pytest.raises(RefusedError, match="of the form postgresql://"):
        url(address)


def test_a_password_is_in_no_message():
    database = Database(url("postgresql://dure:hidden@db.example/dure"))
    assert "hidden" not in database.name
