"""Workloads made up after published ones: any number of GPUs and years, in order of time.

What is fitted and what is drawn, each independent of the others:

- run times: lognormal (a usual choice: Feitelson, "Workload Modeling", 2015) with the published
  median and mean, cut off at `RUN_MAX_S`; part of the spread lies between users;
- GPUs: powers of two up to the largest, their odds in geometric progression so that the mean is
  the published one;
- arrivals: Poisson within each hour, busier by day and on working days, as everywhere; how much is
  assumed;
- users: Zipf, the n-th as busy as 1/n.

What summaries do not tell is not there: that large jobs run longer, bursts of equal jobs, or jobs
that follow one another. Real workloads queue worse than these at one load.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count, repeat
from math import erf, exp, log, log2, sqrt
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dure.rehearsal.traces.trace import TraceJob
from dure.rehearsal.workload import Arrival, Kind
from dure.units import MS_PER_HOUR, MS_PER_S

Integers = NDArray[np.int64]

RUN_MAX_S: Final = 30 * 24 * 3_600
"""The longest run: lognormal tails know no walltime limit, clusters do (assumed)."""

USER_VARIANCE: Final = 0.2
"""The part of the variance of log run times that lies between users: the intraclass correlation is
0.18 between the users of two VCs of Venus (HeliosData), 0.30 between users and sizes."""

HOURS_IN_WEEK: Final = 168
DAY_MS: Final = 24 * MS_PER_HOUR
BATCH_JOBS: Final = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a published summary says of a workload's GPU jobs."""

    run_mean_s: float
    run_median_s: float
    gpus_mean: float
    gpus_max: int


PUBLISHED: Final[Mapping[str, Profile]] = {
    "seren": Profile(run_mean_s=1_414, run_median_s=122, gpus_mean=5.68, gpus_max=1_024),
    "kalos": Profile(run_mean_s=1_260, run_median_s=124, gpus_mean=26.8, gpus_max=1_024),
    "philly": Profile(run_mean_s=18_006, run_median_s=874, gpus_mean=1.93, gpus_max=128),
    "helios": Profile(run_mean_s=6_652, run_median_s=206, gpus_mean=3.72, gpus_max=2_048),
    "pai": Profile(run_mean_s=4_787, run_median_s=481, gpus_mean=1.0, gpus_max=1),
}
"""Source: the summary beside AcmeTrace (Hu et al., NSDI'24). PAI's jobs have 0.68 GPUs on average,
mostly parts of one; a part takes a whole GPU here, and the largest is not told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What to make up.

    `jobs_per_day` has steps, in order: from that ms on, so many; before the first, none. `users`
    share the jobs. `first_hour` is the hour of the week at 0 ms, 0 being Monday midnight.
    """

    like: Profile
    jobs_per_day: tuple[tuple[int, float], ...]
    users: int = 200
    first_hour: int = 0
    user_variance: float = USER_VARIANCE

    def __post_init__(self) -> None:
        like = self.like
        if not 0 < like.run_median_s <= like.run_mean_s:
            raise ValueError(
                f"run_median_s is {like.run_median_s:g}; it must be above 0 and at most "
                f"run_mean_s, {like.run_mean_s:g}"
            )
        if not 1 <= like.gpus_mean <= like.gpus_max:
            raise ValueError(
                f"gpus_mean is {like.gpus_mean:g}; it must be from 1 to gpus_max, {like.gpus_max}"
            )
        if self.users < 1:
            raise ValueError(f"users is {self.users}; it must be 1 or more")
        if not 0 <= self.user_variance <= 1:
            raise ValueError(f"user_variance is {self.user_variance:g}; it must be from 0 to 1")
        if any(rate < 0 for _, rate in self.jobs_per_day):
            raise ValueError("jobs_per_day is negative; it must be 0 or more")
        if list(self.jobs_per_day) != sorted(self.jobs_per_day, key=lambda step: step[0]):
            raise ValueError("jobs_per_day has steps out of order; write them in order of time")


