"""Bring a database to the present schema, at every start, in one transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dure.errors import RefusedError
from dure.store import postgresql
from dure.store.database import Database


def alembic_config() -> Config:
    """Alembic's configuration: the migrations that come with this version of Dure."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(database: Database) -> None:
    """Apply what is missing.

    Raises:
        RefusedError: it was written by a newer Dure, or is a PostgreSQL that does not fit.
    """
    config = alembic_config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with database.write() as connection:
        if database.is_shared:
            postgresql.require_fit(connection)
            postgresql.take_time(connection)
        present = MigrationContext.configure(connection).get_current_revision()
        if present is not None and present not in known:
            raise RefusedError(
                "newer-database",
                f"{database.name} is at schema {present}, which this version of Dure does not "
                "know; start the newer version.",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
