"""What every job of Dure on Ray runs: it takes the gang's nodes, all or none, and starts its ranks.

It is the same for all jobs: what differs is data in the attempt's folder. A placement group with
one bundle a node, each on a node of its own (STRICT_SPREAD), is Ray's way to take nodes all at once
(Ray, Placement Groups); in each bundle one task starts the rank and waits for its end.

Run as `driver.py ATTEMPT_FOLDER RANK_PROGRAM` by the cluster's Python, which has Ray. It exits with
the code of the gang, so that Ray's own list says how the job ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import zlib
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import ray
from ray.util.placement_group import placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dure.engines import gang_rank
from dure.engines.local import shim

LOST: Final = "lost.json"
"""The first rank whose node Ray lost, in the attempt's folder."""

_POLL_S: Final = 0.5
_FIRST_PORT: Final = 20_000  # below Linux's ephemeral ports (ip_local_port_range)
_PORTS: Final = 8_000


def start_rank(words: list[str]) -> None:
    """Runs in a Ray worker: starts a rank, and returns when it is gone.

    The rank leaves the worker's session, or Ray would kill it without notice (it kills a worker's
    children and its process group); what it holds open tells of its end.
    """
    import os  # noqa: PLC0415  Ray ships this function alone
    import subprocess  # noqa: PLC0415

    reads, writes = os.pipe()
    subprocess.run([*words, str(writes)], pass_fds=(writes,), check=True)  # noqa: S603
    os.close(writes)
    os.read(reads, 1)
    os.close(reads)


class Gang:
    """The ranks of one attempt, from asking for their nodes to the last one's end."""

    def __init__(self, attempt: Path, program: str) -> None:
        self.attempt = attempt
        self.program = program

    def run(self) -> int:
        """Returns the exit code that Ray is to see."""
        launch = shim.read_json(self.attempt / shim.LAUNCH, shim.LAUNCH_BYTES_MAX)
        if launch is None:  # begun before: Ray does not run a job twice, but nor do we
            return 1
        bundles = [launch["bundle"]] * launch["world"]
        group = placement_group(bundles, strategy="STRICT_SPREAD")
        ready = group.ready()
        while not ray.wait([ready], timeout=_POLL_S)[0]:
            if self._is_stopped():
                return 128 + signal.SIGTERM
        self._wait(self._start(group, launch))
        return gang_rank.exit_code(self.attempt, launch["world"])

    def _start(self, group: Any, launch: dict[str, Any]) -> dict[Any, int]:
        nodes = placement_group_table(group)["bundles_to_node_id"]
        addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
        port = _FIRST_PORT + zlib.crc32(self.attempt.name.encode()) % _PORTS
        task = ray.remote(
            num_cpus=launch["bundle"].get("CPU", 0),
            num_gpus=launch["bundle"]["GPU"],
            max_retries=0,
        )(start_rank)
        began = {}
        for rank in range(launch["world"]):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank)
            words = [
                sys.executable, "-I", "-S", self.program, str(self.attempt), str(rank),
                addresses[nodes[0]], str(port), addresses[nodes[rank]],
            ]  # fmt: skip
            began[task.options(scheduling_strategy=strategy).remote(words)] = rank
        return began

    def _wait(self, began: dict[Any, int]) -> None:
        """Returns when each rank is gone. One that is lost takes the others with it."""
        while began:
            done, _ = ray.wait(list(began), timeout=None)
            for reference in done:
                rank = began.pop(reference)
                if why := self._why_lost(reference, rank):
                    print(f"rank {rank}: {why}", file=sys.stderr)  # noqa: T201  the job's own log
                    self._write(LOST, {"rank": rank, "why": why})
                    self._write(shim.STOP, {"cause": shim.PEER, "rank": rank})

    def _why_lost(self, reference: Any, rank: int) -> str:
        """Why a rank that is gone has said no end; empty where it has, or could not be started."""
        try:
            ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            print(f"rank {rank}: {error}", file=sys.stderr)  # noqa: T201  the job's own log
            self._write(shim.STOP, {"cause": shim.PEER, "rank": rank})
            return ""
        except ray.exceptions.RayError as error:
            return type(error).__name__
        with contextlib.suppress(FileNotFoundError):
            # A worker may outlive its node's daemon for as long as it takes to say so.
            names = os.listdir(self.attempt / str(rank))  # noqa: PTH208  opening asks NFS anew
            return "" if shim.EXIT in names else "it was killed"
        return ""

    def _write(self, name: str, content: dict[str, Any]) -> None:
        with contextlib.suppress(FileNotFoundError):  # the agent has been told to forget it
            shim.write_once(self.attempt / name, content, durable=True)

    def _is_stopped(self) -> bool:
        return not self.attempt.exists() or (self.attempt / shim.STOP).exists()


def main(arguments: list[str]) -> int:
    """Returns the code of the gang."""
    attempt = Path(arguments[0])

    def on_sigterm(*_: object) -> None:
        with contextlib.suppress(OSError):
            shim.write_once(attempt / shim.STOP, {"cause": shim.CLUSTER})

    ray.init(log_to_driver=False, configure_logging=False)
    signal.signal(signal.SIGTERM, on_sigterm)  # after Ray's own
    os.chdir("/")
    return Gang(attempt, arguments[1]).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
