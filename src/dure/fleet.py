"""What exists, when, and whose: operators, their clusters, pools of identical nodes, and the waves
in which GPUs arrive and leave.

Everything is dated data; the state at an instant is asked for, never stored. Where next: `policy`
says which pools a job's data may go to, `scenario` reads a fleet from a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final, TypeVar

from dure.text import check_name, check_slug, shown

GPUS_MAX: Final = 10_000_000
"""Of one wave or share; far above any nation's plan, far below what an int64 of GPU-ms holds."""
NODE_MAX: Final = 1_000_000
"""Of GPUs, CPUs or GiB in one node."""

_COUNTRY: Final = re.compile(r"\A[A-Z]{2}\Z")


class OwnerKind(StrEnum):
    """Who owns the hardware: a public body, or the operator that runs it."""

    GOVERNMENT = "government"
    OPERATOR = "operator"


class EngineKind(StrEnum):
    """What runs the processes of a cluster."""

    LOCAL = "local"
    SLURM = "slurm"
    RAY = "ray"
    KUBERNETES = "kubernetes"


class WavePhase(StrEnum):
    """The life of a wave, in order. Only `in-service` runs jobs."""

    DELIVERED = "delivered"
    BURN_IN = "burn-in"
    ACCEPTED = "accepted"
    IN_SERVICE = "in-service"
    DRAINING = "draining"
    RETIRED = "retired"


_RANK: Final = {phase: rank for rank, phase in enumerate(WavePhase)}


@dataclass(frozen=True, slots=True)
class GpuModel:
    """A model of GPU; `memory_gib` is the maker's figure for one GPU."""

    id: str
    name: str
    memory_gib: int

    def __post_init__(self) -> None:
        check_slug("gpu model id", self.id)
        check_name("gpu model name", self.name)
        _check_count("memory_gib", self.memory_gib, NODE_MAX)


@dataclass(frozen=True, slots=True)
class PhaseStart:
    """A wave is in `phase` from `at_ms` until its next phase starts."""

    phase: WavePhase
    at_ms: int

    def __post_init__(self) -> None:
        if self.at_ms < 0:
            raise ValueError(f"{self.phase} starts before 1970; write its date")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wave:
    """A dated change of a pool's size: `gpus` arrive together and go through the phases together.

    `assumed` marks a wave whose size, model or place nobody published. Phases may be left out (a
    plan that names only the start of service); those given are in the enum's order and in time.
    """

    id: str
    gpus: int
    assumed: bool
    phases: tuple[PhaseStart, ...]

    def __post_init__(self) -> None:
        check_slug("wave id", self.id)
        _check_count("gpus", self.gpus, GPUS_MAX)
        if not self.phases:
            raise ValueError(f"wave {self.id} has no phase; write at least one date")
        for earlier, later in pairwise(self.phases):
            if _RANK[later.phase] <= _RANK[earlier.phase]:
                raise ValueError(
                    f"wave {self.id} has phase {later.phase} after {earlier.phase}; "
                    f"the order is {', '.join(WavePhase)}"
                )
            if later.at_ms <= earlier.at_ms:
                raise ValueError(
                    f"wave {self.id} is {later.phase} no later than {earlier.phase}; "
                    "each phase starts after the one before it"
                )

    def phase_at(self, now_ms: int) -> WavePhase | None:
        """The phase at an instant; None before the first. A phase starts at its very instant."""
        started = [start.phase for start in self.phases if start.at_ms <= now_ms]
        return started[-1] if started else None


