from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

from dure.engines import Launch, Observation, Phase
from dure.engines.local import LocalEngine, LocalPool
from dure.jobs import Notice

DEADLINE_S = 20
T = TypeVar("T")


def until(look: Callable[[], T]) -> T:
    """Waits on a level: asks until the answer is true, with a deadline for what never comes."""
    end = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
    return found


def launch(**changes: object) -> Launch:
    values = {
        "attempt_id": "a-1",
        "project": "climate",
        "pool_id": "p",
        "nodes": (0,),
        "gpus_per_node": 1,
        "walltime_s": 60,
        "notice": Notice.TERM,
        "grace_s": 10,
        "command": (),
        "script": None,
        "env": {},
    }
    return Launch(**(values | changes))


class Bench:
    """An engine on one pool of 2 nodes of 4 slots, that can be closed and opened again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "job"
        self.folder.mkdir()
        self.engine = self.open()

    def open(self) -> LocalEngine:
        pools = [LocalPool(pool_id="p", nodes=2, gpus_per_node=4)]
        self.engine = LocalEngine(self.root / "engine", pools)
        return self.engine

    def submit(self, attempt_id: str, *command: str, **changes: object) -> None:
        values = {"attempt_id": attempt_id, "command": command} | changes
        self.engine.submit(launch(**values), self.folder)

    def bash(self, attempt_id: str, script: str, **changes: object) -> None:
        self.submit(attempt_id, script=script, **changes)

    def look(self, attempt_id: str) -> Observation:
        return {o.attempt_id: o for o in self.engine.observe()}[attempt_id]

    def ended(self, attempt_id: str) -> Observation:
        return until(lambda: (o := self.look(attempt_id)).phase is Phase.ENDED and o)

    def log(self, attempt_id: str, rank: int = 0) -> str:
        path = self.engine.log_path(attempt_id, rank)
        return path.read_text() if path.exists() else ""

    def says(self, attempt_id: str, word: str, rank: int = 0) -> None:
        """Waits until the attempt's log holds the word."""
        until(lambda: self.look(attempt_id) and word in self.log(attempt_id, rank))

    def marked(self, attempt_id: str) -> list[int]:
        """Processes that belong to an attempt, wherever they hide."""
        mine = {"DURE_ATTEMPT_ID": attempt_id, "DURE_ENGINE_ROOT": str(self.root / "engine")}
        found = []
        for process in psutil.process_iter():
            try:
                if mine.items() <= process.environ().items():
                    found.append(process.pid)
            except (psutil.Error, OSError):
                continue
        return found

    def place(self, attempt_id: str) -> Path:
        return self.root / "engine" / "attempts" / attempt_id
