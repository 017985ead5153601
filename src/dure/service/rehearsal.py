"""What a rehearsal of the running federation begins with."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import Connection

from dure.allocations import Allocation, OrganisationKind
from dure.control.memory import Known
from dure.control.snapshot import world as snapshot_world
from dure.jobs import JobSpec
from dure.people import Action, Principal
from dure.scheduling.world import Occupation, PoolState
from dure.service import Service
from dure.service.access import require
from dure.shares import ShareKind
from dure.snapshot import Running, Snapshot, Standing, Terms, Waiting
from dure.store import jobs, projects, sites
from dure.store.jobs import Task, job_name
from dure.store.sites import Site


def snapshot(service: Service, principal: Principal) -> Snapshot:
    """The running federation as it stands now. For the programme office: it tells of everybody."""
    require(principal, Action.REHEARSE)
    with service.database.read() as connection:
        moment = service.moment(connection)
        known = moment.known(connection)
        present = snapshot_world(connection, moment, known)
        tasks = jobs.live_tasks(connection)
        terms = _AllTerms(known, {one.id: one for one in projects.find_allocations(connection)})
        running = [
            _running(held, tasks[held.task_id], terms)
            for held in present.occupations
            if held.task_id in tasks
        ]
        queued = jobs.all_queued(connection, moment.now_ms)
        waiting = [_waiting(task, known, terms) for task in queued]
        return Snapshot(
            at_ms=moment.now_ms,
            scenario=moment.scenario,
            shares=known.shares.shares,
            groups=_groups(connection, known),
            tuning=service.settings.tuning,
            usage=known.usage,
            pools=_standing(connection, present.pools),
            terms=tuple(terms.found),
            running=tuple(running),
            waiting=tuple(waiting),
        )


@dataclass(slots=True)
class _AllTerms:
    """The terms of all tasks so far, each once. Whoever and whatever is alike gets a number."""

    known: Known
    allocations: dict[str, Allocation]
    found: dict[Terms, int] = field(default_factory=dict)
    _likes: dict[tuple[str, str, str], int] = field(default_factory=dict)

    def of(self, task: Task, share: str, gpus_per_node: int) -> int:
        """The place of a task's terms."""
        spec: JobSpec = task.spec
        allocation = self.allocations[task.allocation]
        models, pins = spec.resources.gpu_models, spec.resources.pools
        if not models and allocation.gpu_model is not None:
            models = (allocation.gpu_model,)
        like = (spec.project, task.submitter, spec.name)
        terms = Terms(
            project=spec.project,
            share=share,
            like=self._likes.setdefault(like, len(self._likes)),
            nodes=spec.resources.nodes,
            gpus_per_node=gpus_per_node,
            gpu_models=models,
            pool=allocation.pool or (pins[0] if len(pins) == 1 else None),
            data_class=spec.data_class,
            tier=spec.tier,
            priority=spec.priority,
            walltime_s=spec.walltime_s,
            saves=spec.checkpoint is not None,
        )
        return self.found.setdefault(terms, len(self.found))


def _running(held: Occupation, task: Task, terms: _AllTerms) -> Running:
    expected_ms = held.ends_ms if held.expected_ms is None else held.expected_ms
    return Running(
        id=f"{job_name(task.job)}.{task.index}",
        terms=terms.of(task, held.share, held.slots_per_node),
        pool=held.pool_id,
        nodes=held.nodes,
        guarantor=held.guarantor,
        started_ms=held.started_ms,
        expected_ms=expected_ms,
        ends_ms=held.ends_ms,
        notice_ms=held.recalled_ms,
        recalls=held.recalls,
    )


def _waiting(task: Task, known: Known, terms: _AllTerms) -> Waiting:
    share = known.leaf(task.allocation)
    return Waiting(
        id=f"{job_name(task.job)}.{task.index}",
        terms=terms.of(task, share, task.spec.resources.gpus_per_node),
        since_ms=task.queued_ms,
        expected_ms=(
            known.foretold.get(task.job) or known.estimate(task.spec, task.submitter)
        ).median_ms,
        recalls=task.recalls,
    )


def _groups(connection: Connection, known: Known) -> dict[str, OrganisationKind]:
    kinds = projects.kinds_of_projects(connection)
    return {
        share.id: kinds[project]
        for share in known.shares.shares
        if share.kind is ShareKind.PROJECT and (project := share.id.rpartition(".")[2]) in kinds
    }


def _standing(connection: Connection, pools: tuple[PoolState, ...]) -> tuple[Standing, ...]:
    reported = {site.cluster: site for site in sites.all_sites(connection)}
    return tuple(
        _stands(state.pool.id, reported.get(state.pool.cluster_id), silent=state.silent)
        for state in pools
    )


def _stands(pool: str, site: Site | None, *, silent: bool) -> Standing:
    reports = site.report.pools if site is not None else ()
    nodes = [node for report in reports if report.pool_id == pool for node in report.nodes]
    down = sorted(node.ordinal for node in nodes if not node.up)
    return Standing(pool=pool, nodes=len(nodes), down=tuple(down), silent=silent)
