"""The linter's second half: what plans must keep of guarantees, lending and recalls.

Like the first half it shares no code with what makes plans. A plan does not say which borrowers
have come under their own share's guarantee since they started, so wherever that matters they count
for whatever keeps the plan right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from dure.jobs import Tier
from dure.scheduling.world import NEVER_MS, Occupation, Placement, Plan, Recall, Request, World
from dure.shares import cells, path
from dure.units import MS_PER_S

_Use = Occupation | Placement


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that a plan must never do."""

    code: str
    sentence: str


def sharing_violations(world: World, plan: Plan) -> tuple[Violation, ...]:
    """Everything that is wrong with a plan's guarantees, borrowing and recalls."""
    checker = _Checker(world, plan)
    found = [*checker.promises(), *checker.borrowing(), *checker.withheld()]
    times = Counter(recall.attempt_id for recall in plan.recalls)
    found += [
        Violation("recall", f"attempt {id_} is called back {many} times")
        for id_, many in sorted(times.items())
        if many > 1
    ]
    for recall in plan.recalls:
        found += [
            Violation("recall", f"{recall.attempt_id}: {no}") for no in checker.recall(recall)
        ]
    return tuple(found)


class _Checker:
    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.requests = {request.task_id: request for request in world.requests}
        self.uses: list[_Use] = [*world.occupations, *plan.placements]
        self.held = {held.attempt_id: held for held in world.occupations}
        self.cells = {
            (cell.pool, cell.share): cell.gpus
            for cell in cells(world.shares, (state.pool for state in world.pools), world.now_ms)
        }
        self.guaranteed: Counter[tuple[str, str]] = Counter()
        """GPUs that run, or start, under a share's guarantee, by pool and share."""
        for use in self.uses:
            if use.guarantor is not None:
                self.guaranteed[use.pool_id, use.guarantor] += _gpus(use)

    def promises(self) -> Iterator[Violation]:
        """What starts under a guarantee is covered by it, and it is not exceeded (I7)."""
        for placed in self.plan.placements:
            request = self.requests.get(placed.task_id)
            if placed.guarantor is None or request is None:
                continue
            what = f"task {placed.task_id} under {placed.guarantor} on {placed.pool_id}"
            if request.tier is Tier.SPARE or placed.guarantor not in self._path(request.share):
                yield Violation("guarantee", f"{what}: it is not that share's guarantee")
            promised = self.cells.get((placed.pool_id, placed.guarantor), 0)
            used = self.guaranteed[placed.pool_id, placed.guarantor]
            if used > promised:
                yield Violation("guarantee", f"{what}: {used} GPUs used of {promised} promised")

    def borrowing(self) -> Iterator[Violation]:
        """Who may not borrow gets only what nobody is promised, at its turn: what is lent to others
        later takes nothing away.
        """
        later = set(self.plan.placements)
        for placed in self.plan.placements:
            later.discard(placed)
            request = self.requests.get(placed.task_id)
            if placed.guarantor is not None or request is None or self._may_borrow(request):
                continue
            up = next(
                len(state.nodes) * state.pool.gpus_per_node
                for state in self.world.pools
                if state.pool.id == placed.pool_id
            )
            promised = sum(gpus for (pool, _), gpus in self.cells.items() if pool == placed.pool_id)
            lent = sum(
                _gpus(use)
                for use in self._borrowers(placed.pool_id)
                if use not in later and self._is_lent(use)
            )
            if promised and lent > up - promised:
                yield Violation(
                    "borrow", f"task {placed.task_id} on {placed.pool_id}: it may not borrow"
                )

    def withheld(self) -> Iterator[Violation]:
        """What a share does not lend stays idle for it, whatever starts beyond guarantees."""
        touched = {p.pool_id for p in self.plan.placements if p.guarantor is None}
        for state in self.world.pools:
            pool_id = state.pool.id
            if pool_id not in touched:
                continue
            taken: Counter[int] = Counter()
            for use in self.uses:
                starts_within = isinstance(use, Placement) and use.guarantor is not None
                if use.pool_id == pool_id and not starts_within:
                    taken.update(dict.fromkeys(use.nodes, use.slots_per_node))
            idle = sum(state.pool.gpus_per_node - taken[node] for node in state.nodes)
            kept = sum(
                max(0, gpus - self._most_used(pool_id, share))
                for (pool, share), gpus in self.cells.items()
                if pool == pool_id and not self._lends(share)
            )
            if kept and idle < kept:
                yield Violation(
                    "withheld", f"{pool_id}: {idle} GPUs idle, and shares keep {kept} to themselves"
                )

    def recall(self, recall: Recall) -> Iterator[str]:
        """A borrower, past its minimum runtime and without notice, for a share that is promised."""
        held = self.held.get(recall.attempt_id)
        if held is None:
            yield "it does not run"
            return
        if (held.task_id, held.job_id, held.pool_id) != (
            recall.task_id,
            recall.job_id,
            recall.pool_id,
        ):
            yield "it is another task's, or runs elsewhere"
        if held.guarantor is not None:
            yield f"it runs within the guarantee of {held.guarantor}"
        if held.recalled_ms is not None:
            yield "it has notice already"
        now_ms, tuning = self.world.now_ms, self.world.tuning
        if held.started_ms + tuning.min_runtime_s * MS_PER_S > now_ms:
            yield f"it has not run for {tuning.min_runtime_s} s"
        if recall.vacates_ms != now_ms + MS_PER_S * max(held.grace_s, tuning.recall_s):
            yield f"it has until {recall.vacates_ms}, which is not the notice it is due"
        yield from self._beneficiary(recall)

    def _beneficiary(self, recall: Recall) -> Iterator[str]:
        request = self.requests.get(recall.for_task_id)
        if request is None or recall.for_task_id not in {w.task_id for w in self.plan.waits}:
            yield f"it is for task {recall.for_task_id}, which does not wait"
            return
        if recall.for_share not in self._path(request.share):
            yield f"it is for {recall.for_share}, which is not a share of task {request.task_id}"
        promised = self.cells.get((recall.pool_id, recall.for_share), 0)
        if self.guaranteed[recall.pool_id, recall.for_share] + request.resources.gpus > promised:
            yield f"it is for {recall.for_share}, which has all that it is promised"

    def _borrowers(self, pool_id: str) -> Iterator[_Use]:
        for use in self.uses:
            if use.pool_id == pool_id and use.guarantor is None:
                yield use

    def _is_lent(self, use: _Use) -> bool:
        """Whether what runs or starts beyond guarantees is surely lent by others."""
        if isinstance(use, Placement):
            return True
        own = any((use.pool_id, share) in self.cells for share in self._path(use.share))
        return use.ends_ms < NEVER_MS and not own

    def _most_used(self, pool_id: str, share: str) -> int:
        """What of a share's guarantee may be in use: by it, by its own borrowers, or by those who
        are leaving for it.
        """
        used = self.guaranteed[pool_id, share]
        for use in self._borrowers(pool_id):
            leaving = isinstance(use, Occupation) and use.recalled_ms is not None
            if leaving or share in self._path(self._share(use)):
                used += _gpus(use)
        called = {recall.attempt_id for recall in self.plan.recalls}
        return used + sum(_gpus(self.held[id_]) for id_ in called if id_ in self.held)

    def _may_borrow(self, request: Request) -> bool:
        by_id = self.world.shares.by_id
        may = all(by_id[share].may_borrow for share in self._path(request.share))
        return may and request.tier is not Tier.RESERVED

    def _lends(self, share: str) -> bool:
        return all(self.world.shares.by_id[one].may_lend for one in self._path(share))

    def _share(self, use: _Use) -> str:
        if isinstance(use, Occupation):
            return use.share
        request = self.requests.get(use.task_id)
        return request.share if request is not None else ""

    def _path(self, share: str) -> tuple[str, ...]:
        return path(self.world.shares, share) if share in self.world.shares.by_id else ()


def _gpus(use: _Use) -> int:
    return len(use.nodes) * use.slots_per_node
