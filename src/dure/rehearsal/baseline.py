"""The schedulers that published simulators play, each virtual cluster (VC) alone: the yardsticks.

Strict FIFO, SJF and QSSF, and best-effort FIFO, answer to every printed digit as the simulators of
Helios (Hu et al., SC'21) and Lucid (Hu et al., ASPLOS'23). What equality takes: whole seconds; jobs
that end at t are gone before those that arrive at t are looked at; a strict queue stops at the
first job that does not fit; and jobs are placed as `Nodes` says.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final, NamedTuple, Protocol

from dure.errors import RefusedError
from dure.rehearsal.measure import Measures
from dure.rehearsal.traces.trace import Trace, TraceJob
from dure.text import shown
from dure.units import MS_PER_S

NEVER_S: Final = 1 << 62


class Baseline(StrEnum):
    """In which order a VC's queue is served, and whether a job that does not fit stops it."""

    FIFO = "fifo"
    SJF = "sjf"
    """Shortest first, by true durations."""
    QSSF = "qssf"
    """Least GPU time first, by predicted durations (Helios)."""
    BEST_EFFORT = "best-effort"
    """First come first served, but what does not fit is passed over."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run: its measures, and a SHA-256 over `id,start,end` of each job in order of
    end, equals in order of submission.
    """

    measures: Measures
    digest: str


class _Held(NamedTuple):
    """What a job holds: whole nodes as a bit mask, and GPUs of one node more (-1: of none)."""

    whole: int
    node: int
    gpus: int


class Nodes:
    """A VC's nodes by how many GPUs they have free: a bucket is an integer with a bit a node.

    Lowest ordinal first is then the lowest bit set, found and moved by machine words.
    """

    __slots__ = ("_buckets", "_free", "_size")

    def __init__(self, nodes: int, gpus_per_node: int) -> None:
        self._size = gpus_per_node
        self._buckets = [0] * gpus_per_node + [(1 << nodes) - 1]
        self._free = [gpus_per_node] * nodes

    def take(self, gpus: int) -> _Held | None:
        """Place a job "consolidated", or nothing where it does not fit.

        Up to a node's size: the node with the fewest free GPUs that still fits. Beyond: wholly free
        nodes, and for the rest the node with the most free GPUs. The lowest ordinal among equals.
        """
        count, rest = divmod(gpus, self._size)
        empty = self._buckets[self._size]
        if empty.bit_count() < count:
            return None
        whole = _lowest(empty, count)
        self._buckets[self._size] ^= whole
        if not rest:
            return _Held(whole, -1, 0)
        fits = range(self._size, rest - 1, -1) if count else range(rest, self._size + 1)
        for free in fits:
            if self._buckets[free]:
                return _Held(whole, self._take_some(free, rest), rest)
        self._buckets[self._size] ^= whole
        return None

    def give(self, held: _Held) -> None:
        """Free what a job held."""
        whole, node, gpus = held
        self._buckets[self._size] |= whole
        if gpus:
            self._move(node, self._free[node] + gpus)

    def _take_some(self, free: int, gpus: int) -> int:
        bucket = self._buckets[free]
        node = (bucket & -bucket).bit_length() - 1
        self._move(node, free - gpus)
        return node

    def _move(self, node: int, free: int) -> None:
        bit = 1 << node
        self._buckets[self._free[node]] ^= bit
        self._buckets[free] |= bit
        self._free[node] = free


def _lowest(mask: int, count: int) -> int:
    """The lowest `count` bits of a mask that has as many."""
    if mask.bit_count() == count:
        return mask
    taken = 0
    for _ in range(count):
        bit = mask & -mask
        taken |= bit
        mask ^= bit
    return taken


_Waiting = tuple[int, int, TraceJob]
"""A job in a queue: what it is ordered by, its place in the trace, the job."""

_Running = tuple[int, int, "_Queue", _Held, TraceJob]
"""A job on nodes: when it ends (s), its place in the trace, where, what it holds, the job."""


class _Queue(Protocol):
    """What waits for a VC's nodes."""

    nodes: Nodes

    def add(self, place: int, job: TraceJob) -> None: ...

    def serve(self, now_s: int, running: list[_Running]) -> None:
        """Start what can be."""


