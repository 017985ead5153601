"""When a running attempt last wrote its checkpoint, as far as its site can see."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ENTRIES_MAX: Final = 1_000
"""Looked at in each round, at most: a checkpoint of more files is judged by the first of them."""


def saved_ms(folder: Path, inside: str, after_ms: int) -> int | None:
    """The latest change of a file under `folder/inside` since `after_ms`, by the site's clock.

    None where nothing has changed since, or nothing can be read: what was laid out before the start
    is no checkpoint of this attempt. Links are not followed. What a job makes of its files' times
    is only ever used to spare it or not when GPUs are called back.
    """
    latest_ms = max(_changes_ms(folder / inside), default=0)
    return latest_ms if latest_ms > after_ms else None


def _changes_ms(top: Path) -> Iterator[int]:
    folders, seen = deque([] if top.is_symlink() else [top]), 0
    while folders:
        try:
            with os.scandir(folders.popleft()) as entries:
                for entry in entries:
                    if (seen := seen + 1) > ENTRIES_MAX:
                        return
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(Path(entry.path))
                    elif entry.is_file(follow_symlinks=False):
                        yield entry.stat(follow_symlinks=False).st_mtime_ns // 1_000_000
        except OSError:  # it vanished, or may not be read
            continue
