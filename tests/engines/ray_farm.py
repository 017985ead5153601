"""A real Ray cluster on this machine: a head without GPUs and two nodes of four fake ones.

Each node is a process group with a loopback address of its own; Ray asks a token of everyone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil

DEADLINE_S = 60
PORTS_A_CLUSTER = 500
FIRST_PORT, BLOCKS = 23_000, 8  # below Linux's ephemeral ports, above those of Slurm's farm


def ray_program() -> Path | None:
    """`ray` as `scripts/setup ray` installs it, or in the folder that RAY_BIN names."""
    beside = Path(os.environ.get("RAY_BIN", Path(__file__).parents[2] / ".ray" / "bin")) / "ray"
    return beside if beside.exists() else None


def missing() -> str | None:
    """Why no cluster can be had here; None where one can."""
    return "no Ray (scripts/setup ray)" if ray_program() is None else None


def until(look: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    while not look():
        assert time.monotonic() < end, f"waited too long for {what}"
        time.sleep(0.1)


def free_block() -> int:
    """The first of a cluster's ports, all free now. Another farm may be made at this moment."""
    begin = secrets.randbelow(BLOCKS)
    for first in (FIRST_PORT + PORTS_A_CLUSTER * ((begin + s) % BLOCKS) for s in range(BLOCKS)):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + PORTS_A_CLUSTER):
                probe = stack.enter_context(socket.socket())
                probe.bind(("", port))
            return first
    raise AssertionError("no ports are free")


@contextlib.contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for a cluster. Its processes are killed and it is removed at the end, also where
    this process itself is killed: a shell of its own waits for that.

    It is not one of pytest's: the path of a socket in it must be short.
    """
    folder = Path(tempfile.mkdtemp(prefix="dure-ray-"))
    # By its environment, not its words: else it would be among what it kills.
    script = 'read -r _; pkill -9 -f "$FARM"; sleep 1; pkill -9 -f "$FARM"; rm -rf "$FARM"'
    reaper = subprocess.Popen(
        ["/bin/sh", "-c", script],
        env=os.environ | {"FARM": str(folder)},
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        reaper.communicate(timeout=DEADLINE_S)


class RayCluster:
    """One cluster: a head, and `nodes` nodes of `gpus` fake GPUs."""

    def __init__(self, folder: Path, *, token: bool = True) -> None:
        self.folder = folder
        self.nodes, self.gpus = 2, 4
        self.port = free_block()
        self.dashboard = f"http://127.0.0.1:{self.port + 1}"
        self.net = f"127.0.{2 + secrets.randbelow(200)}"
        self.token = secrets.token_hex(32)
        self.token_file = folder / "token"
        self.token_file.touch(mode=0o600)
        self.token_file.write_text(self.token)
        program = ray_program()
        assert program is not None
        self.program = program
        mode = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token} if token else {}
        self.env = {
            "PATH": f"{program.parent}:/usr/bin:/bin",
            "LANG": "C.UTF-8",
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

    def start(self) -> RayCluster:
        """Starts head and nodes; returns when all are up."""
        self._start_node(
            0, "--head", f"--port={self.port}", "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.port + 1}", f"--ray-client-server-port={self.port + 2}",
            "--num-gpus=0", f"--temp-dir={self.folder}",
        )  # fmt: skip
        for number in range(1, self.nodes + 1):
            self.start_worker(number)
        return self

    def start_worker(self, number: int) -> None:
        head = f"--address={self.net}.2:{self.port}"
        self._start_node(number, head, f"--num-gpus={self.gpus}")
        until(lambda: self.address(number) in self.alive(), f"node {number}")

    def address(self, number: int) -> str:
        return f"{self.net}.{2 + number}"

    def _start_node(self, number: int, *words: str) -> None:
        done = subprocess.run(
            [
                self.program, "start", *words, f"--node-ip-address={self.address(number)}",
                "--object-store-memory=80000000", "--num-cpus=16", "--disable-usage-stats",
                f"--dashboard-agent-listen-port={self.port + 10 + number}",
                f"--min-worker-port={self.port + 20}",
                f"--max-worker-port={self.port + PORTS_A_CLUSTER - 1}",
            ],
            env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            start_new_session=True, check=False, timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr or done.stdout

    def ask(self, where: str) -> object:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.get(self.dashboard + where, headers=headers, timeout=10).json()

    def alive(self) -> set[str]:
        rows = self.ask("/api/v0/nodes?limit=10000&detail=true")["data"]["result"]["result"]
        return {row["node_ip"] for row in rows if row["state"] == "ALIVE"}

    def processes(self) -> list[psutil.Process]:
        """All of the cluster's: its folder is among their words."""
        return [p for p in psutil.process_iter() if str(self.folder) in " ".join(_words(p))]

    def ranks(self) -> list[psutil.Process]:
        """Ranks that run, of this cluster or another: their words end with ADDRESS and FD."""
        return [
            process
            for process in psutil.process_iter()
            if any(word.endswith("/ray/rank.py") for word in _words(process))
        ]

    def stop(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    @contextlib.contextmanager
    def without_dashboard(self) -> Iterator[None]:
        """The dashboard, which answers for Ray, is killed, and started again at the end."""
        (board,) = [p for p in self.processes() if any("dashboard.py" in w for w in _words(p))]
        words, env = _words(board), board.environ()
        board.kill()
        board.wait(DEADLINE_S)
        try:
            yield
        finally:
            subprocess.Popen(
                words, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
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
        number = int(address.rpartition(".")[2]) - 2
        raylets = [p for p in self.processes() if "raylet" in p.name()]
        for raylet in raylets:
            if f"--node_ip_address={address}" in _words(raylet):
                os.killpg(os.getpgid(raylet.pid), signal.SIGKILL)
        for rank in self.ranks():  # they have sessions of their own
            if _words(rank)[-2] == address:
                rank.kill()
        until(lambda: address not in self.alive(), f"the loss of {address}")
        try:
            yield
        finally:
            self.start_worker(number)


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []
