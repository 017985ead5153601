"""Statements on attempts: opening one, what its site says of it, closing it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    String,
    bindparam,
    cast,
    func,
    insert,
    select,
    tuple_,
    update,
)

from dure import codec
from dure.agent.wire import Manifest, Wish
from dure.allocations import BudgetUnit
from dure.errors import Reason
from dure.ledger import CLOSE_PREFIX
from dure.lending import Lent
from dure.life import CHARGED, EndCause
from dure.metering import Factors
from dure.store.jobs import job_name
from dure.store.ledger_schema import journals
from dure.store.metadata import total
from dure.store.schema import allocations, attempts, jobs, manifests, sites, tasks
from dure.units import INT64_MAX
from dure.views import AttemptView, StatementLine, UsageLine

_FACTORS: Final[TypeAdapter[Factors]] = codec.adapter(Factors)
_LENDERS: Final[TypeAdapter[tuple[Lent, ...]]] = codec.adapter(tuple[Lent, ...])


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """An attempt as it stands. It is open while `closed_ms` is None."""

    id: str
    task: int
    job: int
    number: int
    cluster: str
    pool: str
    operator: str
    gpu_model: str
    nodes: tuple[int, ...]
    slots_per_node: int
    allocation: str
    hold: int
    hold_gpu_ms: int
    occupied_ms: int
    """The longest that it keeps its GPUs once it has started."""
    factors: Factors
    placed: Reason
    wish: Wish
    intended_ms: int
    lease_until_ms: int
    share: str = ""
    """The share that it runs for; empty: none was known."""
    guarantor: str | None = None
    """The share under whose guarantee it runs; None: it borrows, from its lenders if any."""
    lenders: tuple[Lent, ...] = ()
    notice_ms: int | None = None
    """When it was first told to stop."""
    saved_ms: int | None = None
    """When its site last saw it write its checkpoint."""
    engine_id: str | None = None
    started_ms: int | None = None
    missing_since_ms: int | None = None
    closed_ms: int | None = None

    @property
    def gpus(self) -> int:
        """GPUs that it occupies and is charged for."""
        return len(self.nodes) * self.slots_per_node


def open_attempt(connection: Connection, attempt: Attempt) -> None:
    """Record a new attempt. The database refuses a second open one of its task (I2)."""
    connection.execute(
        insert(attempts).values(
            id=attempt.id,
            task=attempt.task,
            job=attempt.job,
            number=attempt.number,
            cluster=attempt.cluster,
            pool=attempt.pool,
            operator=attempt.operator,
            gpu_model=attempt.gpu_model,
            nodes=list(attempt.nodes),
            slots_per_node=attempt.slots_per_node,
            allocation=attempt.allocation,
            hold=attempt.hold,
            hold_gpu_ms=attempt.hold_gpu_ms,
            occupied_ms=attempt.occupied_ms,
            factors=_FACTORS.dump_python(attempt.factors, mode="json"),
            reason_code=attempt.placed.code,
            reason=attempt.placed.sentence,
            wish=attempt.wish,
            intended_ms=attempt.intended_ms,
            lease_until_ms=attempt.lease_until_ms,
            share=attempt.share,
            guarantor=attempt.guarantor,
            lenders=_LENDERS.dump_python(attempt.lenders, mode="json"),
        )
    )


def change(connection: Connection, attempt: str, **values: Any) -> None:
    """Set some columns of an open attempt."""
    connection.execute(
        update(attempts)
        .where(attempts.c.id == attempt, attempts.c.closed_ms.is_(None))
        .values(**values)
    )


def order_to_stop(connection: Connection, attempt: Attempt, now_ms: int) -> None:
    """Wish an open attempt to end. The first notice counts: its grace runs from then."""
    notice_ms = now_ms if attempt.notice_ms is None else attempt.notice_ms
    change(connection, attempt.id, wish=Wish.STOP, notice_ms=notice_ms)


def refund(connection: Connection, attempt: str, reason: str) -> None:
    """Note that a closed attempt's charge was given back."""
    connection.execute(
        update(attempts).where(attempts.c.id == attempt).values(charge=0, refund=reason)
    )


def extend_leases(connection: Connection, ids: Sequence[str], until_ms: int) -> None:
    """Let attempts that their site was just told of go on unseen until then."""
    if not ids:
        return
    connection.execute(
        update(attempts)
        .where(attempts.c.id.in_(ids), attempts.c.lease_until_ms < until_ms)
        .values(lease_until_ms=until_ms)
    )


