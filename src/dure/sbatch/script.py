"""A batch script as sbatch reads it: its directives, and what looks like one and is none.

Directives stand before the first line that is neither empty nor a comment. Source: sbatch(1),
"DESCRIPTION".
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Final

from dure.sbatch import options
from dure.sbatch.options import Given
from dure.text import TEXT_MAX, shown

DIRECTIVE: Final = "#SBATCH"
OURS: Final = "#DURE"
"""Dure's own directives; to Slurm they are comments."""
_OTHERS: Final = re.compile(r"#(PBS|BSUB|COBALT|OAR|\$)\s")
_APART: Final = re.compile(r"# +SBATCH\s+-")
_HETEROGENEOUS: Final = frozenset({"hetjob", "packjob", ":"})


@dataclass(frozen=True, slots=True)
class Ignored:
    """A line that looks like a directive and is not read, and why."""

    line: int
    text: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A script's text, and the options that it gives, in their order."""

    text: str
    given: tuple[Given, ...]
    ignored: tuple[Ignored, ...]


def read(text: str) -> Script:
    """Read a batch script.

    Raises:
        ValueError: what sbatch would refuse too, with the line where there is one.
    """
    _check(text)
    given: list[Given] = []
    ignored: list[Ignored] = []
    begun = False
    for number, line in enumerate(text.split("\n"), start=1):
        if begun:
            if line.startswith(DIRECTIVE):
                ignored.append(Ignored(number, line, _LATE))
        elif line.startswith((DIRECTIVE, OURS)):
            given.extend(_directive(line, number))
        elif _APART.match(line):
            ignored.append(
                Ignored(number, line, "a blank after # makes it a comment, to sbatch too")
            )
        elif _OTHERS.match(line):
            ignored.append(Ignored(number, line, "it is another scheduler's directive"))
        elif line.strip() and not line.lstrip().startswith("#"):
            begun = True
    return Script(text=text, given=tuple(given), ignored=tuple(ignored))


def _check(text: str) -> None:
    if not text.strip():
        raise ValueError("the batch script is empty")
    if not text.startswith("#!"):
        raise ValueError(
            "this does not look like a batch script: its first line must be #! and the path "
            "of an interpreter, #!/bin/bash say"
        )
    if "\r\n" in text:
        raise ValueError("the batch script has DOS line ends (\\r\\n); dos2unix takes them out")
    if len(text) > TEXT_MAX // 2:
        raise ValueError(
            f"the batch script has {len(text):,} characters; at most {TEXT_MAX // 2:,} are taken, "
            "so put the rest into a file beside it"
        )


_LATE: Final = "it stands after the first command, where sbatch reads no directives either"


def wrapped(command: str) -> str:
    """The script that `--wrap` makes of a command. Source: sbatch(1), option --wrap."""
    return f"#!/bin/sh\n# Made by --wrap.\n\n{command}\n"


def _directive(line: str, number: int) -> tuple[Given, ...]:
    """The options of a line; `#` begins a comment in it, quotes keep blanks together."""
    ours = line.startswith(OURS)
    text = line.removeprefix(OURS if ours else DIRECTIVE)
    try:
        given, rest = options.read(shlex.split(text, comments=True), f"line {number}")
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    if fault := _fault(given, rest, ours=ours):
        raise ValueError(f"line {number}: {fault}")
    return given


def _fault(given: tuple[Given, ...], rest: tuple[str, ...], *, ours: bool) -> str | None:
    if rest and rest[0] in _HETEROGENEOUS:
        return "heterogeneous jobs cannot be run; make a job of each part"
    if rest:
        return f"{shown(rest[0])} is no option; options begin with -"
    for one in given:
        if (one.option in options.OURS) is not ours:
            return f"--{one.option} belongs into a {DIRECTIVE if ours else OURS} line"
    return None
