from __future__ import annotations

import psutil
import pytest
from local_bench import until

from dure.engines import EngineEnd, Phase
from dure.engines.local.fail import kill_node

pytestmark = pytest.mark.engine


def test_a_killed_node_ends_its_attempt_as_a_failed_node(bench):
    bench.bash("a-1", "(sleep 60 & echo up $RANK; sleep 60)", nodes=(0, 1))
    bench.says("a-1", "up 0")
    bench.says("a-1", "up 1", rank=1)
    root = bench.root / "engine"
    of_rank_1 = [
        pid for pid in bench.marked("a-1") if psutil.Process(pid).environ()["NODE_RANK"] == "1"
    ]
    assert of_rank_1

    assert kill_node(root, "a-1", 1)
    until(lambda: not any(psutil.pid_exists(pid) for pid in of_rank_1))
    end = bench.ended("a-1")
    assert (end.end, end.detail) == (EngineEnd.NODE_FAILED, "rank 1: its supervisor was killed")
    assert not kill_node(root, "a-1", 1)


def test_what_does_not_run_is_not_killed(bench):
    root = bench.root / "engine"
    bench.bash("a-1", "true")
    bench.ended("a-1")
    assert not kill_node(root, "a-1", 0)
    assert not kill_node(root, "a-2", 0)
    with pytest.raises(ValueError, match="attempt id"):
        kill_node(root, "../a-1", 0)
    assert bench.look("a-1").phase is Phase.ENDED