def note_accepted(connection: Connection, engine_ids: Mapping[str, str]) -> None:
    """Note under which ids an engine has accepted open attempts."""
    for attempt, engine_id in engine_ids.items():
        change(connection, attempt, engine_id=engine_id)


_ATTEMPT: Final = select(
    *(column for column in attempts.c if column.name not in {"nodes", "factors", "lenders"}),
    *(cast(attempts.c[name], String).label(name) for name in ("nodes", "factors", "lenders")),
)
"""What `_attempt` reads: documents as text, for most of them have been read before."""


@lru_cache(maxsize=100_000)
def _nodes(document: str) -> tuple[int, ...]:
    return tuple(json.loads(document))


@lru_cache(maxsize=10_000)
def _factors(document: str) -> Factors:
    return _FACTORS.validate_json(document)


@lru_cache(maxsize=10_000)
def _lenders(document: str) -> tuple[Lent, ...]:
    return _LENDERS.validate_json(document)


@lru_cache(maxsize=50_000)
def _attempt(row: Row[tuple[object, ...]]) -> Attempt:
    """Each cycle reads all that runs, of which little has changed since the one before."""
    return Attempt(
        id=row.id,
        task=row.task,
        job=row.job,
        number=row.number,
        cluster=row.cluster,
        pool=row.pool,
        operator=row.operator,
        gpu_model=row.gpu_model,
        nodes=_nodes(row.nodes),
        slots_per_node=row.slots_per_node,
        allocation=row.allocation,
        hold=row.hold,
        hold_gpu_ms=row.hold_gpu_ms,
        occupied_ms=row.occupied_ms,
        factors=_factors(row.factors),
        placed=Reason(row.reason_code, row.reason),
        wish=Wish(row.wish),
        intended_ms=row.intended_ms,
        lease_until_ms=row.lease_until_ms,
        share=row.share or "",
        guarantor=row.guarantor,
        lenders=_lenders(row.lenders),
        notice_ms=row.notice_ms,
        saved_ms=row.saved_ms,
        engine_id=row.engine_id,
        started_ms=row.started_ms,
        missing_since_ms=row.missing_since_ms,
        closed_ms=row.closed_ms,
    )


def open_attempts(connection: Connection, cluster: str | None = None) -> tuple[Attempt, ...]:
    """Open attempts by id, of one cluster or of all."""
    query = _ATTEMPT.where(attempts.c.closed_ms.is_(None))
    if cluster is not None:
        query = query.where(attempts.c.cluster == cluster)
    return _by_id(connection, query)


@dataclass(frozen=True, slots=True)
class Standing:
    """A cluster as its agent is answered: all that an answer can differ by."""

    received_ms: int | None
    """When its agent was last heard, as written down; None: never."""
    wishes: str
    """What should become of each open attempt, and whether its engine has it; to be compared."""
    lease_until_ms: int
    """The first of their leases to end; the last instant there is, where nothing is open."""


def _standing() -> Select[Any]:
    of, cluster = attempts.c, bindparam("of_cluster", type_=String)
    wish = of.id + "=" + of.wish + "=" + of.engine_id.is_(None).cast(String)
    received_ms = select(sites.c.received_ms).where(sites.c.cluster == cluster)
    return select(
        received_ms.scalar_subquery(),
        # In no order: asked for one, SQLite walks all attempts that are open. Another order of the
        # same is taken for a change, which costs a longer answer.
        func.aggregate_strings(wish, ","),
        func.min(of.lease_until_ms),
    ).where(of.closed_ms.is_(None), of.cluster == cluster)


_STANDING: Final = _standing()
"""One row, not one for each attempt: SQLite's driver lets other threads go first at each."""


def standing(connection: Connection, cluster: str) -> Standing:
    """How a cluster stands now."""
    received_ms, wishes, lease_ms = connection.execute(_STANDING, {"of_cluster": cluster}).one()
    return Standing(received_ms, wishes or "", INT64_MAX if lease_ms is None else lease_ms)


def _by_id(connection: Connection, query: Select[Any]) -> tuple[Attempt, ...]:
    """Sorted here: asked for an order, SQLite walks all attempts there ever were by their id."""
    rows = sorted(connection.execute(query), key=lambda row: str(row.id))
    return tuple(_attempt(row) for row in rows)


def overdue(connection: Connection, now_ms: int, margin_ms: int) -> tuple[Attempt, ...]:
    """Open attempts that have run for longer than they may, by more than a margin, and were not
    told to stop; by id.
    """
    over = now_ms - attempts.c.started_ms > attempts.c.occupied_ms + margin_ms
    return _wished(connection, over)


