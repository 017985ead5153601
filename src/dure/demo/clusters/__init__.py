"""Real clusters on this one machine, for the demo and the tests: Slurm and Ray as sites have them.

Each is small, has its daemons, its secrets and its folder for itself, and listens on loopback only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Final

from dure.demo.clusters import ray, slurm
from dure.demo.clusters.processes import cluster_folder
from dure.errors import RefusedError
from dure.federation import LOCAL_SETTINGS, Played, RealCluster
from dure.fleet import EngineKind

PLAYS: Final[Mapping[str, EngineKind]] = {
    "nhn-national": EngineKind.SLURM,
    "kakao-national": EngineKind.SLURM,
    "sk-industrial": EngineKind.RAY,
}
"""Which cluster of the scenario becomes a real one of which kind. The two of Slurm hold GPUs of one
model and one owner, so that a job may move from one to the other."""

SETTINGS: Final = replace(LOCAL_SETTINGS, lease_s=20, lease_margin_s=5)
"""A site that is lost is given up after seconds; a nation would wait for an hour."""

_MISSING: Final[Mapping[EngineKind, Callable[[], tuple[str, str] | None]]] = {
    EngineKind.SLURM: slurm.missing,
    EngineKind.RAY: ray.missing,
}
KINDS: Final = (*_MISSING, EngineKind.LOCAL)


def read_kinds(text: str) -> tuple[EngineKind, ...]:
    """The engines in `slurm,ray,local`. All that no other plays, the local one does.

    Raises:
        RefusedError: `bad-input`: one of them is not known.
    """
    names = [word.strip() for word in text.split(",")]
    known = {kind.value: kind for kind in KINDS}
    for name in names:
        if name not in known:
            raise RefusedError(
                "bad-input", f"--engines names {name!r}; it takes {', '.join(known)}, by commas."
            )
    return tuple(known[name] for name in dict.fromkeys(names))


def check_installed(kinds: Collection[EngineKind]) -> None:
    """Raises RefusedError (`not-installed`) that names all that is missing of these engines, and
    the one command that installs it.
    """
    found = [no for kind, look in _MISSING.items() if kind in kinds and (no := look()) is not None]
    if found:
        what = " and ".join(what for what, _ in found)
        how = " && ".join(how for _, how in found)
        raise RefusedError("not-installed", f"This machine has {what}; to mend that: {how}")


def cast(kinds: Collection[EngineKind], played: Iterable[Played]) -> tuple[Played, ...]:
    """The same sites, each with the engine that plays it."""
    return tuple(
        replace(site, engine=kind)
        if (kind := PLAYS.get(site.cluster.cluster_id)) is not None and kind in kinds
        else site
        for site in played
    )


@contextmanager
def staged(played: Iterable[Played]) -> Iterator[dict[str, RealCluster]]:
    """Clusters that run, by the id of the scenario's that each plays; gone at the end.

    Raises RefusedError where one does not come up.
    """
    with ExitStack() as stack:
        database: slurm.Database | None = None
        made: dict[str, slurm.SlurmCluster | ray.RayCluster] = {}
        for site in played:
            if site.engine is EngineKind.LOCAL:
                continue
            cluster_id, folder = site.cluster.cluster_id, stack.enter_context(cluster_folder())
            nodes, gpus = site.cluster.nodes, site.slots // site.cluster.nodes
            if site.engine is EngineKind.RAY:
                made[cluster_id] = ray.RayCluster(folder, nodes=nodes, gpus=gpus)
                continue
            if database is None:
                database = slurm.Database(stack.enter_context(cluster_folder()) / "db")
            name, model = cluster_id.partition("-")[0], site.gpu_model
            made[cluster_id] = slurm.SlurmCluster(
                folder, database, name, model, nodes=nodes, gpus=gpus
            )
        with ThreadPoolExecutor() as pool:
            tuple(pool.map(lambda cluster: cluster.start(), made.values()))
        yield dict(made)
