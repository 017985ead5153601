"""A node among the nodes of its job, and what all of them do alike."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import NoReturn

SHARED = ".dure-batch"
POLL_S = 0.02
MEET_S = 60.0
"""How long nodes wait for each other's first word."""
NOTICES = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
"""Signals with which Dure tells a job to end."""


class Node:
    """One of the job's nodes: the one that this runs on."""

    def __init__(self) -> None:
        env = os.environ
        self.rank = int(env.get("NODE_RANK") or env.get("SLURM_NODEID") or 0)
        self.nodes = int(env.get("SLURM_JOB_NUM_NODES") or env.get("WORLD_SIZE") or 1)
        self.shared = Path(env.get("SLURM_SUBMIT_DIR") or Path.cwd()) / SHARED

    def name(self) -> str:
        """One by which others can reach it; on one machine each rank has an address of its own."""
        first = os.environ.get("MASTER_ADDR", "")
        if self.nodes > 1 and first.startswith("127."):
            return f"127.0.{(self.rank + 1) // 256}.{(self.rank + 1) % 256}"
        return socket.gethostname().partition(".")[0]

    def meet(self) -> list[str]:
        """All nodes' names, by rank, once each has said its own."""
        self.shared.mkdir(mode=0o700, exist_ok=True)
        write(self.shared / f"host.{self.rank}", self.name())
        files = [self.shared / f"host.{rank}" for rank in range(self.nodes)]
        wait_for(files, "nodes share no folder, or one did not start")
        return [file.read_text() for file in files]


def write(path: Path, text: str) -> None:
    """A file whole or not at all, for its owner only."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.touch(mode=0o600)
    beside.write_text(text)
    beside.replace(path)


def wait_for(files: list[Path], otherwise: str) -> None:
    """Return once all of them are there; give up after MEET_S."""
    until = time.monotonic() + MEET_S
    while not all(file.exists() for file in files):
        if time.monotonic() > until:
            fail(f"after {MEET_S:.0f} s {otherwise}")
        time.sleep(POLL_S)


def fail(sentence: str, code: int = 1) -> NoReturn:
    """Say why, and end."""
    sys.stderr.write(f"dure: {sentence}\n")
    sys.exit(code)


def exit_code(status: int) -> int:
    """A shell's: 128 and the signal for what a signal ended."""
    return status if status >= 0 else 128 - status


def tell(step: Path, number: int) -> None:
    """A signal to all tasks of a step, wherever they run."""
    count = 0
    while True:
        file = step / f"signal.{count}"
        beside = step / f".signal.{os.getpid()}.{time.monotonic_ns()}"
        beside.write_text(str(int(number)))
        try:
            os.link(beside, file)
        except FileExistsError:
            count += 1
        else:
            return
        finally:
            beside.unlink()
