"""The demo's Slurm clusters, and what can befall them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from dure.demo.clusters.processes import until
from dure.demo.clusters.slurm import SlurmCluster


class Cluster(SlurmCluster):
    @contextlib.contextmanager
    def without_controller(self) -> Iterator[None]:
        """The controller is killed, and started again at the end."""
        self.signal("slurmctld", signal.SIGKILL)
        try:
            yield
        finally:
            self.ask("slurmctld")
            until(lambda: "UP" in self.ask("scontrol", "ping", check=False), "slurmctld")
            until(lambda: "unk" not in self.ask("sinfo", "-h", "-N", "-o", "%t"), "the nodes")

    @contextlib.contextmanager
    def without_accounting(self) -> Iterator[None]:
        """The accounting daemon is killed, and started again at the end."""
        self.signal("slurmdbd", signal.SIGKILL)
        try:
            yield
        finally:
            self.start_accounting()

    @contextlib.contextmanager
    def node_lost(self, node: str) -> Iterator[None]:
        """The node's daemon is killed with all that it runs; it comes back at the end."""
        self.kill_node(node)
        try:
            yield
        finally:
            self.ask("slurmd", "-N", node)
            state = ("sinfo", "-h", "-n", node, "-o", "%t")
            until(lambda: self.ask(*state).split()[:1] in (["idle"], ["mix"]), node)
