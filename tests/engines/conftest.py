from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_bench import Bench
from ray_farm import RayCluster
from slurm_farm import Cluster

from dure.demo.clusters import ray, slurm
from dure.demo.clusters.processes import cluster_folder
from dure.engines import Phase


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    for seen in bench.engine.observe():
        if seen.phase is not Phase.ENDED:
            (bench.place(seen.attempt_id) / "lease").touch()
            bench.engine.extend(seen.attempt_id, 0)
            for pid in bench.marked(seen.attempt_id):
                psutil.Process(pid).kill()
            bench.ended(seen.attempt_id)
    bench.engine.close()


@pytest.fixture(scope="session")
def slurm_clusters() -> Iterator[tuple[Cluster, Cluster]]:
    """Two Slurm clusters with accounting, alpha and beta, that know nothing of each other."""
    if (no := slurm.missing()) is not None:
        pytest.skip(": ".join(no))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(cluster_folder())
        database = slurm.Database(folder / "db")
        alpha = Cluster(folder / "alpha", database, "alpha", "b200", nodes=3, gpus=4)
        beta = Cluster(folder / "beta", database, "beta", "h100", nodes=3, gpus=4)
        yield alpha.start(), beta.start()


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes with four GPUs each, which demands a token."""
    if (no := ray.missing()) is not None:
        pytest.skip(": ".join(no))
    with cluster_folder() as folder:
        yield RayCluster(folder, nodes=2, gpus=4).start()
