"""How long a job will run, learned online from jobs like it that have ended.

Users ask for far more time than they use, so the walltime only caps an estimate. What predicts a
run time is what like jobs of the user took lately: the mean of the last two already beats the
walltime (D. Tsafrir, Y. Etsion, D. Feitelson, "Backfilling using system-generated predictions
rather than user runtime estimates", IEEE TPDS 18(6), 2007). Here a job belongs to five levels of
likeness, from all jobs down to its own name. Each level keeps its last runs and knows their median
and 90 % quantile, so that recency and outliers are dealt with at once. An estimate walks from broad
to narrow in log time and trusts a level of n runs by n / (n + 3), as empirical Bayes shrinkage
does: one odd run of a new user moves little, eight of them decide.

Jobs come in bursts, and those of a burst end together: on ITP's trace, quantiles of the past that
say 90 % cover 77 % of what comes next. So a margin on the high estimate follows its own misses
(I. Gibbs, E. Candès, "Adaptive conformal inference under distribution shift", NeurIPS 2021).

Estimates serve order and backfill; nothing is killed by one. Variants and figures: ADR 0013.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import exp, log, log2
from typing import Final, NamedTuple

from dure.units import WALLTIME_S_MAX

Level = tuple[str | int, ...]
"""What the jobs of a level have in common; () is all jobs. No two levels have the same length."""

_DIGITS: Final = re.compile(r"[0-9]+")
_NAME_CHARS: Final = 64
_LONGEST_MS: Final = 10 * WALLTIME_S_MAX * 1_000

_PRIOR_MEDIAN: Final = log(600_000)
_PRIOR_HIGH: Final = log(18_000_000)
"""Before any job has ended: 10 min and 5 h. Five public GPU clusters have medians of 2 to 15 min
and means of 20 min to 5 h (Q. Hu et al., "Characterization of large language model development in
the datacenter", NSDI 2024)."""

_WINDOW: Final = 8
_PRIOR_RUNS: Final = 3
_HIGH: Final = 0.9
_MARGIN_RATE: Final = 0.02
_MARGIN_MAX: Final = 5.0

_TICKS_PER_OCTAVE: Final = 16
_TICKS: Final = 40 * _TICKS_PER_OCTAVE


class Like(NamedTuple):
    """Whose job, under which name, on how many GPUs: what makes jobs alike.

    An empty user or name is an unknown one. Names that differ in digits only are one name.
    """

    project: str
    user: str
    name: str
    gpus: int


class Estimate(NamedTuple):
    """How long a job will run: half of its like run for `median_ms` at most, nine of ten for
    `high_ms` at most.
    """

    median_ms: int
    high_ms: int

    def expected_ms(self, ran_ms: int) -> int:
        """How long it is expected to run in all, having run for so long: more than that.

        What outlives its estimate gets the next longer one, then twice as much each time.
        Source: Tsafrir et al. 2007, prediction correction.
        """
        if ran_ms < self.median_ms:
            return self.median_ms
        expected_ms = self.high_ms
        while expected_ms <= ran_ms:
            expected_ms *= 2
        return expected_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateError:
    """How far the estimates of `jobs` that have ended were off.

    `median_log2` and `p90_log2` are quantiles of |log2(estimated / ran)|: 1 is a factor of two. Of
    the jobs, the fraction `under` outran the median, `covered` did not outrun the high one.
    """

    jobs: int
    median_log2: float
    p90_log2: float
    under: float
    covered: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """All that an estimator knows, as plain values fit for JSON; lists serve as well as tuples.

    `young` and `old` are levels with their last runs in ms, `off` counts jobs by their error.
    """

    young: Sequence[tuple[Level, Sequence[int]]] = ()
    old: Sequence[tuple[Level, Sequence[int]]] = ()
    margin: float = 0.0
    off: Sequence[int] = (0,) * _TICKS
    under: int = 0
    covered: int = 0


_NOTHING: Final = Learned()


class _Window:
    """The last runs of a level, and what they say in log time."""

    __slots__ = ("_ranked", "high", "median", "ran_ms", "trust")

    def __init__(self, ran_ms: Sequence[int] = ()) -> None:
        self.ran_ms = array("q")
        self._ranked: list[float] = []
        self.median = self.high = self.trust = 0.0
        for one_ms in ran_ms:
            self.add(one_ms, log(one_ms))

    def add(self, ran_ms: int, log_ms: float) -> None:
        """Remember one more run, and forget the oldest beyond the window."""
        ranked = self._ranked
        if len(ranked) == _WINDOW:
            del ranked[bisect_left(ranked, log(self.ran_ms.pop(0)))]
        self.ran_ms.append(ran_ms)
        insort(ranked, log_ms)
        runs = len(ranked)
        self.median = (ranked[(runs - 1) // 2] + ranked[runs // 2]) / 2
        self.high = ranked[int(_HIGH * runs)]
        self.trust = runs / (runs + _PRIOR_RUNS)


class Estimator:
    """Learns from every end, answers at every submission; microseconds each.

    Memory is bounded by two generations of at most `levels_max` levels: when the young one is full
    it becomes the old one, and what was in the old one and has had no end since is forgotten.

    The order of calls is the order of events and matters: recent runs count. Equal calls give equal
    answers.
    """

    __slots__ = ("_covered", "_levels_max", "_margin", "_off", "_old", "_under", "_young")

    def __init__(self, learned: Learned = _NOTHING, levels_max: int = 100_000) -> None:
        self._levels_max = levels_max
        self._young = {tuple(level): _Window(ran_ms) for level, ran_ms in learned.young}
        self._old = {tuple(level): _Window(ran_ms) for level, ran_ms in learned.old}
        self._margin = learned.margin
        self._off = list(learned.off)
        self._under = learned.under
        self._covered = learned.covered

    def estimate(self, like: Like, walltime_ms: int | None = None) -> Estimate:
        """How long a job like this will run: at least 1 ms, at most the walltime asked for."""
        median, high = _PRIOR_MEDIAN, _PRIOR_HIGH
        for level in _levels(like):
            window = self._young.get(level) or self._old.get(level)
            if window:
                median += window.trust * (window.median - median)
                high += window.trust * (window.high - high)
        limit_ms = _LONGEST_MS if walltime_ms is None else walltime_ms
        median_ms = max(1, min(round(exp(median)), limit_ms))
        return Estimate(median_ms, max(median_ms, min(round(exp(high + self._margin)), limit_ms)))

    def observe(self, like: Like, ran_ms: int, foretold: Estimate | None = None) -> None:
        """A job has ended by itself or by its user's hand, after so long. A recall is no end.

        `foretold` is what was estimated when it was submitted; only such jobs count in `error`.
        """
        ran_ms = max(1, min(ran_ms, _LONGEST_MS))
        if foretold:
            self._score(foretold, ran_ms)
        log_ms = log(ran_ms)
        for level in _levels(like):
            self._window(level).add(ran_ms, log_ms)

    def error(self) -> EstimateError:
        """How far off the estimates were, of all jobs observed with what was foretold of them."""
        jobs = sum(self._off)
        return EstimateError(
            jobs=jobs,
            median_log2=self._off_by(jobs // 2),
            p90_log2=self._off_by(jobs * 9 // 10),
            under=self._under / max(1, jobs),
            covered=self._covered / max(1, jobs),
        )

    def learned(self) -> Learned:
        """All that it knows: an estimator made from this answers as this one would."""
        return Learned(
            young=tuple((level, tuple(window.ran_ms)) for level, window in self._young.items()),
            old=tuple((level, tuple(window.ran_ms)) for level, window in self._old.items()),
            margin=self._margin,
            off=tuple(self._off),
            under=self._under,
            covered=self._covered,
        )

    def _window(self, level: Level) -> _Window:
        window = self._young.get(level)
        if window is None:
            window = self._old.pop(level, None) or _Window()
            if len(self._young) >= self._levels_max:
                self._old, self._young = self._young, {}
            self._young[level] = window
        return window

    def _score(self, foretold: Estimate, ran_ms: int) -> None:
        off = abs(log2(foretold.median_ms / ran_ms))
        self._off[min(int(off * _TICKS_PER_OCTAVE), _TICKS - 1)] += 1
        self._under += ran_ms > foretold.median_ms
        covered = ran_ms <= foretold.high_ms
        self._covered += covered
        # At rest where one in ten misses: then nine steps down make up for one step up.
        step = _HIGH - 1 if covered else _HIGH
        self._margin = max(0.0, min(self._margin + _MARGIN_RATE * step, _MARGIN_MAX))

    def _off_by(self, rank: int) -> float:
        """The error of the job that so many others undercut, to a sixteenth of an octave."""
        seen = 0
        for tick, jobs in enumerate(self._off):
            seen += jobs
            if seen > rank:
                return (tick + 0.5) / _TICKS_PER_OCTAVE
        return 0.0


@lru_cache(maxsize=65_536)
def _levels(like: Like) -> tuple[Level, ...]:
    """The levels that a job belongs to, from broad to narrow."""
    project, user, name, gpus = like
    broad: tuple[Level, ...] = ((), (gpus,), (project, gpus))
    if not user:
        return broad
    name = _DIGITS.sub("", name)[:_NAME_CHARS]
    if not name:
        return (*broad, (project, user, gpus))
    return (*broad, (project, user, gpus), (project, user, name, gpus))
