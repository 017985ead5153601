"""Who waits: tasks in lines, lines in demands; of each only the head is ever tried.

A *line* is tasks alike: one share, one shape, one set of rules. Within it the order is priority,
then expected GPU time, then age. A *demand* is all lines that want the same: a shape, on the same
pools. Its head is the head of the line whose turn it is: what has waited past the bound, then fair
share, then expected GPU time, then age. If the head of a demand finds no room, nothing behind it
does. A *claim* is those lines of a demand that one share's promises cover; it too has a head.

Priorities are a project's own affair: between projects a priority below the default makes way, and
one above it gains nothing, as with nice(1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from dure.jobs import PRIORITY_DEFAULT

if TYPE_CHECKING:
    from dure.scheduling.lane import Keep, Lane, Nodes
    from dure.scheduling.promise import Promise

Turn = tuple[int, tuple[int, ...], int, int, int]
"""Late or not, fair-share rank, niceness, expected GPU-ms, age: the lower, the sooner."""

Promises = Mapping[int, tuple["Promise", ...]]
NOTHING: Final[Promises] = MappingProxyType({})

STALE_MAX: Final = 64
"""Entries of turns that may be out of date, beyond as many as are not, before they are cleaned."""

LATE: Final = 0
IN_TIME: Final = 1


class Task:
    """A task that waits or runs. `serial` is its age in the queue and names it in every heap."""

    __slots__ = (
        "bound_ms",
        "expected_ms",
        "gpus",
        "keep",
        "lane",
        "late",
        "limited",
        "line",
        "listed_ms",
        "loose",
        "nodes",
        "notice_ms",
        "place",
        "priority",
        "promise",
        "recalls",
        "release_ms",
        "saved_ms",
        "serial",
        "since_ms",
        "slots",
        "source",
        "spared",
        "started_ms",
        "tells",
    )

    def __init__(self, serial: int, line: Line, source: Any) -> None:
        self.serial = serial
        self.line = line
        self.source = source
        """What it stands for: the caller's own, a request or an arrival."""
        self.priority = PRIORITY_DEFAULT
        self.expected_ms = 0
        self.bound_ms = 0
        """The longest it keeps its GPUs; as long as expected where nobody set a limit."""
        self.limited = False
        """Whether its engine ends it at that bound: then others may be promised what follows."""
        self.since_ms = 0
        self.recalls = 0
        self.late = IN_TIME
        self.place: tuple[int, int, int, int] | None = None
        """Its current entry in its line; None: it does not wait there."""
        self.keep: Keep | None = None
        self.lane: Lane | None = None
        self.nodes: Nodes = 0
        self.slots = 0
        self.gpus = 0
        self.promise: Promise | None = None
        self.started_ms = 0
        self.release_ms = 0
        self.listed_ms: int | None = None
        """The release that its lane has listed."""
        self.saved_ms = 0
        """When its work was last safe: its latest checkpoint, or its start."""
        self.tells = False
        """Whether it has told of a checkpoint."""
        self.loose = False
        """Whether it borrows and may be called back, or has been: its nodes are within reach."""
        self.notice_ms: int | None = None
        self.spared = 0
        """1 once it was called back as often as one task should be: it then goes last."""


class Offer:
    """A lane that may run a demand's tasks: slots of each node, and the most that it would cost."""

    __slots__ = ("cost", "gpus", "lane", "slots")

    def __init__(self, lane: Lane, nodes: int, slots: int, cost: int) -> None:
        self.lane = lane
        self.slots = slots
        self.gpus = nodes * slots
        self.cost = cost


class Line:
    """Tasks alike of one share, the next one first. Made by `Demand.line`.

    `promises` cover the share, by lane, those of the nearest share first.
    """

    __slots__ = (
        "_heap",
        "claims",
        "demand",
        "gpus",
        "promises",
        "share",
        "source",
        "turn",
        "waiting",
    )

    def __init__(
        self, demand: Demand, share: str, gpus: int, source: Any, promises: Promises = NOTHING
    ) -> None:
        self.demand = demand
        self.share = share
        self.gpus = gpus
        """Of one task, for its expected GPU time."""
        self.source = source
        """What the caller knows of all tasks of this line."""
        self.promises = promises
        self.claims: tuple[Claim, ...] = ()
        self.turn: Turn | None = None
        """Its current entry in its demand, and in its claims."""
        self.waiting = 0
        self._heap: list[tuple[tuple[int, int, int, int], Task]] = []

    @property
    def promised(self) -> tuple[Offer, ...]:
        """The demand's offers in whose lanes something is promised."""
        return tuple(o for o in self.demand.offers if self.promises.get(o.lane.index))

    def open(self) -> Iterator[tuple[Offer, Promise]]:
        """The promises that have room for one more task: the nearest share's first, of each share's
        the cheapest.
        """
        for claim in self.claims:
            for pair in claim.pairs:
                if pair[1].gpus - pair[1].used >= pair[0].gpus:
                    yield pair

    def push(self, task: Task) -> None:
        """Put a task, or put it anew, where it belongs."""
        if task.place is None:
            self.waiting += 1
        cost = task.since_ms if task.late == LATE else task.expected_ms * self.gpus
        task.place = (task.late, -task.priority, cost, task.serial)
        heappush(self._heap, (task.place, task))

    def remove(self, task: Task) -> None:
        """Take a task out; its entry goes when it comes to the top."""
        task.place = None
        self.waiting -= 1

    def place(self, rank: tuple[int, ...]) -> None:
        """Put the line where its head belongs; nowhere, where nothing waits in it."""
        if self.moves(rank):
            for turns in self.stands_in():
                turns.push(self)

    def stands_in(self) -> Iterator[Turns]:
        """Where it has its turn: in its demand, and in its claims."""
        yield self.demand.turns
        for claim in self.claims:
            yield claim.turns

    def moves(self, rank: tuple[int, ...]) -> bool:
        """Find out when its head has its turn, and whether that is earlier than before."""
        head = self.head
        if head is None:
            self.turn = None
            return False
        late, _, cost, serial = head.place  # type: ignore[misc]
        nice = max(0, PRIORITY_DEFAULT - head.priority)
        turn = (late, rank if late else (), nice, cost, serial)
        before = self.turn
        if before == turn:
            return False
        self.turn = turn
        return before is None or turn < before

    @property
    def head(self) -> Task | None:
        """The next task, if any waits."""
        heap = self._heap
        while heap:
            place, task = heap[0]
            if task.place is place:
                return task
            heappop(heap)
        return None

    def tasks(self) -> list[Task]:
        """All that wait here, the next one first."""
        return [
            task for place, task in sorted(self._heap, key=lambda e: e[0]) if task.place is place
        ]


