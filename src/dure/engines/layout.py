"""What an engine whose nodes have a shim lays where they read it: attempts, and our programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from dure.engines import EngineError, Launch
from dure.engines.local import shim
from dure.removal import remove_tree

_ROOT: Final = Path(__file__).parents[2]
"""The folder of the package."""


def take(folders: Mapping[str, Path], programs: Iterable[Path]) -> int:
    """Makes an engine's folders, `trash` among them, all in one root, and takes that for this
    process alone. Returns the lock's descriptor. Raises EngineError where another has it; OSError.
    """
    root = folders["trash"].parent
    for folder in (root, *folders.values()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = shim.try_lock(root / "engine.lock")
    if lock is None:
        raise EngineError(f"another agent drives the engine in {root}")
    for left in folders["trash"].iterdir():
        remove_tree(left)
    install(root / "programs", programs)
    return lock


def install(folder: Path, programs: Iterable[Path]) -> None:
    """Lays programs of this package into a folder, as the package has them: they import each other.

    Raises OSError.
    """
    for source in programs:
        target = folder / source.relative_to(_ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".new")
        temporary.write_bytes(source.read_bytes())
        temporary.replace(target)  # a job that starts just now reads one or the other, whole


def lay_out(place: Path, launch: Launch) -> list[str]:
    """Makes the attempt's folder anew, each rank's with a home and a place for what is short-lived.

    Returns the argument vector: the command's own, or bash with the script in a file. Raises
    OSError.
    """
    remove_tree(place)
    place.mkdir(mode=0o700)
    for rank in range(len(launch.nodes)):
        for name in ("home", "tmp"):
            (place / str(rank) / name).mkdir(mode=0o700, parents=True)
    if launch.script is None:
        return list(launch.command)
    script = place / "run.sh"
    script.write_text(launch.script, encoding="utf-8")
    script.chmod(0o600)
    return ["/bin/bash", str(script)]


def write_launch(place: Path, launch: Launch, folder: Path, own: dict[str, Any]) -> None:
    """Lays down, of an attempt on a cluster, all that its nodes read (`dure.engines.gang_rank`).

    `own` is what this engine's ranks need besides; `path` in it is the PATH of the job. Raises
    OSError.
    """
    content = {
        "argv": lay_out(place, launch),
        "folder": str(folder.absolute()),
        "walltime_s": launch.walltime_s,
        "notice": launch.notice.value,
        "grace_s": launch.grace_s,
        "gpus_per_node": launch.gpus_per_node,
        **own,
        "environment": {
            "PATH": own["path"],
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # or a job's log would come at its end
            **launch.env,
            "DURE_ATTEMPT_ID": launch.attempt_id,
        },
    }
    shim.write_once(place / shim.LAUNCH, content)
