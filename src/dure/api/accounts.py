"""Routes of accounts and of the fleet: allocations, usage, statements, lending, the ledger, the
acts, pools, and the snapshot that rehearsals begin with.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from dure.allocations import Allocation
from dure.api.requests import Administrator, JsonBody, Reader
from dure.fleet import FleetTotals
from dure.journal import Journal
from dure.service import accounts, awards, rehearsal, site_views, sites
from dure.service.accounts import StatementQuery, UsageQuery
from dure.snapshot import Snapshot
from dure.units import INSTANT_MS_MAX
from dure.views import (
    ActPage,
    AllocationView,
    LendingStatement,
    PoolView,
    ReverseRequest,
    SiteView,
    Statement,
    UsagePage,
)

router = APIRouter(prefix="/v1", tags=["accounts"])

Instant = Annotated[int | None, Query(ge=0, le=INSTANT_MS_MAX)]


@router.get("/allocations")
def allocations(caller: Reader, project: str | None = None) -> tuple[AllocationView, ...]:
    """Allocations that the caller may see, with their balances."""
    return awards.allocations(caller.service, caller.principal, project)


@router.post("/allocations", status_code=201)
def award(
    caller: Administrator, body: Annotated[Allocation, Depends(JsonBody(Allocation))]
) -> AllocationView:
    """Make an allocation."""
    return awards.award(caller.service, caller.principal, body)


@router.get("/allocations/{allocation}")
def allocation(caller: Reader, allocation: str) -> AllocationView:
    """One allocation and its balance."""
    return awards.allocation(caller.service, caller.principal, allocation)


@router.get("/usage")
def usage(
    caller: Reader,
    project: str | None = None,
    job: str | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> UsagePage:
    """What attempts used, last closed first."""
    query = UsageQuery(project=project, job=job, after=after, limit=limit)
    return accounts.usage(caller.service, caller.principal, query)


@router.get("/statement")
def statement(
    caller: Reader,
    project: str | None = None,
    operator: str | None = None,
    from_ms: Instant = None,
    until_ms: Instant = None,
) -> Statement:
    """Sums of a project, an operator or the nation over a window."""
    query = StatementQuery(project=project, operator=operator, from_ms=from_ms, until_ms=until_ms)
    return accounts.statement(caller.service, caller.principal, query)


@router.get("/lending")
def lending(
    caller: Reader,
    project: str | None = None,
    operator: str | None = None,
    from_ms: Instant = None,
    until_ms: Instant = None,
) -> LendingStatement:
    """What shares lent each other over a window: a project's, an operator's or the nation's."""
    query = StatementQuery(project=project, operator=operator, from_ms=from_ms, until_ms=until_ms)
    return accounts.lending(caller.service, caller.principal, query)


@router.get("/ledger/journals")
def journals(
    caller: Reader,
    after: Annotated[int, Query(ge=0, le=2**62)] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 500,
) -> tuple[Journal, ...]:
    """A page of the ledger."""
    return accounts.journals(caller.service, caller.principal, after, limit)


@router.post("/ledger/journals/{seq}/reverse", status_code=201)
def reverse(
    caller: Administrator,
    seq: Annotated[int, Path(ge=1, le=2**62)],
    body: Annotated[ReverseRequest, Depends(JsonBody(ReverseRequest))],
) -> Journal:
    """Take a grant back, or give a settled charge back."""
    return accounts.reverse(caller.service, caller.principal, seq, body.reason)


@router.get("/acts")
def acts(
    caller: Reader,
    after: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
) -> ActPage:
    """Who did what with a right that others lack, newest first."""
    return accounts.acts(caller.service, caller.principal, after, limit)


@router.get("/fleet")
def fleet(caller: Reader, at_ms: Instant = None) -> FleetTotals:
    """The plan's totals at an instant."""
    return sites.fleet(caller.service, at_ms)


@router.get("/pools")
def pools(caller: Reader) -> tuple[PoolView, ...]:
    """Pools as planned and as reported now."""
    return sites.pools(caller.service)


@router.get("/sites")
def list_sites(caller: Reader) -> tuple[SiteView, ...]:
    """Sites: when each was heard, and what is wrong there (programme office, operators)."""
    return site_views.visible(caller.service, caller.principal)


@router.get("/snapshot")
def snapshot(caller: Reader) -> Snapshot:
    """The running federation, as a rehearsal begins with it (programme office)."""
    return rehearsal.snapshot(caller.service, caller.principal)
