"""The running federation rehearsed: `dure rehearse live`.

A snapshot says how the federation stands; what may change ("what if") is said as a scenario's file
would say it, so a wave, a share or a dial has the same name here as there.

What is assumed, since nobody knows: a task runs for as long as like tasks took; nodes that are down
and sites that are silent come back after `BACK_AFTER_S`; what checkpoints does so every
`CHECKPOINT_EVERY_S`; budgets do not run out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from dure.allocations import OrganisationKind
from dure.errors import RefusedError
from dure.fleet import Fleet, PhaseStart, Pool, Wave, WavePhase
from dure.rehearsal import document
from dure.rehearsal.asking import SCENARIO_POLICIES, Ready, one_of
from dure.rehearsal.faults import Fault, NodesOut, SiteOutage
from dure.rehearsal.nation import Underway
from dure.rehearsal.opening import Expected, Opening
from dure.rehearsal.perform import perform
from dure.rehearsal.record import Record
from dure.rehearsal.replay import DURE, Passing
from dure.rehearsal.scenario import Rehearsal, of_document
from dure.rehearsal.workload import Arrival, Kind
from dure.shares import NATIONAL
from dure.snapshot import Running, Snapshot, Standing, Terms
from dure.text import shown
from dure.tomltable import Document
from dure.units import MS_PER_S, iso

BACK_AFTER_S: Final = 24 * 3_600
CHECKPOINT_EVERY_S: Final = 3_600
NAME: Final = "snapshot"
"""What sentences call the document that a rehearsal is read from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AddedWave:
    """GPUs that come into service in a pool."""

    pool: str
    gpus: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A cluster is lost for a while."""

    cluster: str
    starts_ms: int
    ends_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The projects of one kind of organisation get so many thousandths of the national share."""

    kind: OrganisationKind
    part_milli: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """What is to be different from what is planned; nothing, by default. `settings` are keys of a
    scenario's file, such as `pool.naver-b200.wave.second-round.in-service=2027-03-01`.
    """

    settings: tuple[str, ...] = ()
    waves: tuple[AddedWave, ...] = ()
    outages: tuple[Outage, ...] = ()
    given: tuple[Given, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """What is different, for people; nothing where nothing is."""
        return (
            *self.settings,
            *(f"{one.gpus:,} GPUs more in {one.pool} on {iso(one.at_ms)}" for one in self.waves),
            *(
                f"{one.cluster} lost from {iso(one.starts_ms)} until {iso(one.ends_ms)}"
                for one in self.outages
            ),
            *(f"{one.kind} gets {one.part_milli / 10:g} % of national" for one in self.given),
        )


NOTHING: Final = WhatIf()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ahead:
    """What is rehearsed besides: until when, with which seed, and with whose workloads: the
    `[[workload]]` and `[[share]]` of a scenario's file; None: nothing new is submitted.
    """

    until_ms: int
    seed: int = 0
    workload: Path | None = None


def rehearsal_of(snapshot: Snapshot, ahead: Ahead, what_if: WhatIf) -> Rehearsal:
    """The rehearsal that begins with a snapshot, under its plan as `what_if` changes it.

    Raises:
        RefusedError: `bad-scenario`: a setting, a wave, a share, an outage or a workload cannot be.
    """
    if ahead.until_ms <= snapshot.at_ms:
        raise RefusedError(
            "bad-scenario",
            f"--until is {iso(ahead.until_ms)}, which is not after {iso(snapshot.at_ms)}, when the "
            "snapshot was taken; write a later date.",
        )
    data = document.of_scenario(snapshot.scenario)
    data["rehearsal"] = {
        "starts": document.date(snapshot.at_ms),
        "ends": document.date(ahead.until_ms),
        "seed": ahead.seed,
    }
    data["policy"] = {name: getattr(snapshot.tuning, name) for name in snapshot.tuning.__slots__}
    data["fault"] = [_outage(number, one) for number, one in enumerate(what_if.outages, 1)]
    data["share"] = _shares(snapshot, what_if.given)
    for number, wave in enumerate(what_if.waves, 1):
        _add_wave(data, number, wave)
    folder = None
    if ahead.workload is not None:
        folder = ahead.workload.parent
        _add_workloads(data, ahead.workload)
    read = of_document(Document(NAME, data), what_if.settings, folder)
    return _as_it_stands(read, snapshot)


def opening_of(snapshot: Snapshot) -> Opening:
    """What runs and waits in a snapshot, as a rehearsal begins with it."""
    roots = {share.id: share.parent or share.id for share in snapshot.shares}
    kinds = [_kind(snapshot, terms, roots) for terms in snapshot.terms]
    running = sorted(snapshot.running, key=lambda one: (one.started_ms, one.id))
    return Opening(
        running=tuple(_underway(snapshot, one, kinds[one.terms]) for one in running),
        waiting=tuple(
            Expected(
                Arrival(0, kinds[one.terms], one.expected_ms, one.expected_ms, one.id),
                min(0, one.since_ms - snapshot.at_ms),
                one.recalls,
            )
            for one in snapshot.waiting
        ),
        used=tuple((one.share, one.credit_ms) for one in snapshot.usage),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAsking:
    """A snapshot to be rehearsed. `policy` is `dure`, or `no-lending`; one job in `ask_every`, if
    any, asks when it will start.
    """

    snapshot: Snapshot
    ahead: Ahead
    what_if: WhatIf = NOTHING
    policy: str = DURE
    ask_every: int | None = None

    def ready(self) -> Ready:
        """Make the rehearsal.

        Raises:
            RefusedError: `bad-scenario`, as `rehearsal_of`; `bad-input`: there is no such policy.
        """
        one_of("policy", self.policy, SCENARIO_POLICIES)
        rehearsal = rehearsal_of(self.snapshot, self.ahead, self.what_if)
        return Ready(None, partial(self._play, rehearsal), span_ms=rehearsal.span.length_ms)

    def as_is(self) -> LiveAsking:
        """The same with nothing changed."""
        return replace(self, what_if=NOTHING)

    def _play(
        self, rehearsal: Rehearsal, record: Record | None, passing: Passing
    ) -> tuple[dict[str, Any], int]:
        performed = perform(
            rehearsal,
            record,
            passing,
            lending=self.policy == DURE,
            opening=opening_of(self.snapshot),
            ask_every=self.ask_every,
        )
        changes = self.what_if.lines()
        settings = {
            "title": f"{rehearsal.nation.name}, {'what if' if changes else 'as it is'}",
            "policy": self.policy,
            "seed": self.ahead.seed,
            "starts_ms": self.snapshot.at_ms,
            "ends_ms": self.ahead.until_ms,
        }
        if changes:
            settings["what_if"] = "; ".join(changes)
        return performed.to_dict() | {"settings": settings}, performed.end_ms


# ---- The plan, as it is and as it might be -------------------------------------------------------


def _outage(number: int, outage: Outage) -> dict[str, Any]:
    return {
        "id": f"what-if-{number}",
        "kind": "site-outage",
        "cluster": outage.cluster,
        "starts": document.date(outage.starts_ms),
        "ends": document.date(outage.ends_ms),
    }


def _add_wave(data: dict[str, Any], number: int, wave: AddedWave) -> None:
    pools = {pool["id"]: pool for pool in data["pool"]}
    if wave.pool not in pools:
        raise RefusedError(
            "bad-scenario",
            f"--add-wave names pool {shown(wave.pool)}; the fleet has {', '.join(sorted(pools))}.",
        )
    row = {"id": f"what-if-{number}", "gpus": wave.gpus, "assumed": True}
    pools[wave.pool]["wave"].append(row | {"in-service": document.date(wave.at_ms)})


def _shares(snapshot: Snapshot, given: Iterable[Given]) -> list[dict[str, Any]]:
    """The tree below the holders of pools, parents first; projects of a kind that is given a part
    stand below that part.
    """
    parts = {one.kind: f"{NATIONAL}.{one.kind}" for one in given}
    rows = [
        {"id": parts[one.kind], "parent": NATIONAL, "part_milli": one.part_milli} for one in given
    ]
    below = sorted(
        (share for share in snapshot.shares if share.id not in parts.values()),
        key=lambda share: (share.id.count("."), share.id),
    )
    for row in document.of_shares(below, snapshot.scenario.fleet):
        part = parts.get(snapshot.groups.get(row["id"], ""))  # type: ignore[call-overload]
        if part is not None and row.get("parent") == NATIONAL:
            row["parent"] = part
        rows.append(row)
    return rows


def _add_workloads(data: dict[str, Any], file: Path) -> None:
    try:
        there = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as wrong:
        raise RefusedError("bad-scenario", f"{file.name}: it cannot be read: {wrong}.") from wrong
    data["workload"] = there.get("workload", [])
    known = {row["id"] for row in data["share"]}
    added = [row for row in there.get("share", []) if row.get("id") not in known]
    data["share"] = [*added, *data["share"]]


def _as_it_stands(rehearsal: Rehearsal, snapshot: Snapshot) -> Rehearsal:
    """The same with the nodes that sites really have, and with what is down."""
    standing = {one.pool: one for one in snapshot.pools}
    fleet = rehearsal.nation.fleet
    stands = {
        pool.id: _pool_as_it_stands(pool, standing.get(pool.id), snapshot.at_ms)
        for pool in fleet.pools
    }
    faults = (*rehearsal.faults, *_down(snapshot, fleet))
    return replace(
        rehearsal, nation=replace(rehearsal.nation, fleet=_with(fleet, stands)), faults=faults
    )


def _with(fleet: Fleet, pools: Mapping[str, Pool]) -> Fleet:
    operators = []
    for operator in fleet.operators:
        clusters = (
            replace(cluster, pools=tuple(pools[pool.id] for pool in cluster.pools))
            for cluster in operator.clusters
        )
        operators.append(replace(operator, clusters=tuple(clusters)))
    return replace(fleet, operators=tuple(operators))


def _pool_as_it_stands(pool: Pool, standing: Standing | None, at_ms: int) -> Pool:
    """A pool whose site has fewer nodes than planned has that many, until later waves bring more.
    Guarantees are then cut to what there is, as in the running federation.
    """
    nodes = 0 if standing is None else standing.nodes
    if nodes >= pool.nodes_in_service(at_ms):
        return pool
    later = tuple(wave for wave in pool.waves if _comes_ms(wave) > at_ms)
    start = PhaseStart(WavePhase.IN_SERVICE, 0)
    gpus = nodes * pool.gpus_per_node
    now = (Wave(id="as-it-stands", gpus=gpus, assumed=False, phases=(start,)),) if nodes else ()
    return replace(pool, waves=(*now, *later), shares=())


def _comes_ms(wave: Wave) -> int:
    """When a wave comes into service; one that never does, never comes."""
    starts = (start.at_ms for start in wave.phases if start.phase is WavePhase.IN_SERVICE)
    return next(starts, 0)


def _down(snapshot: Snapshot, fleet: Fleet) -> Iterable[Fault]:
    back_ms = snapshot.at_ms + BACK_AFTER_S * MS_PER_S
    silent = sorted({fleet.pool(one.pool).cluster_id for one in snapshot.pools if one.silent})
    for cluster in silent:
        yield SiteOutage(
            id=f"silent-{cluster}", cluster=cluster, starts_ms=snapshot.at_ms, ends_ms=back_ms
        )
    for one in snapshot.pools:
        if one.down:
            yield NodesOut(
                id=f"down-{one.pool}",
                pool=one.pool,
                nodes=one.down,
                starts_ms=snapshot.at_ms,
                ends_ms=back_ms,
            )


# ---- What runs and waits -------------------------------------------------------------------------


def _kind(snapshot: Snapshot, terms: Terms, roots: Mapping[str, str]) -> Kind:
    share = project = terms.share
    while (above := roots.get(share, share)) != share:
        project, share = share, above
    return Kind(
        share=terms.share,
        operator=share or NATIONAL,
        project=terms.project,
        user="",
        group=snapshot.groups.get(project, ""),
        name=f"like-{terms.like}",
        nodes=terms.nodes,
        gpus_per_node=terms.gpus_per_node,
        gpu_models=terms.gpu_models,
        pool=terms.pool,
        data_class=terms.data_class,
        tier=terms.tier,
        priority=terms.priority,
        walltime_s=terms.walltime_s,
        checkpoint_every_s=CHECKPOINT_EVERY_S if terms.saves else None,
    )


def _underway(snapshot: Snapshot, one: Running, kind: Kind) -> tuple[Arrival, Underway]:
    left_ms = max(1, one.expected_ms - snapshot.at_ms)
    arrival = Arrival(0, kind, left_ms, left_ms, one.id)
    return arrival, Underway(
        pool=one.pool,
        nodes=sum(1 << node for node in one.nodes),
        guarantor=one.guarantor,
        started_ms=min(0, one.started_ms - snapshot.at_ms),
        ends_ms=max(1, one.ends_ms - snapshot.at_ms),
        has_notice=one.notice_ms is not None,
        recalls=one.recalls,
    )
