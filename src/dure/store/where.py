"""Which database an installation uses: PostgreSQL where one is named, else a file of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from dure.errors import RefusedError
from dure.settings import Settings
from dure.store import postgresql
from dure.store.database import Database
from dure.store.limits import Limits

DATABASE: Final = "dure.sqlite"
VARIABLE: Final = "DURE_DATABASE"


def where(data: Path, settings: Settings) -> Path | URL:
    """Where the database of a data folder is.

    Raises:
        RefusedError: what is named is no address of a PostgreSQL.
    """
    named = os.environ.get(VARIABLE) or settings.database
    return postgresql.url(named) if named else data / DATABASE


@contextmanager
def opened(data: Path, settings: Settings) -> Iterator[Database]:
    """The database of a data folder, closed at the end.

    Raises:
        RefusedError: as `where`, or the server cannot be reached.
    """
    limits = Limits(
        connections=settings.database_connections,
        wait_s=settings.database_wait_s,
        idle_s=settings.database_idle_s,
    )
    database = Database(where(data, settings), limits)
    try:
        if database.is_shared:
            _require_answer(database)
        yield database
    finally:
        database.close()


def _require_answer(database: Database) -> None:
    try:
        with database.read():
            pass
    except OperationalError as error:
        said = str(error.orig).strip().splitlines()[0]
        raise RefusedError(
            "no-database", f"{database.name} cannot be used: {said}", status=503
        ) from None
