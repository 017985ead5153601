"""The rehearsal itself: a simulated clock, a heap of events, and the production scheduler.

At every instant at which something happens, in this order: runs end, the fleet changes, jobs are
submitted; then the scheduler decides. Nothing here decides anything.

A job that is called back saves its work at the notice and has left its nodes when the recall's time
is over; what a failing node or a lost site takes down has lost what it did since its last
checkpoint, and a lost site's jobs come back when their lease ends. Times are ms since the start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final

from dure.rehearsal.book import Book
from dure.rehearsal.calibration import Calibration
from dure.rehearsal.stage import Stage
from dure.rehearsal.workload import Arrival
from dure.scheduling.estimate import Estimate, Estimator, Like
from dure.scheduling.lane import Lane, Nodes
from dure.scheduling.waiting import Task

MS: Final = 1_000
NEVER_MS: Final = 1 << 62
LEAST_EXPECTED_MS: Final = 60_000
"""What has outlived its estimate is expected to need this much more at least."""

Change = tuple[int, Callable[["Nation", int], None]]
"""When the fleet changes, and how."""


class Job:
    """A job of the rehearsal: what is left of it and what it has been through."""

    __slots__ = (
        "arrival",
        "borrowed_gpu_ms",
        "first_start_ms",
        "foretold",
        "left_ms",
        "lender",
        "lost_gpu_ms",
        "recalls",
        "version",
    )

    def __init__(self, arrival: Arrival, foretold: Estimate | None) -> None:
        self.arrival = arrival
        self.foretold = foretold
        """Our own estimate, where nobody else predicted."""
        self.left_ms = arrival.duration_ms
        self.first_start_ms = -1
        self.recalls = 0
        self.lost_gpu_ms = 0
        self.borrowed_gpu_ms = 0
        self.lender: str | None = None
        """Whose idle guarantee it runs on now."""
        self.version = 0
        """Counts its runs, so that the end of one that was cut short means nothing."""


@dataclass(slots=True)
class Terms:
    """What a recall takes, and how long a site may be lost before its jobs are taken for lost."""

    overhead_ms: int = 60 * MS
    lease_ms: int = 3_600 * MS
    saves_on_notice: bool = True
    """Whether any job saves its work at the notice; else only those that write checkpoints do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Underway:
    """A run that a rehearsal begins with: it started before, and has ended by `ends_ms`."""

    pool: str
    nodes: Nodes
    guarantor: str | None
    started_ms: int
    ends_ms: int
    has_notice: bool
    recalls: int


