"""The contract on a real Ray cluster, whose nodes are processes on this machine."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator

import pytest
from contract import ContractBench, EngineContract
from ray_farm import RayCluster

from dure.engines import EngineError, Phase
from dure.engines.local import shim
from dure.engines.ray import RayEngine, RayPool, RaySite

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("ray")]


class RayContractBench(ContractBench):
    def __init__(self, root, cluster: RayCluster) -> None:
        self.cluster = cluster
        super().__init__(root)

    def open(self):
        site = RaySite(
            type="ray",
            dashboard=self.cluster.dashboard,
            token_file=str(self.cluster.token_file),
            python=self.cluster.python,
        )
        pools = [RayPool(pool_id="p", gpus_per_node=4)]
        return RayEngine(self.root / "engine", site, pools, f"test-{abs(hash(self.root))}")

    def settle(self):
        """Ray's GCS holds what it was told; nothing is saved late."""

    def own_times_ms(self, attempt_id):
        ranks = (self.root / "engine" / "attempts" / attempt_id).glob(f"*/{shim.EXIT}")
        exits = [json.loads(path.read_text()) for path in ranks]
        return min(e["started_ms"] for e in exits), max(e["ended_ms"] for e in exits)

    @contextlib.contextmanager
    def lose_reply(self):
        take = self.engine._api.submit

        def submit(*words):
            take(*words)
            raise EngineError("Ray did not answer in time")

        self.engine._api.submit = submit
        yield
        del self.engine._api.submit

    def restart(self):
        return self.cluster.without_dashboard()

    def lose_node(self, attempt_id, rank):
        (address,) = [r.address for r in self.cluster.ranks(attempt_id) if r.number == rank]
        return self.cluster.node_lost(address)

    def drain(self, ordinal):
        """Ray's own drain ends a node for good once it is idle: it is the same as its loss."""
        return self.cluster.node_lost(self.cluster.address(ordinal + 1))

    def lose_records(self):
        self.engine.close()
        shutil.rmtree(self.root / "engine")
        self.engine = self.open()

    @contextlib.contextmanager
    def hold_back(self):
        self.bash("a-hold", "sleep 100", nodes=(0, 1), gpus_per_node=4)
        self.becomes("a-hold", Phase.RUNNING)
        yield
        self.engine.stop("a-hold")


@pytest.fixture
def bench(tmp_path, ray_cluster) -> Iterator[RayContractBench]:
    bench = RayContractBench(tmp_path, ray_cluster)
    yield bench
    bench.close()


class TestRay(EngineContract):
    pass
