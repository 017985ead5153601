"""What a rehearsal measures: a few sums and a histogram an operator, however many jobs there are.

Sums are exact integers, so that measures merged in any order are equal. Quantiles of the wait come
from a log-linear histogram, as in HdrHistogram (Tene, hdrhistogram.org) and DDSketch (Masson, Rim
and Lee, VLDB 2019): exact below 2,048 ms, beyond that within 0.05 % of the true value.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Final

from dure.units import MS_PER_HOUR, MS_PER_S

SUB_BITS: Final = 11
"""Each power of two is cut into 2^10 cells; a cell's middle is within 2^-11 of what it holds."""


class Histogram:
    """Counts of integers >= 0 in cells whose width grows with the value."""

    __slots__ = ("_cells",)

    def __init__(self) -> None:
        self._cells: defaultdict[int, int] = defaultdict(int)

    def add(self, value: int) -> None:
        """Count one value."""
        shift = value.bit_length() - SUB_BITS
        if shift > 0:
            self._cells[(shift << (SUB_BITS - 1)) + (value >> shift)] += 1
        else:
            self._cells[value] += 1

    def merge(self, other: Histogram) -> None:
        """Count what the other counted."""
        for cell, count in other._cells.items():
            self._cells[cell] += count

    def quantiles(self, *ranks: float) -> tuple[int, ...]:
        """The nearest-rank quantiles: for 0 < rank <= 1, the ceil(rank x n)-th smallest value, as
        its cell's middle. Of nothing, 0.
        """
        total = sum(self._cells.values())
        cells = iter(sorted(self._cells.items()))
        found = dict.fromkeys(sorted(ranks), 0)
        seen, middle = 0, 0
        for rank in found:
            wanted = min(ceil(rank * total), total)
            while seen < wanted:
                cell, count = next(cells)
                seen += count
                middle = _middle(cell)
            found[rank] = middle
        return tuple(found[rank] for rank in ranks)


def _middle(cell: int) -> int:
    shift = max(0, (cell >> (SUB_BITS - 1)) - 1)
    low = (cell - (shift << (SUB_BITS - 1))) << shift
    return low + ((1 << shift) >> 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What came of some jobs.

    A job's wait is its end minus its submission minus its own duration, so that what a recall costs
    counts as wait. `makespan_s` is from the first submission to the last end. `utilisation` is the
    GPU time of the jobs' own durations by the GPU time in service; of an operator, what its own
    jobs ran, wherever, by what it owns, which lending can take above 1. Of no jobs, all are 0.
    """

    jobs: int
    avg_jct_s: float
    avg_wait_s: float
    p50_wait_s: float
    p99_wait_s: float
    p999_wait_s: float
    makespan_s: float
    utilisation: float
    preemptions: int
    lost_gpu_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Figures):
    """The whole rehearsal, and the same figures of each operator's jobs, by operator."""

    per_operator: Mapping[str, Figures]

    def to_dict(self) -> dict[str, Any]:
        """As `dure rehearse trace --output json` prints it, operators in order of name."""
        return asdict(self)


class _Sums:
    """Of one operator's jobs; all in ms and GPU-ms."""

    __slots__ = (
        "first_ms", "jct_ms", "jobs", "last_ms", "lost_gpu_ms", "recalls", "wait_ms", "waits",
        "work_gpu_ms",
    )  # fmt: skip

    def __init__(self) -> None:
        self.jobs = self.jct_ms = self.wait_ms = self.work_gpu_ms = 0
        self.recalls = self.lost_gpu_ms = self.last_ms = 0
        self.first_ms: int | None = None
        self.waits = Histogram()

    def merge(self, other: _Sums) -> None:
        for name in ("jobs", "jct_ms", "wait_ms", "work_gpu_ms", "recalls", "lost_gpu_ms"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.merge(other.waits)
        if other.first_ms is not None:
            first_ms = other.first_ms if self.first_ms is None else self.first_ms
            self.first_ms = min(first_ms, other.first_ms)
            self.last_ms = max(self.last_ms, other.last_ms)

    def figures(self, capacity_gpu_ms: int) -> dict[str, Any]:
        jobs = self.jobs or 1
        p50_ms, p99_ms, p999_ms = self.waits.quantiles(0.5, 0.99, 0.999)
        return {
            "jobs": self.jobs,
            "avg_jct_s": self.jct_ms / jobs / MS_PER_S,
            "avg_wait_s": self.wait_ms / jobs / MS_PER_S,
            "p50_wait_s": p50_ms / MS_PER_S,
            "p99_wait_s": p99_ms / MS_PER_S,
            "p999_wait_s": p999_ms / MS_PER_S,
            "makespan_s": (self.last_ms - (self.first_ms or 0)) / MS_PER_S,
            "utilisation": self.work_gpu_ms / capacity_gpu_ms if capacity_gpu_ms else 0.0,
            "preemptions": self.recalls,
            "lost_gpu_h": self.lost_gpu_ms / MS_PER_HOUR,
        }


class Measures:
    """Collects what became of jobs, one call a job, in any order."""

    __slots__ = ("_operators",)

    def __init__(self) -> None:
        self._operators: defaultdict[str, _Sums] = defaultdict(_Sums)

    def ended(  # noqa: PLR0913, PLR0917 (ten million calls: a value made for each would cost as much)
        self,
        operator: str,
        gpus: int,
        submit_ms: int,
        end_ms: int,
        duration_ms: int,
        recalls: int = 0,
        lost_gpu_ms: int = 0,
    ) -> None:
        """A job has ended for good. Its duration is that of its own work, done once.

        Raises:
            ValueError: it ended before it can have: end < submit + duration.
        """
        wait_ms = end_ms - submit_ms - duration_ms
        if wait_ms < 0:
            raise ValueError(
                f"end_ms is {end_ms}; a job submitted at {submit_ms} that runs {duration_ms} ms "
                f"ends at {submit_ms + duration_ms} at the earliest"
            )
        sums = self._operators[operator]
        sums.jobs += 1
        sums.jct_ms += wait_ms + duration_ms
        sums.wait_ms += wait_ms
        sums.work_gpu_ms += gpus * duration_ms
        sums.waits.add(wait_ms)
        if recalls or lost_gpu_ms:
            sums.recalls += recalls
            sums.lost_gpu_ms += lost_gpu_ms
        if sums.first_ms is None or submit_ms < sums.first_ms:
            sums.first_ms = submit_ms
        sums.last_ms = max(sums.last_ms, end_ms)

    def merge(self, other: Measures) -> None:
        """Add what the other collected."""
        for operator, sums in other._operators.items():
            self._operators[operator].merge(sums)

    def makespan_ms(self) -> int:
        """From the first submission to the last end."""
        whole = self._merged()
        return whole.last_ms - (whole.first_ms or 0)

    def summary(self, capacity_gpu_ms: Mapping[str, int]) -> Summary:
        """The figures, given each operator's GPU time in service during the rehearsal: the integral
        of its GPUs over the makespan, or GPUs x makespan where waves change nothing.
        """
        operators = sorted(self._operators.keys() | capacity_gpu_ms.keys())
        nothing = _Sums()
        return Summary(
            **self._merged().figures(sum(capacity_gpu_ms.values())),
            per_operator={
                operator: Figures(
                    **self._operators.get(operator, nothing).figures(
                        capacity_gpu_ms.get(operator, 0)
                    )
                )
                for operator in operators
            },
        )

    def _merged(self) -> _Sums:
        whole = _Sums()
        for sums in self._operators.values():
            whole.merge(sums)
        return whole