class Batch(NamedTuple):
    """Jobs in order of submission, a column each; users are numbered from 0, the busiest."""

    submit_ms: Integers
    duration_ms: Integers
    gpus: Integers
    user: Integers


def jobs_per_day(like: Profile, gpus: float, load: float) -> float:
    """How many jobs offer so many GPUs `load` times the work that they can do."""
    return load * gpus * 24 * 3_600 / (like.run_mean_s * like.gpus_mean)


def trace_jobs(
    demand: Demand, rng: np.random.Generator, ends_ms: int, vc: str = "vc"
) -> Iterator[TraceJob]:
    """The jobs of one VC, in whole seconds, a run being 1 s at least."""
    numbers = count()
    for batch in batches(demand, rng, ends_ms):
        yield from map(
            TraceJob,
            map("g{}".format, numbers),
            repeat(vc),
            map("u{}".format, batch.user.tolist()),
            (batch.submit_ms // MS_PER_S).tolist(),
            np.maximum(1, batch.duration_ms // MS_PER_S).tolist(),
            batch.gpus.tolist(),
        )


def arrivals(
    demand: Demand, rng: np.random.Generator, ends_ms: int, kind: Callable[[int, int], Kind]
) -> Iterator[Arrival]:
    """The jobs as a rehearsal takes them; `kind(user, gpus)` is asked once for each pair."""
    kinds: dict[tuple[int, int], Kind] = {}
    for batch in batches(demand, rng, ends_ms):
        pairs = list(zip(batch.user.tolist(), batch.gpus.tolist(), strict=True))
        for pair in dict.fromkeys(pairs):
            if pair not in kinds:
                kinds[pair] = kind(*pair)
        yield from map(
            Arrival,
            batch.submit_ms.tolist(),
            map(kinds.__getitem__, pairs),
            batch.duration_ms.tolist(),
        )


def batches(
    demand: Demand, rng: np.random.Generator, ends_ms: int, *, batch_jobs: int = BATCH_JOBS
) -> Iterator[Batch]:
    """The jobs up to `ends_ms`, some `batch_jobs` at a time: memory does not grow with the years.

    Each column has a generator of its own, so the jobs do not depend on `batch_jobs`.
    """
    of_arrivals, of_times, of_runs, of_gpus, of_users = rng.spawn(5)
    users = _Users(demand, rng)
    sizes, odds = gpu_sizes(demand.like)
    for starts, expected in _hours(demand, ends_ms, batch_jobs):
        counts = of_arrivals.poisson(expected)
        jobs = int(counts.sum())
        within = (of_times.random(jobs) * MS_PER_HOUR).astype(np.int64)
        submit_ms = np.repeat(starts, counts) + within
        submit_ms.sort()
        user = users.draw(of_users, jobs)
        batch = Batch(
            submit_ms,
            users.durations_ms(user, of_runs.standard_normal(jobs)),
            sizes[np.searchsorted(odds, of_gpus.random(jobs), side="right")],
            user,
        )
        kept = int(np.searchsorted(submit_ms, ends_ms))
        yield batch if kept == jobs else Batch(*(column[:kept] for column in batch))


def gpu_sizes(like: Profile) -> tuple[Integers, NDArray[np.float64]]:
    """Powers of two up to the largest, and the odds of each or one smaller."""
    sizes = 2 ** np.arange(int(log2(like.gpus_max)) + 1, dtype=np.int64)

    def odds(log_ratio: float) -> NDArray[np.float64]:
        weights = np.exp(log_ratio * np.arange(len(sizes)))
        return np.asarray(weights / weights.sum())

    fitted = _solved(lambda ratio: float(odds(ratio) @ sizes), like.gpus_mean, -40.0, 40.0)
    upto = np.cumsum(odds(fitted))
    upto[-1] = 1.0
    return sizes, upto


class _Users:
    """Who submits, and how long the jobs of each run.

    A user's place on the normal curve of log run times is drawn so that, counted by jobs, all users
    together fill the curve; the spread is then solved for, so that the mean is the published one.
    """

    def __init__(self, demand: Demand, rng: np.random.Generator) -> None:
        weights = 1.0 / np.arange(1, demand.users + 1)
        weights /= weights.sum()
        self._upto = np.cumsum(weights)
        self._upto[-1] = 1.0
        order = rng.permutation(demand.users)
        middles = np.cumsum(weights[order]) - weights[order] / 2
        place = np.empty(demand.users)
        place[order] = [NormalDist().inv_cdf(float(middle)) for middle in middles]
        between, own = sqrt(demand.user_variance), sqrt(1 - demand.user_variance)
        like = demand.like
        middle = log(like.run_median_s)

        def mean_s(spread: float) -> float:
            medians = middle + spread * between * place
            return float(weights @ [_clipped_mean(m, spread * own) for m in medians])

        spread = _solved(mean_s, like.run_mean_s, 1e-9, 20.0)
        self._medians = middle + spread * between * place
        self._spread = spread * own

    def draw(self, rng: np.random.Generator, jobs: int) -> Integers:
        """A user for each job."""
        return np.asarray(np.searchsorted(self._upto, rng.random(jobs), side="right"))

    def durations_ms(self, user: Integers, normal: NDArray[np.float64]) -> Integers:
        """A run time for each job of these users, 1 ms at least."""
        logs = np.minimum(self._medians[user] + self._spread * normal, log(RUN_MAX_S))
        return np.asarray(np.maximum(1, np.rint(np.exp(logs) * MS_PER_S)), dtype=np.int64)


def _clipped_mean(middle: float, spread: float) -> float:
    """The mean of a lognormal with everything above RUN_MAX_S put there; `middle` is the log of its
    median. By integrating by parts; the limits are those of the error function.
    """
    if spread < 1e-9:
        return min(exp(middle), RUN_MAX_S)
    limit = (log(RUN_MAX_S) - middle) / spread
    below = exp(middle + spread * spread / 2) * _normal_upto(limit - spread)
    return below + RUN_MAX_S * (1 - _normal_upto(limit))


def _normal_upto(value: float) -> float:
    return (1 + erf(value / sqrt(2))) / 2


def _solved(rising: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a rising function has a value, by halving; the nearer end where it never does."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2


def _hours(
    demand: Demand, ends_ms: int, batch_jobs: int
) -> Iterator[tuple[Integers, NDArray[np.float64]]]:
    """Hours, by when they start, and the jobs expected in each; some `batch_jobs` at a time."""
    busiest = max((rate for _, rate in demand.jobs_per_day), default=0.0) / 24
    hours_each = max(1, min(26 * HOURS_IN_WEEK, int(batch_jobs / max(busiest, 1e-9))))
    changes = [at_ms for at_ms, _ in demand.jobs_per_day]
    rates = np.array([0.0, *(rate / 24 for _, rate in demand.jobs_per_day)])
    week = _week()
    for first in range(0, -(-ends_ms // MS_PER_HOUR), hours_each):
        hours = np.arange(first, min(first + hours_each, -(-ends_ms // MS_PER_HOUR)))
        starts = hours * MS_PER_HOUR
        steps = [bisect_right(changes, start) for start in starts.tolist()]
        yield starts, rates[steps] * week[(hours + demand.first_hour) % HOURS_IN_WEEK]


def _week() -> NDArray[np.float64]:
    """How busy each hour of a week is, 1 on average: busiest at three in the afternoon."""
    hours = np.arange(HOURS_IN_WEEK)
    of_day = 1 + 0.5 * np.cos((hours % 24 - 15) * 2 * np.pi / 24)
    busy = of_day * np.where(hours < 5 * 24, 1.0, 0.7)
    return np.asarray(busy / busy.mean())
