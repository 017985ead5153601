"""The reference says what the code says."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from types import ModuleType

import pytest
from pages import ROOT


def _script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("reference", str(ROOT / "scripts" / "reference"))
    spec = importlib.util.spec_from_loader("reference", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


REFERENCE = _script()
PAGES = REFERENCE.pages()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_current(name: str):
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")

    assert written == PAGES[name], "run .venv/bin/python scripts/reference"


def test_no_page_is_left_over():
    assert {path.name for path in (ROOT / "docs" / "reference").iterdir()} == set(PAGES)


def test_the_diagram_shows_every_state_and_every_event():
    diagram = PAGES["job-states.md"].partition("```mermaid")[2].partition("```")[0]

    for state in REFERENCE.State:
        assert state.replace("-", "_") in diagram
    for event in REFERENCE.Event:
        assert event in diagram
