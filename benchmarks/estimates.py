"""Estimates of run time on recorded workloads: ours against those published and two simple ones.

    .venv/bin/python benchmarks/estimates.py FOLDER...

A folder has `jobs.csv` and `predicted_duration_s.csv`. Each job is estimated at its submission from
jobs that had ended before, had every job run as soon as it was submitted. A job of a trace that
names its VC as the user is of an unknown user.
"""

from __future__ import annotations

import heapq
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dure.rehearsal.traces import read
from dure.rehearsal.traces.trace import TraceJob
from dure.scheduling.estimate import Estimate, Estimator, Like

Estimates = Sequence[Estimate]


def like(job: TraceJob) -> Like:
    """Its project is its VC."""
    return Like(job.vc, "" if job.user == job.vc else job.user, "", job.gpus)


def replayed(
    jobs: Sequence[TraceJob],
    estimate: Callable[[TraceJob], Estimate],
    observe: Callable[[TraceJob, Estimate], None],
) -> Estimates:
    """What `estimate` says of each job, with every end before its submission observed first."""
    running: list[tuple[int, int]] = []
    estimates: list[Estimate] = []
    for nth, job in enumerate(jobs):
        while running and running[0][0] < job.submit_s:
            _, ended = heapq.heappop(running)
            observe(jobs[ended], estimates[ended])
        estimates.append(estimate(job))
        heapq.heappush(running, (job.submit_s + job.duration_s, nth))
    return estimates


def ours(jobs: Sequence[TraceJob]) -> Estimates:
    """The core's estimator; prints what a job costs it."""
    estimator = Estimator()
    began = time.perf_counter()
    estimates = replayed(
        jobs,
        lambda job: estimator.estimate(like(job)),
        lambda job, foretold: estimator.observe(like(job), job.duration_s * 1_000, foretold),
    )
    print(f"{(time.perf_counter() - began) / len(jobs) * 1e6:.1f} us a job; {estimator.error()}")
    return estimates


def last_two(jobs: Sequence[TraceJob]) -> Estimates:
    """The mean of the user's last two (Tsafrir et al. 2007); the larger one twice as the high."""
    last: defaultdict[tuple[str, str], deque[int]] = defaultdict(lambda: deque([600_000], 2))

    def estimate(job: TraceJob) -> Estimate:
        ran_ms = last[job.vc, job.user]
        return Estimate(sum(ran_ms) // len(ran_ms), 2 * max(ran_ms))

    return replayed(
        jobs,
        estimate,
        lambda job, _: last[job.vc, job.user].append(job.duration_s * 1_000),
    )


def published(jobs: Sequence[TraceJob]) -> Estimates:
    """As they stand in the file; the high estimate is the same."""
    predicted_ms = (max(1, job.predicted_s or 0) * 1_000 for job in jobs)
    return [Estimate(median_ms, median_ms) for median_ms in predicted_ms]


def ranks(values: np.ndarray) -> np.ndarray:
    """Mean ranks, as Spearman's correlation takes them."""
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - counts / 2)[which]


def row(name: str, jobs: Sequence[TraceJob], estimates: Estimates) -> str:
    """A line of the table: rank correlations and errors in octaves."""
    ran = np.array([max(1, job.duration_s) for job in jobs]) * 1_000.0
    gpus = np.array([job.gpus for job in jobs])
    median, high = np.array(estimates, dtype=float).T
    off = np.abs(np.log2(median / ran))
    rho, rho_gpu = (
        np.corrcoef(ranks(median * by), ranks(ran * by))[0, 1] for by in (np.ones_like(gpus), gpus)
    )
    figures = [rho, rho_gpu, off.mean(), np.median(off), np.quantile(off, 0.9)]
    figures += [np.mean(ran > median), np.mean(ran <= high)]
    return f"| {name} | {' | '.join(f'{figure:.2f}' for figure in figures)} |"


def main(folders: Sequence[str]) -> None:
    """Print one table a folder."""
    for folder in map(Path, folders):
        (file,) = folder.glob("predicted_duration_s.csv*")
        jobs = list(read(folder, predictions=file).jobs())
        print(f"\n{folder.name}, {len(jobs)} jobs")
        rows = [row(way.__name__, jobs, way(jobs)) for way in (published, last_two, ours)]
        print("| | rank | rank, GPU time | mean | median | p90 | under | covered |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|", *rows, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
