"""Which database an installation uses: PostgreSQL where one is named, else a file of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlalchemy import URL
from sqlalchemy.exc import OperationalError

from dure import codec
from dure.errors import RefusedError
from dure.settings import Settings
from dure.store import postgresql
from dure.store.database import Database
from dure.store.limits import Limits

DATABASE: Final = "dure.sqlite"
SETTINGS: Final = "settings.json"
VARIABLE: Final = "DURE_DATABASE"


def settings_of(data: Path) -> Settings:
    """The settings that a data folder holds; the defaults where it holds none.

    Raises:
        RefusedError: they are not of the form expected.
    """
    file = data / SETTINGS
    return codec.decode(Settings, file.read_bytes(), what=SETTINGS) if file.exists() else Settings()


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


@contextmanager
def existing(data: Path) -> Iterator[Database]:
    """The database of a data folder by its own settings, closed at the end; none is created.

    Raises:
        RefusedError: as `opened`, or there is none.
    """
    settings = settings_of(data)
    at = where(data, settings)
    if isinstance(at, Path) and not at.is_file():
        raise RefusedError("bad-input", f"There is no {at}; --data names the data folder.")
    with opened(data, settings) as database:
        yield database
