"""Statements on acts: who did what with a right that others lack. The database only adds to it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select

from dure.people import Principal
from dure.store.schema import acts
from dure.views import Act, ActPage


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """An act about to be written. `subject` is what it was done to: `project/lab`, `token/ID`.

    It is kept for ever: no secrets in it, and of a person the id alone.
    """

    act: str
    subject: str
    sentence: str


def write(connection: Connection, principal: Principal, deed: Deed, now_ms: int) -> None:
    """Record what the principal does, in the transaction that does it. Numbered without gaps."""
    connection.execute(
        insert(acts).values(
            seq=select(func.coalesce(func.max(acts.c.seq), 0) + 1).scalar_subquery(),
            at_ms=now_ms,
            person=principal.person,
            token=principal.token,
            act=deed.act,
            subject=deed.subject,
            sentence=deed.sentence,
        )
    )


def page(connection: Connection, after: int | None, limit: int) -> ActPage:
    """Acts, newest first; `after` is the cursor that the page before ended with."""
    query = select(acts).order_by(acts.c.seq.desc()).limit(limit + 1)
    if after is not None:
        query = query.where(acts.c.seq < after)
    found = tuple(
        Act(
            seq=row.seq,
            at_ms=row.at_ms,
            person=row.person,
            token=row.token,
            act=row.act,
            subject=row.subject,
            sentence=row.sentence,
        )
        for row in connection.execute(query)
    )
    shown = found[:limit]
    return ActPage(shown, shown[-1].seq if len(found) > limit else None)
