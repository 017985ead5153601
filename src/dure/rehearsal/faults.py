"""What goes wrong in a rehearsal: nodes fail and are repaired, sites fall silent, recalls drag.

Faults are drawn as they are asked for, in order of time, and only what is broken at the moment is
kept, so years at full size weigh nothing. Each pool has its own generator: another pool or another
kind of fault changes no failure of this one.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from dure.fleet import Pool
from dure.units import MS_PER_HOUR, MS_PER_S

_YEAR_MS: Final = 8_766 * MS_PER_HOUR
"""365.25 days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFailures:
    """Each node in service fails `per_node_year` times a year on average, independently of all
    others and of its own past, and is back after `repair_s`. No `pools` means all.
    """

    id: str
    per_node_year: float
    repair_s: int
    pools: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteOutage:
    """A cluster is silent from `starts_ms` until before `ends_ms`."""

    id: str
    cluster: str
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRecall:
    """In a cluster, vacating GPUs takes `factor` times as long as it should."""

    id: str
    cluster: str
    factor: float
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NodesOut:
    """These nodes of a pool, by ordinal, are down from `starts_ms` until before `ends_ms`."""

    id: str
    pool: str
    nodes: tuple[int, ...]
    starts_ms: int
    ends_ms: int


Fault = NodeFailures | NodesOut | SiteOutage | SlowRecall


class NodesDown(NamedTuple):
    """These nodes of a pool, by ordinal, are gone; what ran on them is lost."""

    at_ms: int
    pool: str
    nodes: tuple[int, ...]


class NodesUp(NamedTuple):
    """These nodes of a pool are back. Those beyond what is then in service are no more."""

    at_ms: int
    pool: str
    nodes: tuple[int, ...]


class SiteSilent(NamedTuple):
    """A cluster cannot be reached."""

    at_ms: int
    cluster: str


class SiteBack(NamedTuple):
    """A cluster can be reached again."""

    at_ms: int
    cluster: str


class RecallFactor(NamedTuple):
    """From now on, recalls in a cluster take this many times their time."""

    at_ms: int
    cluster: str
    factor: float


