"""Kills a cluster's processes and removes its folder, once its standard input ends.

A process is of a cluster if the cluster's folder is among its words or in its environment, or if
one of its ancestors is. This one waits beside whoever made the cluster, and outlives it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]  # its types are a separate package

FOLDER: Final = "DURE_CLUSTER_FOLDER"
"""The variable that names the folder."""
_ROUNDS: Final = 100


def words(process: psutil.Process) -> list[str]:
    """Its argument vector; empty where it has gone, or is not ours to see."""
    with contextlib.suppress(psutil.Error):
        return list(process.cmdline())
    return []


def environment(process: psutil.Process) -> dict[str, str]:
    """Its environment; empty where it has gone, or is not ours to see."""
    with contextlib.suppress(psutil.Error, OSError):
        return dict(process.environ())
    return {}


def processes_of(folder: Path) -> list[psutil.Process]:
    """Those that have the folder among their words or in their environment; never this one."""
    sought, own = str(folder), os.getpid()
    return [
        process
        for process in psutil.process_iter()
        if process.pid != own
        and any(sought in text for text in (*words(process), *environment(process).values()))
    ]


def kill_trees(processes: Iterable[psutil.Process]) -> None:
    """Kills (SIGKILL) these and all below them, the upper ones first: none can report another."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    one.kill()


def main() -> None:
    """Waits, and then kills in rounds, for a daemon may just be starting another."""
    folder = Path(os.environ[FOLDER])
    sys.stdin.read()
    for _ in range(_ROUNDS):
        if not (left := processes_of(folder)):
            break
        kill_trees(left)
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
