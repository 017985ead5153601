"""A scenario: one TOML file that says what fleet there is, under which rules and prices, and how
`dure up` plays it on one machine.

Read key by key, so that every mistake is answered with the path of the key in the file and one
sentence. The canonical JSON form is what a store keeps of each version.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from dure import tomltable
from dure.errors import RefusedError
from dure.fleet import (
    Cluster,
    EngineKind,
    Fleet,
    GpuModel,
    Operator,
    OwnerKind,
    PhaseStart,
    Pool,
    Share,
    Wave,
    WavePhase,
)
from dure.metering import Season, Tariff
from dure.policy import DataClass, Rule, Rules
from dure.scenario_shares import read_shares
from dure.shares import Share as CapacityShare
from dure.shares import Shares, shares_of
from dure.text import SLUG, check_name, check_slug, shown
from dure.tomltable import Table

LOCAL_NODES_MAX: Final = 64
"""Of one cluster played on this machine."""

REHEARSAL_KEYS: Final = ("fault", "policy", "rehearsal", "workload")
"""What of a file only `dure.rehearsal.scenario` reads."""

_Built = TypeVar("_Built")


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """How `dure up` plays a cluster on this machine: `nodes` nodes in the shape of `pool_id`'s, so
    that one local slot stands for many GPUs of the pool.
    """

    cluster_id: str
    pool_id: str
    nodes: int

    def __post_init__(self) -> None:
        check_slug("local cluster id", self.cluster_id)
        check_slug("local pool", self.pool_id)
        if not 1 <= self.nodes <= LOCAL_NODES_MAX:
            raise ValueError(f"nodes is {self.nodes}; it must be from 1 to {LOCAL_NODES_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Fleet, rules and tariff, each with its own version, and the local stand-ins.

    `shares` is the tree above projects, the pools' holders among it; empty: the holders alone.
    """

    name: str
    fleet: Fleet
    rules: Rules
    tariff: Tariff
    local: tuple[LocalCluster, ...]
    shares: tuple[CapacityShare, ...] = ()

    def __post_init__(self) -> None:
        check_name("scenario name", self.name)
        _check_rules(self.fleet, self.rules)
        _check_tariff(self.fleet, self.tariff)
        _check_local(self.fleet, self.local)
        Shares(self.shares)  # is a tree; reading it has held it to what the pools have


def tree(scenario: Scenario) -> Shares:
    """The shares above all projects: the pools' holders, and what the scenario sets below them."""
    return Shares(scenario.shares) if scenario.shares else shares_of(scenario.fleet)


_ADAPTER: Final = TypeAdapter(Scenario)


def load(path: Path) -> Scenario:
    """Read a scenario from a TOML file; what only rehearsals read is passed by.

    Raises:
        RefusedError: `bad-scenario`: the file cannot be read, or something in it is wrong; the
            sentence names the file, the line and the key.
    """

    def alone(top: Table) -> Scenario:
        top.skip(*REHEARSAL_KEYS)
        return read(top)

    return read_file(path, alone)


def read_file(path: Path, build: Callable[[Table], _Built], settings: Sequence[str] = ()) -> _Built:
    """What `build` makes of a scenario's file, after `settings` (`policy.recalls_max=5`).

    Raises:
        RefusedError: `bad-scenario`, as `load`.
    """
    try:
        return tomltable.read(path, build, settings)
    except ValueError as wrong:
        raise _bad(f"{wrong}.") from wrong


def read(top: Table) -> Scenario:
    """The scenario in the top table of its file.

    Raises:
        ValueError: something in it is wrong.
    """
    name = top.text("name")
    fleet = _read_fleet(top)
    rules = top.table("rules").build(lambda table: _read_rules(table, fleet))
    tariff = top.table("tariff").build(lambda table: _read_tariff(table, fleet))
    locals_ = partial(_read_locals, fleet=fleet)
    local = top.table("local").build(locals_) if top.has("local") else ()
    shares = read_shares(top, fleet).shares if top.has("share") else ()
    return Scenario(name=name, fleet=fleet, rules=rules, tariff=tariff, local=local, shares=shares)


