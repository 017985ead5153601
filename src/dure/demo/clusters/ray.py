"""A Ray cluster on this machine: a head without GPUs, and nodes of pretended ones.

Each node is a process group with a loopback address of its own; Ray asks a token of everyone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import psutil  # type: ignore[import-untyped]  # its types are a separate package

from dure.demo.clusters.processes import free_ports, run, until, write_private
from dure.demo.clusters.reaper import kill_trees, processes_of, words

_PORTS: Final = 500
_CHECKOUT: Final = Path(__file__).parents[4]
_WHERE: Final = "RAY_BIN"
"""The variable that names the folder of `ray`."""


def program() -> Path | None:
    """`ray`: in RAY_BIN's folder, where `scripts/setup ray` puts it, or on the PATH."""
    if named := os.environ.get(_WHERE):
        found = Path(named) / "ray"
        return found if found.exists() else None
    beside = _CHECKOUT / ".ray" / "bin" / "ray"
    if beside.exists():
        return beside
    on_path = shutil.which("ray")
    return None if on_path is None else Path(on_path)


def missing() -> tuple[str, str] | None:
    """What keeps a cluster from being had here, and the command that mends it."""
    if program() is not None:
        return None
    if (_CHECKOUT / "scripts" / "setup").exists():
        return "no Ray", "scripts/setup ray"
    return "no Ray", (
        f"python3 -m venv .ray && .ray/bin/pip install 'ray[default]' && export {_WHERE}=.ray/bin"
    )


@dataclass(frozen=True, slots=True)
class Rank:
    """A process that stands by one rank of an attempt, and the address of its node."""

    process: psutil.Process
    attempt_id: str
    number: int
    address: str


def _rank_of(process: psutil.Process) -> Rank | None:
    """By its words, which are `rank.py DIR RANK MASTER_ADDRESS MASTER_PORT ADDRESS FD`."""
    match words(process)[-7:]:
        case [program, place, number, _, _, address, _] if program.endswith("/ray/rank.py"):
            return Rank(process, Path(place).name, int(number), address)
    return None


class RayCluster:
    """A head, and `nodes` nodes of `gpus` pretended GPUs. Implements `RealCluster`.

    With `token` false it lets anyone in, as Ray does by itself.
    """

    def __init__(self, folder: Path, *, nodes: int, gpus: int, token: bool = True) -> None:
        found = program()
        assert found is not None, "asked before: missing()"
        self.folder, self.nodes, self.gpus, self.program = folder, nodes, gpus, found
        self.port = free_ports(_PORTS)
        self.dashboard = f"http://127.0.0.1:{self.port + 1}"
        self.net = f"127.0.{2 + secrets.randbelow(200)}"
        self.token = secrets.token_hex(32)
        self.token_file = folder / "token"
        write_private(self.token_file, self.token.encode())
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if token else {}
        self.env = {
            "PATH": f"{found.parent}:/usr/bin:/bin",
            "HOME": str(folder),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "3",
            **mode,
        }

    @property
    def python(self) -> str:
        """The interpreter that has Ray."""
        return str(self.program.parent / "python")

    def start(self) -> Self:
        """Starts head and nodes one by one; returns when all are up. Raises RefusedError."""
        self._start_node(
            *(0, "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1", "--num-gpus=0"),
            *(f"--dashboard-port={self.port + 1}", f"--ray-client-server-port={self.port + 2}"),
            f"--temp-dir={self.folder}",
        )
        for number in range(1, self.nodes + 1):
            self.start_worker(number)
        return self

    def start_worker(self, number: int) -> None:
        """Starts a node, counted from 1; returns when Ray has it."""
        head = f"--address={self.net}.2:{self.port}"
        self._start_node(number, head, f"--num-gpus={self.gpus}")
        until(lambda: self.address(number) in self.alive(), f"node {number} of Ray")

    def address(self, number: int) -> str:
        """The address of a node; the head has number 0."""
        return f"{self.net}.{2 + number}"

    def _start_node(self, number: int, *options: str) -> None:
        command = (
            *(self.program, "start", *options, f"--node-ip-address={self.address(number)}"),
            *("--object-store-memory=80000000", "--num-cpus=16", "--disable-usage-stats"),
            f"--dashboard-agent-listen-port={self.port + 10 + number}",
            f"--min-worker-port={self.port + 30}",
            f"--max-worker-port={self.port + _PORTS - 1}",
        )
        run(command, self.env)

    def ask(self, where: str) -> Any:
        """What the dashboard answers there. Raises httpx.HTTPError, ValueError."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.get(self.dashboard + where, headers=headers, timeout=10).json()

    def alive(self) -> set[str]:
        """The addresses of the nodes that are up."""
        rows = self.ask("/api/v0/nodes?limit=10000&detail=true")["data"]["result"]["result"]
        return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}

    def configured(self, pool_id: str) -> dict[str, object]:
        """See `RealCluster.configured`."""
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        token = str(self.token_file)
        engine = {"dashboard": self.dashboard, "token_file": token, "python": self.python}
        pool = {"pool_id": pool_id, "gpus_per_node": self.gpus}
        return {"engine": {"type": "ray", "path": path, **engine}, "pools": [pool], "interval_s": 1}

    def ranks(self, attempt_id: str | None = None) -> list[Rank]:
        """Ranks that run, of an attempt or of all, and of other clusters too."""
        found = (_rank_of(process) for process in psutil.process_iter())
        ranks = [rank for rank in found if rank is not None]
        return [rank for rank in ranks if attempt_id in {None, rank.attempt_id}]

    def lose_node(self, attempt_id: str, rank: int) -> None:
        """See `RealCluster.lose_node`."""
        for one in self.ranks(attempt_id):
            if one.number == rank:
                self.kill_node(one.address)

    def kill_node(self, address: str) -> None:
        """Kills a node's daemons, and what runs there, which has sessions of its own."""
        for process in processes_of(self.folder):
            if f"--node_ip_address={address}" in words(process) and "raylet" in process.name():
                with contextlib.suppress(OSError):
                    os.killpg(os.getpgid(process.pid), signal.SIGKILL)
        kill_trees(rank.process for rank in self.ranks() if rank.address == address)

    def lose(self) -> None:
        """See `RealCluster.lose`."""
        kill_trees(processes_of(self.folder))
