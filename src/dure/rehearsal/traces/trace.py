"""What every recorded workload becomes: jobs in order of time, the nodes they ran on, and an
account of the rows that were no jobs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
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
    """One recorded job. Seconds count from the trace's own zero, or from 1970 where it has dates
    (as they stand: publishers name no time zone); `duration_s` is how long it ran.

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
    """A recorded workload. Making one reads its files once, to count jobs, check every row and see
    whether they are in order; `jobs` then streams them, or sorts them where it must.

    `nodes` are those of each VC, `files` the rows of each file by its name.

    Raises:
        RefusedError: `bad-trace`: no row is a job.
    """

    __slots__ = (
        "_files",
        "_limits",
        "bad",
        "count",
        "gpus_per_node",
        "in_order",
        "nodes",
        "predict",
    )

    def __init__(
        self,
        nodes: Mapping[str, int],
        files: Mapping[str, Callable[[], Rows]],
        *,
        gpus_per_node: int = GPUS_PER_NODE,
        within: Within = Within.OWN,
    ) -> None:
        self.nodes = dict(sorted(nodes.items()))
        self.gpus_per_node = gpus_per_node
        self._files = files
        largest = max(nodes.values(), default=0)
        self._limits = {
            vc: gpus_per_node * (largest if within is Within.ANY else count)
            for vc, count in self.nodes.items()
        }
        self.bad = BadRows()
        self.count = 0
        self.in_order = True
        self.predict: Callable[[Iterator[TraceJob]], Iterator[TraceJob]] = iter
        """Puts predictions into jobs as they pass."""
        self._scan()

    def jobs(self) -> Iterator[TraceJob]:
        """The jobs in order of submission, equals as they stand in the files."""
        stream = self._checked(BadRows())
        if not self.in_order:
            stream = iter(sorted(stream, key=attrgetter("submit_s")))
        return self.predict(stream)

    def gpus(self) -> dict[str, int]:
        """The GPUs of each VC."""
        return {vc: count * self.gpus_per_node for vc, count in self.nodes.items()}

    def _scan(self) -> None:
        last_s = 0
        for job in self._checked(self.bad):
            self.count += 1
            self.in_order &= job.submit_s >= last_s
            last_s = job.submit_s
        if not self.count:
            first = f": {self.bad.examples[0]}" if self.bad else ""
            raise bad_trace(f"{', '.join(self._files)}: no row of {len(self.bad)} is a job{first}.")

    def _checked(self, bad: BadRows) -> Iterator[TraceJob]:
        limits = self._limits
        for file, rows in self._files.items():
            for line, row in rows():
                if isinstance(row, BadRowError):
                    bad.note(f"{file}:{line}", row)
                elif 0 < row.gpus <= limits.get(row.vc, 0):
                    yield row
                else:
                    bad.note(f"{file}:{line}", self._misfit(row))

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


def moment_s(name: str, text: object) -> int:
    """A date and time, `2020-06-09 18:41:01`, as seconds since 1970.

    Raises:
        BadRowError: not one, or before 1970.
    """
    try:
        value = int(datetime.fromisoformat(str(text)).replace(tzinfo=UTC).timestamp())
    except ValueError:
        value = -1
    if value < 0:
        raise BadRowError(
            f"bad-{name}", f"{name} is {shown(text)}; right is YYYY-MM-DD hh:mm:ss since 1970"
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
