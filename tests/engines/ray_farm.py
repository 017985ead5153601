"""The demo's Ray cluster, and what can befall it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import httpx

from dure.demo.clusters import ray
from dure.demo.clusters.processes import DEADLINE_S, until
from dure.demo.clusters.reaper import processes_of, words


class RayCluster(ray.RayCluster):
    @contextlib.contextmanager
    def without_dashboard(self) -> Iterator[None]:
        """The dashboard, which answers for Ray, is killed, and started again at the end."""
        theirs = processes_of(self.folder)
        (board,) = [p for p in theirs if any("dashboard.py" in word for word in words(p))]
        command, env = words(board), board.environ()
        board.kill()
        board.wait(DEADLINE_S)
        try:
            yield
        finally:
            subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

            def answers() -> bool:
                with contextlib.suppress(httpx.HTTPError, ValueError):
                    return isinstance(self.ask("/api/jobs/"), list)
                return False

            until(answers, "the dashboard")

    @contextlib.contextmanager
    def node_lost(self, address: str) -> Iterator[None]:
        """The node's daemons and all that runs there are killed; it comes back at the end."""
        self.kill_node(address)
        until(lambda: address not in self.alive(), f"the loss of {address}")
        try:
            yield
        finally:
            self.start_worker(int(address.rpartition(".")[2]) - 2)
