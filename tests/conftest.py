"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nation import Nation, Site


@pytest.fixture
def nation(tmp_path: Path) -> Iterator[Nation]:
    made = Nation(tmp_path)
    yield made
    made.close()


@pytest.fixture
def site(nation: Nation) -> Site:
    """NHN Cloud's national cluster with four nodes of eight B200."""
    return Site(nation)
