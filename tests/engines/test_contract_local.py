"""The contract on the local engine."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator

import pytest
from contract import ContractBench, EngineContract

from dure.engines import EngineError
from dure.engines.local import LocalEngine, LocalPool, shim
from dure.engines.local.fail import kill_node

pytestmark = pytest.mark.engine


class LocalContractBench(ContractBench):
    def open(self):
        pools = [LocalPool(pool_id="p", nodes=2, gpus_per_node=4)]
        return LocalEngine(self.root / "engine", pools)

    def settle(self):
        """Nothing is saved late."""

    def own_times_ms(self, attempt_id):
        ranks = (self.root / "engine" / "attempts" / attempt_id).glob(f"*/{shim.EXIT}")
        exits = [json.loads(path.read_text()) for path in ranks]
        return min(e["started_ms"] for e in exits), max(e["ended_ms"] for e in exits)

    @contextlib.contextmanager
    def lose_reply(self):
        take = self.engine.submit

        def submit(*words):
            take(*words)
            raise EngineError("timed out")

        self.engine.submit = submit
        yield
        del self.engine.submit

    @contextlib.contextmanager
    def restart(self):
        yield
        self.reopen()

    @contextlib.contextmanager
    def lose_node(self, attempt_id, rank):
        assert kill_node(self.root / "engine", attempt_id, rank)
        yield

    @contextlib.contextmanager
    def drain(self, ordinal):
        down = self.root / "engine" / "nodes" / "p" / f"{ordinal}.down"
        down.parent.mkdir(parents=True, exist_ok=True)
        down.touch()
        yield
        down.unlink()

    def lose_records(self):
        self.engine.close()
        shutil.rmtree(self.root / "engine")
        self.engine = self.open()

    @contextlib.contextmanager
    def hold_back(self):
        self.engine._start_shims = lambda _: None
        yield
        del self.engine._start_shims


@pytest.fixture
def bench(tmp_path) -> Iterator[LocalContractBench]:
    bench = LocalContractBench(tmp_path)
    yield bench
    bench.close()


class TestLocal(EngineContract):
    pass