def find(name_or_path: str) -> Path:
    """The file of a scenario: a path, or the bare name of one that comes with Dure.

    Raises:
        RefusedError: `bad-scenario`: neither is there; the sentence names those that are.
    """
    shipped = {file.stem: file for folder in _folders() for file in sorted(folder.glob("*.toml"))}
    if SLUG.match(name_or_path) and name_or_path in shipped:
        return shipped[name_or_path]
    with suppress(OSError, ValueError):  # a name too long, a NUL: no such file either
        if Path(name_or_path).is_file():
            return Path(name_or_path)
    raise _bad(
        f"There is no scenario {shown(name_or_path)}; "
        f"name a TOML file or one of {', '.join(sorted(shipped))}."
    )


def to_json(scenario: Scenario) -> str:
    """The canonical form: keys sorted, no spaces; equal scenarios give equal text."""
    data = _ADAPTER.dump_python(scenario, mode="json")
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def from_json(text: str | bytes) -> Scenario:
    """Read the canonical form back.

    Raises:
        RefusedError: `bad-scenario`: it is not one.
    """
    try:
        return _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as wrong:
        first = wrong.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise _bad(f"{where}: {first['msg'].removeprefix('Value error, ')}.") from wrong


def _bad(sentence: str) -> RefusedError:
    return RefusedError("bad-scenario", sentence)


def _folders() -> tuple[Path, ...]:
    """In a wheel the scenarios lie inside the package, in a checkout beside `src`."""
    here = Path(__file__).resolve()
    return tuple(
        folder
        for folder in (here.parent / "scenarios", here.parents[2] / "scenarios")
        if folder.is_dir()
    )


# What refers to what: checked on the values, so that a scenario from the store is held to it too.


def _check_known(what: str, id_: str, kind: str, known: set[str]) -> None:
    if id_ not in known:
        raise ValueError(
            f"{what} names {kind} {shown(id_)}; the fleet has {', '.join(sorted(known))}"
        )


def _check_rules(fleet: Fleet, rules: Rules) -> None:
    owners = {pool.owner for pool in fleet.pools}
    operators = {operator.id for operator in fleet.operators}
    for rule in rules.rules:
        for owner in rule.owners_allowed or ():
            _check_known(f"rule {rule.id}", owner, "owner", owners)
        for operator_id in rule.operators_denied:
            _check_known(f"rule {rule.id}", operator_id, "operator", operators)


def _check_tariff(fleet: Fleet, tariff: Tariff) -> None:
    models = {model.id for model in fleet.models}
    operators = {operator.id for operator in fleet.operators}
    weighed = [model for model, _ in tariff.weights_milli]
    priced = [operator for operator, _ in tariff.operator_prices_milli]
    for model in weighed:
        _check_known("tariff.weights_milli", model, "gpu model", models)
    for operator_id in priced:
        _check_known("tariff.operator_prices_milli", operator_id, "operator", operators)
    for field, missing in (
        ("weights_milli", models.difference(weighed)),
        ("operator_prices_milli", operators.difference(priced)),
    ):
        if missing:
            raise ValueError(f"tariff.{field} leaves out {', '.join(sorted(missing))}")


def _check_local(fleet: Fleet, local: tuple[LocalCluster, ...]) -> None:
    clusters = {cluster.id: cluster for cluster in fleet.clusters}
    seen: set[str] = set()
    for stand_in in local:
        _check_known("local", stand_in.cluster_id, "cluster", set(clusters))
        if stand_in.cluster_id in seen:
            raise ValueError(f"local names cluster {stand_in.cluster_id} twice")
        seen.add(stand_in.cluster_id)
        pools = {pool.id for pool in clusters[stand_in.cluster_id].pools}
        if stand_in.pool_id not in pools:
            raise ValueError(
                f"local cluster {stand_in.cluster_id} names pool {shown(stand_in.pool_id)}; "
                f"the cluster has {', '.join(sorted(pools)) or 'none'}"
            )


# The shape of the file, from the top down.


