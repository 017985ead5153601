"""A linter for plans: every invariant that a plan must keep, checked the slow and obvious way.

It shares no code with what makes plans, so that it can catch its mistakes: it counts slot by slot
and prices anew. Tests run it on every plan, and the control cycle before it commits one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from math import ceil

from dure.allocations import BudgetUnit
from dure.errors import RefusedError
from dure.metering import charge_ucredit, factors
from dure.policy import Allowed, verdict
from dure.scheduling.check_sharing import Violation, sharing_violations
from dure.scheduling.world import (
    AllocationState,
    Occupation,
    Placement,
    Plan,
    PoolState,
    Request,
    Reservation,
    Wait,
    World,
)


def violations(world: World, plan: Plan) -> tuple[Violation, ...]:
    """Everything that is wrong with a plan for this world; nothing where it may be committed."""
    checker = _Checker(world, plan)
    found = [*checker.outcomes()]
    for placement in plan.placements:
        request = checker.requests.get(placement.task_id)
        pool = checker.pools.get(placement.pool_id)
        if request is None or pool is None:
            found.append(
                Violation("unknown", f"task {placement.task_id} on {placement.pool_id}: unknown")
            )
            continue
        found += checker.where(request, placement, pool)
        found += checker.allowed(request, pool)
        found += checker.price(request, placement, pool)
    found += [*checker.nodes(), *checker.allocations(), *checker.array_caps()]
    found += checker.reservations()
    return (*found, *sharing_violations(world, plan))


class _Checker:
    def __init__(self, world: World, plan: Plan) -> None:
        self.world = world
        self.plan = plan
        self.requests = {request.task_id: request for request in world.requests}
        self.pools = {state.pool.id: state for state in world.pools}
        self.budgets = {state.allocation.id: state for state in world.allocations}
        self.told: list[Placement | Wait] = [*plan.placements, *plan.waits]
        self.uses: list[Occupation | Placement] = [*world.occupations, *plan.placements]

    def placed(self) -> Iterator[tuple[Placement, Request]]:
        """Placements with their requests; unknown ones are reported elsewhere."""
        for placement in self.plan.placements:
            if request := self.requests.get(placement.task_id):
                yield placement, request

    def outcomes(self) -> Iterator[Violation]:
        """Each request has exactly one outcome; nothing live is placed again (I2)."""
        told = Counter(outcome.task_id for outcome in self.told)
        for task_id, times in sorted(told.items()):
            if task_id not in self.requests:
                yield Violation("unknown", f"task {task_id} asked for nothing")
            elif times > 1:
                yield Violation("outcomes", f"task {task_id} has {times} outcomes")
        for task_id in sorted(self.requests.keys() - told.keys()):
            yield Violation("outcomes", f"task {task_id} has no outcome")
        live = {held.task_id for held in self.world.occupations}
        for placement in self.plan.placements:
            if placement.task_id in live:
                yield Violation("live", f"task {placement.task_id} is placed, and live already")
        for outcome in self.told:
            request = self.requests.get(outcome.task_id)
            if request is not None and request.job_id != outcome.job_id:
                yield Violation("unknown", f"task {outcome.task_id} is not of {outcome.job_id}")

    def where(
        self, request: Request, at: Placement | Reservation, state: PoolState
    ) -> Iterator[Violation]:
        """The whole gang, on different nodes of the pool that are up, with the right slots."""
        what = f"task {request.task_id} on {at.pool_id}"
        if len(at.nodes) != request.resources.nodes or len(set(at.nodes)) != len(at.nodes):
            yield Violation("gang", f"{what}: nodes {at.nodes} are not {request.resources.nodes}")
        if state.silent or not set(at.nodes) <= set(state.nodes):
            yield Violation("nodes", f"{what}: not all of nodes {at.nodes} are up")
        if at.slots_per_node != self._slots(request, state):
            yield Violation("slots", f"{what}: {at.slots_per_node} slots a node are not right")

    def allowed(self, request: Request, state: PoolState) -> Iterator[Violation]:
        """Rules (I12), GPU model, and what the allocation is for."""
        what = f"task {request.task_id} on {state.pool.id}"
        try:
            if not isinstance(verdict(self.world.rules, request.data_class, state.pool), Allowed):
                yield Violation("rule", f"{what}: a rule forbids it")
        except RefusedError as unknown:
            yield Violation("rule", f"{what}: {unknown.reason.sentence}")
        pins = request.resources.pools
        if pins and state.pool.id not in pins:
            yield Violation("pool", f"{what}: is not one of {pins}")
        models = request.resources.gpu_models
        if models and state.pool.gpu_model not in models:
            yield Violation("gpu-model", f"{what}: has {state.pool.gpu_model}, not {models}")
        budget = self._budget(request)
        if budget is None:
            yield Violation("allocation", f"{what}: no allocation {request.allocation}")
            return
        allocation = budget.allocation
        if allocation.pool is not None and allocation.pool != state.pool.id:
            yield Violation("allocation", f"{what}: its allocation is for {allocation.pool}")
        if allocation.gpu_model is not None and allocation.gpu_model != state.pool.gpu_model:
            yield Violation("allocation", f"{what}: its allocation is for {allocation.gpu_model}")

    def price(
        self, request: Request, placement: Placement, state: PoolState
    ) -> Iterator[Violation]:
        """The hold is what the whole walltime and grace would cost."""
        budget = self._budget(request)
        if budget is None:
            return
        occupied_ms = 1_000 * (request.walltime_s + request.grace_s)
        gpu_ms = request.resources.nodes * self._slots(request, state) * occupied_ms
        hold = gpu_ms
        if budget.allocation.unit is BudgetUnit.UCREDIT:
            try:
                priced_by = factors(
                    self.world.tariff,
                    state.pool.gpu_model,
                    request.tier,
                    state.pool.operator_id,
                    self.world.now_ms,
                    budget.allocation.subsidy_milli,
                )
                hold = max(1, charge_ucredit(gpu_ms, priced_by))
            except ValueError as no_price:
                yield Violation("hold", f"task {request.task_id} has no price: {no_price}")
                return
        if (placement.hold, placement.hold_gpu_ms) != (hold, gpu_ms):
            yield Violation(
                "hold",
                f"task {request.task_id} holds {placement.hold} for {placement.hold_gpu_ms} "
                f"gpu_ms; right are {hold} for {gpu_ms}",
            )

    def nodes(self) -> Iterator[Violation]:
        """No node that the plan uses has more slots taken than it has (I7)."""
        taken: Counter[tuple[str, int]] = Counter()
        for use in self.uses:
            for node in use.nodes:
                taken[use.pool_id, node] += use.slots_per_node
        used = {(placed.pool_id, node) for placed in self.plan.placements for node in placed.nodes}
        for pool_id, node in sorted(used):
            state = self.pools.get(pool_id)
            if state is not None and taken[pool_id, node] > state.pool.gpus_per_node:
                yield Violation(
                    "oversubscribed",
                    f"node {node} of {pool_id}: {taken[pool_id, node]} slots taken "
                    f"of {state.pool.gpus_per_node}",
                )

    def allocations(self) -> Iterator[Violation]:
        """Balance (I3), window, and a capacity allocation's GPUs at a time."""
        spent: Counter[str] = Counter()
        gpus: Counter[str] = Counter()
        for held in self.world.occupations:
            gpus[held.allocation] += len(held.nodes) * held.slots_per_node
        for placement, request in self.placed():
            spent[request.allocation] += placement.hold
            gpus[request.allocation] += len(placement.nodes) * placement.slots_per_node
            if budget := self._budget(request):
                ends_ms = self.world.now_ms + 1_000 * (request.walltime_s + request.grace_s)
                window = budget.allocation
                if not window.starts_ms <= self.world.now_ms < ends_ms <= window.ends_ms:
                    yield Violation("window", f"task {request.task_id} is outside {window.id}")
        for id_ in sorted(spent):
            budget = self.budgets.get(id_)
            if budget is None:
                continue
            if spent[id_] > max(0, budget.available):
                yield Violation("budget", f"{id_}: {spent[id_]} held of {budget.available} left")
            if budget.allocation.gpus is not None and gpus[id_] > budget.allocation.gpus:
                yield Violation(
                    "capacity", f"{id_}: {gpus[id_]} GPUs taken of {budget.allocation.gpus}"
                )

    def array_caps(self) -> Iterator[Violation]:
        """No more tasks of an array than it allows at a time."""
        running = Counter(held.job_id for held in self.world.occupations)
        running.update(placement.job_id for placement in self.plan.placements)
        for job_id, cap in sorted(
            {(r.job_id, r.max_running) for _, r in self.placed() if r.max_running is not None}
        ):
            if running[job_id] > cap:
                yield Violation("array-cap", f"job {job_id}: {running[job_id]} run, {cap} may")

    def reservations(self) -> Iterator[Violation]:
        """Every reservation holds at its time, whatever the plan starts now (EASY)."""
        waiting = {wait.task_id for wait in self.plan.waits}
        pools = Counter(reservation.pool_id for reservation in self.plan.reservations)
        for pool_id, times in sorted(pools.items()):
            if times > 1:
                yield Violation("reservation", f"{pool_id} has {times} reservations")
        for reservation in self.plan.reservations:
            request = self.requests.get(reservation.task_id)
            state = self.pools.get(reservation.pool_id)
            what = f"reservation of task {reservation.task_id} on {reservation.pool_id}"
            if request is None or state is None or request.task_id not in waiting:
                yield Violation("reservation", f"{what}: it is for nobody who waits")
                continue
            if reservation.starts_ms < self.world.now_ms:
                yield Violation("reservation", f"{what}: starts in the past")
            yield from self.where(request, reservation, state)
            yield from self.allowed(request, state)
            yield from self._delays(reservation, state, what)

    def _delays(self, reservation: Reservation, state: PoolState, what: str) -> Iterator[Violation]:
        taken: Counter[int] = Counter()
        for held in self.world.occupations:
            if held.pool_id == reservation.pool_id and held.ends_ms > reservation.starts_ms:
                taken.update(dict.fromkeys(held.nodes, held.slots_per_node))
        for placement, request in self.placed():
            ends_ms = self.world.now_ms + 1_000 * (request.walltime_s + request.grace_s)
            if placement.pool_id == reservation.pool_id and ends_ms > reservation.starts_ms:
                taken.update(dict.fromkeys(placement.nodes, placement.slots_per_node))
        for node in reservation.nodes:
            if taken[node] + reservation.slots_per_node > state.pool.gpus_per_node:
                yield Violation("delayed", f"{what}: node {node} will not be free in time")

    def _budget(self, request: Request) -> AllocationState | None:
        budget = self.budgets.get(request.allocation)
        return budget if budget and budget.allocation.project == request.project else None

    @staticmethod
    def _slots(request: Request, state: PoolState) -> int:
        asked, pool = request.resources, state.pool
        shares = (
            Fraction(asked.gpus_per_node, pool.gpus_per_node),
            Fraction(asked.cpus_per_node or 0, pool.cpus_per_node),
            Fraction(asked.memory_gib_per_node or 0, pool.memory_gib_per_node),
        )
        return ceil(max(shares) * pool.gpus_per_node)
