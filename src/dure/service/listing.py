"""Lists over the whole federation of what the caller may see: tasks, and how shares stand."""

from __future__ import annotations

from dataclasses import dataclass

from dure.control.memory import shares_of_projects
from dure.control.snapshot import world
from dure.errors import NotFoundError, RefusedError
from dure.fleet import Pool
from dure.listing import ShareLine, TaskPage
from dure.metering import Tariff
from dure.people import NATION, Action, Principal
from dure.scheduling.fairshare import FairShare
from dure.scheduling.world import World
from dure.service import Service
from dure.service.access import require_seen
from dure.service.jobs import visible_projects
from dure.shares import path
from dure.store import listing
from dure.store.jobs import job_number
from dure.text import shown
from dure.units import MILLI, MS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which tasks to list; None asks for no such thing. `after` is a page's cursor."""

    project: str | None = None
    submitter: str | None = None
    job: str | None = None
    open_only: bool = False
    since_ms: int | None = None
    after: int | None = None
    limit: int = 500


def tasks(service: Service, principal: Principal, wanted: Wanted) -> TaskPage:
    """Tasks that the caller may see, newest first.

    Raises:
        RefusedError: no such project or job that they may see.
    """
    of_projects = visible_projects(principal, Action.READ_JOBS)
    if wanted.project is not None:
        missing = NotFoundError("project", wanted.project)
        require_seen(principal, Action.READ_JOBS, wanted.project, missing)
        of_projects = (wanted.project,)
    number = None if wanted.job is None else job_number(wanted.job)
    if wanted.job is not None and number is None:
        raise RefusedError("bad-input", f"job {shown(wanted.job)} is not a job's id; j-812 say.")
    query = listing.TaskQuery(
        of_projects=of_projects,
        submitter=wanted.submitter,
        job=number,
        open_only=wanted.open_only,
        since_ms=wanted.since_ms,
        before=wanted.after,
        limit=wanted.limit,
    )
    with service.database.read() as connection:
        return TaskPage(*listing.page(connection, query))


def shares(service: Service, principal: Principal) -> tuple[ShareLine, ...]:
    """How shares stand: those of the caller's projects with all above them, or, for who may read
    every project, the whole tree.
    """
    scopes = principal.scopes_of(Action.READ_PROJECT)
    with service.database.read() as connection:
        moment = service.moment(connection)
        now = world(connection, moment, moment.known(connection))
        own = {*shares_of_projects(connection, moment.scenario, tuple(scopes))}
    by_id = now.shares.by_id
    mine = set(by_id)
    if NATION not in scopes:
        leaves = own & set(by_id)
        below = {id_ for id_ in by_id if any(id_.startswith(f"{leaf}.") for leaf in leaves)}
        mine = {above for leaf in leaves | below for above in path(now.shares, leaf)}
    return _lines(now, mine)


def _lines(now: World, mine: set[str]) -> tuple[ShareLine, ...]:
    """A line for each of these shares, parents first."""
    if not now.shares.shares:
        return ()
    fair = FairShare(now.shares, now.tuning.half_life_s * MILLI, origin_ms=now.now_ms)
    used: dict[str, int] = {}
    held: dict[str, int] = {}
    weights = _weights(now.tariff, [state.pool for state in now.pools])
    for one in now.usage:
        if one.share in now.shares.by_id:
            fair.charge(one.share, one.credit_ms, one.at_ms)
            for above in path(now.shares, one.share):
                used[above] = used.get(above, 0) + one.credit_ms
    for occupation in now.occupations:
        if occupation.share in now.shares.by_id:
            rate_milli = occupation.gpus * weights[occupation.pool_id]
            fair.starts(occupation.share, rate_milli, now.now_ms)
            for above in path(now.shares, occupation.share):
                held[above] = held.get(above, 0) + occupation.gpus
    return tuple(
        ShareLine(
            share=one.id,
            parent=one.parent,
            weight_milli=one.weight_milli,
            entitled_ppm=standing.entitled_ppm,
            used_ppm=standing.used_ppm,
            held_ppm=standing.held_ppm,
            used_credit_s=used.get(one.id, 0) // MS_PER_S,
            gpus_held=held.get(one.id, 0),
        )
        for one in now.shares.shares
        if one.id in mine
        for standing in fair.explain(one.id, now.now_ms)[-1:]
    )


def _weights(tariff: Tariff, pools: list[Pool]) -> dict[str, int]:
    by_model = dict(tariff.weights_milli)
    return {pool.id: by_model.get(pool.gpu_model, MILLI) for pool in pools}
