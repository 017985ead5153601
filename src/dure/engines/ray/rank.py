"""One node of one attempt on Ray: what a Ray worker starts there, and how the command is stood by.

Run as `rank.py DIR RANK MASTER_ADDRESS MASTER_PORT ADDRESS FD`; it returns at once and goes on in
a session of its own. FD is held open until it is gone. ADDRESS is this node's, for whoever looks.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from dure.engines import gang_rank
from dure.engines.local import shim

_PASSED_ON: Final = ("CUDA_", "GPU_DEVICE_", "HIP_", "NVIDIA_", "ROCR_", "ZE_AFFINITY_")
"""Beginnings of the variables by which Ray tells a task which GPUs it was given."""


class RayRank(gang_rank.GangRank):
    """A rank that ends when the Ray worker that started it has gone."""

    poll_s = 0.5

    def __init__(self, attempt: Path, rank: int, master: tuple[str, str]) -> None:
        super().__init__(attempt, rank)
        self.master = master
        self.worker = os.getppid()
        self.worker_began = shim.start_ticks(self.worker)

    def _own(self, launch: dict[str, Any]) -> dict[str, Any]:
        """The GPUs that Ray gave, the user's variables over them, and the ranks' over both."""
        self.world = launch["world"]
        given = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        own = {"HOME": str(self.place / "home"), "TMPDIR": str(self.place / "tmp")}
        gang = self._gang(self.master, launch["gpus_per_node"])
        return launch | {"environments": {self.rank: own | given | launch["environment"] | gang}}

    def _is_ended_by_engine(self) -> bool:
        # Ray ends the workers of a job that it stops; the driver's own word may come too late.
        return self.machine_stops or shim.start_ticks(self.worker) != self.worker_began


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