def unstarted(connection: Connection, before_ms: int) -> tuple[Attempt, ...]:
    """Open attempts intended before an instant that no engine has accepted yet; by id."""
    late = attempts.c.engine_id.is_(None) & (attempts.c.intended_ms < before_ms)
    return _wished(connection, late)


def _wished(connection: Connection, which: ColumnElement[bool]) -> tuple[Attempt, ...]:
    query = _ATTEMPT.where(attempts.c.closed_ms.is_(None), attempts.c.wish == Wish.RUN, which)
    return _by_id(connection, query)


def attempt_of_task(connection: Connection, task: int) -> Attempt | None:
    """A task's open attempt, or None."""
    row = connection.execute(
        _ATTEMPT.where(attempts.c.task == task, attempts.c.closed_ms.is_(None))
    ).one_or_none()
    return None if row is None else _attempt(row)


def find(connection: Connection, attempt: str) -> Attempt | None:
    """An attempt by its id, open or closed, or None."""
    row = connection.execute(_ATTEMPT.where(attempts.c.id == attempt)).one_or_none()
    return None if row is None else _attempt(row)


def known(connection: Connection, ids: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """Of those attempts, the ones that exist: id -> (cluster, whether it is closed)."""
    rows = connection.execute(
        select(attempts.c.id, attempts.c.cluster, attempts.c.closed_ms).where(
            attempts.c.id.in_(list(ids))
        )
    )
    return {row.id: (row.cluster, row.closed_ms is not None) for row in rows}


@dataclass(frozen=True, slots=True)
class Closed:
    """A closed attempt, and whose it was; `task` and `job` are row ids."""

    attempt: str
    task: int
    job: int
    project: str


def closed_of(connection: Connection, ids: Sequence[str], cluster: str) -> tuple[Closed, ...]:
    """Of those attempts, the closed ones of a cluster, by id."""
    of = attempts.c
    rows = connection.execute(
        select(of.id, of.task, of.job, jobs.c.project)
        .join_from(attempts, jobs, jobs.c.id == of.job)
        .where(of.id.in_(ids), of.cluster == cluster, of.closed_ms.is_not(None))
        .order_by(of.id)
    )
    return tuple(Closed(row.id, row.task, row.job, row.project) for row in rows)


def last_outputs(connection: Connection, job: int) -> tuple[tuple[int, str, Manifest], ...]:
    """(task index, attempt id, manifest) of each task's last closed attempt with outputs."""
    rows = connection.execute(
        select(tasks.c.array_index, attempts.c.id, manifests.c.document)
        .join_from(attempts, tasks, tasks.c.id == attempts.c.task)
        .join(manifests, manifests.c.sha256 == attempts.c.outputs)
        .where(attempts.c.job == job)
        .order_by(tasks.c.array_index, attempts.c.number)
    )
    last = {row.array_index: (row.array_index, row.id, row.document) for row in rows}
    return tuple(
        (index, attempt, codec.read(Manifest, document))
        for index, attempt, document in last.values()
    )


def views_by_task(
    connection: Connection, job: int, task_ids: Iterable[int]
) -> dict[int, list[AttemptView]]:
    """The attempts of a job's tasks, as the API shows them, in their order."""
    rows = connection.execute(
        select(attempts)
        .where(attempts.c.job == job, attempts.c.task.in_(list(task_ids)))
        .order_by(attempts.c.task, attempts.c.number)
    )
    found: dict[int, list[AttemptView]] = {}
    for row in rows:
        found.setdefault(row.task, []).append(_view(row))
    return found


def _view(row: Row[tuple[object, ...]]) -> AttemptView:
    return AttemptView(
        id=row.id,
        number=row.number,
        operator=row.operator,
        cluster=row.cluster,
        pool=row.pool,
        gpu_model=row.gpu_model,
        nodes=tuple(row.nodes),
        gpus=len(row.nodes) * row.slots_per_node,
        placed=Reason(row.reason_code, row.reason),
        intended_ms=row.intended_ms,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cause=None if row.cause is None else EndCause(row.cause),
        exit_code=row.exit_code,
        detail=row.detail,
        gpu_ms=row.gpu_ms,
        charge=row.charge,
        dispute=row.dispute,
        guarantor=row.guarantor,
        lenders=_LENDERS.validate_python(row.lenders),
    )


def job_totals(connection: Connection, job: int) -> tuple[int, int]:
    """(GPU-ms metered, charge) of a job's closed attempts."""
    row = connection.execute(
        select(
            func.coalesce(func.sum(attempts.c.gpu_ms), 0),
            func.coalesce(func.sum(attempts.c.charge), 0),
        ).where(attempts.c.job == job)
    ).one()
    return int(row[0]), int(row[1])


# ---- usage ---------------------------------------------------------------------------------------

_UNIT: Final = {"hours": BudgetUnit.UCREDIT, "capacity": BudgetUnit.GPU_MS}
_ABSORBED: Final = [cause for cause in EndCause if cause not in CHARGED]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which closed attempts: None means any. The window [from_ms, until_ms) is of closing."""

    of_projects: tuple[str, ...] | None = None
    operator: str | None = None
    job: int | None = None
    from_ms: int | None = None
    until_ms: int | None = None

    def conditions(self) -> list[Any]:
        """As SQL."""
        wanted: list[Any] = [attempts.c.closed_ms.is_not(None)]
        if self.of_projects is not None:
            wanted.append(jobs.c.project.in_(self.of_projects))
        if self.operator is not None:
            wanted.append(attempts.c.operator == self.operator)
        if self.job is not None:
            wanted.append(attempts.c.job == self.job)
        if self.from_ms is not None:
            wanted.append(attempts.c.closed_ms >= self.from_ms)
        if self.until_ms is not None:
            wanted.append(attempts.c.closed_ms < self.until_ms)
        return wanted


def usage(
    connection: Connection, wanted: UsageFilter, before: tuple[int, str] | None, limit: int
) -> tuple[tuple[UsageLine, ...], tuple[int, str] | None]:
    """Usage lines, last closed first, below the cursor `before`; and the next cursor."""
    query = (
        select(
            attempts,
            tasks.c.array_index.label("task_index"),
            jobs.c.project,
            allocations.c.kind,
            journals.c.seq.label("journal"),
        )
        .join_from(attempts, tasks, tasks.c.id == attempts.c.task)
        .join(jobs, jobs.c.id == attempts.c.job)
        .join(allocations, allocations.c.id == attempts.c.allocation)
        .join(journals, journals.c.id == CLOSE_PREFIX + attempts.c.id)
        .where(*wanted.conditions())
        .order_by(attempts.c.closed_ms.desc(), attempts.c.id.desc())
        .limit(limit)
    )
    if before is not None:
        query = query.where(tuple_(attempts.c.closed_ms, attempts.c.id) < before)
    rows = connection.execute(query).all()
    cursor = (rows[-1].closed_ms, rows[-1].id) if len(rows) == limit else None
    return tuple(_usage_line(row) for row in rows), cursor


def _usage_line(row: Row[tuple[object, ...]]) -> UsageLine:
    cause = EndCause(row.cause)
    return UsageLine(
        attempt=row.id,
        job=job_name(row.job),
        task_index=row.task_index,
        allocation=row.allocation,
        project=row.project,
        operator=row.operator,
        pool=row.pool,
        gpu_model=row.gpu_model,
        started_ms=row.started_ms,
        ended_ms=row.ended_ms,
        cause=cause,
        gpu_ms=row.gpu_ms,
        unit=_UNIT[row.kind],
        charge=row.charge,
        absorbed=cause not in CHARGED or row.refund is not None,
        factors=_FACTORS.validate_python(row.factors),
        dispute=row.dispute,
        refund=row.refund,
        journal=row.journal,
    )


def statement_lines(connection: Connection, wanted: UsageFilter) -> tuple[StatementLine, ...]:
    """Sums over closed attempts by project, allocation, operator and GPU model."""
    absorbed = attempts.c.cause.in_(_ABSORBED) | attempts.c.refund.is_not(None)
    keys = (jobs.c.project, attempts.c.allocation, attempts.c.operator, attempts.c.gpu_model)
    rows = connection.execute(
        select(
            *keys,
            allocations.c.kind,
            func.count().label("attempts"),
            func.coalesce(total(attempts.c.gpu_ms, ~absorbed), 0).label("gpu_ms"),
            func.coalesce(total(attempts.c.gpu_ms, absorbed), 0).label("absorbed"),
            total(attempts.c.charge).label("charge"),
            func.count(attempts.c.dispute).label("disputed"),
        )
        .join_from(attempts, jobs, jobs.c.id == attempts.c.job)
        .join(allocations, allocations.c.id == attempts.c.allocation)
        .where(*wanted.conditions())
        .group_by(*keys, allocations.c.kind)
        .order_by(*keys)
    )
    return tuple(
        StatementLine(
            project=row.project,
            allocation=row.allocation,
            operator=row.operator,
            gpu_model=row.gpu_model,
            attempts=row.attempts,
            gpu_ms=row.gpu_ms,
            unit=_UNIT[row.kind],
            charge=row.charge,
            absorbed_gpu_ms=row.absorbed,
            disputed=row.disputed,
        )
        for row in rows
    )
