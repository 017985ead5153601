"""The same world gives the same plan, to the byte, whatever the interpreter's hash seed (I10)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import hashlib
from worlds import occupation, pool, request, world
from dure.scheduling import schedule

pools = [pool(f"{operator}-b200", nodes=3) for operator in ("kakao", "naver", "nhn", "samsung")]
waiting = [request(n, nodes=1 + n % 3, gpus=1 + n % 8, priority=n % 5) for n in range(1, 40)]
plan = schedule(world(*waiting, pools=pools, occupations=[occupation(900, (0,))]))
assert plan.placements and plan.reservations and plan.waits
print(hashlib.sha256(repr(plan).encode()).hexdigest())
"""


def test_a_plan_does_not_depend_on_the_hash_seed():
    here = Path(__file__).parent
    digests = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(here)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "20261123")
    }

    assert len(digests) == 1
