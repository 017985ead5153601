"""The schedulers that published simulators play, each virtual cluster (VC) alone: the yardsticks.
They can also be played naively together, with one queue and no guarantees.

Strict FIFO, SJF and QSSF, best-effort FIFO and SJF with EASY answer to every printed digit as the
simulators of Helios (Hu et al., SC'21) and Lucid (Hu et al., ASPLOS'23). What equality takes: whole
seconds; jobs that end at t are gone before those that arrive at t are looked at; a strict queue
stops at the first job that does not fit; and jobs are placed as `dure.rehearsal.nodes` says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, Protocol

from dure.errors import RefusedError
from dure.rehearsal.measure import Measures
from dure.rehearsal.nodes import Clusters, Held, Nodes
from dure.rehearsal.traces.trace import Trace, TraceJob
from dure.text import shown
from dure.units import MS_PER_S

NEVER_S: Final = 1 << 62

ONE_POOL: Final = "all"
"""Whose the nodes are when nobody's in particular."""


class Mode(StrEnum):
    """Whether VCs stand alone or together."""

    ISOLATED = "isolated"
    """A job runs in its own VC."""
    FEDERATED = "federated"
    """A job runs inside one VC, its own or another."""
    ONE_POOL = "one-pool"
    """Gangs may span VCs too, as if there were none: the bound on what sharing can bring."""


class Baseline(StrEnum):
    """In which order a VC's queue is served, and whether a job that does not fit stops it."""

    FIFO = "fifo"
    SJF = "sjf"
    """Shortest first, by true durations."""
    QSSF = "qssf"
    """Least GPU time first, by predicted durations (Helios)."""
    BEST_EFFORT = "best-effort"
    """First come first served, but what does not fit is passed over; so are the next two."""
    BEST_EFFORT_SJF = "best-effort-sjf"
    BEST_EFFORT_QSSF = "best-effort-qssf"
    EASY = "easy"
    """SJF with EASY backfill, both by true durations: nobody knows them, so a yardstick only."""
    EASY_PREDICTED = "easy-predicted"
    """The same by predicted durations."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: its measures, and a SHA-256 over `id,start,end` of each job in order of
    end, equals in order of submission.
    """

    measures: Measures
    digest: str


_Waiting = tuple[int, int, TraceJob]
"""A job in a queue: what it is ordered by, its place in the trace, the job."""

_Running = tuple[int, int, "_Queue", Held, TraceJob]
"""A job on nodes: when it ends (s), its place in the trace, where, what it holds, the job."""

Ended = Callable[[TraceJob, int, str], None]
"""Told of each job that ends, in that order: the job, when (s), in whose nodes."""

_Key = Callable[[TraceJob], int]
"""What a queue is ordered by, least first; equals in order of submission."""


class _Queue(Protocol):
    """What waits for a VC's nodes."""

    def add(self, place: int, job: TraceJob) -> None: ...

    def serve(self, now_s: int, running: list[_Running]) -> None:
        """Start what can be."""

    def ended(self, place: int, held: Held) -> None:
        """A job has given its nodes back."""


class _Strict:
    """The first job that does not fit stops the queue."""

    def __init__(self, nodes: Nodes, key: _Key) -> None:
        self._nodes = nodes
        self._key = key
        self._waiting: list[_Waiting] = []

    def add(self, place: int, job: TraceJob) -> None:
        heappush(self._waiting, (self._key(job), place, job))

    def serve(self, now_s: int, running: list[_Running]) -> None:
        waiting, take = self._waiting, self._nodes.take
        while waiting:
            _, place, job = waiting[0]
            held = take(job.gpus)
            if held is None:
                break
            heappop(waiting)
            heappush(running, (now_s + job.duration_s, place, self, held, job))

    def ended(self, place: int, held: Held) -> None:  # noqa: ARG002 (as every queue)
        self._nodes.give(held)


