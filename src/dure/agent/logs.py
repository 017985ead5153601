"""Logs travel up by offset: the control plane says how much it has, and the agent goes on there."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from dure.agent.files import READ
from dure.agent.uplink import LOG_BYTES_MAX, Uplink

ROUND_BYTES_MAX: Final = 1024 * 1024
"""Of one log in one round, so that a huge one does not hold up the others."""


class LogPusher:
    """Remembers how far each log is; a lost reply or a restart costs one chunk, never a byte."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._sizes: dict[tuple[str, int], int] = {}
        self._full: set[tuple[str, int]] = set()

    def behind(self, attempt_id: str, rank: int, path: Path) -> bool:
        """Whether the file is longer than what the control plane has, and it takes more."""
        if (attempt_id, rank) in self._full:
            return False
        return _size(path) > self._sizes.get((attempt_id, rank), 0)

    def push(self, attempt_id: str, rank: int, path: Path, bytes_max: int | None = None) -> bool:
        """Pushes what stands in the file now, or the first `bytes_max` bytes of what is missing.

        Returns False when the control plane takes no more of it. Raises the uplink's errors.
        """
        key = attempt_id, rank
        if key in self._full:
            return False
        stalled = False
        end = self._sizes.get(key, 0) + bytes_max if bytes_max is not None else _size(path)
        while chunk := self._read(path, offset := self._sizes.get(key, 0), end):
            size = self._uplink.push_log(attempt_id, rank, offset, chunk)
            if size <= offset and stalled:
                self._full.add(key)
                return False
            stalled = size <= offset  # once is an offset put right, twice the same is a no
            self._sizes[key] = size
        return True

    def forget(self, attempt_id: str) -> None:
        """Drops what was remembered of an attempt."""
        for key in list(self._sizes):  # a copy: other attempts' pushes go on in their threads
            if key[0] == attempt_id:
                del self._sizes[key]
                self._full.discard(key)

    @staticmethod
    def _read(path: Path, offset: int, end: int) -> bytes:
        with _opened(path) as file:
            if file is None:
                return b""
            file.seek(offset)
            return file.read(max(0, min(LOG_BYTES_MAX, end - offset)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | None]:
    """A log, for reading; None where there is none, or where a job put something else in its place.

    A link could lead to the agent's own files, and a pipe would make the reader wait for ever.
    """
    try:
        descriptor = os.open(path, READ)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:
            raise
        yield None
        return
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            yield None
            return
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            yield file
    finally:
        os.close(descriptor)


def _size(path: Path) -> int:
    """Bytes in the file; none where it is not there."""
    with _opened(path) as file:
        return 0 if file is None else os.fstat(file.fileno()).st_size
