"""What binds a script to one site, one account, one kind of GPU: by the federation's own names, or
by a table that the user keeps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from dure.draft import gpu_model_from_text
from dure.jobs import Tier
from dure.sbatch.losses import Said, kept, lost, translated
from dure.sbatch.precedence import Chosen
from dure.sbatch.report import Verdict
from dure.text import shown
from dure.views import PoolView

NODE_GPUS_USUAL: Final = 8
"""GPUs of the largest node, where no pool is known."""

_QOS_USUAL: Final = frozenset({"normal", "standard"})
_TERMS: Final = re.compile(r"\*\d+|[|&,()\[\]]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """What names of the user's old cluster mean here."""

    partition: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Partition -> pools."""
    account: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Account -> one project."""
    qos: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Quality of service -> one tier."""
    gpu: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """GPU type or feature -> models that will do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What the submitter may see of the federation, and their tables."""

    pools: tuple[PoolView, ...] = ()
    projects: tuple[str, ...] = ()
    allocations: tuple[str, ...] = ()
    tables: Tables = Tables()

    @property
    def models(self) -> frozenset[str]:
        """GPU models that some pool has."""
        return frozenset(pool.gpu_model for pool in self.pools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the job may run and who pays; empty or None is what was not said."""

    pools: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    project: str | None = None
    allocation: str | None = None
    tier: Tier | None = None
    node_gpus: int = NODE_GPUS_USUAL
    """GPUs of the largest node that it may run on."""
    said: Mapping[str, Said] = field(default_factory=dict)


def place(chosen: Chosen, gpu_types: Mapping[str, str], known: Known) -> Place:
    """Read all that names a place. `gpu_types` are the GPU types, by the option that names one."""
    said: dict[str, Said] = {}
    option = "pool" if "pool" in chosen.given else "partition"
    by_partition = _pools(chosen, option, known.tables.partition, known, said)
    by_cluster = _pools(chosen, "clusters", {}, known, said)
    pools = by_partition and by_cluster and tuple(p for p in by_partition if p in by_cluster)
    if pools == ():
        raise ValueError(
            f"{option} {shown(chosen.value(option))} is not one of clusters "
            f"{shown(chosen.value('clusters'))}; name one of them only"
        )
    pools = pools or by_partition or by_cluster or ()
    models = _models(chosen, gpu_types, known, said)
    project, allocation = _account(chosen, known, said)
    here = [
        pool.gpus_per_node
        for pool in known.pools
        if (not pools or pool.pool in pools) and (not models or pool.gpu_model in models)
    ]
    return Place(
        pools=pools,
        models=models,
        project=project,
        allocation=allocation,
        tier=_tier(chosen, known, said),
        node_gpus=max(here, default=NODE_GPUS_USUAL),
        said=said,
    )


def _pools(
    chosen: Chosen,
    option: str,
    table: Mapping[str, tuple[str, ...]],
    known: Known,
    said: dict[str, Said],
) -> tuple[str, ...] | None:
    """The pools that names stand for: of the table, a pool, a cluster or an operator."""
    text = chosen.value(option)
    if text is None:
        return None
    names = [name for name in text.split(",") if name]
    if option == "clusters" and names == ["all"]:
        said[option] = kept("any of the federation")
        return None
    found: list[str] = []
    strange = []
    for name in names:
        here = table.get(name) or tuple(
            one.pool for one in known.pools if name in {one.pool, one.cluster, one.operator}
        )
        found.extend(pool for pool in here if pool not in found)
        if not here:
            strange.append(name)
    if not found:
        said[option] = lost(
            f"no pool, cluster or operator is named so; any pool that fits may run it (--pool, or "
            f"[partition] {strange[0] if strange else 'NAME'} = [...] in sbatch.toml, pins it)"
        )
        return None
    beside = f"; {', '.join(strange)} is unknown" if strange else ""
    said[option] = Said(Verdict.PINNED, f"to {_named(found)}{beside}")
    return tuple(found)


