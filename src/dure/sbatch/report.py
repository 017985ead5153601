"""What becomes of a script: one verdict and one sentence for each thing that it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """What becomes of a directive."""

    KEPT = "kept"
    TRANSLATED = "translated"
    PINNED = "pinned"
    """It binds the job to one site's pools."""
    LOST = "cannot be kept"
    OVERRIDDEN = "overridden"
    """Another saying of the same takes its place, as in Slurm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What becomes of one thing that was said. `where` is a line of the script, a variable, or the
    command line; empty for what Slurm would take for granted.
    """

    where: str
    said: str
    verdict: Verdict
    note: str
    stops: bool = False
    """The job would do something else without it: it runs only if its owner says so."""


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was said, in the order of the script."""

    lines: tuple[Line, ...]

    def of(self, verdict: Verdict) -> Iterator[Line]:
        """The lines of one verdict."""
        return (line for line in self.lines if line.verdict is verdict)

    @property
    def stops(self) -> tuple[Line, ...]:
        """What the job cannot do without, unless its owner says that it can."""
        return tuple(line for line in self.lines if line.stops)

    @property
    def summary(self) -> str:
        """`9 kept, 2 translated, 1 cannot be kept`."""
        counts = {verdict: sum(1 for _ in self.of(verdict)) for verdict in Verdict}
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def in_order(lines: Iterable[Line]) -> tuple[Line, ...]:
    """Lines of the script by number, then what else was said."""

    def place(line: Line) -> tuple[int, int]:
        number = line.where.removeprefix("line ")
        return (0, int(number)) if number.isdigit() else (1 if line.where else 2, 0)

    return tuple(sorted(lines, key=place))
