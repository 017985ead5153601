"""One pool while the scheduler works: which nodes have how much free, and for whom some are kept.

A slot is one GPU of a node with its share of CPUs and memory. Nodes stand in buckets by the slots
that they have free, and a bucket is one integer with a bit for each node: the lowest set bit is the
first node, `bit_count` the number of nodes. So a decision looks at as many buckets as a node has
slots, at 300 GPUs or at 300,000; it never walks the nodes. A second row of buckets says how many
slots are *within reach*: free, or held by borrowers that may be called back. So whether a recall
can help is known before anybody looks for whom.

Best fit: the fullest nodes that still fit come first, among equals those of the lowest ordinals.
That keeps whole nodes whole for those who need them.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dure.scheduling.promise import Promise
    from dure.scheduling.waiting import Demand, Task

Nodes = int
"""A set of node ordinals, as the bits of an integer."""

Borrower = tuple[int, int, int, "Task"]
"""Spared or not, when its work was saved (negative), its age (negative), and who it is."""

STALE_MAX = 64
"""Entries of a heap that may be out of date, beyond as many as are not, before it is cleaned."""


def ordinals(nodes: Nodes) -> Iterator[int]:
    """The ordinals of a set of nodes, ascending."""
    while nodes & (nodes - 1):
        lowest = nodes & -nodes
        yield lowest.bit_length() - 1
        nodes ^= lowest
    if nodes:
        yield nodes.bit_length() - 1


def lowest(nodes: Nodes, count: int) -> Nodes:
    """The `count` lowest of a set of at least so many nodes."""
    if count == 1:
        return nodes & -nodes
    if nodes.bit_count() == count:
        return nodes
    low, high = 0, nodes.bit_length()  # the shortest prefix that holds as many
    while low < high:
        middle = (low + high) >> 1
        if (nodes & ((1 << middle) - 1)).bit_count() < count:
            low = middle + 1
        else:
            high = middle
    return nodes & ((1 << low) - 1)


class Levels:
    """Nodes by how many slots of each can be had. Only nodes that are up stand in a bucket; a level
    may be negative, and then stands as 0.
    """

    __slots__ = ("buckets", "of")

    def __init__(self, slots: int) -> None:
        self.of: list[int] = []
        self.buckets: list[Nodes] = [0] * (slots + 1)

    def copy(self) -> Levels:
        """The same, apart."""
        new = Levels(0)
        new.of, new.buckets = self.of.copy(), self.buckets.copy()
        return new

    def toggle(self, node: int) -> None:
        """A node comes up or goes down."""
        self.buckets[max(0, self.of[node])] ^= 1 << node

    def lower(self, nodes: Nodes, slots: int, up: Nodes) -> None:
        """So many slots less of each of these nodes; a negative number means more."""
        of, buckets = self.of, self.buckets
        while nodes:  # max() would cost a third of this loop
            bit = nodes & -nodes
            nodes ^= bit
            node = bit.bit_length() - 1
            before = of[node]
            after = of[node] = before - slots
            if up & bit:
                buckets[before if before > 0 else 0] ^= bit  # noqa: FURB136
                buckets[after if after > 0 else 0] ^= bit  # noqa: FURB136

    def with_(self, slots: int) -> Nodes:
        """The nodes of which at least so many slots can be had."""
        nodes = 0
        for bits in self.buckets[slots:]:
            nodes |= bits
        return nodes


class Keep:
    """Nodes kept for somebody: for a task that is owed them (`promise`), or, where it is None, for
    the blocked head of a demand, from `until_ms` on.
    """

    __slots__ = ("demand", "lane", "nodes", "promise", "slots", "task", "until_ms")

    def __init__(self, lane: Lane, nodes: Nodes, slots: int, until_ms: int) -> None:
        self.lane = lane
        self.nodes = nodes
        self.slots = slots
        self.until_ms = until_ms
        self.task: Task | None = None
        self.promise: Promise | None = None
        self.demand: Demand | None = None


class Lane:
    """The nodes of one pool that are up, what runs on them, and what is kept.

    What is free of a node may be negative, where a site runs more than the node is said to have:
    then nothing fits there until enough of it has ended.
    """

    __slots__ = (
        "armed_ms",
        "borrowing",
        "demands",
        "free",
        "head",
        "idle",
        "index",
        "keeps",
        "kept",
        "lent",
        "pool_id",
        "promised",
        "promises",
        "reach",
        "releases",
        "running",
        "silent",
        "silent_ones",
        "slots",
        "telling",
        "unripe",
        "up",
        "weight_milli",
        "withheld",
    )

    def __init__(self, index: int, pool_id: str, slots: int) -> None:
        self.index = index
        self.pool_id = pool_id
        self.slots = slots
        self.silent = False
        self.up: Nodes = 0
        self.free = Levels(slots)
        self.reach = Levels(slots)
        self.idle = 0
        self.kept: Nodes = 0
        self.keeps: list[Keep] = []
        self.head: Keep | None = None
        self.running = 0
        self.borrowing = 0
        self.releases: list[tuple[int, int, Task]] = []
        """What runs here, by when it is expected to end."""
        self.telling: list[Borrower] = []
        self.silent_ones: list[Borrower] = []
        """Borrowers that may be called back and tell of their checkpoints, and those that do not:
        heaps, the one whose work was saved last on top."""
        self.unripe: list[tuple[int, int, Task]] = []
        """Borrowers that may not be called back yet, the one that started first on top."""
        self.armed_ms: int | None = None
        """When the scheduler wakes to look whether one of them has become ripe."""
        self.promises: dict[str, Promise] = {}
        self.promised = 0
        self.lent = 0
        self.withheld: tuple[Promise, ...] = ()
        self.weight_milli = 1_000
        self.demands: dict[int, Demand] = {}

    # ---- nodes -----------------------------------------------------------------------------------

    def bring_up(self, nodes: Nodes) -> None:
        """These nodes may be used from now on."""
        new = nodes & ~self.up
        self.up |= new
        self.know(new)
        for node in ordinals(new):
            self.free.toggle(node)
            self.reach.toggle(node)
            self.idle += self.free.of[node]

    def take_down(self, nodes: Nodes) -> None:
        """These nodes may be used no more; what runs there runs on."""
        gone = nodes & self.up
        self.up ^= gone
        for node in ordinals(gone):
            self.free.toggle(node)
            self.reach.toggle(node)
            self.idle -= self.free.of[node]

    def know(self, nodes: Nodes) -> None:
        """There are these nodes, be they up or not."""
        for levels in (self.free, self.reach):
            levels.of += [self.slots] * (nodes.bit_length() - len(levels.of))

    def take(self, nodes: Nodes, slots: int) -> None:
        """Occupy slots of each of these nodes; a negative number frees them again."""
        up = self.up
        self.free.lower(nodes, slots, up)
        self.reach.lower(nodes, slots, up)
        self.idle -= slots * (nodes & up).bit_count()

    # ---- room ------------------------------------------------------------------------------------

    def room(self, slots: int) -> int:
        """How many nodes have at least so many slots free and are kept for nobody."""
        kept = self.kept
        if kept:
            return sum((bits & ~kept).bit_count() for bits in self.free.buckets[slots:])
        return sum(bits.bit_count() for bits in self.free.buckets[slots:])

    def fit(self, count: int, slots: int, ends_ms: int) -> Nodes:
        """So many nodes with at least so many slots free each, for something that ends then; 0
        where there are not so many. Nodes kept for the head come last, and if it ends in time.
        """
        kept = self.kept
        found = self._fullest(count, slots, ~kept)
        head = self.head
        if found.bit_count() == count:
            return found
        if not kept or head is None or ends_ms > head.until_ms:
            return 0
        found |= self._fullest(count - found.bit_count(), slots, head.nodes)
        return found if found.bit_count() == count else 0

    def most(self, slots: int) -> int:
        """How many nodes have at least so many slots free for anybody at all."""
        return (self.free.with_(slots) & self.unowed).bit_count()

    def within_reach(self, slots: int) -> int:
        """How many nodes have at least so many slots free, or could if borrowers left."""
        return (self.reach.with_(slots) & self.unowed).bit_count()

    @property
    def unowed(self) -> Nodes:
        """Nodes that nobody is owed; the head's, for which they are only reserved, among them."""
        if not self.kept:
            return self.up
        return self.up & ~(self.kept if self.head is None else self.kept & ~self.head.nodes)

    def lends(self, gpus: int, borrows: bool) -> bool:  # noqa: FBT001
        """Whether so many GPUs may be had without a promise: what a share keeps for itself stays
        idle, and who does not borrow gets only what nobody is promised.
        """
        if not borrows and self.up.bit_count() * self.slots - self.promised - self.lent < gpus:
            return False
        if not self.withheld:
            return True
        own = sum(max(0, promise.gpus - promise.used) for promise in self.withheld)
        return self.idle - gpus >= own

    @property
    def risk(self) -> int:
        """How likely a borrower is called back from here, 0 to 8: the fewer of the promised GPUs
        idle, the likelier.
        """
        if not self.promised:
            return 0
        return 8 - min(8, 8 * self.idle // self.promised)

    def leftover(self, nodes: Nodes, slots: int) -> int:
        """Slots that stay over on these nodes once so many of each are taken."""
        if nodes & (nodes - 1) == 0:
            return self.free.of[nodes.bit_length() - 1] - slots
        if slots == self.slots:
            return 0
        return sum(self.free.of[node] - slots for node in ordinals(nodes))

    def _fullest(self, count: int, slots: int, among: Nodes) -> Nodes:
        found = 0
        for free in range(slots, self.slots + 1):
            bits = self.free.buckets[free] & among
            if not bits:
                continue
            here = bits.bit_count()
            if here >= count:
                return found | lowest(bits, count)
            found |= bits
            count -= here
        return found

    # ---- what is kept ----------------------------------------------------------------------------

    def keep(self, keep: Keep) -> None:
        """Keep nodes for somebody."""
        self.keeps.append(keep)
        self.kept |= keep.nodes

    def let_go(self, keep: Keep) -> None:
        """Keep them no longer."""
        self.keeps.remove(keep)
        self.kept &= ~keep.nodes
        if keep is self.head:
            self.head = None

    def is_ready(self, keep: Keep) -> bool:
        """Whether all nodes of a keep have the slots free that it is for."""
        return keep.nodes & self.free.with_(keep.slots) == keep.nodes

    # ---- what runs -------------------------------------------------------------------------------

    def note(self, task: Task) -> None:
        """A task runs here: its release and, if it borrows, its place among those who may have to
        go. Called again when either changes.
        """
        if task.listed_ms != task.release_ms:
            self.unlist(task)
            task.listed_ms = task.release_ms
            insort(self.releases, (task.release_ms, task.serial, task))
        if task.promise is None:
            if task.loose:
                self._stand_by(task)
            else:
                heappush(self.unripe, (task.started_ms, task.serial, task))
                if len(self.unripe) > 2 * self.borrowing + STALE_MAX:
                    self.unripe = [entry for entry in self.unripe if self._is_unripe(entry)]
                    heapify(self.unripe)

    def unlist(self, task: Task) -> None:
        """Its release, as it was noted, is to come no more."""
        if task.listed_ms is not None:
            del self.releases[bisect_left(self.releases, (task.listed_ms, task.serial))]
            task.listed_ms = None

    def ripen(self, started_ms: int) -> None:
        """Borrowers that started no later than that may be called back from now on."""
        unripe = self.unripe
        while unripe and (unripe[0][0] <= started_ms or not self._is_unripe(unripe[0])):
            entry = heappop(unripe)
            if self._is_unripe(entry):
                self.loosen(entry[2])

    def _is_unripe(self, entry: tuple[int, int, Task]) -> bool:
        started_ms, _, task = entry
        borrows = task.lane is self and task.promise is None
        return borrows and task.started_ms == started_ms and not task.loose

    def loosen(self, task: Task) -> None:
        """A borrower may be called back."""
        task.loose = True
        self.reach.lower(task.nodes, -task.slots, self.up)
        self._stand_by(task)

    def _stand_by(self, task: Task) -> None:
        borrowers = self.telling if task.tells else self.silent_ones
        heappush(borrowers, (task.spared, -task.saved_ms, -task.serial, task))
        if len(borrowers) > 2 * self.borrowing + STALE_MAX:
            borrowers[:] = [entry for entry in borrowers if self.may_go(entry)]
            heapify(borrowers)

    def fasten(self, task: Task) -> None:
        """It may not any more, or is gone."""
        if task.loose:
            task.loose = False
            self.reach.lower(task.nodes, task.slots, self.up)

    def may_go(self, entry: Borrower) -> bool:
        """Whether this entry of a borrower is up to date."""
        task = entry[3]
        return (
            task.loose
            and task.lane is self
            and entry[1] == -task.saved_ms
            and entry[0] == task.spared
        )