def _named(pools: Iterable[str]) -> str:
    """Pools, as many as fit a line."""
    listed = list(pools)
    more = f" and {len(listed) - 4} more" if len(listed) > 4 else ""
    return f"{', '.join(listed[:4])}{more}"


def _models(
    chosen: Chosen, gpu_types: Mapping[str, str], known: Known, said: dict[str, Said]
) -> tuple[str, ...]:
    models: tuple[str, ...] = ()
    for option, name in gpu_types.items():
        found = models_of(name, known)
        if not found:
            there = ", ".join(sorted(known.models)) or "none"
            said[option] = lost(
                f"the number is kept; no pool has {name}, so any model will do "
                f"(there are {there}: choose with --gpu-model)"
            )
        elif found != (name,):
            said[option] = translated(f"of {' or '.join(found)}")
        models = models or found
    text = chosen.value("constraint")
    if text is not None:
        wanted = _constraint(text, known)
        said["constraint"] = (
            translated(f"a GPU of {' or '.join(wanted)}")
            if wanted
            else lost("features are a site's own; of them only GPU models are known here")
        )
        models = models or wanted
    named = chosen.value("gpu-model")
    if named is not None:
        models = tuple(gpu_model_from_text(name) for name in named.split(","))
        said["gpu-model"] = kept()
    return models


def models_of(name: str, known: Known) -> tuple[str, ...]:
    """The federation's GPU models that a site's name for a GPU stands for.

    `H200`, `nvidia_h200` and `nvidia_h200_141gb_hbm3e` are h200; a part of a GPU
    (`a100_3g.20gb`) is none.
    """
    if (listed := known.tables.gpu.get(name)) is not None:
        return listed
    model = gpu_model_from_text(name)
    if model in known.models:
        return (model,)
    words = set(model.split("-"))
    if any(re.fullmatch(r"\d+g\.\d+gb", word) for word in words):
        return ()
    inside = [one for one in sorted(known.models) if set(one.split("-")) <= words]
    return (max(inside, key=len),) if inside else ()


def _constraint(text: str, known: Known) -> tuple[str, ...]:
    """The models that an expression of features names, if it names nothing else."""
    found: list[str] = []
    for term in filter(None, _TERMS.split(text)):
        models = models_of(term.strip(), known)
        if not models:
            return ()
        found.extend(model for model in models if model not in found)
    return tuple(found)


def _account(chosen: Chosen, known: Known, said: dict[str, Said]) -> tuple[str | None, str | None]:
    """The project and the allocation that pay. Dure's own options go over --account."""
    project, allocation = chosen.value("project"), chosen.value("allocation")
    for option in ("project", "allocation"):
        if option in chosen.given:
            said[option] = kept()
    account = chosen.value("account")
    if account is None:
        return project, allocation
    name = next(iter(known.tables.account.get(account, (account,))))
    if name in known.projects:
        said["account"] = kept() if name == account else translated(f"project {name}")
        return project or name, allocation
    if name in known.allocations:
        said["account"] = translated(f"allocation {name}")
        return project, allocation or name
    yours = ", ".join(known.projects) or "none"
    said["account"] = lost(f"you have no project of that name (you have {yours}: --project)")
    return project, allocation


def _tier(chosen: Chosen, known: Known, said: dict[str, Said]) -> Tier | None:
    qos = chosen.value("qos")
    if qos is None:
        return None
    name = next(iter(known.tables.qos.get(qos, (qos,))))
    if name in set(Tier):
        said["qos"] = kept() if name == qos else translated(f"tier {name}")
        return Tier(name)
    if name in _QOS_USUAL:
        said["qos"] = translated(f"tier {Tier.STANDARD}")
        return Tier.STANDARD
    said["qos"] = lost(f"the tiers here are {', '.join(Tier)}; {Tier.STANDARD} is taken")
    return None
