from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_bench import Bench
from slurm_farm import Cluster, Database, missing

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
    # Not pytest's own folder: MariaDB runs as another user, and a socket's path is short.
    root = Path(tempfile.mkdtemp(prefix="dure-slurm-"))
    root.chmod(0o755)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, root)
        database = Database(root / "mariadb")
        stack.callback(database.stop)
        clusters = []
        for name, gpu_type in (("alpha", "b200"), ("beta", "h100")):
            cluster = Cluster(root / name, database, name, gpu_type)
            stack.callback(cluster.stop)
            clusters.append(cluster.start())
        yield clusters[0], clusters[1]
