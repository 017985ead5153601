"""What ended attempts tell of those to come: how long they ran, and what their shares used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, func, select

from dure import codec
from dure.life import CHARGED, EndCause
from dure.metering import Factors
from dure.store.jobs import read_spec
from dure.store.ledger_schema import journals
from dure.store.schema import attempts, jobs
from dure.units import MILLI, MS_PER_S

_USED: Final = CHARGED | {EndCause.RECALLED}
"""What the platform broke was of no use to anybody; what it called back had been used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """An attempt that has ended."""

    project: str
    user: str
    name: str
    gpus: int
    """As its job asked for; for all nodes."""
    walltime_ms: int
    ran_ms: int
    share: str
    credit_ms: int
    """What it used, in H100-ms: 0 for what the platform broke."""
    closed_ms: int
    whole: bool
    """Whether it ran to an end of its own from its beginning, so that it tells how long its like
    runs."""


def recent_runs(connection: Connection, after_seq: int, limit: int) -> tuple[tuple[Run, ...], int]:
    """The last `limit` attempts that ran and were closed by journals after `after_seq`, oldest
    first; and the last journal that was looked at.
    """
    head = connection.scalar(select(func.max(journals.c.seq))) or 0
    if head <= after_seq:
        return (), after_seq
    rows = connection.execute(
        select(attempts, jobs.c.project, jobs.c.submitter, jobs.c.name, jobs.c.spec)
        .join_from(journals, attempts, attempts.c.id == journals.c.attempt_id)
        .join(jobs, jobs.c.id == attempts.c.job)
        .where(journals.c.seq > after_seq, journals.c.kind == "settle", attempts.c.gpu_ms > 0)
        .order_by(journals.c.seq.desc())
        .limit(limit)
    ).all()
    found = []
    for row in reversed(rows):
        cause, spec = EndCause(row.cause), read_spec(row.job, row.spec)
        occupied = len(row.nodes) * row.slots_per_node
        priced_by = codec.adapter(Factors).validate_python(row.factors)
        used_ms = row.gpu_ms if cause in _USED else 0
        found.append(
            Run(
                project=row.project,
                user=row.submitter,
                name=row.name,
                gpus=spec.resources.gpus,
                walltime_ms=spec.walltime_s * MS_PER_S,
                ran_ms=max(1, row.gpu_ms // occupied),
                share=row.share or "",
                credit_ms=used_ms * priced_by.weight_milli // MILLI,
                closed_ms=row.closed_ms,
                whole=cause in CHARGED and (row.number == 1 or spec.checkpoint is None),
            )
        )
    return tuple(found), head