def _read_fleet(top: Table) -> Fleet:
    """The file lists operators, clusters and pools flat, each naming the one it belongs to."""
    version = top.text("version")
    models = top.tables("model", _read_model)
    operators = top.tables("operator", lambda table: (table.text("id"), table.text("name")))
    clusters = top.tables(
        "cluster", lambda table: _read_cluster(table, [id_ for id_, _ in operators])
    )
    by_id = {cluster.id: cluster for cluster in clusters}
    pools = top.tables("pool", lambda table: _read_pool(table, by_id, [m.id for m in models]))
    full = tuple(
        replace(cluster, pools=tuple(pool for pool in pools if pool.cluster_id == cluster.id))
        for cluster in clusters
    )
    return Fleet(
        version,
        tuple(
            Operator(id_, name, tuple(cluster for cluster in full if cluster.operator_id == id_))
            for id_, name in operators
        ),
        models,
    )


def _read_model(table: Table) -> GpuModel:
    return GpuModel(table.text("id"), table.text("name"), table.integer("memory_gib"))


def _read_cluster(table: Table, operator_ids: list[str]) -> Cluster:
    """A cluster without its pools yet."""
    return Cluster(
        id=table.text("id"),
        operator_id=table.one_of("operator", operator_ids),
        engine=table.one_of("engine", EngineKind),
        pools=(),
    )


def _read_pool(table: Table, clusters: Mapping[str, Cluster], model_ids: list[str]) -> Pool:
    cluster = clusters[table.one_of("cluster", clusters)]
    return Pool(
        id=table.text("id"),
        cluster_id=cluster.id,
        operator_id=cluster.operator_id,
        gpu_model=table.one_of("gpu_model", model_ids),
        gpus_per_node=table.integer("gpus_per_node"),
        cpus_per_node=table.integer("cpus_per_node"),
        memory_gib_per_node=table.integer("memory_gib_per_node"),
        interconnect=table.text("interconnect"),
        owner=table.text("owner"),
        owner_kind=table.one_of("owner_kind", OwnerKind),
        jurisdiction=table.text("jurisdiction"),
        waves=table.tables("wave", _read_wave),
        shares=table.tables("share", _read_share),
    )


def _read_wave(table: Table) -> Wave:
    return Wave(
        id=table.text("id"),
        gpus=table.integer("gpus"),
        assumed=table.flag("assumed", default=False),
        phases=tuple(
            PhaseStart(phase, table.instant_ms(phase)) for phase in WavePhase if table.has(phase)
        ),
    )


def _read_share(table: Table) -> Share:
    return Share(
        holder=table.text("holder"),
        gpus=table.integer("gpus"),
        may_lend=table.flag("may_lend", default=False),
        may_borrow=table.flag("may_borrow", default=False),
    )


def _read_rules(table: Table, fleet: Fleet) -> Rules:
    rules = Rules(
        version=table.text("version"),
        data_classes=table.tables(
            "data_class", lambda row: DataClass(row.text("id"), row.text("name"))
        ),
        rules=table.tables("rule", _read_rule),
    )
    _check_rules(fleet, rules)
    return rules


def _read_rule(table: Table) -> Rule:
    return Rule(
        id=table.text("id"),
        data_classes=table.texts("data_classes") or (),
        sentence=table.text("sentence"),
        owners_allowed=table.texts("owners_allowed"),
        owner_kinds_allowed=table.some_of("owner_kinds_allowed", OwnerKind),
        jurisdictions_allowed=table.texts("jurisdictions_allowed"),
        operators_denied=table.texts("operators_denied") or (),
    )


def _read_tariff(table: Table, fleet: Fleet) -> Tariff:
    tariff = Tariff(
        version=table.text("version"),
        weights_milli=table.pairs("weights_milli"),
        tiers_milli=table.pairs("tiers_milli"),
        seasons=table.tables("season", _read_season),
        operator_prices_milli=table.pairs("operator_prices_milli"),
    )
    _check_tariff(fleet, tariff)
    return tariff


def _read_season(table: Table) -> Season:
    return Season(
        id=table.text("id"),
        starts_ms=table.instant_ms("starts"),
        ends_ms=table.instant_ms("ends"),
        factor_milli=table.integer("factor_milli"),
    )


def _read_locals(table: Table, fleet: Fleet) -> tuple[LocalCluster, ...]:
    local = table.tables("cluster", _read_local)
    _check_local(fleet, local)
    return local


def _read_local(table: Table) -> LocalCluster:
    return LocalCluster(table.text("id"), table.text("pool"), table.integer("nodes"))
