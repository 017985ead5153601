"""The contract on two real Slurm clusters with accounting, which run at the same time."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator

import pytest
from contract import ContractBench, EngineContract
from slurm_farm import Cluster

from dure.demo.clusters.processes import run, until
from dure.engines import EngineError
from dure.engines.slurm import SlurmEngine, SlurmPool, SlurmSite

pytestmark = pytest.mark.engine


class SlurmContractBench(ContractBench):
    def __init__(self, root, cluster: Cluster) -> None:
        self.cluster = cluster
        super().__init__(root)

    def open(self):
        site = SlurmSite(
            type="slurm",
            slurm_conf=str(self.cluster.conf),
            account="national",
            accounts={"climate": "second"},
        )
        pools = [SlurmPool(pool_id="p", partition="gpu", gpu_type=self.cluster.gpu_type)]
        return SlurmEngine(self.root / "engine", site, pools, f"test-{self.root.name}")

    def settle(self):
        """Slurm's controller saves its state 5 s late at most (SAVE_MAX_WAIT)."""
        time.sleep(6)

    def job_id(self, attempt_id):
        return self.seen()[attempt_id].engine_id.split(":")[1]

    def own_times_ms(self, attempt_id):
        words = ("sacct", "-X", "-n", "-P", "-j", self.job_id(attempt_id), "-o", "Start,End")
        env = self.cluster.env | {"SLURM_TIME_FORMAT": "%s"}

        def times():
            found = run(words, env).strip().split("|")
            return [int(word) * 1_000 for word in found if word.isdigit()]

        until(lambda: len(times()) == 2, "accounting")
        return tuple(times())

    @contextlib.contextmanager
    def lose_reply(self):
        take = self.engine._commands.submit

        def submit(*words):
            take(*words)
            raise EngineError("sbatch did not answer in time")

        self.engine._commands.submit = submit
        yield
        del self.engine._commands.submit

    def restart(self):
        return self.cluster.without_controller()

    def lose_node(self, attempt_id, rank):
        return self.cluster.node_lost(self.cluster.nodes_of(attempt_id)[rank])

    @contextlib.contextmanager
    def drain(self, ordinal):
        node = f"NodeName={self.cluster.node_names[ordinal]}"
        self.cluster.ask("scontrol", "update", node, "State=DRAIN", "Reason=test")
        yield
        self.cluster.ask("scontrol", "update", node, "State=RESUME")

    def lose_records(self):
        self.engine.close()
        shutil.rmtree(self.root / "engine")
        self.engine = self.open()

    @contextlib.contextmanager
    def hold_back(self):
        self.cluster.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
        yield
        self.cluster.ask("scontrol", "update", "PartitionName=gpu", "State=UP")


@pytest.fixture
def bench(tmp_path, slurm_clusters) -> Iterator[SlurmContractBench]:
    bench = SlurmContractBench(tmp_path, slurm_clusters[0])
    yield bench
    bench.close()


class TestSlurm(EngineContract):
    pass
