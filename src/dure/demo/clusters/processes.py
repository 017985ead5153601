"""What a cluster on this machine is made of: a folder, ports, commands."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from dure.demo.clusters import reaper
from dure.errors import RefusedError

DEADLINE_S: Final = 60.0
"""For everything that is waited for, or run, here."""

_PORTS: Final = range(12_000, 20_000)
"""Below Linux's ephemeral ports and those by which a gang on Slurm meets (from 20,000)."""
_given: Final[set[int]] = set()
"""Promised to a cluster of this process that may not listen on them yet."""


def until(look: Callable[[], object], what: str) -> None:
    """Waits for a level.

    Raises:
        RefusedError: `not-started`: it did not come in time.
    """
    end_s = time.monotonic() + DEADLINE_S
    while not look():
        if time.monotonic() > end_s:
            raise RefusedError("not-started", f"{what} did not come within {DEADLINE_S:.0f} s.")
        time.sleep(0.05)


def run(words: Iterable[object], env: Mapping[str, str], *, check: bool = True) -> str:
    """What a command printed.

    Raises:
        RefusedError: `not-started`: it failed, and `check` asks whether; has its last line.
    """
    command = [str(word) for word in words]
    try:
        done = subprocess.run(  # noqa: S603  words of ours
            command,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE_S,
            cwd="/",  # a daemon keeps it, and Python looks there for modules
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(
            "not-started", f"{command[0]} did not end within {DEADLINE_S:.0f} s."
        ) from None
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise RefusedError("not-started", f"{command[0]} exited with {done.returncode}: {said}")
    return done.stdout


def free_ports(count: int) -> int:
    """The first of so many ports in a row that are all free now.

    The search begins anywhere: other clusters may be made on this machine at this moment.

    Raises:
        RefusedError: `not-started`: there are none.
    """
    firsts = range(_PORTS.start, _PORTS.stop - count, count)
    begin = secrets.randbelow(len(firsts))
    for first in (firsts[(begin + step) % len(firsts)] for step in range(len(firsts))):
        ports = range(first, first + count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            if not _given.isdisjoint(ports):
                continue
            for port in ports:
                stack.enter_context(socket.socket()).bind(("", port))
            _given.update(ports)
            return first
    raise RefusedError("not-started", f"No {count} ports in a row are free.")


def write_private(path: Path, content: bytes) -> None:
    """A file that is its owner's alone from the beginning, or daemons refuse it as a key."""
    path.touch(mode=0o600)
    path.write_bytes(content)


@contextlib.contextmanager
def cluster_folder() -> Iterator[Path]:
    """A folder for a cluster. At the end its processes are killed and it is removed, also where
    this process itself is killed: another waits for that.

    Not below the user's own: a database server runs as another user, a socket's path is short.
    """
    folder = Path(tempfile.mkdtemp(prefix="dure-"))
    folder.chmod(0o755)
    waiting = subprocess.Popen(  # noqa: S603  our own interpreter, with our own words
        [sys.executable, "-I", reaper.__file__],
        env=os.environ | {reaper.FOLDER: str(folder)},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield folder
    finally:
        waiting.communicate(timeout=DEADLINE_S)
