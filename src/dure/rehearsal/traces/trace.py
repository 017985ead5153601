"""What every recorded workload becomes: jobs in order of time, the nodes they ran on, and an
account of the rows that were no jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Final, NamedTuple, TypeVar

from dure.errors import RefusedError
from dure.text import shown

GPUS_PER_NODE: Final = 8
"""Of the clusters whose traces are published, and of the machines that nations buy (HGX, DGX)."""

TIME_S_MAX: Final = 10_000_000_000
"""Some 317 years: beyond it, a time is a slip of units."""

EXAMPLES_MAX: Final = 5
"""Bad rows shown of each cause; all are counted."""

_Row = TypeVar("_Row")


class TraceJob(NamedTuple):
    """One recorded job. Seconds count from the trace's own zero; `duration_s` is how long it ran.

    A job of more GPUs than a node has is a gang: whole nodes, and one more for what is left over.
    """

    id: str
    vc: str
    user: str
    submit_s: int
    duration_s: int
    gpus: int
    status: str = ""
    predicted_s: int | None = None


class BadRowError(Exception):
    """A row that is no job: the cause it is counted under, and `field is VALUE; right is ...`."""

    def __init__(self, cause: str, sentence: str) -> None:
        super().__init__(sentence)
        self.cause = cause


Rows = Iterator[tuple[int, TraceJob | BadRowError]]
"""A file's rows by line number."""


class Within(StrEnum):
    """Where a job must fit: in its own VC, or in whichever is largest."""

    OWN = "own"
    ANY = "any"


@dataclass(slots=True)
class BadRows:
    """What a reader left out: counts by cause, and the first few of each in words."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return self.counts.total()

    def note(self, where: str, wrong: BadRowError) -> None:
        """Count a row that is at `where`, `file:line`."""
        self.counts[wrong.cause] += 1
        if self.counts[wrong.cause] <= EXAMPLES_MAX:
            self.examples.append(f"{where}: {wrong}")


class Trace:
    """A recorded workload. Making one reads its file once, to count jobs, check every row and see
    whether they are in order; `jobs` then streams it, or sorts it where it must.
    """

    __slots__ = ("_limits", "_rows", "bad", "count", "file", "gpus_per_node", "in_order", "nodes")

    def __init__(
        self,
        file: str,
        nodes: Mapping[str, int],
        rows: Callable[[], Rows],
        *,
        gpus_per_node: int = GPUS_PER_NODE,
        within: Within = Within.OWN,
    ) -> None:
        self.file = file
        self.nodes = dict(sorted(nodes.items()))
        """Nodes by VC."""
        self.gpus_per_node = gpus_per_node
        self.bad = BadRows()
        self._rows = rows
        largest = max(nodes.values(), default=0)
        self._limits = {
            vc: gpus_per_node * (largest if within is Within.ANY else count)
            for vc, count in nodes.items()
        }
        self.count = 0
        self.in_order = True
        self._scan()

    def jobs(self) -> Iterator[TraceJob]:
        """The jobs in order of submission, equals as they stand in the file."""
        stream = self._checked(BadRows())
        return stream if self.in_order else iter(sorted(stream, key=attrgetter("submit_s")))

    def gpus(self) -> dict[str, int]:
        """The GPUs of each VC."""
        return {vc: count * self.gpus_per_node for vc, count in self.nodes.items()}

    def _scan(self) -> None:
        last_s = 0
        for job in self._checked(self.bad):
            self.count += 1
            self.in_order &= job.submit_s >= last_s
            last_s = job.submit_s

    def _checked(self, bad: BadRows) -> Iterator[TraceJob]:
        limits = self._limits
        for line, row in self._rows():
            if isinstance(row, TraceJob):
                if 0 < row.gpus <= limits.get(row.vc, 0):
                    yield row
                else:
                    bad.note(f"{self.file}:{line}", self._misfit(row))
            else:
                bad.note(f"{self.file}:{line}", row)

    def _misfit(self, job: TraceJob) -> BadRowError:
        if job.gpus == 0:
            return BadRowError(
                "no-gpus", "gpus is 0; right is at least 1: a job on CPUs is left out"
            )
        if job.vc not in self._limits:
            known = ", ".join(list(self._limits)[:8])
            return BadRowError("unknown-vc", f"vc is {shown(job.vc)}; right is one of {known}")
        limit = self._limits[job.vc]
        return BadRowError(
            "too-large", f"gpus is {job.gpus}; right is 1 to {limit}, all that {job.vc} can give"
        )


def parsed(
    rows: Iterable[tuple[int, _Row | BadRowError]], parse: Callable[[_Row], TraceJob]
) -> Rows:
    """Rows made into jobs, those that fail into what is wrong with them."""
    for line, row in rows:
        if isinstance(row, BadRowError):
            yield line, row
            continue
        try:
            yield line, parse(row)
        except BadRowError as wrong:
            yield line, wrong


def seconds(name: str, text: str) -> int:
    """A time or duration: a number of seconds, fractions rounded.

    Raises:
        BadRowError: not a number, or out of bounds.
    """
    try:
        value = int(text)
    except ValueError:
        value = round(_real(name, text))
    if not 0 <= value <= TIME_S_MAX:
        raise BadRowError(
            f"bad-{name}", f"{name} is {shown(text)}; right is 0 to {TIME_S_MAX} seconds"
        )
    return value


def gpu_count(name: str, text: str) -> int:
    """A number of whole GPUs; zero is for the trace to judge.

    Raises:
        BadRowError: not a number, a fraction, or negative.
    """
    try:
        value = int(text)
    except ValueError:
        real = _real(name, text)
        value = int(real) if real == int(real) else -1
    if value < 0:
        raise BadRowError(
            f"bad-{name}", f"{name} is {shown(text)}; right is a whole number, 1 or more"
        )
    return value


def _real(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) <= TIME_S_MAX:  # nan and infinities too
        raise BadRowError(f"bad-{name}", f"{name} is {shown(text)}; right is a number")
    return value


def bad_trace(sentence: str) -> RefusedError:
    """A file that is no trace at all, in one sentence."""
    return RefusedError("bad-trace", sentence)
