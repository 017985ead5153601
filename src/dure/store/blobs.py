"""Files beside the database: contents by their SHA-256, and logs that only ever grow."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from dure.agent.wire import FILE_BYTES_MAX
from dure.errors import RefusedError
from dure.text import SHA256

LOG_BYTES_MAX = 1024**3
CUT_OFF_S = 3_600
"""An upload to which nothing was added for so long is not going on any more."""


class Blobs:
    """Contents named by their digest: written once, checked while written, never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        incoming = folder / "incoming"
        incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        for cut_off in incoming.iterdir():  # a process that was killed left them
            with suppress(FileNotFoundError):  # others start, and upload, on the same folder
                if time.time() - cut_off.stat().st_mtime > CUT_OFF_S:
                    cut_off.unlink()

    def path(self, sha256: str) -> Path:
        """Where a content is, or would be."""
        assert SHA256.match(sha256)
        return self._folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether it is here."""
        return self.path(sha256).is_file()

    def receive(self, sha256: str) -> Incoming:
        """Begin to take a content in: `with blobs.receive(...) as incoming: incoming.write(...)`.

        Raises:
            RefusedError: the digest is none, or, at the end, not that of what came.
        """
        if not SHA256.match(sha256):
            raise RefusedError("bad-digest", "The digest must be 64 lower-case hex digits.")
        return Incoming(self.path(sha256), self._folder / "incoming")


class Incoming:
    """A content on its way in; it appears under its digest whole, or not at all."""

    def __init__(self, target: Path, folder: Path) -> None:
        self._target = target
        self._digest = hashlib.sha256()
        self.size = 0
        descriptor, name = tempfile.mkstemp(dir=folder)
        self._file = os.fdopen(descriptor, "wb")
        self._name = Path(name)

    def write(self, piece: bytes) -> None:
        """Take a piece. Raises RefusedError (413) past the limit of a file's size."""
        self.size += len(piece)
        if self.size > FILE_BYTES_MAX:
            raise RefusedError(
                "file-too-large",
                f"The file is larger than {FILE_BYTES_MAX:,} bytes, the limit of one file.",
                status=413,
            )
        self._digest.update(piece)
        self._file.write(piece)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._keep()
        finally:
            self._file.close()
            self._name.unlink(missing_ok=True)

    def _keep(self) -> None:
        if self._digest.hexdigest() != self._target.name:
            raise RefusedError(
                "digest-differs",
                f"What was uploaded has the SHA-256 {self._digest.hexdigest()}, "
                f"not {self._target.name}.",
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._target.parent.mkdir(exist_ok=True, mode=0o700)
        self._name.replace(self._target)


class Logs:
    """What the nodes of attempts wrote, appended by offset so that no byte comes twice."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, attempt: str, rank: int) -> Path:
        """The log of one node of an attempt; it may not exist."""
        return self._folder / attempt / f"{rank}.log"

    def size(self, attempt: str, rank: int) -> int:
        """Bytes so far."""
        path = self.path(attempt, rank)
        return path.stat().st_size if path.exists() else 0

    def append(self, attempt: str, rank: int, offset: int, data: bytes) -> int:
        """Take bytes that start at `offset` of the whole; the size afterwards.

        What is here already is skipped; what would leave a gap is not taken. Each byte
        goes to its own place, so that a call that was given up and still goes on beside its
        repetition harms nothing.
        """
        path = self.path(attempt, rank)
        size = self.size(attempt, rank)
        fresh = data[size - offset :] if offset <= size else b""
        fresh = fresh[: max(0, LOG_BYTES_MAX - size)]
        if fresh:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.seek(size)
                file.write(fresh)
        return size + len(fresh)

    def read(self, attempt: str, rank: int, offset: int, limit: int) -> bytes:
        """Up to `limit` bytes from `offset` on."""
        path = self.path(attempt, rank)
        if not path.exists():
            return b""
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
