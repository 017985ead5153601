"""One node of one attempt on Ray: what a Ray worker starts there, and how the command is stood by.

The driver has taken the nodes, all or none, so nothing is locked and no gang is waited for. The
rest is the local engine's shim. All of it goes through the attempt's folder, on a file system that
the agent's machine and the nodes share, as on Slurm (`dure.engines.slurm.rank`).

Run as `rank.py DIR RANK MASTER_ADDRESS MASTER_PORT ADDRESS FD`; it returns at once and goes on in
a session of its own. FD is held open until it is gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dure.engines.local import shim

_PASSED_ON: Final = ("CUDA_", "GPU_DEVICE_", "HIP_", "NVIDIA_", "ROCR_", "ZE_AFFINITY_")
"""Beginnings of the variables by which Ray tells a task which GPUs it was given."""


class RayRank(shim.Shim):
    """A shim whose node Ray chose, and which ends when the Ray worker that started it has gone."""

    poll_s = 0.5

    def __init__(self, attempt: Path, rank: int, master: tuple[str, str]) -> None:
        super().__init__(attempt, rank)
        self.master = master
        self.world = 0
        self.worker = os.getppid()
        self.worker_began = shim.start_ticks(self.worker)

    def run(self) -> None:
        """Everything, once: what has begun does not begin again."""
        if any((self.place / name).exists() for name in (shim.EXIT, shim.BEGUN)):
            return
        signal.signal(signal.SIGTERM, self._on_sigterm)
        launch = shim.read_json(self.attempt / shim.LAUNCH, shim.LAUNCH_BYTES_MAX)
        if launch is None:
            self._write_exit(shim.START_FAILED, None, "the launch file is gone")
        elif cause := self._cause_to_stop():
            self._write_exit(shim.STOPPED, None, f"{shim.CAUSES[cause]}, before it started")
        else:
            # Orphans of the command become children of this process: none can leave its tree.
            self.libc.prctl(shim.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self.world = launch["world"]
            self._begin(launch | {"environments": {self.rank: self._environment(launch)}})

    def _environment(self, launch: dict[str, Any]) -> dict[str, str]:
        """The GPUs that Ray gave, the user's variables over them, and the ranks' over both."""
        given = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        (address, port), rank, world = self.master, str(self.rank), str(self.world)
        gang = {"MASTER_ADDR": address, "MASTER_PORT": port, "NODE_RANK": rank}
        # torchrun reads PET_X for its option --x (torch.distributed.argparse_util).
        return {
            "HOME": str(self.place / "home"),
            "TMPDIR": str(self.place / "tmp"),
            **given,
            **launch["environment"],
            **gang,
            **{f"PET_{name}": value for name, value in gang.items()},
            "RANK": rank,
            "WORLD_SIZE": world,
            "PET_NNODES": world,
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "PET_NPROC_PER_NODE": str(launch["gpus_per_node"]),
        }

    def _cause_to_stop(self) -> str | None:
        try:
            os.listdir(self.attempt)  # noqa: PTH208  opening a folder asks NFS anew
            # Ray ends the workers of a job that it stops; the driver's own word may come too late.
            if self.machine_stops or shim.start_ticks(self.worker) != self.worker_began:
                shim.write_once(self.attempt / shim.STOP, {"cause": shim.CLUSTER})
            stop = shim.read_json(self.attempt / shim.STOP)
            lease = shim.read_json(self.attempt / shim.LEASE)
        except FileNotFoundError:  # the disk was emptied: nobody accounts for this any more
            return shim.LEASE_ENDED
        if stop is not None:
            return str(stop["cause"])
        over = lease is None or time.time() * 1_000 >= lease["until_ms"]
        return shim.LEASE_ENDED if over else None

    def _drop_secrets(self, world: int) -> None:  # noqa: ARG002  this node's environment is one of many
        super()._drop_secrets(self.world)


def main(arguments: list[str]) -> None:
    """Leaves the worker's session, and stands by the rank."""
    attempt, rank, address, port, _node, held = arguments
    shim_ = RayRank(Path(attempt), int(rank), (address, port))
    if os.fork():
        os._exit(0)  # the worker goes on to wait for the other's end
    os.setsid()
    os.set_inheritable(int(held), False)
    shim_.run()


if __name__ == "__main__":
    main(sys.argv[1:])