class _BestEffort:
    """What does not fit is passed over.

    Jobs of one size wait in a line of which only the head is tried: where it does not fit, no other
    of its size does, as a pass only takes.
    """

    def __init__(self, nodes: Nodes, key: _Key) -> None:
        self._nodes = nodes
        self._key = key
        self._lines: defaultdict[int, list[_Waiting]] = defaultdict(list)

    def add(self, place: int, job: TraceJob) -> None:
        heappush(self._lines[job.gpus], (self._key(job), place, job))

    def serve(self, now_s: int, running: list[_Running]) -> None:
        heads = [line[0] for line in self._lines.values()]
        heapify(heads)
        while heads:
            _, place, job = heads[0]
            held = self._take(now_s, place, job)
            if held is None:
                heappop(heads)
                continue
            heappush(running, (now_s + job.duration_s, place, self, held, job))
            line = self._lines[job.gpus]
            heappop(line)
            if line:
                heapreplace(heads, line[0])
            else:
                heappop(heads)
                del self._lines[job.gpus]

    def ended(self, place: int, held: Held) -> None:  # noqa: ARG002 (as every queue)
        self._nodes.give(held)

    def _take(self, now_s: int, place: int, job: TraceJob) -> Held | None:  # noqa: ARG002
        return self._nodes.take(job.gpus)


class _Easy(_BestEffort):
    """The first job that does not fit is promised the earliest time at which it would, and what
    comes after it may start unless it would break the promise (Lifka, JSSPP 1995).

    The head of a line still stands for all of it: who comes later in it runs longer.
    """

    def __init__(self, nodes: Nodes, key: _Key, runtime_s: _Key) -> None:
        super().__init__(nodes, key)
        self._runtime_s = runtime_s
        self._expected: dict[int, tuple[int, Held]] = {}
        self._promise: _Promise | None = None

    def serve(self, now_s: int, running: list[_Running]) -> None:
        self._promise = None
        super().serve(now_s, running)

    def ended(self, place: int, held: Held) -> None:
        super().ended(place, held)
        del self._expected[place]

    def _take(self, now_s: int, place: int, job: TraceJob) -> Held | None:
        held = self._nodes.take(job.gpus)
        end_s = now_s + max(1, self._runtime_s(job))
        if held is None:
            self._promise = self._promise or self._promised(now_s, job.gpus)
        elif self._promise is None or self._promise.allows(end_s, held):
            self._expected[place] = end_s, held
            return held
        else:
            self._nodes.give(held)
        return None

    def _promised(self, now_s: int, gpus: int) -> _Promise:
        """From when jobs are expected to end; those that are overdue, in a second."""
        then = self._nodes.copy()
        at_s = NEVER_S
        for expected_s, held in sorted(self._expected.values()):
            end_s = max(expected_s, now_s + 1)
            if end_s > at_s:
                break
            then.give(held)
            if at_s == NEVER_S and then.fits(gpus):
                at_s = end_s
        return _Promise(at_s, gpus, then)


@dataclass(slots=True)
class _Promise:
    """When a job of so many GPUs starts at the latest, and the nodes as they will be then."""

    at_s: int
    gpus: int
    then: Nodes

    def allows(self, end_s: int, held: Held) -> bool:
        """Whether a job may hold these nodes until `end_s`; if so, it is counted in."""
        if end_s <= self.at_s:
            return True
        self.then.hold(held)
        if self.then.fits(self.gpus):
            return True
        self.then.give(held)
        return False


def _duration_s(job: TraceJob) -> int:
    return job.duration_s


def predicted_s(job: TraceJob) -> int:
    """What was predicted of a job.

    Raises:
        RefusedError: `no-prediction`: nothing was.
    """
    if job.predicted_s is None:
        raise RefusedError(
            "no-prediction",
            f"predicted_s of job {shown(job.id)} is missing; "
            "give predictions that name every job of the trace.",
        )
    return job.predicted_s


def _predicted_gpu_s(job: TraceJob) -> int:
    return predicted_s(job) * job.gpus