class Turns:
    """Lines by whose turn it is. A line may stand in several, and in each more than once.

    A turn that comes earlier is entered at once. One that comes later is found out when the entry
    reaches the top, as most never do before they change again.
    """

    __slots__ = ("_heap", "_most")

    def __init__(self) -> None:
        self._heap: list[tuple[Turn, int, Line]] = []
        self._most = STALE_MAX

    def push(self, line: Line) -> None:
        """A line has its turn earlier than before."""
        turn = line.turn
        assert turn is not None
        heappush(self._heap, (turn, turn[-1], line))
        if len(self._heap) > self._most:
            self.renew()

    def renew(self) -> None:
        """Many of the lines that stand here have another turn: enter each anew, once."""
        lines = dict.fromkeys(entry[2] for entry in self._heap)
        turns = [(line.turn, line.turn[-1], line) for line in lines if line.turn is not None]
        self._heap = turns
        heapify(self._heap)
        self._most = 2 * len(turns) + STALE_MAX

    def first(self, rank: Callable[[str], tuple[int, ...]]) -> Line | None:
        """The line whose turn it is, by fair share as it stands now."""
        while heap := self._heap:
            turn, _, line = heap[0]
            current = line.turn
            if current is turn:
                if turn[0] == LATE or turn[1] == (now := rank(line.share)):
                    return line
                line.place(now)
            elif current is None or current < turn:  # it stands further up, or nowhere
                heappop(heap)
            else:
                heapreplace(heap, (current, current[-1], line))
        return None


class Claim:
    """Those lines of a demand that the promises of one share, the holder, cover."""

    __slots__ = ("demand", "is_up", "pairs", "turns")

    def __init__(self, demand: Demand, pairs: tuple[tuple[Offer, Promise], ...]) -> None:
        self.demand = demand
        self.pairs = pairs
        """Each of those promises, and the offer in whose lane it is; the cheapest first."""
        self.is_up = False
        """Whether its promises know of it, as something waits in it."""
        self.turns = Turns()


class Demand:
    """Lines that want the same: `count` nodes, of the same offers."""

    __slots__ = (
        "_claims",
        "blocked",
        "borrows",
        "by_lane",
        "count",
        "keep",
        "lines",
        "offers",
        "serial",
        "turns",
    )

    def __init__(self, serial: int, count: int, offers: tuple[Offer, ...]) -> None:
        self.serial = serial
        self.count = count
        self.offers = offers
        self.by_lane = {offer.lane.index: offer for offer in offers}
        self.borrows = True
        """Whether its tasks may run on what others are promised and leave idle."""
        self.keep: Keep | None = None
        """What is kept for its head."""
        self.blocked: Task | None = None
        """The head that found no room anywhere: until something changes, it need not look again."""
        self.lines: list[Line] = []
        self.turns = Turns()
        self._claims: dict[str, Claim] = {}

    def line(self, share: str, gpus: int, source: Any, promises: Promises) -> Line:
        """A new line of this demand; see there."""
        line = Line(self, share, gpus, source, promises)
        self.lines.append(line)
        held: dict[str, list[tuple[Offer, Promise]]] = {}
        nearness: dict[str, int] = {}
        for index, offer in self.by_lane.items():
            for above, promise in enumerate(promises.get(index, ())):
                held.setdefault(promise.share, []).append((offer, promise))
                nearness[promise.share] = max(above, nearness.get(promise.share, 0))
        for holder, pairs in held.items():
            if holder not in self._claims:
                pairs.sort(key=lambda pair: pair[0].cost)
                self._claims[holder] = Claim(self, tuple(pairs))
        nearest = sorted(held, key=nearness.__getitem__)
        line.claims = tuple(self._claims[holder] for holder in nearest)
        return line
