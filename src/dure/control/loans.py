"""On whose guarantee what is about to start will run: under its own share's, or lent by whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from sqlalchemy import Connection

from dure.lending import Lent, Standing, lenders
from dure.scheduling.world import Placement, World
from dure.shares import cells, path
from dure.store import attempts
from dure.store.attempts import Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What is kept with an attempt for its whole life."""

    share: str
    guarantor: str | None
    lenders: tuple[Lent, ...] = ()


@dataclass(slots=True)
class _Use:
    """GPUs of a pool that open attempts hold."""

    guaranteed: Counter[str] = field(default_factory=Counter)
    lent: Counter[str] = field(default_factory=Counter)
    borrowed: int = 0

    def add(self, attempt: Attempt) -> None:
        if attempt.guarantor is not None:
            self.guaranteed[attempt.guarantor] += attempt.gpus
            return
        self.borrowed += attempt.gpus
        for lent in attempt.lenders:
            self.lent[lent.lender] += lent.gpus


class Loans:
    """The terms of one cycle's placements. Each that is opened is taken into account for the next.

    Open attempts are read, and cells counted, only once something borrows.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._leaf = {request.task_id: request.share for request in world.requests}
        self._use: dict[str, _Use] | None = None

    def terms(self, connection: Connection, placement: Placement) -> Terms:
        """The terms on which a placement would start now."""
        share = self._leaf[placement.task_id]
        if placement.guarantor is not None or not share:
            return Terms(share=share, guarantor=placement.guarantor)
        if self._use is None:
            self._use = {}
            for attempt in attempts.open_attempts(connection):
                self._pool(attempt.pool).add(attempt)
        gpus = len(placement.nodes) * placement.slots_per_node
        own = path(self._world.shares, share)
        found = lenders(gpus, {*own, *self._keeping}, self._standing(placement.pool_id))
        return Terms(share=share, guarantor=None, lenders=found)

    def opened(self, attempt: Attempt) -> None:
        """An attempt was opened on its terms."""
        if self._use is not None:
            self._pool(attempt.pool).add(attempt)

    def _pool(self, pool_id: str) -> _Use:
        assert self._use is not None
        return self._use.setdefault(pool_id, _Use())

    @cached_property
    def _keeping(self) -> frozenset[str]:
        """Shares that lend nothing."""
        return frozenset(share.id for share in self._world.shares.shares if not share.may_lend)

    @cached_property
    def _promised(self) -> dict[str, dict[str, int]]:
        pools = [state.pool for state in self._world.pools]
        found: dict[str, dict[str, int]] = {}
        for cell in cells(self._world.shares, pools, self._world.now_ms):
            found.setdefault(cell.pool, {})[cell.share] = cell.gpus
        return found

    def _standing(self, pool_id: str) -> Standing:
        now_ms, use = self._world.now_ms, self._pool(pool_id)
        (pool,) = (state.pool for state in self._world.pools if state.pool.id == pool_id)
        return Standing(
            in_service=pool.nodes_in_service(now_ms) * pool.gpus_per_node,
            promised=self._promised.get(pool_id, {}),
            in_use=use.guaranteed,
            lent=use.lent,
            borrowed=use.borrowed,
        )
