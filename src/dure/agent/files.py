"""A manifest becomes a folder, and a folder a manifest. No link is ever followed.

Every file is reached from an open folder, name by name, with O_NOFOLLOW: a job may put any link
anywhere in its folder, and none leads the agent out of it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from dure.agent.wire import (
    FILE_BYTES_MAX,
    FILES_MAX,
    TREE_BYTES_MAX,
    FileEntry,
    Manifest,
)
from dure.text import shown

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a pipe that nobody writes would wait for ever.
READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How whatever a job may have put there is opened for reading."""
_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK_BYTES: Final = 1024 * 1024
_DEPTH_MAX: Final = 64
"""Of folders in folders below the one collected: each level of a walk keeps one open."""
_EXCHANGED: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
"""What was listed is gone, or is something else by now."""
_STAYS: Final = frozenset({errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP})
"""Trying again does not help; it may with any other error, too many open files say."""


class CollectError(Exception):
    """A folder that cannot be collected; says in one sentence why."""


@dataclass(frozen=True, slots=True)
class Collected:
    """A folder's regular files, and how many other things in it were left out."""

    manifest: Manifest
    left_out: int


def materialise(
    manifest: Manifest, source: Callable[[FileEntry], Path], folder: Path
) -> tuple[FileEntry, ...]:
    """Writes a manifest's files into `folder`, from where `source` has their content.

    Returns those whose source is gone or is not what the entry says: they are to be written again.

    Raises:
        OSError: no space, or a link or file stands where a folder must be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _opened(folder) as top:
        return tuple(entry for entry in manifest.files if not _write(top, entry, source(entry)))


def _write(top: int, entry: FileEntry, source: Path) -> bool:
    """Copies and checks one file; False where the source is not the entry's content."""
    *parents, name = entry.path.split("/")
    mode = 0o700 if entry.executable else 0o600
    with _descended(top, parents, make=True) as parent:
        descriptor = os.open(name, _WRITE, mode, dir_fd=parent)
        with os.fdopen(descriptor, "wb") as target:
            os.fchmod(descriptor, mode)
            try:
                content = os.fdopen(os.open(source, READ), "rb")
            except OSError as error:
                if error.errno in _EXCHANGED:
                    return False
                raise
            with content:
                return _copy(content, target, entry)


def _copy(content: BinaryIO, target: BinaryIO, entry: FileEntry) -> bool:
    digest, size = hashlib.sha256(), 0
    while size <= entry.size and (chunk := content.read(_CHUNK_BYTES)):
        size += len(chunk)
        digest.update(chunk)
        target.write(chunk)
    return size == entry.size and digest.hexdigest() == entry.sha256


def collect(folder: Path, inside: str) -> Collected:
    """The regular files under `folder/inside`, hashed, in the order of their paths.

    Links, pipes, sockets, devices, names that a manifest cannot carry, what lies too deep and what
    vanishes meanwhile are left out. A folder that is not there holds nothing.

    Raises:
        CollectError: more, or larger, than a manifest may hold; something that may not be read; or
            a link stands for the folder.
        OSError: what may pass: the disk's errors, too many open files.
    """
    collector = _Collector()
    try:
        with contextlib.ExitStack() as stack:
            try:
                top = stack.enter_context(_opened(folder))
                start = stack.enter_context(_descended(top, inside.split("/")))
            except FileNotFoundError:
                return Collected(Manifest(()), 0)
            collector.walk(start, "", 0)
    except OSError as error:
        if error.errno not in _STAYS:
            raise
        raise CollectError(f"{inside} cannot be read: {os.strerror(error.errno or 0)}") from error
    files = tuple(sorted(collector.files, key=lambda entry: entry.path))
    return Collected(Manifest(files), collector.left_out)


@contextlib.contextmanager
def opened(folder: Path, inside: str, path: str) -> Iterator[BinaryIO]:
    """A collected file, for reading.

    Raises:
        OSError: it is gone, or no longer a regular file reached through folders only.
    """
    *parents, name = path.split("/")
    with (
        _opened(folder) as top,
        _descended(top, [*inside.split("/"), *parents]) as parent,
        os.fdopen(os.open(name, READ, dir_fd=parent), "rb") as file,
    ):
        yield file


class _Collector:
    """What one walk has found."""

    def __init__(self) -> None:
        self.files: list[FileEntry] = []
        self.bytes = 0
        self.left_out = 0

    def walk(self, folder: int, prefix: str, depth: int) -> None:
        """Depth first."""
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            if not self._visit(folder, name, prefix, depth):
                self.left_out += 1

    def _visit(self, folder: int, name: str, prefix: str, depth: int) -> bool:
        """Returns False for what is left out."""
        path = f"{prefix}{name}"
        with contextlib.ExitStack() as stack:
            try:
                mode = os.lstat(name, dir_fd=folder).st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or not _fits(path):
                    return False
                if stat.S_ISREG(mode):
                    file = os.fdopen(os.open(name, READ, dir_fd=folder), "rb")
                    return self._take(stack.enter_context(file), path)
                if depth == _DEPTH_MAX:
                    return False
                below = stack.enter_context(_descended(folder, [name]))
            except OSError as error:
                if error.errno in _EXCHANGED:
                    return False
                raise
            self.walk(below, f"{path}/", depth + 1)
        return True

    def _take(self, file: BinaryIO, path: str) -> bool:
        """Hashes no more than the file has now, though it may grow. False: no regular file."""
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            return False
        self._check_limits(path, status.st_size)
        digest, size = hashlib.sha256(), 0
        while chunk := file.read(min(_CHUNK_BYTES, status.st_size - size)):
            digest.update(chunk)
            size += len(chunk)
        executable = bool(status.st_mode & stat.S_IXUSR)
        self.files.append(FileEntry(path, size, digest.hexdigest(), executable))
        self.bytes += size
        return True

    def _check_limits(self, path: str, size: int) -> None:
        if size > FILE_BYTES_MAX:
            raise CollectError(
                f"{shown(path)} has {size:,} bytes; at most {FILE_BYTES_MAX:,} are taken"
            )
        if len(self.files) >= FILES_MAX:
            raise CollectError(f"there are more than {FILES_MAX:,} files, which is the most taken")
        if self.bytes + size > TREE_BYTES_MAX:
            raise CollectError(
                f"the files have more than {TREE_BYTES_MAX:,} bytes together, the most taken"
            )


def _fits(path: str) -> bool:
    """Whether a manifest can carry this path."""
    try:
        FileEntry(path, 0, "0" * 64)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _descended(top: int, names: list[str], *, make: bool = False) -> Iterator[int]:
    """The folder reached from an open one, name by name, made on the way where asked."""
    descriptor = os.dup(top)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=descriptor)
            below = os.open(name, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)
