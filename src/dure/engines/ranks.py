"""How the ranks of an attempt ended, and what that makes of the attempt: one rule for all engines
whose nodes have a shim (`dure.engines.local.shim`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dure.engines import EngineEnd
from dure.units import INT64_MAX


@dataclass(frozen=True, slots=True)
class Exit:
    """What a rank's exit file says."""

    end: EngineEnd
    exit_code: int | None
    started_ms: int | None
    ended_ms: int
    detail: str

    def __post_init__(self) -> None:
        for value in (self.started_ms, self.ended_ms, self.exit_code):
            check_instant(value or 0)


def check_instant(value: int) -> None:
    """Raises ValueError for a number that no shim writes."""
    if not 0 <= value <= INT64_MAX:
        raise ValueError(f"{value} is not from 0 to {INT64_MAX}")


@dataclass(frozen=True, slots=True)
class RankExit:
    """How one rank ended."""

    rank: int
    end: EngineEnd
    exit_code: int | None
    started_ms: int | None
    ended_ms: int
    detail: str


QUIET: Final = frozenset({EngineEnd.COMPLETED, EngineEnd.STOPPED})
"""Ends of a rank for which the others need not be stopped."""


def deciding(exits: Sequence[RankExit]) -> RankExit:
    """The rank whose end is the attempt's: the first that failed, and a node's failure before all,
    for it explains the others'.
    """
    nodes = [e for e in exits if e.end is EngineEnd.NODE_FAILED]
    failed = [e for e in exits if e.end not in QUIET]
    stopped = [e for e in exits if e.end is EngineEnd.STOPPED]
    return min(nodes or failed or stopped or exits, key=lambda e: (e.ended_ms, e.rank))


def detail_of(exits: Sequence[RankExit]) -> str:
    """What there is to say of the attempt's end besides the end itself and its exit code."""
    first = deciding(exits)
    whose = f"rank {first.rank}" if len(exits) > 1 and first.end is not EngineEnd.COMPLETED else ""
    return ": ".join(filter(None, (whose, first.detail)))