@dataclass(slots=True)
class Nation:
    """One rehearsal under way."""

    stage: Stage
    book: Book
    terms: Terms = field(default_factory=Terms)
    estimator: Estimator | None = None
    calibration: Calibration | None = None
    now_ms: int = 0
    _events: list[tuple[int, int, Task, int]] = field(default_factory=list)
    _back: list[tuple[int, int, Task]] = field(default_factory=list)
    _on: dict[int, dict[Task, None]] = field(default_factory=dict)
    _factor: dict[int, float] = field(default_factory=dict)
    _serial: int = 0

    def play(self, arrivals: Iterable[Arrival], changes: Iterable[Change] = ()) -> int:
        """Play all of it, to the last job's end; the instant of that, in ms."""
        events, back = self._events, self._back
        coming, changing = iter(arrivals), iter(changes)
        arrival, change = next(coming, None), next(changing, None)
        while True:
            now_ms = self._next_ms(arrival, change)
            if now_ms is None:
                return self.now_ms
            self.now_ms = now_ms
            while events and events[0][0] <= now_ms:
                _, _, task, version = heappop(events)
                if task.source.version == version:
                    self._over(task)
            while change is not None and change[0] <= now_ms:
                change[1](self, now_ms)
                change = next(changing, None)
            while back and back[0][0] <= now_ms:
                self._submit(heappop(back)[2])
            while arrival is not None and arrival.at_ms <= now_ms:
                self._arrives(arrival)
                arrival = next(coming, None)
            self._decide()

    def fail(self, lane: Lane, nodes: Nodes) -> None:
        """Nodes fail: what runs on any of them has lost what it did since its last checkpoint, and
        is queued again at once.
        """
        for task in [task for task in self._on.get(lane.index, ()) if task.nodes & nodes]:
            self._lost(task, self.now_ms)

    def lose(self, lane: Lane) -> None:
        """A whole pool is lost with its site: its jobs come back when their leases have ended."""
        for task in list(self._on.get(lane.index, ())):
            self._lost(task, self.now_ms + self.terms.lease_ms)

    def slow_down(self, lane: Lane, factor: float) -> None:
        """Recalls from this pool take so many times their time."""
        self._factor[lane.index] = factor

    def resume(self, arrival: Arrival, run: Underway) -> None:
        """A job runs when the rehearsal begins. `arrival.duration_ms` is what is left of it."""
        task = self._task(arrival)
        job: Job = task.source
        lane = self.stage.by_pool[run.pool]
        job.left_ms = arrival.duration_ms - run.started_ms
        job.first_start_ms = 0
        task.expected_ms = job.left_ms
        task.bound_ms = max(run.ends_ms - run.started_ms, job.left_ms)
        task.limited = True
        task.nodes, task.slots = run.nodes, arrival.kind.gpus_per_node
        task.gpus = arrival.kind.gpus
        task.since_ms = task.started_ms = task.saved_ms = run.started_ms
        task.release_ms = run.started_ms + task.bound_ms
        self._recalled_before(task, run.recalls)
        self.stage.take_up(task, lane, run.guarantor)
        self.stage.ceilings.takes(task, task.gpus)
        self._on.setdefault(lane.index, {})[task] = None
        job.lender = None if task.promise is not None else self.stage.lender(lane)
        self.book.uses(0, task, lane, 1)
        ends_ms = arrival.duration_ms
        if run.has_notice:
            self._set_back(task, saved=self._saves_on_notice(job))
            task.notice_ms = 0
            ends_ms = min(run.ends_ms, self.terms.overhead_ms)
        heappush(self._events, (ends_ms, task.serial, task, job.version))

    def expect(self, arrival: Arrival, since_ms: int, recalls: int = 0) -> None:
        """A job waits when the rehearsal begins, since `since_ms`, an instant before."""
        task = self._task(arrival)
        task.since_ms = since_ms
        self._recalled_before(task, recalls)
        if self.calibration is not None:
            self.calibration.submitted(task)
        heappush(self._back, (0, task.serial, task))

    def _recalled_before(self, task: Task, recalls: int) -> None:
        task.recalls = recalls
        task.spared = int(recalls >= self.stage.scheduler.tuning.recalls_max)

    @property
    def submitted(self) -> int:
        """How many jobs there were so far, those it began with included."""
        return self._serial

    def running(self) -> Iterator[Task]:
        """What runs, pool by pool, in order of start."""
        for lane in self.stage.lanes:
            yield from self._on.get(lane.index, ())

    # ---- steps -----------------------------------------------------------------------------------

    def _next_ms(self, arrival: Arrival | None, change: Change | None) -> int | None:
        """The next instant at which something happens; None when all is done."""
        events, back, scheduler = self._events, self._back, self.stage.scheduler
        next_ms = events[0][0] if events else NEVER_MS
        if arrival is not None and arrival.at_ms < next_ms:
            next_ms = arrival.at_ms
        if back and back[0][0] < next_ms:
            next_ms = back[0][0]
        if next_ms == NEVER_MS and not scheduler.active:
            return None
        if change is not None and change[0] < next_ms:
            next_ms = change[0]
        wake_ms = scheduler.wake_ms
        if wake_ms is not None and wake_ms < next_ms:
            next_ms = max(wake_ms, self.now_ms + 1)
        return None if next_ms == NEVER_MS else next_ms

    def _decide(self) -> None:
        """Let the scheduler decide, and do what it says."""
        scheduler = self.stage.scheduler
        scheduler.decide(self.now_ms)
        for task in scheduler.starts:
            self._starts(task)
        for victim, beneficiary in scheduler.recalls:
            self._recalled(victim, beneficiary)
        if self.calibration is not None:
            self.calibration.ask(scheduler, self.now_ms)

    def _arrives(self, arrival: Arrival) -> None:
        task = self._task(arrival)
        task.since_ms = self.now_ms
        if self.calibration is not None:
            self.calibration.submitted(task)
        self._submit(task)

    def _task(self, arrival: Arrival) -> Task:
        """A new task, with what is expected of it."""
        kind = arrival.kind
        line = self.stage.line(kind)
        foretold = None
        expected_ms = arrival.predicted_ms
        limit_ms = None if kind.walltime_s is None else kind.walltime_s * MS
        if expected_ms is None:
            if self.estimator is None:
                expected_ms = arrival.duration_ms
                limit_ms = limit_ms or expected_ms
            else:
                like = Like(kind.project, kind.user, kind.name, kind.gpus)
                foretold = self.estimator.estimate(like, limit_ms)
                expected_ms = foretold.median_ms
        self._serial += 1
        task = Task(self._serial, line, Job(arrival, foretold))
        task.priority = kind.priority
        task.expected_ms = expected_ms if expected_ms > 0 else 1
        task.bound_ms = task.expected_ms if limit_ms is None else limit_ms
        task.limited = limit_ms is not None
        return task

    def _submit(self, task: Task) -> None:
        self.stage.scheduler.submit(task)
        if self.book.follows:
            self.book.waits(self.now_ms, task, 1)

    def _starts(self, task: Task) -> None:
        job: Job = task.source
        lane = task.lane
        assert lane is not None
        now_ms = self.now_ms
        if job.first_start_ms < 0:
            job.first_start_ms = now_ms
            if self.calibration is not None:
                self.calibration.started(task, now_ms)
        self._on.setdefault(lane.index, {})[task] = None
        if task.promise is None and self.book.follows:
            job.lender = self.stage.lender(lane)
        else:
            job.lender = None
        heappush(self._events, (now_ms + job.left_ms, task.serial, task, job.version))
        if self.book.follows:
            self.book.waits(now_ms, task, -1)
            self.book.uses(now_ms, task, lane, 1)

    def _over(self, task: Task) -> None:
        """A run is over: the job is done, or it has left its nodes after a recall."""
        job: Job = task.source
        recalled = task.notice_ms is not None
        if not recalled:
            job.left_ms = 0
        lane = self._leaves(task)
        if recalled:
            task.notice_ms = None
            self._submit(task)
            return
        arrival = job.arrival
        if self.estimator is not None:
            kind = arrival.kind
            like = Like(kind.project, kind.user, kind.name, kind.gpus)
            self.estimator.observe(like, arrival.duration_ms, job.foretold)
        self.book.ended(self.now_ms, task, lane)

    def _leaves(self, task: Task) -> Lane:
        """A task leaves its nodes."""
        lane = task.lane
        assert lane is not None
        job: Job = task.source
        now_ms = self.now_ms
        if task.promise is None:
            job.borrowed_gpu_ms += task.gpus * (now_ms - max(0, task.started_ms))
        if self.book.follows:
            self.book.uses(now_ms, task, lane, -1)
        self.stage.scheduler.ended(task, now_ms)
        if self.stage.ceilings.ends(task):
            self.stage.scheduler.readmit()
        del self._on[lane.index][task]
        return lane

    def _recalled(self, victim: Task, beneficiary: Task) -> None:
        lane = victim.lane
        assert lane is not None
        job: Job = victim.source
        takes_ms = int(self.terms.overhead_ms * self._factor.get(lane.index, 1))
        lost_ms = takes_ms + self._set_back(victim, saved=self._saves_on_notice(job))
        job.recalls += 1
        job.lost_gpu_ms += lost_ms * victim.gpus
        heappush(self._events, (self.now_ms + takes_ms, victim.serial, victim, job.version))
        self.book.recalled(self.now_ms, victim, beneficiary, (lost_ms, takes_ms))

    def _saves_on_notice(self, job: Job) -> bool:
        return self.terms.saves_on_notice or job.arrival.kind.checkpoint_every_s is not None

    def _lost(self, task: Task, back_ms: int) -> None:
        """A run is cut short without notice."""
        job: Job = task.source
        if task.notice_ms is None:
            job.lost_gpu_ms += self._set_back(task, saved=False) * task.gpus
        else:
            job.version += 1
            task.notice_ms = None
        self._leaves(task)
        heappush(self._back, (back_ms, task.serial, task))

    def _set_back(self, task: Task, *, saved: bool) -> int:
        """End a run early: what is left to do, and expected, from what it saved; the ms lost."""
        job: Job = task.source
        ran_ms = self.now_ms - task.started_ms
        every_ms = (job.arrival.kind.checkpoint_every_s or 0) * MS
        kept_ms = ran_ms if saved else ran_ms // every_ms * every_ms if every_ms else 0
        kept_ms = min(kept_ms, job.left_ms)
        job.left_ms -= kept_ms
        job.version += 1
        task.expected_ms = max(task.expected_ms - kept_ms, LEAST_EXPECTED_MS)
        task.bound_ms = max(task.bound_ms - kept_ms, task.expected_ms)
        return ran_ms - kept_ms