class _Strict:
    """Served in order of a key; the first job that does not fit stops it."""

    __slots__ = ("_key", "nodes", "waiting")

    def __init__(self, nodes: Nodes, key: Callable[[int, TraceJob], int]) -> None:
        self.nodes = nodes
        self.waiting: list[_Waiting] = []
        self._key = key

    def add(self, place: int, job: TraceJob) -> None:
        heappush(self.waiting, (self._key(place, job), place, job))

    def serve(self, now_s: int, running: list[_Running]) -> None:
        waiting, take = self.waiting, self.nodes.take
        while waiting:
            _, place, job = waiting[0]
            held = take(job.gpus)
            if held is None:
                break
            heappop(waiting)
            heappush(running, (now_s + job.duration_s, place, self, held, job))


class _BestEffort:
    """Served first come first served, passing over what does not fit.

    Jobs of one size wait in a line of which only the head is tried: where it does not fit, no other
    of its size does, as a pass only takes.
    """

    __slots__ = ("_lines", "nodes")

    def __init__(self, nodes: Nodes) -> None:
        self.nodes = nodes
        self._lines: defaultdict[int, deque[tuple[int, TraceJob]]] = defaultdict(deque)

    def add(self, place: int, job: TraceJob) -> None:
        self._lines[job.gpus].append((place, job))

    def serve(self, now_s: int, running: list[_Running]) -> None:
        take = self.nodes.take
        heads = [(line[0][0], gpus) for gpus, line in self._lines.items()]
        heapify(heads)
        while heads:
            place, gpus = heads[0]
            held = take(gpus)
            if held is None:
                heappop(heads)
                continue
            line = self._lines[gpus]
            job = line.popleft()[1]
            heappush(running, (now_s + job.duration_s, place, self, held, job))
            if line:
                heapreplace(heads, (line[0][0], gpus))
            else:
                heappop(heads)
                del self._lines[gpus]


def _predicted_gpu_s(_place: int, job: TraceJob) -> int:
    if job.predicted_s is None:
        raise RefusedError(
            "no-prediction",
            f"predicted_s of job {shown(job.id)} is missing; qssf needs a prediction of every job.",
        )
    return job.predicted_s * job.gpus


def _queue(baseline: Baseline, nodes: Nodes) -> _Queue:
    match baseline:
        case Baseline.FIFO:
            return _Strict(nodes, lambda place, _: place)
        case Baseline.SJF:
            return _Strict(nodes, lambda _, job: job.duration_s)
        case Baseline.QSSF:
            return _Strict(nodes, _predicted_gpu_s)
        case Baseline.BEST_EFFORT:
            return _BestEffort(nodes)


def run(trace: Trace, baseline: Baseline, *, pooled: bool = False) -> Outcome:
    """Play a trace, each VC alone, or all as one pool: the bound on what sharing can bring.

    Raises:
        RefusedError: `no-prediction`: QSSF of a job that nobody predicted; `never-fits`: a job
            larger than where it must run (a trace read with `Within.OWN` has none).
    """
    if pooled:
        one = _queue(baseline, Nodes(sum(trace.nodes.values()), trace.gpus_per_node))
        queues = dict.fromkeys(trace.nodes, one)
    else:
        queues = {
            vc: _queue(baseline, Nodes(count, trace.gpus_per_node))
            for vc, count in trace.nodes.items()
        }
    book = _Book()
    _play(trace.jobs(), queues, book)
    if book.jobs < trace.count:
        raise RefusedError(
            "never-fits",
            f"{trace.count - book.jobs} jobs wait for ever behind one that is "
            "larger than its VC; read the trace with jobs limited to their own VC.",
        )
    return Outcome(book.measures, book.hash.hexdigest())


class _Book:
    """What became of each job."""

    __slots__ = ("hash", "jobs", "measures")

    def __init__(self) -> None:
        self.measures = Measures()
        self.hash = sha256()
        self.jobs = 0

    def ended(self, job: TraceJob, end_s: int) -> None:
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
            _, _, queue, held, ended = heappop(running)
            queue.nodes.give(held)
            touched[queue] = None
            book.ended(ended, now_s)
        while job.submit_s == now_s:
            queue = queues[job.vc]
            queue.add(place, job)
            touched[queue] = None
            place, job = next(arrivals, none_left)
        for queue in touched:
            queue.serve(now_s, running)
