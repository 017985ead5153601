"""A recorded workload on the production scheduler: `dure rehearse trace`.

Each VC is an operator with one cluster, all of which its share is promised. Alone, a job runs in
its own cluster only; federated, in any one cluster that is large enough, its own or a borrowed one.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from dure.rehearsal import baseline
from dure.rehearsal.baseline import Baseline
from dure.rehearsal.book import Book
from dure.rehearsal.measure import Summary
from dure.rehearsal.nation import Nation, Terms
from dure.rehearsal.record import Record
from dure.rehearsal.stage import Place, Stage, owner_of, owners
from dure.rehearsal.traces.trace import Trace
from dure.rehearsal.workload import Arrival, Kind
from dure.scheduling.estimate import EstimateError, Estimator
from dure.scheduling.tuning import Tuning
from dure.shares import Shares

MS_PER_S: Final = 1_000


class Mode(StrEnum):
    """Whether operators stand alone or together."""

    ISOLATED = "isolated"
    FEDERATED = "federated"


class Foresight(StrEnum):
    """Where expected run times come from."""

    GIVEN = "given"
    """The trace's predictions."""
    TRUE = "true"
    """The true durations: what nobody has, a bound."""
    LEARNED = "learned"
    """Our own estimator, from what has ended before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay."""

    summary: Summary
    digest: str
    wall_s: float
    estimates: EstimateError | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `dure rehearse trace --output json` prints it."""
        jobs = self.summary.jobs
        found = self.summary.to_dict()
        per_operator = found.pop("per_operator")
        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found | {
            "per_operator": per_operator,
            "wall_s": round(self.wall_s, 3),
            "jobs_per_s": round(jobs / self.wall_s) if self.wall_s else 0,
            "peak_rss_mib": round(peak_kib / 1_024, 1),
            "digest": self.digest,
        }


def baseline_replay(trace: Trace, policy: Baseline, mode: Mode) -> Replayed:
    """A trace as a published simulator plays it."""
    began = time.perf_counter()
    outcome = baseline.run(trace, policy, pooled=mode is Mode.FEDERATED)
    wall_s = time.perf_counter() - began
    return Replayed(
        summary=outcome.measures.summary(_capacity(trace, outcome.measures.makespan_ms())),
        digest=outcome.digest,
        wall_s=wall_s,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a trace is to be replayed."""

    mode: Mode
    foresight: Foresight
    tuning: Tuning = Tuning()
    overhead_s: int = 60


def replay(
    trace: Trace,
    asked: Asked,
    record: Record | None = None,
    passing: Callable[[Iterator[Arrival]], Iterator[Arrival]] = iter,
) -> Replayed:
    """A trace on the production scheduler. `passing` sees the jobs go by, for a progress bar."""
    stage = trace_stage(trace, asked)
    book = Book(stage, record)
    estimator = Estimator() if asked.foresight is Foresight.LEARNED else None
    nation = Nation(stage, book, Terms(overhead_ms=asked.overhead_s * MS_PER_S), estimator)
    began = time.perf_counter()
    nation.play(passing(arrivals(trace, asked)))
    wall_s = time.perf_counter() - began
    summary = book.measures.summary(_capacity(trace, book.measures.makespan_ms()))
    return Replayed(
        summary=summary,
        digest=book.record.digest(summary.to_dict()),
        wall_s=wall_s,
        estimates=estimator.error() if estimator else None,
    )


def trace_stage(trace: Trace, asked: Asked) -> Stage:
    """The clusters of a trace."""
    per_node = trace.gpus_per_node
    places = [
        Place(pool=vc, owner=vc, gpu_model="gpu", gpus_per_node=per_node, nodes=nodes)
        for vc, nodes in trace.nodes.items()
    ]
    if asked.mode is Mode.ISOLATED:
        return Stage(places, Shares(), asked.tuning, lambda kind, pool: kind.operator == pool)
    shares = owners(trace.gpus())
    stage = Stage(places, shares, asked.tuning, lambda kind, pool: kind.nodes <= trace.nodes[pool])
    for number, (vc, gpus) in enumerate(trace.gpus().items(), start=1):
        stage.promise(owner_of(number), vc, gpus)
    stage.names = {owner_of(number): vc for number, vc in enumerate(trace.nodes, start=1)}
    return stage


def arrivals(trace: Trace, asked: Asked) -> Iterator[Arrival]:
    """The jobs of a trace as they come."""
    kinds: dict[tuple[str, str, int], Kind] = {}
    given = asked.foresight is Foresight.GIVEN
    alone = asked.mode is Mode.ISOLATED
    shares = {vc: "" if alone else owner_of(n) for n, vc in enumerate(trace.nodes, start=1)}
    for job in trace.jobs():
        terms = (job.vc, job.user, job.gpus)
        kind = kinds.get(terms)
        if kind is None:
            nodes = -(-job.gpus // trace.gpus_per_node)
            kind = kinds[terms] = Kind(
                share=shares[job.vc],
                operator=job.vc,
                project=job.vc,
                user=job.user,
                nodes=nodes,
                gpus_per_node=-(-job.gpus // nodes),
            )
        predicted = job.predicted_s if given else None
        yield Arrival(
            job.submit_s * MS_PER_S,
            kind,
            job.duration_s * MS_PER_S,
            None if predicted is None else predicted * MS_PER_S,
            job.id,
        )


def _capacity(trace: Trace, makespan_ms: int) -> dict[str, int]:
    return {vc: gpus * makespan_ms for vc, gpus in trace.gpus().items()}
