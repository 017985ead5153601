from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_bench import Bench
from ray_farm import RayCluster, ray_folder
from ray_farm import missing as missing_for_ray
from slurm_farm import Cluster, Database, farm_folder, missing

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
    if (reason := missing()) is not None:
        pytest.skip(reason)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(farm_folder())
        database = Database(root / "mariadb")
        stack.callback(database.stop)
        clusters = []
        for name, gpu_type in (("alpha", "b200"), ("beta", "h100")):
            cluster = Cluster(root / name, database, name, gpu_type)
            stack.callback(cluster.stop)
            clusters.append(cluster.start())
        yield clusters[0], clusters[1]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[RayCluster]:
    """A Ray cluster of two nodes with four GPUs each, which demands a token."""
    if (reason := missing_for_ray()) is not None:
        pytest.skip(reason)
    with ray_folder() as folder:
        cluster = RayCluster(folder)
        try:
            yield cluster.start()
        finally:
            cluster.stop()
