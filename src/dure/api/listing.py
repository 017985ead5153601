"""Routes of lists over the whole federation: tasks, and how shares stand."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from dure.api.requests import Reader
from dure.listing import ShareLine, TaskPage
from dure.service import listing as service
from dure.service.listing import Wanted
from dure.units import INSTANT_MS_MAX, INT64_MAX

router = APIRouter(prefix="/v1", tags=["lists"])


@router.get("/tasks")
def tasks(  # noqa: PLR0913 (a list's parameters are its filters)
    caller: Reader,
    *,
    project: str | None = None,
    submitter: str | None = None,
    job: str | None = None,
    since_ms: Annotated[int | None, Query(ge=0, le=INSTANT_MS_MAX)] = None,
    after: Annotated[int | None, Query(ge=1, le=INT64_MAX)] = None,
    limit: Annotated[int, Query(ge=1, le=1_000)] = 500,
    open_only: bool = False,
) -> TaskPage:
    """Tasks that the caller may see, newest first, each with its job and its last attempt."""
    wanted = Wanted(
        project=project,
        submitter=submitter,
        job=job,
        open_only=open_only,
        since_ms=since_ms,
        after=after,
        limit=limit,
    )
    return service.tasks(caller.service, caller.principal, wanted)


@router.get("/shares")
def shares(caller: Reader) -> tuple[ShareLine, ...]:
    """How shares stand: the caller's projects' with all above them, or the whole tree."""
    return service.shares(caller.service, caller.principal)
