"""A scenario as its TOML file would have it: what a rehearsal of the running federation is read
from, so that its settings are named as in a file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from dure.fleet import Cluster, Fleet, Pool, Wave
from dure.metering import Tariff
from dure.policy import Rule, Rules
from dure.scenario import Scenario
from dure.shares import Guarantee, Share, shares_of
from dure.units import INSTANT_MS_MAX, MS_PER_S

Row = dict[str, Any]


def of_scenario(nation: Scenario) -> Row:
    """Every key of a scenario: `dure.scenario.read` makes an equal one of it."""
    fleet = nation.fleet
    return {
        "name": nation.name,
        "version": fleet.version,
        "model": [
            {"id": one.id, "name": one.name, "memory_gib": one.memory_gib} for one in fleet.models
        ],
        "operator": [{"id": one.id, "name": one.name} for one in fleet.operators],
        "cluster": [_cluster(cluster) for one in fleet.operators for cluster in one.clusters],
        "pool": [_pool(pool) for cluster in _clusters(nation) for pool in cluster.pools],
        "rules": _rules(nation.rules),
        "tariff": _tariff(nation.tariff),
        "local": {
            "cluster": [
                {"id": one.cluster_id, "pool": one.pool_id, "nodes": one.nodes}
                for one in nation.local
            ]
        },
        **({"share": of_shares(nation.shares, fleet)} if nation.shares else {}),
    }


def of_shares(shares: Iterable[Share], fleet: Fleet) -> list[Row]:
    """Each `[[share]]`, in the order given. Of a holder of pools it has what is not the fleet's to
    say, and nothing where that is nothing.
    """
    holders = shares_of(fleet).by_id
    return [
        _of_holder(share, holders[share.id]) if share.id in holders else of_share(share)
        for share in shares
        if share != holders.get(share.id)
    ]


def _of_holder(share: Share, holder: Share) -> Row:
    beyond = share.guarantees[len(holder.guarantees) :]
    row = of_share(replace(share, guarantees=beyond))
    del row["kind"]
    return row


def of_share(share: Share) -> Row:
    """A `[[share]]`."""
    return {
        "id": share.id,
        "kind": str(share.kind),
        **_given(parent=share.parent, limit_gpus=share.limit_gpus),
        "weight_milli": share.weight_milli,
        "may_lend": share.may_lend,
        "may_borrow": share.may_borrow,
        "guarantee": [_guarantee(one) for one in share.guarantees],
    }


def date(at_ms: int) -> str:
    """An instant as such a file has it, to the ms."""
    moment = datetime.fromtimestamp(at_ms / MS_PER_S, UTC)
    return moment.isoformat(timespec="milliseconds")


def _given(**values: Any) -> Row:
    return {key: value for key, value in values.items() if value is not None}


def _clusters(nation: Scenario) -> Iterable[Cluster]:
    return (cluster for operator in nation.fleet.operators for cluster in operator.clusters)


def _cluster(cluster: Cluster) -> Row:
    return {"id": cluster.id, "operator": cluster.operator_id, "engine": str(cluster.engine)}


def _pool(pool: Pool) -> Row:
    return {
        "id": pool.id,
        "cluster": pool.cluster_id,
        "gpu_model": pool.gpu_model,
        "gpus_per_node": pool.gpus_per_node,
        "cpus_per_node": pool.cpus_per_node,
        "memory_gib_per_node": pool.memory_gib_per_node,
        "interconnect": pool.interconnect,
        "owner": pool.owner,
        "owner_kind": str(pool.owner_kind),
        "jurisdiction": pool.jurisdiction,
        "wave": [_wave(wave) for wave in pool.waves],
        "share": [
            {
                "holder": one.holder,
                "gpus": one.gpus,
                "may_lend": one.may_lend,
                "may_borrow": one.may_borrow,
            }
            for one in pool.shares
        ],
    }


def _wave(wave: Wave) -> Row:
    phases = {str(start.phase): date(start.at_ms) for start in wave.phases}
    return {"id": wave.id, "gpus": wave.gpus, "assumed": wave.assumed, **phases}


def _rules(rules: Rules) -> Row:
    return {
        "version": rules.version,
        "data_class": [{"id": one.id, "name": one.name} for one in rules.data_classes],
        "rule": [_rule(rule) for rule in rules.rules],
    }


def _rule(rule: Rule) -> Row:
    kinds = rule.owner_kinds_allowed
    return {
        "id": rule.id,
        "data_classes": list(rule.data_classes),
        "sentence": rule.sentence,
        **_given(
            owners_allowed=_listed(rule.owners_allowed),
            owner_kinds_allowed=None if kinds is None else [str(kind) for kind in kinds],
            jurisdictions_allowed=_listed(rule.jurisdictions_allowed),
        ),
        "operators_denied": list(rule.operators_denied),
    }


def _listed(values: tuple[str, ...] | None) -> list[str] | None:
    return None if values is None else list(values)


def _tariff(tariff: Tariff) -> Row:
    return {
        "version": tariff.version,
        "weights_milli": dict(tariff.weights_milli),
        "tiers_milli": dict(tariff.tiers_milli),
        "season": [
            {
                "id": one.id,
                "starts": date(one.starts_ms),
                "ends": date(one.ends_ms),
                "factor_milli": one.factor_milli,
            }
            for one in tariff.seasons
        ],
        "operator_prices_milli": dict(tariff.operator_prices_milli),
    }


def _guarantee(guarantee: Guarantee) -> Row:
    window: Row = {}
    if guarantee.starts_ms:
        window["starts"] = date(guarantee.starts_ms)
    if guarantee.ends_ms != INSTANT_MS_MAX:
        window["ends"] = date(guarantee.ends_ms)
    named = _given(pool=guarantee.pool, gpu_model=guarantee.gpu_model)
    return {"gpus": guarantee.gpus, **named, **window}
