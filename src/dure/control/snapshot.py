"""The world of one instant, for the scheduler: read from the database, decided by nobody."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from dure.allocations import Allocation
from dure.control.memory import Known, Memory
from dure.engines import PoolReport
from dure.fleet import PhaseStart, Pool, Wave, WavePhase
from dure.jobs import END_SLACK_S, JobSpec
from dure.ledger import Balance
from dure.ledger import balance as balance_of
from dure.scenario import Scenario
from dure.scheduling.estimate import Estimate
from dure.scheduling.world import NEVER_MS, AllocationState, Occupation, PoolState, Request, World
from dure.settings import Settings
from dure.store import attempts, jobs, ledger, sites
from dure.store.attempts import Attempt
from dure.store.jobs import Task
from dure.store.sites import Site
from dure.units import MS_PER_S

OFFLINE: Final = "offline"
"""Names the occupation that stands for GPUs a node should have and does not report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When, and under which plan and patience, a snapshot is taken."""

    now_ms: int
    up_since_ms: int
    scenario: Scenario
    settings: Settings
    memory: Memory

    def known(self, connection: Connection) -> Known:
        """What is known of shares, run times and usage."""
        return self.memory.known(connection, self.scenario, self.settings.tuning, self.now_ms)

    def is_silent(self, site: Site) -> bool:
        """Whether a site, or its engine, has said nothing for too long.

        Our own absence is not its silence.
        """
        heard_ms = max(min(site.received_ms, site.answered_ms), self.up_since_ms)
        return self.now_ms - heard_ms > self.settings.silent_after_s * MS_PER_S


def snapshot(connection: Connection, moment: Moment) -> World:
    """The whole world, with the head of the queue."""
    known = moment.known(connection)
    return world(connection, moment, known, queue(connection, moment, known))


def queue(connection: Connection, moment: Moment, known: Known) -> tuple[Request, ...]:
    """The head of the queue, as the scheduler sees it."""
    waiting = jobs.queue(connection, moment.now_ms, moment.settings.queue_depth)
    return moment.memory.waiting.of(connection, waiting, _reader(known), known.leaf)


def _reader(known: Known) -> Callable[[Task], Request]:
    return lambda task: request(asked_by(task), known)


def plan_only(
    connection: Connection, moment: Moment, known: Known, allocation: Allocation
) -> World:
    """What can ever be: the plan's pools and one allocation, whatever runs or waits now."""
    return World(
        now_ms=moment.now_ms,
        pools=tuple(PoolState(pool=pool, nodes=()) for pool in moment.scenario.fleet.pools),
        occupations=(),
        requests=(),
        allocations=(
            allocation_state(
                allocation, ledger.balance(connection, allocation.id, allocation.unit)
            ),
        ),
        rules=moment.scenario.rules,
        tariff=moment.scenario.tariff,
        shares=known.shares,
        tuning=moment.settings.tuning,
    )


