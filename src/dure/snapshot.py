"""The running federation at one instant, as a rehearsal begins with it.

It says what runs, what waits and who is promised what, and nothing that people wrote: no commands,
environments, secrets or files, and no names of jobs or of who submitted them. Jobs that their owner
would call alike have the same number in `like`, which means nothing outside of one snapshot.

Instants are ms since the epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dure.allocations import OrganisationKind
from dure.jobs import Tier
from dure.scenario import Scenario
from dure.scheduling.tuning import Tuning
from dure.scheduling.world import Usage
from dure.shares import Share, Shares
from dure.text import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What tasks have in common: whose they are, what they take, where they may run."""

    project: str
    share: str
    """The leaf of the capacity tree; empty: nobody's guarantee."""
    like: int
    nodes: int
    gpus_per_node: int
    gpu_models: tuple[str, ...]
    """None named means any."""
    pool: str | None
    """The one pool that their allocation is for."""
    data_class: str
    tier: Tier
    priority: int
    walltime_s: int
    saves: bool
    """Whether they write checkpoints."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A task with a live attempt. `terms` is its place in the snapshot's `terms`."""

    id: str
    terms: int
    pool: str
    nodes: tuple[int, ...]
    guarantor: str | None
    """The share under whose guarantee it runs; None: it borrows."""
    started_ms: int
    expected_ms: int
    """The instant at which it is expected to end."""
    ends_ms: int
    """The instant at which it has ended at the latest."""
    notice_ms: int | None
    """When it was given notice."""
    recalls: int

    def __post_init__(self) -> None:
        if not self.nodes or min(self.nodes) < 0 or len(set(self.nodes)) != len(self.nodes):
            raise ValueError(f"nodes of {self.id} is {shown(self.nodes)}; name each node once")
        if self.ends_ms <= self.started_ms:
            raise ValueError(f"ends_ms of {self.id} is {self.ends_ms}; it must be after started_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A task that wants a place. `expected_ms` is how long it is expected to run."""

    id: str
    terms: int
    since_ms: int
    expected_ms: int
    recalls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A pool as its site reports it: how many nodes there are, up or down, and which are down.

    A silent site's are those that it last told of; one that never told of any has none.
    """

    pool: str
    nodes: int
    down: tuple[int, ...]
    silent: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One instant of the running federation. What waits stands in order of the queue."""

    at_ms: int
    scenario: Scenario
    shares: tuple[Share, ...]
    groups: dict[str, OrganisationKind]
    """Of which kind the organisation of each project's share is."""
    tuning: Tuning
    usage: tuple[Usage, ...]
    pools: tuple[Standing, ...]
    terms: tuple[Terms, ...]
    running: tuple[Running, ...]
    waiting: tuple[Waiting, ...]

    def __post_init__(self) -> None:
        tree = Shares(self.shares)
        pools = {pool.id for pool in self.scenario.fleet.pools}
        classes = {known.id for known in self.scenario.rules.data_classes}
        for terms in self.terms:
            if terms.share and terms.share not in tree.by_id:
                raise ValueError(f"terms name share {shown(terms.share)}, which shares leaves out")
            if terms.data_class not in classes:
                raise ValueError(
                    f"terms name data class {shown(terms.data_class)}; the rules know "
                    f"{', '.join(sorted(classes))}"
                )
            if terms.pool is not None:
                _check_pool("terms", terms.pool, pools)
        for id_, place in self._places():
            if not 0 <= place < len(self.terms):
                raise ValueError(f"terms of {id_} is {place}; there are {len(self.terms)}")
        named = [one.pool for one in self.running] + [one.pool for one in self.pools]
        for pool in named:
            _check_pool("the snapshot", pool, pools)

    def _places(self) -> Iterator[tuple[str, int]]:
        yield from ((one.id, one.terms) for one in self.running)
        yield from ((one.id, one.terms) for one in self.waiting)


def _check_pool(what: str, pool: str, known: set[str]) -> None:
    if pool not in known:
        raise ValueError(f"{what} names pool {shown(pool)}, which the scenario's fleet leaves out")
