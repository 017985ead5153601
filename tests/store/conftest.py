"""Each database that the store keeps its promises on, empty and at the present schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bookkeeping import open_book
from dure.store.database import Database
from postgres import Server

KINDS = ("sqlite", pytest.param("postgresql", marks=pytest.mark.engine))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def empty(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database without tables."""
    if kind == "sqlite":
        made = Database(tmp_path / "dure.sqlite")
    else:
        server: Server = request.getfixturevalue("postgres")
        made = Database(server.url(server.create()))
    yield made
    made.close()


@pytest.fixture
def database(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with the ledger's tables."""
    if kind == "sqlite":
        made = Database(tmp_path / "book.sqlite")
        open_book(made)
    else:
        server: Server = request.getfixturevalue("postgres")
        made = Database(server.url(server.create(server.template("book", open_book))))
    yield made
    made.close()
