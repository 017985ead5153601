"""One node of one attempt on a cluster whose engine has allotted all of its nodes, or none.

So nothing is locked and no gang is waited for. The rest is the local engine's shim: notice, grace,
walltime, lease, log, exit record. All of it goes through the attempt's folder, on a file system
that the agent's machine and the nodes share:

    attempt/launch.json   argument vector and environments, secrets among them; gone once all began
    attempt/lease         `{"until_ms": N}` of the wall clock, on which all nodes must agree
    attempt/stop.json     the first cause to stop
    attempt/RANK/...      begun.json, exit.json and log, as the local engine's shim writes them

It needs Python 3.9 and nothing but the standard library: `dure.engines.layout.install` lays it and
the shim where the nodes can read them.
"""

from __future__ import annotations

import abc
import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from dure.engines.local import shim


class GangRank(shim.Shim, abc.ABC):
    """A shim whose node the engine chose and whose lease is a file that can be read anywhere."""

    world = 0
    """Ranks of the gang; known before the command begins."""

    @abc.abstractmethod
    def _own(self, launch: dict[str, Any]) -> dict[str, Any]:
        """What the launch file says, made this rank's: its environment above all."""

    def _is_ended_by_engine(self) -> bool:
        """Whether the engine has told this node to end, without a word of ours."""
        return self.machine_stops

    def run(self) -> None:
        """Everything, once: what has begun does not begin again."""
        if any((self.place / name).exists() for name in (shim.EXIT, shim.BEGUN)):
            return
        launch = shim.read_json(self.attempt / shim.LAUNCH, shim.LAUNCH_BYTES_MAX)
        signal.signal(signal.SIGTERM, self._on_sigterm)
        if launch is None:
            self._write_exit(shim.START_FAILED, None, "the launch file is gone")
        elif cause := self._cause_to_stop():
            self._write_exit(shim.STOPPED, None, f"{shim.CAUSES[cause]}, before it started")
        else:
            # Orphans of the command become children of this process: none can leave its tree.
            self.libc.prctl(shim.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            self._begin(self._own(launch))

    def _gang(self, master: tuple[str, str], gpus_per_node: int) -> dict[str, str]:
        """By what a rank knows of the others; `master` is an address and a port."""
        gang = {"MASTER_ADDR": master[0], "MASTER_PORT": master[1], "NODE_RANK": str(self.rank)}
        # torchrun reads PET_X for its option --x (torch.distributed.argparse_util).
        return {
            **gang,
            **{f"PET_{name}": value for name, value in gang.items()},
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.world),
            "PET_NNODES": str(self.world),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "PET_NPROC_PER_NODE": str(gpus_per_node),
        }

    def _cause_to_stop(self) -> str | None:
        try:
            if self._is_ended_by_engine():
                shim.write_once(self.attempt / shim.STOP, {"cause": shim.CLUSTER})
            os.listdir(self.attempt)  # noqa: PTH208  opening a folder asks NFS anew
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


def exit_code(attempt: Path, world: int) -> int:
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
