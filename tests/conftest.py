"""Fixtures for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dure.store.database import Database
from nation import Nation, Site, found
from postgres import Server


def pytest_itemcollected(item: pytest.Item) -> None:
    """Tests that start processes take turns, so that they have the machine's other core."""
    if item.get_closest_marker("engine"):
        item.add_marker(pytest.mark.xdist_group("engine"))


@pytest.fixture
def nation(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nation]:
    """On SQLite; on PostgreSQL where the environment has DURE_TEST_DATABASE=postgresql."""
    database = None
    if os.environ.get("DURE_TEST_DATABASE") == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        database = Database(server.url(server.create(server.template("nation", found))))
    made = Nation(tmp_path, database)
    yield made
    made.close()


@pytest.fixture
def site(nation: Nation) -> Site:
    """NHN Cloud's national cluster with four nodes of eight B200."""
    return Site(nation)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server; where none is installed, what needs it is skipped and says so."""
    server = Server()
    yield server
    server.close()