@dataclass(frozen=True, slots=True)
class Share:
    """How many of a pool's GPUs `holder` (`national`, or an operator's id) is guaranteed, and
    whether it lends what it leaves idle and may borrow what others leave idle.
    """

    holder: str
    gpus: int
    may_lend: bool
    may_borrow: bool

    def __post_init__(self) -> None:
        check_slug("share holder", self.holder)
        _check_count("gpus", self.gpus, GPUS_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Identical nodes of one cluster: one GPU model, one interconnect, one owner.

    `owner` is a slug, `jurisdiction` an ISO 3166-1 alpha-2 country. Shares count GPUs of the whole
    pool as planned and together are at most its size.
    """

    id: str
    cluster_id: str
    operator_id: str
    gpu_model: str
    gpus_per_node: int
    cpus_per_node: int
    memory_gib_per_node: int
    interconnect: str
    owner: str
    owner_kind: OwnerKind
    jurisdiction: str
    waves: tuple[Wave, ...]
    shares: tuple[Share, ...] = ()

    def __post_init__(self) -> None:
        check_slug("pool id", self.id)
        check_slug("interconnect", self.interconnect)
        check_slug("owner", self.owner)
        for field in ("gpus_per_node", "cpus_per_node", "memory_gib_per_node"):
            _check_count(field, getattr(self, field), NODE_MAX)
        if not _COUNTRY.match(self.jurisdiction):
            raise ValueError(
                f"jurisdiction {shown(self.jurisdiction)} is not a country; "
                "write two capital letters of ISO 3166-1 such as KR"
            )
        _check_unique(f"wave of pool {self.id}", (wave.id for wave in self.waves))
        _check_unique(f"share holder of pool {self.id}", (share.holder for share in self.shares))
        for wave in self.waves:
            if wave.gpus % self.gpus_per_node:
                raise ValueError(
                    f"wave {wave.id} has {wave.gpus:,} GPUs, which is no whole number of nodes; "
                    f"pool {self.id} has {self.gpus_per_node} GPUs a node"
                )
        promised = sum(share.gpus for share in self.shares)
        if promised > self.gpus_planned:
            raise ValueError(
                f"the shares of pool {self.id} promise {promised:,} GPUs; "
                f"its waves bring {self.gpus_planned:,}"
            )

    @property
    def gpus_planned(self) -> int:
        """GPUs of all waves, whenever they come."""
        return sum(wave.gpus for wave in self.waves)

    def gpus_in(self, phase: WavePhase, now_ms: int) -> int:
        """GPUs that are in `phase` at an instant."""
        return sum(wave.gpus for wave in self.waves if wave.phase_at(now_ms) == phase)

    def nodes_in_service(self, now_ms: int) -> int:
        """Nodes that may run jobs at an instant."""
        return self.gpus_in(WavePhase.IN_SERVICE, now_ms) // self.gpus_per_node


@dataclass(frozen=True, slots=True)
class Cluster:
    """One engine endpoint of an operator."""

    id: str
    operator_id: str
    engine: EngineKind
    pools: tuple[Pool, ...]

    def __post_init__(self) -> None:
        check_slug("cluster id", self.id)
        for pool in self.pools:
            if (pool.cluster_id, pool.operator_id) != (self.id, self.operator_id):
                raise ValueError(
                    f"pool {pool.id} says it is of {pool.operator_id}/{pool.cluster_id}; "
                    f"it stands in {self.operator_id}/{self.id}"
                )


@dataclass(frozen=True, slots=True)
class Operator:
    """Who runs clusters."""

    id: str
    name: str
    clusters: tuple[Cluster, ...]

    def __post_init__(self) -> None:
        check_slug("operator id", self.id)
        check_name("operator name", self.name)
        for cluster in self.clusters:
            if cluster.operator_id != self.id:
                raise ValueError(
                    f"cluster {cluster.id} says it is of {cluster.operator_id}; "
                    f"it stands in operator {self.id}"
                )


@dataclass(frozen=True, slots=True)
class Fleet:
    """A nation's operators and the GPU models they have; ids are unique in the whole fleet."""

    version: str
    operators: tuple[Operator, ...]
    models: tuple[GpuModel, ...]

    def __post_init__(self) -> None:
        check_slug("fleet version", self.version)
        _check_unique("gpu model", (model.id for model in self.models))
        _check_unique("operator", (operator.id for operator in self.operators))
        _check_unique("cluster", (cluster.id for cluster in self.clusters))
        _check_unique("pool", (pool.id for pool in self.pools))
        known = {model.id for model in self.models}
        owner_kinds: dict[str, OwnerKind] = {}
        for pool in self.pools:
            if pool.gpu_model not in known:
                raise ValueError(
                    f"gpu_model {shown(pool.gpu_model)} of pool {pool.id} is not in the fleet; "
                    f"known are {', '.join(sorted(known))}"
                )
            if owner_kinds.setdefault(pool.owner, pool.owner_kind) != pool.owner_kind:
                raise ValueError(
                    f"owner_kind of pool {pool.id} is {pool.owner_kind}; "
                    f"in another pool, owner {pool.owner} is of the other kind"
                )

    @property
    def clusters(self) -> tuple[Cluster, ...]:
        """All clusters, in id order."""
        found = (cluster for operator in self.operators for cluster in operator.clusters)
        return tuple(sorted(found, key=lambda cluster: cluster.id))

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools, in id order."""
        found = (pool for cluster in self.clusters for pool in cluster.pools)
        return tuple(sorted(found, key=lambda pool: pool.id))

    def operator(self, operator_id: str) -> Operator:
        """The operator of that id.

        Raises:
            KeyError: there is none.
        """
        return _find("operator", operator_id, self.operators)

    def cluster(self, cluster_id: str) -> Cluster:
        """The cluster of that id.

        Raises:
            KeyError: there is none.
        """
        return _find("cluster", cluster_id, self.clusters)

    def pool(self, pool_id: str) -> Pool:
        """The pool of that id.

        Raises:
            KeyError: there is none.
        """
        return _find("pool", pool_id, self.pools)


_Named = TypeVar("_Named", Operator, Cluster, Pool)


@dataclass(frozen=True, slots=True)
class Total:
    """`gpus` in any phase from delivered to draining, and how many of them are in service."""

    id: str
    gpus: int
    in_service: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetTotals:
    """The fleet's size at an instant.

    `gpus` counts what stands in the country: every wave in a phase from delivered to draining.
    Waves yet to be delivered and retired ones are not in it, nor in any of the breakdowns. Each
    breakdown is in id order (phases in their own order), leaves out zeros and sums to `gpus`.
    """

    at_ms: int
    gpus: int
    in_service: int
    by_operator: tuple[Total, ...]
    by_owner: tuple[Total, ...]
    by_model: tuple[Total, ...]
    by_phase: tuple[Total, ...]


def totals(fleet: Fleet, at_ms: int) -> FleetTotals:
    """How many GPUs there are at an instant: by operator, owner, model and phase."""
    standing = [
        (pool, phase, wave.gpus)
        for pool in fleet.pools
        for wave in pool.waves
        if (phase := wave.phase_at(at_ms)) is not None and phase is not WavePhase.RETIRED
    ]

    def by(key: Callable[[Pool, WavePhase], str]) -> tuple[Total, ...]:
        sums: dict[str, list[int]] = {}
        for pool, phase, gpus in standing:
            total = sums.setdefault(key(pool, phase), [0, 0])
            total[0] += gpus
            total[1] += gpus if phase is WavePhase.IN_SERVICE else 0
        return tuple(Total(id_, *sums[id_]) for id_ in sorted(sums))

    by_phase = by(lambda _, phase: phase.value)
    return FleetTotals(
        at_ms=at_ms,
        gpus=sum(total.gpus for total in by_phase),
        in_service=sum(total.in_service for total in by_phase),
        by_operator=by(lambda pool, _: pool.operator_id),
        by_owner=by(lambda pool, _: pool.owner),
        by_model=by(lambda pool, _: pool.gpu_model),
        by_phase=tuple(sorted(by_phase, key=lambda total: _RANK[WavePhase(total.id)])),
    )


def _find(kind: str, id_: str, things: Iterable[_Named]) -> _Named:
    for thing in things:
        if thing.id == id_:
            return thing
    raise KeyError(f"no {kind} {id_} in this fleet")


def _check_count(field: str, value: int, limit: int) -> None:
    if not 1 <= value <= limit:
        raise ValueError(f"{field} is {value:,}; it must be from 1 to {limit:,}")


def _check_unique(kind: str, ids: Iterable[str]) -> None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise ValueError(f"{kind} {id_} is named twice; ids are unique")
        seen.add(id_)
