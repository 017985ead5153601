"""Where the keys of a TOML text stand: `tomllib` reads values and forgets their lines."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any, Final

Spot = tuple[str | int, ...]
"""Where a value stands: keys, and the index of a table in an array, from the top down."""

_MARK: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|"
    r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|#[^\n]*|[\[\]{}\n=]|[^\s\"'#\[\]{}=]+",
    re.DOTALL,
)


def line_of(spot: Spot, text: str) -> int | None:
    """The line of a spot, or of the table that lacks it, or of the first thing in it."""
    lines = _lines(text)
    for length in range(len(spot), 0, -1):
        if spot[:length] in lines:
            return lines[spot[:length]]
    return next((line for at, line in lines.items() if spot and at[: len(spot)] == spot), None)


def _lines(text: str) -> dict[Spot, int]:
    """Where each table and each key of a valid TOML text stands, from line 1."""
    found: dict[Spot, int] = {}
    counts: dict[Spot, int] = {}
    table: Spot = ()
    for line, marks in _statements(text):
        if marks[0] == "[":
            is_array = marks[1] == "["
            keys = _keys(marks[2 if is_array else 1 : marks.index("]")])
            table = _resolved(keys, counts, is_array=is_array)
            found[table] = line
        else:
            found[(*table, *_keys(marks[: marks.index("=")]))] = line
    return found


def _statements(text: str) -> Iterator[tuple[int, list[str]]]:
    """Headers and assignments, each with the line that it starts on."""
    marks: list[str] = []
    depth = start = 0
    line = 1
    for match in _MARK.finditer(text):
        mark = match[0]
        depth += (mark in "[{") - (mark in "]}")
        if mark == "\n" and depth == 0 and marks:
            yield start, marks
            marks = []
        elif mark != "\n" and mark[0] != "#":
            start = start if marks else line
            marks.append(mark)
        line += mark.count("\n")
    if marks:
        yield start, marks


def _keys(marks: Sequence[str]) -> tuple[str, ...]:
    """The keys of a dotted, perhaps quoted, key: TOML's own reader knows how."""
    at: Any = tomllib.loads("".join(marks) + " = 0")
    keys = []
    while isinstance(at, dict):
        [(key, at)] = at.items()
        keys.append(key)
    return tuple(keys)


def _resolved(keys: Sequence[str], counts: dict[Spot, int], *, is_array: bool) -> Spot:
    """The spot of a header: a key that names an array means its last table."""
    spot: Spot = ()
    for number, key in enumerate(keys, 1):
        spot = (*spot, key)
        if is_array and number == len(keys):
            counts[spot] = counts.get(spot, 0) + 1
        if spot in counts:
            spot = (*spot, counts[spot] - 1)
    return spot
