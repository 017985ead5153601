"""Which pools an agent does not offer now, and whom it has sent away from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

import structlog

from dure.agent.blackout import Blackout, closed_pools
from dure.agent.settle import fit
from dure.agent.wire import DETAIL_MAX, AttemptReport
from dure.engines import PoolReport

CLOSED: Final = "its owner has closed the pool for a time"

log = structlog.get_logger("dure.agent")


class Closing:
    """The owner's blackouts, as this agent carries them out."""

    def __init__(self, blackouts: Iterable[Blackout]) -> None:
        self._blackouts = tuple(blackouts)
        self._closed: frozenset[str] = frozenset()
        self._sent_away: set[str] = set()

    def offered(self, pools: tuple[PoolReport, ...], now_ms: int) -> tuple[PoolReport, ...]:
        """The pools; all nodes down of those that their owner keeps to itself from now on."""
        closed = closed_pools(self._blackouts, [pool.pool_id for pool in pools], now_ms)
        for pool_id in sorted(closed ^ self._closed):
            log.info("pool-closed" if pool_id in closed else "pool-open-again", pool_id=pool_id)
        self._closed = closed
        return tuple(
            replace(pool, nodes=tuple(replace(node, up=False) for node in pool.nodes))
            if pool.pool_id in closed
            else pool
            for pool in pools
        )

    def holds(self, pool_id: str) -> bool:
        """Whether a pool is closed."""
        return pool_id in self._closed

    def must_go(self, attempt_id: str, pool_id: str) -> bool:
        """Whether what runs there has yet to be told to go."""
        return pool_id in self._closed and attempt_id not in self._sent_away

    def told(self, attempt_id: str) -> None:
        """It has its notice."""
        self._sent_away.add(attempt_id)
        log.info("sent-away", attempt_id=attempt_id)

    def explained(self, report: AttemptReport) -> AttemptReport:
        """The last report of an attempt; of one that was sent away it says why it ended."""
        if report.attempt_id not in self._sent_away:
            return report
        self._sent_away.discard(report.attempt_id)
        detail = f"{report.detail}; {CLOSED}".removeprefix("; ")
        return replace(report, detail=fit(detail, DETAIL_MAX))
