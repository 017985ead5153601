"""The folder of an attempt, as the engines lay it out whose nodes have a shim."""

from __future__ import annotations

from pathlib import Path

from dure.engines import Launch
from dure.removal import remove_tree


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