def _queue(baseline: Baseline, nodes: Nodes) -> _Queue:
    match baseline:
        case Baseline.FIFO:
            return _Strict(nodes, lambda _: 0)
        case Baseline.SJF:
            return _Strict(nodes, _duration_s)
        case Baseline.QSSF:
            return _Strict(nodes, _predicted_gpu_s)
        case Baseline.BEST_EFFORT:
            return _BestEffort(nodes, lambda _: 0)
        case Baseline.BEST_EFFORT_SJF:
            return _BestEffort(nodes, _duration_s)
        case Baseline.BEST_EFFORT_QSSF:
            return _BestEffort(nodes, _predicted_gpu_s)
        case Baseline.EASY:
            return _Easy(nodes, _duration_s, _duration_s)
        case Baseline.EASY_PREDICTED:
            return _Easy(nodes, predicted_s, predicted_s)


def run(
    trace: Trace,
    baseline: Baseline,
    mode: Mode = Mode.ISOLATED,
    jobs: Iterable[TraceJob] | None = None,
    ended: Ended | None = None,
) -> Outcome:
    """Play a trace. `jobs` are the trace's where they have been read before.

    Raises:
        RefusedError: `no-prediction`: an order by predictions, and a job that nobody predicted;
            `never-fits`: a job larger than where it must run (a trace read with `Within.OWN` has
            none).
    """
    queues, where = _stage(trace, baseline, mode)
    book = _Book(ended, where)
    _play(trace.jobs() if jobs is None else jobs, queues, book)
    if book.jobs < trace.count:
        raise RefusedError(
            "never-fits",
            f"{trace.count - book.jobs} jobs wait for ever behind one that is "
            "larger than its VC; read the trace with jobs limited to their own VC.",
        )
    return Outcome(book.measures, book.hash.hexdigest())


_Where = Callable[[TraceJob, Held], str]
"""In whose nodes a job is."""


def _stage(trace: Trace, baseline: Baseline, mode: Mode) -> tuple[dict[str, _Queue], _Where]:
    """The queue of each VC, and whose nodes a job is in."""
    names, per_node = list(trace.nodes), trace.gpus_per_node
    match mode:
        case Mode.ISOLATED:
            alone = {
                vc: _queue(baseline, Nodes(count, per_node)) for vc, count in trace.nodes.items()
            }
            return alone, lambda job, _: job.vc
        case Mode.FEDERATED:
            clusters = Clusters(list(trace.nodes.values()), per_node)
            together = dict.fromkeys(names, _queue(baseline, clusters))
            return together, lambda _, held: names[clusters.cluster_of(held)]
        case Mode.ONE_POOL:
            pool = Nodes(sum(trace.nodes.values()), per_node)
            return dict.fromkeys(names, _queue(baseline, pool)), lambda *_: ONE_POOL


class _Book:
    """What became of each job."""

    __slots__ = ("_tell", "_where", "hash", "jobs", "measures")

    def __init__(self, tell: Ended | None, where: _Where) -> None:
        self.measures = Measures()
        self.hash = sha256()
        self.jobs = 0
        self._tell = tell
        self._where = where

    def ended(self, job: TraceJob, end_s: int, held: Held) -> None:
        duration_s = job.duration_s
        self.jobs += 1
        self.hash.update(f"{job.id},{end_s - duration_s},{end_s}\n".encode())
        self.measures.ended(
            job.vc,
            job.gpus,
            job.submit_s * MS_PER_S,
            end_s * MS_PER_S,
            duration_s * MS_PER_S,
        )
        if self._tell is not None:
            self._tell(job, end_s, self._where(job, held))


def _play(jobs: Iterable[TraceJob], queues: Mapping[str, _Queue], book: _Book) -> None:
    """Every second in which something happens: ends, then arrivals, then the queues touched."""
    running: list[_Running] = []
    arrivals = enumerate(jobs)
    none_left = 0, TraceJob("", "", "", NEVER_S, 0, 0)
    place, job = next(arrivals, none_left)
    while running or job.submit_s < NEVER_S:
        now_s = min(job.submit_s, running[0][0]) if running else job.submit_s
        touched: dict[_Queue, None] = {}
        while running and running[0][0] == now_s:
            _, number, queue, held, ended = heappop(running)
            queue.ended(number, held)
            touched[queue] = None
            book.ended(ended, now_s, held)
        while job.submit_s == now_s:
            queue = queues[job.vc]
            queue.add(place, job)
            touched[queue] = None
            place, job = next(arrivals, none_left)
        for queue in touched:
            queue.serve(now_s, running)
