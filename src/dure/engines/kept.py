"""What an engine keeps on disk of its attempts, and what shims wrote there, read back.

Of every attempt there is a folder; a job may have put anything in the place of any file in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import structlog

from dure import codec
from dure.engines import Observation
from dure.engines.local import shim
from dure.engines.ranks import Exit, RankExit
from dure.errors import RefusedError

log = structlog.get_logger("dure.engine")

ATTEMPT: Final = "attempt.json"
"""That the engine was asked: written before it is."""
ENDED: Final = "ended.json"
"""How the attempt ended, once that is known."""

T = TypeVar("T")


def whole(path: Path) -> bytes | None:
    """A file's content; None where there is none that can be read."""
    try:
        return shim.read_whole(path)
    except (shim.SpoiltError, OSError):
        return None


def decoded(kind: type[T], path: Path) -> T | None:
    """A file's value; None where there is none that can be read."""
    content = whole(path)
    try:
        return None if content is None else codec.decode(kind, content)
    except RefusedError:
        return None


def exits(attempt: Path, nodes: int) -> list[RankExit]:
    """How each rank ended that has written so."""
    found = ((rank, decoded(Exit, attempt / str(rank) / shim.EXIT)) for rank in range(nodes))
    return [RankExit(rank, **dataclasses.asdict(exit_)) for rank, exit_ in found if exit_]


def note_asked(attempt: Path, asked: Any) -> None:
    """Writes down, durably, that the engine is asked. Raises OSError."""
    shim.write_once(attempt / ATTEMPT, dataclasses.asdict(asked), durable=True)
    shim.sync_folder(attempt.parent)


def note_ended(attempt: Path, seen: Observation) -> None:
    """Writes down how an attempt ended; the launch file, where it is left, goes."""
    said = {name: value for name, value in dataclasses.asdict(seen).items() if value is not None}
    shim.write_over(attempt / ENDED, said)
    (attempt / shim.LAUNCH).unlink(missing_ok=True)


def load(attempts: Path, kind: type[T]) -> Iterator[tuple[Path, T, Observation | None]]:
    """Each attempt's folder, what was asked, and how it ended. A folder of which the engine was
    never told is left out.
    """
    for attempt in sorted(attempts.iterdir()):
        asked = decoded(kind, attempt / ATTEMPT)
        if asked is not None and getattr(asked, "attempt_id", None) == attempt.name:
            yield attempt, asked, decoded(Observation, attempt / ENDED)
        elif (attempt / ATTEMPT).exists():
            log.warning("attempt-lost", folder=attempt.name)
