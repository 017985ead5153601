"""One node of one attempt on Slurm: what Slurm starts there, and how the command is stood by.

Run as `rank.py DIR` on each node, or as `rank.py --exit-code DIR` once all ended, which exits with
the code of the gang.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dure.engines import gang_rank

_PASSED_ON: Final = ("CUDA_", "GPU_DEVICE_", "NVIDIA_", "ROCR_", "SLURM_", "ZE_AFFINITY_")
"""Beginnings of the variables by which Slurm tells a job what it was given."""
_NODE: Final = ("TMPDIR", "USER", "LOGNAME")
_FIRST_PORT: Final = 20_000  # below Linux's ephemeral ports (ip_local_port_range)
_PORTS: Final = 12_000


class SlurmRank(gang_rank.GangRank):
    """A rank whose walltime began with Slurm's job, and whose exit code Slurm sees."""

    poll_s = 1.0
    exit_code = 1

    def __init__(self, attempt: Path, rank: int, world: int) -> None:
        super().__init__(attempt, rank)
        self.world = world

    def _own(self, launch: dict[str, Any]) -> dict[str, Any]:
        """What Slurm gave the job, the user's variables over it, and the ranks' over both."""
        given = {
            name: value
            for name, value in os.environ.items()
            if name in _NODE or name.startswith(_PASSED_ON)
        }
        port = str(_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _PORTS)
        gang = self._gang((os.environ["DURE_MASTER_ADDR"], port), launch["gpus_per_node"])
        home = {"HOME": str(self.place / "home")}
        return launch | {
            "environments": {self.rank: {**home, **given, **launch["environment"], **gang}},
            "walltime_s": launch["walltime_s"]
            - max(0, time.time() - int(os.environ["DURE_BEGAN_S"])),
        }

    def _write_exit(self, end: str, exit_code: int | None, detail: str) -> None:
        self.exit_code = 1 if exit_code is None else exit_code
        super()._write_exit(end, exit_code, detail)


def main(arguments: list[str]) -> int:
    """Returns the exit code that Slurm is to see: the command's own, or 0 for a rank of many."""
    world = int(os.environ["SLURM_JOB_NUM_NODES"])
    if arguments[0] == "--exit-code":
        return gang_rank.exit_code(Path(arguments[1]), world)
    rank = SlurmRank(Path(arguments[0]), int(os.environ["SLURM_NODEID"]), world)
    rank.run()
    return rank.exit_code if world == 1 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
