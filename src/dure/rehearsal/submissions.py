"""Who submits what in a scenario: its workloads, and the stream of jobs that comes of them.

Each workload has chance of its own, from the rehearsal's seed and its id: one more, or another load
of one, changes no job of the others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import numpy as np

from dure.errors import RefusedError
from dure.fleet import Pool
from dure.jobs import Tier
from dure.rehearsal import generate, traces
from dure.rehearsal.faults import Span
from dure.rehearsal.generate import DAY_MS, HOURS_IN_WEEK, Demand, Profile
from dure.rehearsal.traces.trace import TraceJob
from dure.rehearsal.workload import Arrival, Kind
from dure.shares import Shares, cells, changes_ms, path
from dure.units import MS_PER_HOUR, MS_PER_S, S_PER_HOUR

USERS_LEAST: Final = 100
"""Of a generated workload, or as many as it has projects."""

ROUND_S: Final = tuple(hours * S_PER_HOUR for hours in (1, 4, 12, 24, 72, 168, 720, 2_160))
"""Walltimes that people ask for: hours, days, a week, a month, a quarter (assumed)."""

_THURSDAY_H: Final = 3 * 24
"""The hour of the week, from Monday midnight, at which 1970 began."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What all jobs of a workload have in common.

    `share` is whose guarantee they run on, None where a trace's own virtual clusters say it;
    `operator` whose jobs they are in reports, `group` the kind of organisation or empty. A job of
    more than `gpus_per_node` GPUs takes whole nodes of so many. Users ask for `walltime_factor`
    times what a job takes, rounded up to one of `ROUND_S`; None: for no limit. Jobs checkpoint
    every `checkpoint_every_s`; None: never.
    """

    share: str | None
    operator: str
    group: str
    data_class: str
    tier: Tier
    gpu_models: tuple[str, ...]
    gpus_per_node: int
    walltime_factor: float | None
    checkpoint_every_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """Jobs that a generator makes up after a profile.

    Either `load` or `jobs_per_day` is given: `load` is the GPU time that is asked for, as a part of
    the share's guaranteed GPUs over time. With `projects`, jobs come from so many projects, each a
    share of its own below the workload's; its busiest users are spread over them.
    """

    id: str
    terms: Terms
    profile: Profile
    load: float | None = None
    jobs_per_day: float | None = None
    projects: int = 0

    @property
    def leaves(self) -> tuple[str, ...]:
        """The shares that its jobs run on: its projects', or its own."""
        share = self.terms.share or ""
        return tuple(f"{share}.{self.id}-{n}" for n in range(1, self.projects + 1)) or (share,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """Jobs of a recorded workload, in a layout that `dure.rehearsal.traces` knows. Its first job
    comes at the rehearsal's start.
    """

    id: str
    terms: Terms
    path: Path


Workload = Generated | Recorded


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and when workloads come: the tree, the pools, the span."""

    shares: Shares
    pools: tuple[Pool, ...]
    span: Span


def jobs_per_day(workload: Generated, setting: Setting) -> tuple[tuple[int, float], ...]:
    """How busy a workload is over time: (ms from the span's start, jobs a day), in steps.

    With a `load` it follows the GPUs that the share, with all below it, is guaranteed.
    """
    if workload.load is None:
        return ((0, workload.jobs_per_day or 0.0),)
    shares, pools, span = setting.shares, setting.pools, setting.span
    changes = (at for at in changes_ms(shares, pools) if span.starts_ms < at < span.ends_ms)
    found: list[tuple[int, float]] = []
    for at_ms in (span.starts_ms, *changes):
        guaranteed = sum(
            cell.gpus
            for cell in cells(shares, pools, at_ms)
            if workload.terms.share in path(shares, cell.share)
        )
        rate = generate.jobs_per_day(workload.profile, guaranteed, workload.load)
        if not found or found[-1][1] != rate:
            found.append((at_ms - span.starts_ms, rate))
    return tuple(found)


def jobs_expected(workload: Generated, setting: Setting) -> int:
    """How many jobs a workload brings in the whole span, on average."""
    steps = jobs_per_day(workload, setting)
    long_ms = setting.span.length_ms
    ends_ms = [*(at_ms for at_ms, _ in steps[1:]), long_ms]
    days = ((end - at) / DAY_MS for (at, _), end in zip(steps, ends_ms, strict=True))
    return round(sum(rate * long for (_, rate), long in zip(steps, days, strict=True)))


def arrivals(workloads: Sequence[Workload], setting: Setting) -> Iterator[Arrival]:
    """The jobs of all workloads up to the span's end, in order of time; memory stays flat.

    Jobs of one instant come in the workloads' order. A job's id is its workload's, a hyphen, and
    its number there, or the id that it has in the trace.

    Raises:
        RefusedError: `bad-trace`: a trace cannot be read, or names a virtual cluster that is no
            share.
    """
    streams = [_stream(workload, setting) for workload in workloads]
    return heapq.merge(*streams, key=lambda arrival: arrival.at_ms)


def _stream(workload: Workload, setting: Setting) -> Iterator[Arrival]:
    """A workload's jobs, each with its id and, with a `walltime_factor`, a walltime."""
    if isinstance(workload, Generated):
        stream = _generated(workload, setting)
    else:
        stream = _recorded(workload, setting)
    factor = workload.terms.walltime_factor
    limited: dict[tuple[int, int], Kind] = {}
    for number, (at_ms, kind, duration_ms, predicted_ms, id_) in enumerate(stream, 1):
        named = id_ or f"{workload.id}-{number}"
        if factor is None:
            yield Arrival(at_ms, kind, duration_ms, predicted_ms, named)
            continue
        walltime_s = _round_walltime_s(duration_ms * factor / MS_PER_S)
        key = (id(kind), walltime_s)  # a kind is made once and lives as long as its stream
        if key not in limited:
            limited[key] = replace(kind, walltime_s=walltime_s)
        yield Arrival(at_ms, limited[key], duration_ms, predicted_ms, named)


def _round_walltime_s(wanted_s: float) -> int:
    """The next round time, as people ask for; the longest where none is long enough."""
    return ROUND_S[min(bisect_left(ROUND_S, wanted_s), len(ROUND_S) - 1)]


def _generated(workload: Generated, setting: Setting) -> Iterator[Arrival]:
    span = setting.span
    demand = Demand(
        like=workload.profile,
        jobs_per_day=jobs_per_day(workload, setting),
        users=max(USERS_LEAST, workload.projects),
        first_hour=(span.starts_ms // MS_PER_HOUR + _THURSDAY_H) % HOURS_IN_WEEK,
    )
    leaves = workload.leaves

    def kind(user: int, gpus: int) -> Kind:
        leaf = leaves[user % len(leaves)]
        project = leaf.rpartition(".")[2] if workload.projects else workload.id
        return _kind(workload, leaf, (project, f"u{user}"), gpus)

    seed = sha256(f"{span.seed} workload {workload.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(seed[:16]))
    return generate.arrivals(demand, rng, span.length_ms, kind)


def _recorded(workload: Recorded, setting: Setting) -> Iterator[Arrival]:
    trace = traces.read(workload.path, within=traces.Within.ANY)
    share = workload.terms.share
    if share is None and (unknown := sorted(trace.nodes.keys() - setting.shares.by_id.keys())):
        raise RefusedError(
            "bad-trace",
            f"vc of workload {workload.id} is {unknown[0]}, which is no share; give the workload a "
            "share, or the scenario shares of those names.",
        )
    return _replayed(workload, trace.jobs(), setting.span.length_ms)


def _replayed(workload: Recorded, jobs: Iterator[TraceJob], ends_ms: int) -> Iterator[Arrival]:
    kinds: dict[tuple[str, str, int], Kind] = {}
    first_s: int | None = None
    for job in jobs:
        first_s = job.submit_s if first_s is None else first_s
        at_ms = (job.submit_s - first_s) * MS_PER_S
        if at_ms >= ends_ms:
            return
        key = (job.vc, job.user, job.gpus)
        if key not in kinds:
            leaf = workload.terms.share or job.vc
            kinds[key] = _kind(workload, leaf, (job.vc, job.user), job.gpus)
        predicted_ms = None if job.predicted_s is None else job.predicted_s * MS_PER_S
        yield Arrival(at_ms, kinds[key], job.duration_s * MS_PER_S, predicted_ms, job.id)


def _kind(workload: Workload, share: str, who: tuple[str, str], gpus: int) -> Kind:
    """The jobs of so many GPUs of a (project, user)."""
    terms = workload.terms
    project, user = who
    return Kind(
        share=share,
        operator=terms.operator or share,
        project=project,
        user=user,
        group=terms.group,
        name=workload.id,
        nodes=-(-gpus // terms.gpus_per_node),
        gpus_per_node=min(gpus, terms.gpus_per_node),
        gpu_models=terms.gpu_models,
        data_class=terms.data_class,
        tier=terms.tier,
        checkpoint_every_s=terms.checkpoint_every_s,
    )
