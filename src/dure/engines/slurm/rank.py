"""One node of one attempt on Slurm: what Slurm starts there, and how the command is stood by.

Slurm has allotted the nodes and started every rank, or none; so nothing is locked and no gang is
waited for. The rest is the local engine's shim: notice, grace, walltime, lease, log, exit record.
All of it goes through the attempt's folder, on a file system that the agent's machine and the
nodes share:

    attempt/launch.json   argument vector and environments, secrets among them; gone once all began
    attempt/lease         `{"until_ms": N}` of the wall clock; MUNGE needs clocks that agree
    attempt/stop.json     the first cause to stop
    attempt/RANK/...      begun.json, exit.json and log, as the local engine's shim writes them

Run as `rank.py DIR` on each node, or as `rank.py --exit-code DIR` once all ended, which exits with
the code of the gang. It needs Python 3.9 and nothing but the standard library: the agent lays it
and the shim beside each other in its root, in folders named as the packages are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dure.engines.local import shim

_PASSED_ON: Final = ("CUDA_", "GPU_DEVICE_", "NVIDIA_", "ROCR_", "SLURM_", "ZE_AFFINITY_")
"""Beginnings of the variables by which Slurm tells a job what it was given."""
_NODE: Final = ("TMPDIR", "USER", "LOGNAME")
_FIRST_PORT: Final = 20_000  # below Linux's ephemeral ports (ip_local_port_range)
_PORTS: Final = 12_000


class SlurmRank(shim.Shim):
    """A shim whose node Slurm chose and whose lease is a file that can be read anywhere."""

    poll_s = 1.0
    exit_code = 1

    def run(self) -> None:
        """Everything, once: Slurm starts a rank once, and a requeued job finds it done."""
        if (self.place / shim.EXIT).exists() or (self.place / shim.BEGUN).exists():
            return
        launch = shim.read_json(self.attempt / shim.LAUNCH, shim.LAUNCH_BYTES_MAX)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if launch is None:
            self._write_exit(shim.START_FAILED, None, "the launch file is gone")
            return
        if cause := self._cause_to_stop():
            self._write_exit(shim.STOPPED, None, f"{shim.CAUSES[cause]}, before it started")
            return
        # Orphans of the command become children of this process: none can leave its tree.
        self.libc.prctl(shim.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        launch["environments"] = {self.rank: self._environment(launch)}
        launch["walltime_s"] -= max(0, time.time() - int(os.environ["DURE_BEGAN_S"]))
        self._begin(launch)

    def _environment(self, launch: dict[str, Any]) -> dict[str, str]:
        """What Slurm gave the job, the user's variables over it, and the ranks' over both."""
        given = {
            name: value
            for name, value in os.environ.items()
            if name in _NODE or name.startswith(_PASSED_ON)
        }
        world = os.environ["SLURM_JOB_NUM_NODES"]
        address = os.environ["DURE_MASTER_ADDR"]
        port = str(_FIRST_PORT + int(os.environ["SLURM_JOB_ID"]) % _PORTS)
        own = {
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            "WORLD_SIZE": world,
            "RANK": str(self.rank),
            "NODE_RANK": str(self.rank),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            # torchrun reads PET_X for its option --x (torch.distributed.argparse_util).
            "PET_NNODES": world,
            "PET_NODE_RANK": str(self.rank),
            "PET_NPROC_PER_NODE": str(launch["gpus_per_node"]),
            "PET_MASTER_ADDR": address,
            "PET_MASTER_PORT": port,
        }
        home = {"HOME": str(self.place / "home")}
        return {**home, **given, **launch["environment"], **own}

    def _cause_to_stop(self) -> str | None:
        if self.machine_stops:
            shim.write_once(self.attempt / shim.STOP, {"cause": shim.CLUSTER})
            return shim.CLUSTER
        try:
            names = os.listdir(self.attempt)  # noqa: PTH208  opening a folder asks NFS anew
        except FileNotFoundError:  # the site's disk was emptied: nobody accounts for this any more
            return shim.LEASE_ENDED
        if shim.STOP in names and (stop := shim.read_json(self.attempt / shim.STOP)) is not None:
            return str(stop["cause"])
        lease = shim.read_json(self.attempt / shim.LEASE)
        over = lease is None or time.time() * 1_000 >= lease["until_ms"]
        return shim.LEASE_ENDED if over else None

    def _drop_secrets(self, world: int) -> None:  # noqa: ARG002  this node's environment is one of many
        super()._drop_secrets(int(os.environ["SLURM_JOB_NUM_NODES"]))

    def _write_exit(self, end: str, exit_code: int | None, detail: str) -> None:
        self.exit_code = 1 if exit_code is None else exit_code
        super()._write_exit(end, exit_code, detail)


def gang_exit_code(attempt: Path, world: int) -> int:
    """The exit code of the first rank that did not complete; 0 where all did.

    A rank that says nothing counts as killed (137).
    """
    exits = []
    for rank in range(world):
        with contextlib.suppress(shim.SpoiltError, OSError, KeyError, TypeError):
            found = shim.read_json(attempt / str(rank) / shim.EXIT)
            if found is not None:
                exits.append((found["ended_ms"], found["exit_code"]))
    if len(exits) < world:
        return 128 + signal.SIGKILL
    return next((1 if code is None else code for _, code in sorted(exits) if code != 0), 0)


def main(arguments: list[str]) -> int:
    """Returns the exit code that Slurm is to see: the command's own, or 0 for a rank of many."""
    world = int(os.environ["SLURM_JOB_NUM_NODES"])
    if arguments[0] == "--exit-code":
        return gang_exit_code(Path(arguments[1]), world)
    rank = SlurmRank(Path(arguments[0]), int(os.environ["SLURM_NODEID"]))
    rank.run()
    return rank.exit_code if world == 1 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
