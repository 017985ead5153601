"""Files that only their owner may read, replaced whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def replace_private(file: Path, lines: Iterable[str]) -> None:
    """Write `lines`, each with its line end, with mode 0600. What was there stays until all is
    written, and stays for good where `lines` raise.

    Raises:
        OSError: it could not be written; it names `file`.
    """
    try:
        handle, draft = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:100]}-")  # 0600
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.writelines(lines)
            out.flush()
            os.fsync(out.fileno())
        try:
            Path(draft).replace(file)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(file)) from None
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise
