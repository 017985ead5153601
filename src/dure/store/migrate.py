"""Bring a database file to the present schema, at every start, in one transaction."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dure.errors import RefusedError
from dure.store.database import Database


def alembic_config() -> Config:
    """Alembic's configuration: the migrations that come with this version of Dure."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return config


def migrate(database: Database) -> None:
    """Apply what is missing.

    Raises:
        RefusedError: the file was written by a newer Dure.
    """
    config = alembic_config()
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    with database.write() as connection:
        present = MigrationContext.configure(connection).get_current_revision()
        if present is not None and present not in known:
            raise RefusedError(
                "newer-database",
                f"{database.path} is at schema {present}, which this version of Dure does not "
                "know; start the newer version.",
            )
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
