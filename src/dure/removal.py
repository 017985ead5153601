"""Removing what a job left, whatever it did to it: read-only folders, any depth, links, pipes."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

log = structlog.get_logger("dure.removal")


def remove_tree(path: Path) -> bool:
    """Removes a folder with all in it, or whatever else is at `path`; no link is followed.

    What cannot be removed is logged and left, and then this returns False.
    """
    removal = _Removal()
    with removal.step():
        if stat.S_ISDIR(path.lstat().st_mode):
            path.chmod(0o700)
            removal.clear(path)
            path.rmdir()
        else:
            path.unlink()
    if removal.error is not None:
        log.warning("not-removed", path=str(path), error=str(removal.error))
    return removal.error is None


def move_away(folder: Path, trash: Path) -> Path:
    """Renames a folder into `trash`, from where it can be removed at leisure; returns its place.

    Raises OSError.
    """
    if stat.S_ISDIR(folder.lstat().st_mode):
        folder.chmod(0o700)  # a folder that may not be written to keeps its parent
    gone = trash / f"{folder.name}.{secrets.token_hex(4)}"
    folder.rename(gone)
    return gone


class _Removal:
    """One removal, and the first thing that went wrong in it.

    Folders are moved up into the top one before they are emptied, so that neither the stack nor
    open files bound the depth.
    """

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._folders: list[str] = []
        self._moved = 0
        self._mark = f".gone-{secrets.token_hex(8)}"

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """One that may fail; the others go on."""
        try:
            yield
        except FileNotFoundError:
            pass
        except OSError as error:
            self.error = self.error or error

    def clear(self, path: Path) -> None:
        """Empties a folder that may be written to."""
        with _opened(path) as top:
            self._empty(top, top)
            while self._folders:
                name = self._folders.pop()
                with self.step():
                    with _opened(name, top) as folder:
                        self._empty(folder, top)
                    os.rmdir(name, dir_fd=top)

    def _empty(self, folder: int, top: int) -> None:
        """Unlinks what is no folder, and moves the folders to the top."""
        for name in os.listdir(folder):
            with self.step():
                if not stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode):
                    os.unlink(name, dir_fd=folder)
                    continue
                os.chmod(name, 0o700, dir_fd=folder)
                self._moved += 1
                moved = f"{self._mark}-{self._moved}"
                os.rename(name, moved, src_dir_fd=folder, dst_dir_fd=top)
                self._folders.append(moved)


@contextlib.contextmanager
def _opened(path: Path | str, parent: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, _FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
