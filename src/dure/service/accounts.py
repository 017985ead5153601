"""What things cost and who decided: usage line by line, statements, the ledger, the acts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dure import ledger
from dure.control.memory import shares_of_projects
from dure.errors import NotFoundError, RefusedError
from dure.journal import Journal, JournalKind
from dure.people import Action, Principal
from dure.service import Service
from dure.service.access import require, require_seen
from dure.service.jobs import seen, visible_projects
from dure.store import acts as act_store
from dure.store import attempts
from dure.store import ledger as ledger_store
from dure.store import lending as lending_store
from dure.store.acts import Deed
from dure.store.attempts import UsageFilter
from dure.store.jobs import job_number
from dure.store.lending import LendingFilter
from dure.text import shown
from dure.views import ActPage, LendingStatement, Statement, UsagePage

_CURSOR: Final = re.compile(r"\A(\d{1,18})\.([a-z0-9-]{1,63})\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Which usage: of a project, of a job, or all that the caller may see."""

    project: str | None
    job: str | None
    after: str | None
    limit: int


def usage(service: Service, principal: Principal, query: UsageQuery) -> UsagePage:
    """What attempts used, last closed first."""
    before = None
    if query.after is not None:
        cursor = _CURSOR.match(query.after)
        if cursor is None:
            raise RefusedError("bad-cursor", f"after {shown(query.after)} is not a cursor.")
        before = (int(cursor[1]), cursor[2])
    with service.database.read() as connection:
        wanted = UsageFilter(of_projects=_projects(principal, query.project))
        if query.job is not None:
            summary = seen(connection, principal, query.job)
            wanted = UsageFilter(job=job_number(summary.id))
        lines, following = attempts.usage(connection, wanted, before, query.limit)
    return UsagePage(lines, None if following is None else f"{following[0]}.{following[1]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementQuery:
    """A statement of a project or of an operator, or, with neither, of the nation."""

    project: str | None
    operator: str | None
    from_ms: int | None
    until_ms: int | None


def statement(service: Service, principal: Principal, query: StatementQuery) -> Statement:
    """Sums over [from_ms, until_ms); the same figures for operator, project and ministry."""
    of_projects = None
    if query.operator is not None:
        missing = NotFoundError("operator", query.operator)
        require_seen(principal, Action.READ_OPERATOR, query.operator, missing)
    if query.operator is None or query.project is not None:
        of_projects = _projects(principal, query.project)
    until_ms = service.now_ms() if query.until_ms is None else query.until_ms
    wanted = UsageFilter(
        of_projects=of_projects,
        operator=query.operator,
        from_ms=query.from_ms,
        until_ms=until_ms + 1 if query.until_ms is None else until_ms,
    )
    with service.database.read() as connection:
        lines = attempts.statement_lines(connection, wanted)
    return Statement(from_ms=query.from_ms or 0, until_ms=until_ms, lines=lines)


def lending(service: Service, principal: Principal, query: StatementQuery) -> LendingStatement:
    """What shares lent each other over [from_ms, until_ms): those of a project, of an operator, or
    all that the caller may see.
    """
    sides: list[tuple[str, ...]] = []
    with service.database.read() as connection:
        if query.operator is not None:
            missing = NotFoundError("operator", query.operator)
            require_seen(principal, Action.READ_OPERATOR, query.operator, missing)
            sides.append((query.operator,))
        if query.operator is None or query.project is not None:
            of_projects = _projects(principal, query.project)
            if of_projects is not None:
                scenario = service.scenario(connection)
                sides.append(shares_of_projects(connection, scenario, of_projects))
        until_ms = service.now_ms() if query.until_ms is None else query.until_ms
        wanted = LendingFilter(
            sides=tuple(sides),
            from_ms=query.from_ms,
            until_ms=until_ms + 1 if query.until_ms is None else until_ms,
        )
        lines = lending_store.lines(connection, wanted)
    return LendingStatement(from_ms=query.from_ms or 0, until_ms=until_ms, lines=lines)


def _projects(principal: Principal, project: str | None) -> tuple[str, ...] | None:
    if project is None:
        return visible_projects(principal, Action.READ_PROJECT)
    require_seen(principal, Action.READ_PROJECT, project, NotFoundError("project", project))
    return (project,)


def reverse(service: Service, principal: Principal, seq: int, reason: str) -> Journal:
    """Take a grant back, or give a settled charge back, by a journal of its own."""
    require(principal, Action.AWARD)
    with service.database.write() as connection:
        found = ledger_store.journal(connection, seq)
        if found is None:
            raise NotFoundError("journal", seq)
        try:
            draft = ledger.reverse(found, reason)
        except ValueError as error:
            raise RefusedError("not-reversible", f"{error}.", status=422) from None
        if ledger_store.was_posted(connection, draft.id):
            raise RefusedError(
                "reversed-already", f"Journal {seq} has been reversed already.", status=409
            )
        reversed_ = ledger_store.post(connection, draft, service.now_ms())
        if found.kind == JournalKind.SETTLE and found.attempt_id is not None:
            attempts.refund(connection, found.attempt_id, reason)
        deed = Deed(
            act="journal-reversed",
            subject=f"journal/{seq}",
            sentence=f"Journal {seq}, a {found.kind} of {found.allocation_id}, was reversed by "
            f"journal {reversed_.seq}: {shown(reason)}.",
        )
        act_store.write(connection, principal, deed, service.now_ms())
        return reversed_


def journals(service: Service, principal: Principal, after: int, limit: int) -> tuple[Journal, ...]:
    """A page of the ledger, for whoever audits it."""
    require(principal, Action.READ_LEDGER)
    with service.database.read() as connection:
        return ledger_store.journals(connection, after, limit)


def acts(service: Service, principal: Principal, after: int | None, limit: int) -> ActPage:
    """A page of what was done with rights that others lack, newest first, for who audits it."""
    require(principal, Action.READ_LEDGER)
    with service.database.read() as connection:
        return act_store.page(connection, after, limit)
