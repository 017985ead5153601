"""Fixtures for rehearsals."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def traces() -> Path:
    """The folder of recorded workloads beside the checkout; the repository holds no data."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "traces"
    if not folder.is_dir():
        pytest.skip(f"the recorded workloads are not at {folder}")
    return folder
