"""What a rehearsal writes down: its measures, and for whoever listens every event."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from dure.rehearsal.measure import Measures
from dure.rehearsal.record import OWN, JobEnded, NullRecord, Recalled, Record
from dure.scheduling.lane import Lane
from dure.scheduling.waiting import Task

if TYPE_CHECKING:
    from dure.rehearsal.nation import Job
    from dure.rehearsal.stage import Stage


class Book:
    """Measures and record of one rehearsal."""

    def __init__(self, stage: Stage, record: Record | None = None) -> None:
        self.stage = stage
        self.measures = Measures()
        self.record: Record = NullRecord() if record is None else record
        self.recalls = 0
        self.until_ms = 0
        """Use is counted up to here; see `count_use`."""
        self.used_gpu_ms: Counter[str] = Counter()
        """GPU time taken until then, by operator whose jobs they are."""
        self._listens = record is not None
        self.follows = self._listens
        """Whether it wants to know who waits and who uses what, besides how jobs end."""

    def count_use(self, until_ms: int) -> None:
        """Count the GPU time that jobs take until then."""
        self.until_ms = until_ms
        self.follows = True

    def waits(self, now_ms: int, task: Task, sign: int) -> None:
        """A task waits from now on (1), or no longer (-1)."""
        if self._listens:
            kind = task.source.arrival.kind
            self.record.queue_changed(now_ms, kind.operator, sign, sign * kind.gpus)

    def uses(self, now_ms: int, task: Task, lane: Lane, sign: int) -> None:
        """A task takes its GPUs (1), or gives them back (-1)."""
        since_ms = max(0, task.started_ms)  # what ran before the rehearsal began is none of it
        if sign < 0 and since_ms < self.until_ms:
            took_ms = min(now_ms, self.until_ms) - since_ms
            self.used_gpu_ms[task.source.arrival.kind.operator] += task.gpus * took_ms
        if not self._listens:
            return
        stage, job, share = self.stage, task.source, task.line.share
        gpus = sign * task.gpus
        kind = job.arrival.kind
        borrower = stage.called(stage.root.get(share, kind.operator))
        owner = stage.called(stage.root[job.lender]) if job.lender else stage.owner(task, lane)
        if sign < 0 and job.lender is not None and now_ms > since_ms:
            self.record.lent(owner, borrower, task.gpus, since_ms, now_ms)
        self.record.use_changed(now_ms, owner, OWN if job.lender is None else borrower, gpus)
        if share in stage.side:
            self.record.share_changed(now_ms, stage.called(stage.side[share]), gpus, 0)

    def recalled(self, now_ms: int, victim: Task, by: Task, lost_takes_ms: tuple[int, int]) -> None:
        """A task was called back."""
        self.recalls += 1
        if self._listens:
            lane = victim.lane
            assert lane is not None
            lost_ms, takes_ms = lost_takes_ms
            gpus = victim.gpus
            called = self.stage.called
            shares = called(victim.line.share), called(by.line.share)
            self.record.recalled(
                Recalled(now_ms, lane.pool_id, *shares, gpus, lost_ms * gpus, takes_ms)
            )

    def ended(self, now_ms: int, task: Task, lane: Lane) -> None:
        """A job is done."""
        job: Job = task.source
        arrival = job.arrival
        kind = arrival.kind
        self.measures.ended(
            kind.operator,
            task.gpus,
            arrival.at_ms,
            now_ms,
            arrival.duration_ms,
            job.recalls,
            job.lost_gpu_ms,
        )
        self.record.job_ended(
            JobEnded(
                arrival.id,
                kind,
                arrival.at_ms,
                job.first_start_ms,
                now_ms,
                arrival.duration_ms,
                lane.pool_id,
                self.stage.places[lane.index].owner == kind.operator,
                job.recalls,
                job.lost_gpu_ms,
                job.borrowed_gpu_ms,
            )
        )
