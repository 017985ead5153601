"""What ended attempts tell of those to come: how long they ran, and what their shares used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, func, select

from dure import codec
from dure.life import CHARGED, TERMINAL, EndCause, State
from dure.metering import Factors
from dure.store.jobs import read_spec
from dure.store.ledger_schema import journals
from dure.store.schema import attempts, jobs
from dure.units import MS_PER_S

_USED: Final = CHARGED | {EndCause.RECALLED}
"""What the platform broke was of no use to anybody; what it called back had been used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job as it was submitted. `gpus` are those asked for, of all nodes of a task."""

    job: int
    at_ms: int
    project: str
    user: str
    name: str
    gpus: int
    walltime_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An attempt that has ended."""

    of: Submitted
    ran_ms: int
    share: str
    rate_milli: int
    """What it occupied, in thousandths of an H100."""
    used_ms: int
    """How long that was of use: 0 for what the platform broke."""
    closed_ms: int
    whole: bool
    """Whether it ran to an end of its own from its beginning, so that it tells how long its like
    runs."""
    is_last: bool
    """Whether its job has ended with it."""


def submitted_since(connection: Connection, after_job: int) -> tuple[Submitted, ...]:
    """The jobs accepted after that one that have not ended, in their order."""
    query: Select[Any] = (
        select(*_SUBMITTED)
        .where(jobs.c.id > after_job, jobs.c.state.in_(_OPEN))
        .order_by(jobs.c.id)
    )
    rows = connection.execute(query)
    return tuple(_submitted(row) for row in rows)


def open_jobs(connection: Connection) -> frozenset[int]:
    """The jobs that have not ended."""
    return frozenset(connection.scalars(select(jobs.c.id).where(jobs.c.state.in_(_OPEN))))


def recent_runs(connection: Connection, after_seq: int, limit: int) -> tuple[tuple[Run, ...], int]:
    """The last `limit` attempts that ran and were closed by journals after `after_seq`, oldest
    first; and the last journal that was looked at.
    """
    head = connection.scalar(select(func.max(journals.c.seq))) or 0
    if head <= after_seq:
        return (), after_seq
    rows = connection.execute(
        select(attempts, *_SUBMITTED, jobs.c.state.label("job_state"))
        .join_from(journals, attempts, attempts.c.id == journals.c.attempt_id)
        .join(jobs, jobs.c.id == attempts.c.job)
        .where(journals.c.seq > after_seq, journals.c.kind == "settle", attempts.c.gpu_ms > 0)
        .order_by(journals.c.seq.desc())
        .limit(limit)
    ).all()
    return tuple(_run(row) for row in reversed(rows)), head


_OPEN: Final = [state for state in State if state not in TERMINAL]
_SUBMITTED: Final = (
    jobs.c.id.label("job_id"),
    jobs.c.accepted_ms,
    jobs.c.project,
    jobs.c.submitter,
    jobs.c.name,
    jobs.c.spec,
)


def _submitted(row: Row[Any]) -> Submitted:
    spec = read_spec(row.job_id, row.spec)
    return Submitted(
        job=row.job_id,
        at_ms=row.accepted_ms,
        project=row.project,
        user=row.submitter,
        name=row.name,
        gpus=spec.resources.gpus,
        walltime_ms=spec.walltime_s * MS_PER_S,
    )


def _run(row: Row[Any]) -> Run:
    cause, spec = EndCause(row.cause), read_spec(row.job_id, row.spec)
    occupied = len(row.nodes) * row.slots_per_node
    ran_ms = max(1, row.gpu_ms // occupied)
    return Run(
        of=_submitted(row),
        ran_ms=ran_ms,
        share=row.share or "",
        rate_milli=occupied * codec.adapter(Factors).validate_python(row.factors).weight_milli,
        used_ms=ran_ms if cause in _USED else 0,
        closed_ms=row.closed_ms,
        whole=cause in CHARGED and (row.number == 1 or spec.checkpoint is None),
        is_last=State(row.job_state) in TERMINAL,
    )