Happening = NodesDown | NodesUp | SiteSilent | SiteBack | RecallFactor


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What is rehearsed: an instant, an end and the seed of all chance in it."""

    starts_ms: int
    ends_ms: int
    seed: int

    @property
    def length_ms(self) -> int:
        """How long it is."""
        return self.ends_ms - self.starts_ms


def happenings(faults: Sequence[Fault], pools: Sequence[Pool], span: Span) -> Iterator[Happening]:
    """All that goes wrong and comes right within a span, in order of time.

    At one instant, sites come before recalls before nodes, each in id order. Of what has begun
    before the span, its state is told at the start. Repairs, ends of outages and the like that
    would come at or after the span's end are left out.

    Where several `NodeFailures` speak of a pool, it has the failures of all of them, but a node
    that is down does not fail again.
    """
    streams: list[Iterator[Happening]] = [
        iter(_outages(faults, span)),
        iter(_recalls(faults, span)),
        iter(_nodes_out(faults, span)),
    ]
    for pool in sorted(pools, key=lambda pool: pool.id):
        rates = tuple(
            (fault.per_node_year, fault.repair_s * MS_PER_S)
            for fault in sorted(_of_nodes(faults), key=lambda fault: fault.id)
            if not fault.pools or pool.id in fault.pools
        )
        if rates and pool.gpus_planned:
            streams.append(_node_failures(pool, rates, span))
    return heapq.merge(*streams, key=lambda happening: happening.at_ms)


def _of_nodes(faults: Sequence[Fault]) -> Iterator[NodeFailures]:
    return (fault for fault in faults if isinstance(fault, NodeFailures))


def _node_failures(
    pool: Pool, rates: tuple[tuple[float, int], ...], span: Span
) -> Iterator[Happening]:
    """A Poisson process over the nodes in service, by thinning: candidates come at the rate of the
    whole pool as planned, and one that hits a node not in service, or already down, is none.

    Source: Lewis and Shedler, Simulation of nonhomogeneous Poisson processes by thinning (1979).
    """
    chance = random.Random(f"{span.seed} node failures {pool.id}")  # noqa: S311 (a rehearsal)
    nodes_planned = pool.gpus_planned // pool.gpus_per_node
    per_ms = [per_node_year * nodes_planned / _YEAR_MS for per_node_year, _ in rates]
    down: set[int] = set()
    repairs: list[tuple[int, int]] = []
    at = float(span.starts_ms)
    while (at := at + chance.expovariate(sum(per_ms))) < span.ends_ms:
        at_ms = int(at)
        while repairs and repairs[0][0] <= at_ms:
            up_ms, node = heapq.heappop(repairs)
            down.discard(node)
            yield NodesUp(up_ms, pool.id, (node,))
        node = chance.randrange(nodes_planned)
        [(_, repair_ms)] = chance.choices(rates, per_ms)
        if node < pool.nodes_in_service(at_ms) and node not in down:
            down.add(node)
            heapq.heappush(repairs, (at_ms + repair_ms, node))
            yield NodesDown(at_ms, pool.id, (node,))
    for up_ms, node in sorted(repairs):
        if up_ms < span.ends_ms:
            yield NodesUp(up_ms, pool.id, (node,))


def _outages(faults: Sequence[Fault], span: Span) -> list[Happening]:
    """Outages of one cluster that overlap or touch are one."""
    found: list[Happening] = []
    outages = sorted(
        (fault.cluster, fault.starts_ms, fault.ends_ms)
        for fault in faults
        if isinstance(fault, SiteOutage)
        and fault.starts_ms < span.ends_ms
        and fault.ends_ms > span.starts_ms
    )
    joined: list[tuple[str, int, int]] = []
    for cluster, starts_ms, ends_ms in outages:
        if joined and joined[-1][0] == cluster and starts_ms <= joined[-1][2]:
            _, first_ms, last_ms = joined.pop()
            joined.append((cluster, first_ms, max(last_ms, ends_ms)))
        else:
            joined.append((cluster, starts_ms, ends_ms))
    for cluster, starts_ms, ends_ms in joined:
        found.append(SiteSilent(max(starts_ms, span.starts_ms), cluster))
        if ends_ms < span.ends_ms:
            found.append(SiteBack(ends_ms, cluster))
    return sorted(found, key=lambda happening: happening.at_ms)


def _nodes_out(faults: Sequence[Fault], span: Span) -> list[Happening]:
    found: list[Happening] = []
    for fault in faults:
        if isinstance(fault, NodesOut) and fault.starts_ms < span.ends_ms:
            starts_ms = max(fault.starts_ms, span.starts_ms)
            found.append(NodesDown(starts_ms, fault.pool, fault.nodes))
            if fault.ends_ms < span.ends_ms:
                found.append(NodesUp(fault.ends_ms, fault.pool, fault.nodes))
    return sorted(found, key=lambda happening: happening.at_ms)


def _recalls(faults: Sequence[Fault], span: Span) -> list[Happening]:
    """The factor of each cluster where it changes: the highest of those in force, or 1."""
    slow = [fault for fault in faults if isinstance(fault, SlowRecall)]
    found: list[Happening] = []
    for cluster in sorted({fault.cluster for fault in slow}):
        here = [fault for fault in slow if fault.cluster == cluster]
        instants = {
            instant
            for fault in here
            for instant in (fault.starts_ms, fault.ends_ms)
            if span.starts_ms < instant < span.ends_ms
        }
        in_force = 1.0
        for at_ms in (span.starts_ms, *sorted(instants)):
            factors = [fault.factor for fault in here if fault.starts_ms <= at_ms < fault.ends_ms]
            if (factor := max(factors, default=1.0)) != in_force:
                found.append(RecallFactor(at_ms, cluster, factor))
                in_force = factor
    return sorted(found, key=lambda happening: happening.at_ms)
