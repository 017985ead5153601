"""A recorded workload, rehearsed: `dure rehearse trace`.

Each VC is an operator with one cluster, all of which its share is promised. Alone, a job runs in
its own cluster only; federated, in any one cluster that is large enough, its own or a borrowed one;
in one pool, anywhere. By the production scheduler, or by a published one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import partial
from itertools import chain
from typing import Any, Final

from dure.rehearsal import baseline
from dure.rehearsal.answer import answer
from dure.rehearsal.baseline import ONE_POOL, Baseline, Mode, predicted_s
from dure.rehearsal.book import Book
from dure.rehearsal.calibration import Calibrated, Calibration
from dure.rehearsal.measure import Measures, Summary
from dure.rehearsal.nation import Nation, Terms
from dure.rehearsal.record import OWN, JobEnded, Record
from dure.rehearsal.stage import Place, Stage, owner_of, owners
from dure.rehearsal.traces.trace import Trace, TraceJob
from dure.rehearsal.workload import Arrival, Kind
from dure.scheduling.estimate import EstimateError, Estimator
from dure.scheduling.tuning import Tuning
from dure.shares import Shares
from dure.units import MS_PER_S

LOADED_MAX: Final = 1_000_000
"""Jobs of a trace that is read before the clock starts; a larger one is read as it is played."""

DURE: Final = "dure"
"""What the production scheduler is called among the policies."""

_DAY_S: Final = 86_400
_USUAL: Final = Tuning()


class Foresight(StrEnum):
    """Where expected run times come from."""

    GIVEN = "given"
    """The trace's predictions."""
    TRUE = "true"
    """The true durations: what nobody has, a bound."""
    LEARNED = "learned"
    """Our own estimator, from what has ended before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a trace is to be replayed. Without a `yardstick`, by the production scheduler, to which
    alone the rest applies; a recall takes `overhead_s`.
    """

    mode: Mode = Mode.ISOLATED
    yardstick: Baseline | None = None
    foresight: Foresight = Foresight.LEARNED
    tuning: Tuning = _USUAL
    overhead_s: int = 60
    ask_every: int | None = None
    """One job in so many asks when it will start, and is held against the answer."""

    def to_dict(self) -> dict[str, Any]:
        """The settings of a run's summary; of the scheduler's dials, those that were turned."""
        if self.yardstick is not None:
            return {"mode": self.mode.value, "policy": self.yardstick.value}
        turned = {
            dial.name: getattr(self.tuning, dial.name)
            for dial in fields(Tuning)
            if getattr(self.tuning, dial.name) != dial.default
        }
        return {
            "mode": self.mode.value,
            "policy": DURE,
            "foresight": self.foresight.value,
            "checkpoint_overhead_s": self.overhead_s,
            **turned,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of a replay.

    `wall_s` is the loop alone, unless the trace was too large to be `loaded` before: then reading
    it is in there too. `end_ms` counts from `origin_ms`, a midnight in the trace's own time.
    """

    asked: Asked
    summary: Summary
    digest: str
    wall_s: float
    loaded: bool
    origin_ms: int
    end_ms: int
    estimates: EstimateError | None = None
    start_estimates: Calibrated | None = None

    def to_dict(self) -> dict[str, Any]:
        """As `dure rehearse trace --output json` prints it, but for the trace's bad rows."""
        found = answer(self.summary, self.digest, self.wall_s, self.estimates, self.start_estimates)
        settings = self.asked.to_dict() | {"starts_ms": self.origin_ms}
        return found | {"read_apart": self.loaded, "settings": settings}


Passing = Callable[[Iterator[Any]], Iterator[Any]]
"""Sees the jobs go by, for a progress bar."""


def replay(
    trace: Trace, asked: Asked, record: Record | None = None, passing: Passing = iter
) -> Replayed:
    """Play a trace; `record` is told all that happens.

    Raises:
        RefusedError: `no-prediction`: expected run times are to be given, and a job has none;
            `bad-trace`: the predictions cannot be read.
    """
    jobs = trace.jobs()
    first = next(jobs)
    return _Play(trace, asked, record, first.submit_s).played(chain([first], jobs), passing)


def trace_stage(trace: Trace, asked: Asked) -> Stage:
    """The clusters of a trace."""
    per_node = trace.gpus_per_node
    places = [
        Place(pool=pool, owner=pool, gpu_model="gpu", gpus_per_node=per_node, nodes=nodes)
        for pool, nodes in _pools(trace, asked.mode).items()
    ]
    if asked.mode is not Mode.FEDERATED:
        alone = asked.mode is Mode.ISOLATED
        return Stage(
            places, Shares(), asked.tuning, lambda kind, pool: not alone or kind.operator == pool
        )
    shares = owners(trace.gpus())
    stage = Stage(places, shares, asked.tuning, lambda kind, pool: kind.nodes <= trace.nodes[pool])
    for number, (vc, gpus) in enumerate(trace.gpus().items(), start=1):
        stage.promise(owner_of(number), vc, gpus)
    stage.names = {owner_of(number): vc for number, vc in enumerate(trace.nodes, start=1)}
    return stage


def _pools(trace: Trace, mode: Mode) -> dict[str, int]:
    """The nodes of each pool."""
    return {ONE_POOL: sum(trace.nodes.values())} if mode is Mode.ONE_POOL else trace.nodes


class _Play:
    """One replay. Its time 0 is the midnight before the first job, so that tables begin there."""

    def __init__(self, trace: Trace, asked: Asked, record: Record | None, first_s: int) -> None:
        self._trace = trace
        self._asked = asked
        self._record = record
        self._origin_s = first_s // _DAY_S * _DAY_S
        self._first_ms = (first_s - self._origin_s) * MS_PER_S
        self._kinds: dict[tuple[str, str, int], Kind] = {}
        together = asked.mode is Mode.FEDERATED
        self._shares = {
            vc: owner_of(n) if together else "" for n, vc in enumerate(trace.nodes, start=1)
        }

    def played(self, jobs: Iterator[TraceJob], passing: Passing) -> Replayed:
        """Play these jobs."""
        if self._record is not None:
            self._tell_owned(self._record)
        yardstick = self._asked.yardstick
        stream: Iterator[Any] = self._arrivals(jobs) if yardstick is None else jobs
        loaded = self._trace.count <= LOADED_MAX
        if loaded:
            stream = iter(list(stream))
        if yardstick is None:
            return self._by_dure(passing(stream), loaded=loaded)
        return self._by_yardstick(yardstick, passing(stream), loaded=loaded)

    def _by_dure(self, coming: Iterator[Arrival], *, loaded: bool) -> Replayed:
        asked = self._asked
        stage = trace_stage(self._trace, asked)
        book = Book(stage, self._record)
        estimator = Estimator() if asked.foresight is Foresight.LEARNED else None
        calibration = Calibration(asked.ask_every) if asked.ask_every else None
        terms = Terms(overhead_ms=asked.overhead_s * MS_PER_S)
        nation = Nation(stage, book, terms, estimator, calibration)
        began_s = time.perf_counter()
        end_ms = nation.play(coming)
        wall_s = time.perf_counter() - began_s
        summary = self._summary(book.measures)
        return Replayed(
            asked=asked,
            summary=summary,
            digest=book.record.digest(summary.to_dict()),
            wall_s=wall_s,
            loaded=loaded,
            origin_ms=self._origin_s * MS_PER_S,
            end_ms=end_ms,
            estimates=estimator.error() if estimator else None,
            start_estimates=calibration.result() if calibration else None,
        )

    def _by_yardstick(
        self, yardstick: Baseline, coming: Iterator[TraceJob], *, loaded: bool
    ) -> Replayed:
        tell = None if self._record is None else partial(self._tell, self._record)
        began_s = time.perf_counter()
        outcome = baseline.run(self._trace, yardstick, self._asked.mode, coming, tell)
        wall_s = time.perf_counter() - began_s
        return Replayed(
            asked=self._asked,
            summary=self._summary(outcome.measures),
            digest=outcome.digest,
            wall_s=wall_s,
            loaded=loaded,
            origin_ms=self._origin_s * MS_PER_S,
            end_ms=self._first_ms + outcome.measures.makespan_ms(),
        )

    def _summary(self, measures: Measures) -> Summary:
        makespan_ms = measures.makespan_ms()
        return measures.summary({vc: gpus * makespan_ms for vc, gpus in self._trace.gpus().items()})

    def _arrivals(self, jobs: Iterator[TraceJob]) -> Iterator[Arrival]:
        given = self._asked.foresight is Foresight.GIVEN
        for job in jobs:
            yield Arrival(
                (job.submit_s - self._origin_s) * MS_PER_S,
                self._kind(job),
                job.duration_s * MS_PER_S,
                predicted_s(job) * MS_PER_S if given else None,
                job.id,
            )

    def _kind(self, job: TraceJob) -> Kind:
        terms = (job.vc, job.user, job.gpus)
        kind = self._kinds.get(terms)
        if kind is None:
            nodes = -(-job.gpus // self._trace.gpus_per_node)
            kind = self._kinds[terms] = Kind(
                share=self._shares[job.vc],
                operator=job.vc,
                project=job.vc,
                user=job.user,
                nodes=nodes,
                gpus_per_node=-(-job.gpus // nodes),
            )
        return kind

    # ---- what a record is told -------------------------------------------------------------------

    def _tell_owned(self, record: Record) -> None:
        per_node = self._trace.gpus_per_node
        for pool, nodes in _pools(self._trace, self._asked.mode).items():
            record.capacity_changed(0, pool, nodes * per_node)
        if self._asked.mode is Mode.FEDERATED:
            for vc, gpus in self._trace.gpus().items():
                record.share_changed(0, vc, 0, gpus)

    def _tell(self, record: Record, job: TraceJob, end_s: int, where: str) -> None:
        """What a published scheduler did with a job, told at its end."""
        end_ms = (end_s - self._origin_s) * MS_PER_S
        start_ms = end_ms - job.duration_s * MS_PER_S
        submit_ms = (job.submit_s - self._origin_s) * MS_PER_S
        lent = where not in {job.vc, ONE_POOL}
        borrower = job.vc if lent else OWN
        for at_ms, sign in ((submit_ms, 1), (start_ms, -1)):
            record.queue_changed(at_ms, job.vc, sign, sign * job.gpus)
        for at_ms, gpus in ((start_ms, job.gpus), (end_ms, -job.gpus)):
            record.use_changed(at_ms, where, borrower, gpus)
            if self._asked.mode is Mode.FEDERATED:
                record.share_changed(at_ms, job.vc, gpus, 0)
        if lent:
            record.lent(where, job.vc, job.gpus, start_ms, end_ms)
        record.job_ended(
            JobEnded(
                id=job.id,
                kind=self._kind(job),
                submit_ms=submit_ms,
                first_start_ms=start_ms,
                end_ms=end_ms,
                duration_ms=end_ms - start_ms,
                pool=where,
                home=where == job.vc,
                borrowed_gpu_ms=job.gpus * (end_ms - start_ms) if lent else 0,
            )
        )