def world(
    connection: Connection,
    moment: Moment,
    known: Known,
    waiting: tuple[Request, ...] = (),
    also: Collection[str] = (),
) -> World:
    """The world with what waits, its allocations, and `also` some others by id."""
    reported = {site.cluster: site for site in sites.all_sites(connection)}
    states = [
        _pool_state(pool, reported.get(pool.cluster_id), moment)
        for pool in moment.scenario.fleet.pools
    ]
    running = _occupations(connection, moment, known)
    names = {r.allocation for r in waiting} | {held.allocation for held in running} | {*also}
    balances = ledger.balances(connection)
    return World(
        now_ms=moment.now_ms,
        pools=tuple(state for state, _ in states),
        occupations=(*running, *(offline for _, found in states for offline in found)),
        requests=waiting,
        allocations=tuple(
            allocation_state(one, balance_of(balances, one.id, one.unit))
            for one in map(known.allocations.__getitem__, sorted(names))
        ),
        rules=moment.scenario.rules,
        tariff=moment.scenario.tariff,
        shares=known.shares,
        tuning=moment.settings.tuning,
        usage=known.usage,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A task that wants a place, accepted already or only asked about; `key` is its task, job and
    index.
    """

    spec: JobSpec
    allocation: str
    submitter: str
    key: tuple[int, int, int]
    queued_ms: int
    recalls: int = 0


def asked_by(task: Task) -> Asked:
    """What a queued task asks for."""
    return Asked(
        spec=task.spec,
        allocation=task.allocation,
        submitter=task.submitter,
        key=(task.id, task.job, task.index),
        queued_ms=task.queued_ms,
        recalls=task.recalls,
    )


def request(asked: Asked, known: Known) -> Request:
    """A task as the scheduler sees it."""
    spec, (task, job, index) = asked.spec, asked.key
    return Request(
        task_id=task,
        job_id=job,
        order=(job, index),
        project=spec.project,
        allocation=asked.allocation,
        resources=spec.resources,
        walltime_s=spec.walltime_s,
        grace_s=spec.grace_s + END_SLACK_S,
        priority=spec.priority,
        data_class=spec.data_class,
        tier=spec.tier,
        max_running=spec.array.max_running if spec.array else None,
        share=known.leaf(asked.allocation),
        estimate_ms=(known.foretold.get(job) or known.estimate(spec, asked.submitter)).median_ms,
        waiting_since_ms=asked.queued_ms,
        recalls=asked.recalls,
    )


def allocation_state(allocation: Allocation, balance: Balance) -> AllocationState:
    """An allocation and what is left of it."""
    return AllocationState(allocation=allocation, available=balance.available, held=balance.held)


def _pool_state(
    pool: Pool, site: Site | None, moment: Moment
) -> tuple[PoolState, tuple[Occupation, ...]]:
    """The nodes of a pool that may be used: up by report, and no more than the plan has."""
    if site is None or moment.is_silent(site):
        return PoolState(pool=pool, nodes=(), silent=site is not None), ()
    planned = pool.nodes_in_service(moment.now_ms)
    offered = _gpus_by_node(site.report.pools, pool.id)
    nodes = tuple(sorted(offered)[:planned])
    offline = tuple(
        _offline(pool, node, pool.gpus_per_node - offered[node])
        for node in nodes
        if offered[node] < pool.gpus_per_node
    )
    standing = _as_it_stands(pool, _nodes_there(site.report.pools, pool.id), planned)
    return PoolState(pool=standing, nodes=nodes), offline


def _as_it_stands(pool: Pool, nodes: int, planned: int) -> Pool:
    """A pool whose site has fewer nodes, up or down, than the plan says: that many until it has
    more. Guarantees are then cut to what there is; of nodes that do not exist nobody lends.
    """
    if not 0 < nodes < planned:
        return pool
    wave = Wave(
        id="standing",
        gpus=nodes * pool.gpus_per_node,
        assumed=False,
        phases=(PhaseStart(WavePhase.IN_SERVICE, 0),),
    )
    return replace(pool, waves=(wave,), shares=())


def _nodes_there(reports: Sequence[PoolReport], pool_id: str) -> int:
    return sum(len(report.nodes) for report in reports if report.pool_id == pool_id)


def _gpus_by_node(reports: Sequence[PoolReport], pool_id: str) -> Mapping[int, int]:
    return {
        node.ordinal: node.gpus
        for report in reports
        if report.pool_id == pool_id
        for node in report.nodes
        if node.up and node.gpus > 0
    }


def _offline(pool: Pool, node: int, slots: int) -> Occupation:
    return Occupation(
        attempt_id=f"{OFFLINE}-{pool.id}-{node}",
        task_id=0,
        job_id=0,
        pool_id=pool.id,
        nodes=(node,),
        slots_per_node=slots,
        gpus=slots,
        allocation="",
        ends_ms=NEVER_MS,
    )


def _occupations(connection: Connection, moment: Moment, known: Known) -> tuple[Occupation, ...]:
    """What open attempts hold."""
    live = jobs.live(connection)
    found = moment.memory.running.of(connection, live, _reader(known), known.leaf)
    requests = {one.task_id: one for one in found}
    return tuple(
        _occupation(attempt, requests[attempt.task], known, moment.now_ms)
        for attempt in attempts.open_attempts(connection)
    )


def _occupation(attempt: Attempt, request: Request, known: Known, now_ms: int) -> Occupation:
    """An attempt may keep its GPUs for walltime and grace, and once it was told to stop for the
    grace; one that is overdue, for a moment yet. One that has not started may do so now at the
    earliest.
    """
    begun_ms = attempt.started_ms if attempt.started_ms is not None else now_ms
    ends_ms = begun_ms + attempt.occupied_ms
    if attempt.notice_ms is not None:
        ends_ms = min(ends_ms, attempt.notice_ms + request.grace_s * MS_PER_S)
    ends_ms = max(ends_ms, now_ms + 1)
    estimate = known.foretold.get(attempt.job) or Estimate(
        request.estimate_ms or attempt.occupied_ms, attempt.occupied_ms
    )
    return Occupation(
        attempt_id=attempt.id,
        task_id=attempt.task,
        job_id=attempt.job,
        pool_id=attempt.pool,
        nodes=attempt.nodes,
        slots_per_node=attempt.slots_per_node,
        gpus=attempt.gpus,
        allocation=attempt.allocation,
        ends_ms=ends_ms,
        share=known.in_tree(attempt.share) or "",
        guarantor=known.in_tree(attempt.guarantor),
        started_ms=begun_ms,
        expected_ms=min(ends_ms, begun_ms + estimate.expected_ms(max(0, now_ms - begun_ms))),
        checkpoint_ms=attempt.saved_ms,
        recalled_ms=attempt.notice_ms,
        recalls=request.recalls,
        grace_s=request.grace_s,
        tier=request.tier,
    )
