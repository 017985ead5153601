"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nation import Nation, Site
from postgres import Server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start processes take turns, so that they have the machine's other core."""
    for item in items:
        if item.get_closest_marker("engine"):
            item.add_marker(pytest.mark.xdist_group("engine"))


@pytest.fixture
def nation(tmp_path: Path) -> Iterator[Nation]:
    made = Nation(tmp_path)
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
