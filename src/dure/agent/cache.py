"""Content that jobs start from, kept by its digest: what many attempts share is fetched once."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dure.agent.wire import FileEntry

CACHE_BYTES_MAX: Final = 20 * 1024**3


class ContentError(Exception):
    """What was received is not what was announced."""


class Cache:
    """A folder of files named by the SHA-256 of their content. Safe to use from several threads."""

    def __init__(self, folder: Path, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._grown = True
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._folder.glob(".*"):
            left.unlink()

    def path(self, entry: FileEntry) -> Path:
        """Where an entry's content is, or will be."""
        return self._folder / entry.sha256

    def holds(self, entry: FileEntry) -> bool:
        """Whether it is here, by its size; being asked for keeps it from being the oldest."""
        try:
            os.utime(self.path(entry), follow_symlinks=False)
            status = self.path(entry).lstat()
        except FileNotFoundError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == entry.size

    def drop(self, entry: FileEntry) -> None:
        """Forgets content that turned out not to be what the entry says."""
        self.path(entry).unlink(missing_ok=True)

    def add(self, entry: FileEntry, chunks: Iterable[bytes]) -> None:
        """Stores content as it streams in, and keeps it only if it is what the entry says.

        Raises:
            ContentError: longer or shorter than announced, or of another digest.
            OSError: no space.
        """
        digest, size = hashlib.sha256(), 0
        descriptor, name = tempfile.mkstemp(prefix=".", dir=self._folder)
        try:
            with os.fdopen(descriptor, "wb") as file:
                for chunk in chunks:
                    size += len(chunk)
                    if size > entry.size:
                        break
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())  # or a loss of power leaves the name without the content
            if size != entry.size or digest.hexdigest() != entry.sha256:
                raise ContentError(
                    f"what came for {entry.path} is not the {entry.size:,} bytes announced"
                )
            Path(name).rename(self.path(entry))
            self._grown = True
        finally:
            Path(name).unlink(missing_ok=True)

    def trim(self) -> None:
        """Removes what was asked for longest ago until the rest fits.

        Not while anything is being prepared from it.
        """
        if not self._grown:
            return
        self._grown = False
        files = [(path.stat(), path) for path in self._folder.glob("[!.]*")]
        left = sum(status.st_size for status, _ in files)
        for status, path in sorted(files, key=lambda file: (file[0].st_mtime_ns, file[1].name)):
            if left <= self._bytes_max:
                return
            path.unlink(missing_ok=True)
            left -= status.st_size
