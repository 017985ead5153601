from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from local_bench import Bench

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
