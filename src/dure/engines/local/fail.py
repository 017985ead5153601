"""Break a node on purpose, as a power cut would: for demonstrations and drills."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # its types are a separate package

from dure import codec
from dure.engines.local import shim
from dure.engines.local.attempts import Taken
from dure.text import check_slug


def kill_node(root: Path, attempt_id: str, rank: int) -> bool:
    """Kill (SIGKILL) the supervisor of one rank of an attempt, and every process below it.

    `root` is the engine's folder. The supervisor goes first and so records nothing: to the engine
    the node has failed. Returns False, and touches nothing, where that rank has no live supervisor.

    Raises:
        ValueError: `attempt_id` is no attempt's id.
    """
    check_slug("attempt id", attempt_id)
    place = root / "attempts" / attempt_id / str(rank)
    content = shim.read_whole(place / shim.SHIM)
    if content is None or (place / shim.EXIT).exists():
        return False
    taken = codec.decode(Taken, content, what=shim.SHIM)
    if shim.start_ticks(taken.pid) != taken.start_ticks is not None:
        return False  # the pid is another process's by now
    try:
        supervisor = psutil.Process(taken.pid)
        tree = [supervisor, *supervisor.children(recursive=True)]
    except psutil.NoSuchProcess:
        return False
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    return True
