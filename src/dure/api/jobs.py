"""Routes of jobs: submit, plan, look, follow, cancel."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse

from dure.api.requests import JsonBody, Reader, Submitter, cursor, header
from dure.api.stream import Piece, Streams
from dure.errors import RefusedError
from dure.jobs import ARRAY_INDEX_MAX, NODES_MAX, JobSpec
from dure.life import State
from dure.scheduling.world import Forecast
from dure.service import jobs as service
from dure.service import submit as submission
from dure.service.jobs import JobQuery, LogPosition, LogQuery
from dure.text import shown
from dure.units import INT64_MAX
from dure.views import Accepted, JobPage, JobSummary, JobView, Submission, TaskOutputs, Why

PAGE_MAX = 500
router = APIRouter(prefix="/v1", tags=["jobs"])

TaskIndex = Annotated[int, Query(ge=0, le=ARRAY_INDEX_MAX)]
Rank = Annotated[int, Query(ge=0, lt=NODES_MAX)]
_EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events whose data are JSON, each with an id; the event `done` ends it",
        "content": {"text/event-stream": {}},  # OpenAPI 3.1 has no schema for single events
    }
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    }
}


def _header(name: str, *, required: bool, pattern: str) -> dict[str, Any]:
    """A header for the OpenAPI document; it is read and checked by hand, so as to be named."""
    schema = {"type": "string", "pattern": pattern}
    return {"parameters": [{"name": name, "in": "header", "required": required, "schema": schema}]}


@router.post(
    "/jobs",
    status_code=201,
    responses={200: {"model": Accepted, "description": "Repeated"}},
    openapi_extra=_header("Idempotency-Key", required=True, pattern="^[!-~]{1,128}$"),
)
def submit(
    caller: Submitter,
    request: Request,
    response: Response,
    body: Annotated[Submission, Depends(JsonBody(Submission))],
) -> Accepted:
    """Submit jobs, all or none. Needs the header Idempotency-Key; the same key twice is once."""
    key = header(request, "idempotency-key")
    accepted = submission.submit(caller.service, caller.principal, body, key)
    if accepted.repeated:
        response.status_code = 200
    return accepted


@router.post("/plan")
def plan(caller: Reader, body: Annotated[JobSpec, Depends(JsonBody(JobSpec))]) -> Forecast:
    """Where and when a job would run and for how much, what is excluded and why."""
    return submission.plan(caller.service, caller.principal, body)


@router.get("/jobs")
def jobs(
    caller: Reader,
    project: str | None = None,
    state: State | None = None,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> JobPage:
    """Jobs that the caller may see, newest first."""
    query = JobQuery(project=project, state=state, after=after, limit=limit)
    return service.page(caller.service, caller.principal, query)


@router.get("/jobs/{job}")
def job(caller: Reader, job: str) -> JobView:
    """A job whole, with at most its first 1,000 tasks."""
    return service.view(caller.service, caller.principal, job)


@router.get("/jobs/{job}/why")
def why(caller: Reader, job: str) -> Why:
    """Why a job is where it is."""
    return service.why(caller.service, caller.principal, job)


@router.post("/jobs/{job}/cancel")
def cancel(
    caller: Submitter,
    job: str,
    task: Annotated[int | None, Query(ge=0, le=ARRAY_INDEX_MAX)] = None,
) -> JobSummary:
    """Cancel what of a job, or of one of its tasks, has not ended. Idempotent."""
    return service.cancel(caller.service, caller.principal, job, task)


@router.post("/jobs/{job}/recall")
def recall(caller: Submitter, job: str) -> JobSummary:
    """Call a job's GPUs back: notice, grace, back to the queue."""
    return service.recall(caller.service, caller.principal, job)


@router.get(
    "/jobs/{job}/events",
    responses=_EVENT_STREAM,
    response_class=Response,
    openapi_extra=_header("Last-Event-ID", required=False, pattern="^[0-9]{1,18}$"),
)
async def events(
    caller: Reader,
    request: Request,
    job: str,
    after: Annotated[int, Query(ge=0, le=INT64_MAX)] = 0,
) -> Response:
    """What happened to a job and what happens, until it has ended: server-sent events."""
    if last := request.headers.get("last-event-id"):
        after = cursor(last, "Last-Event-ID")

    async def look(place: int) -> Piece:
        page = await to_thread.run_sync(
            service.events_after, caller.service, caller.principal, job, place
        )
        found = tuple((event, str(event.seq)) for event in page.events)
        return Piece(found, page.events[-1].seq if page.events else place, page.ended)

    streams: Streams = request.app.state.streams
    return await streams.answer(look, after, caller.principal.person, follow=True)


@router.get(
    "/jobs/{job}/logs",
    responses=_EVENT_STREAM,
    response_class=Response,
    openapi_extra=_header("Last-Event-ID", required=False, pattern="^[0-9]{1,18}:[0-9]{1,18}$"),
)
async def logs(
    caller: Reader,
    request: Request,
    job: str,
    task: TaskIndex = 0,
    rank: Rank = 0,
    *,
    follow: bool = False,
) -> Response:
    """What a node of a task wrote, through all its attempts: server-sent events.

    An event's id is `ATTEMPT:BYTE`, from which Last-Event-ID resumes exactly.
    """
    query = LogQuery(job=job, task=task, rank=rank)
    position = _position(request.headers.get("last-event-id"))

    async def look(place: LogPosition) -> Piece:
        page = await to_thread.run_sync(service.log, caller.service, caller.principal, query, place)
        id_ = f"{page.position.attempt}:{page.position.offset}"
        found = () if page.chunk is None else ((page.chunk, id_),)
        return Piece(found, page.position, page.ended)

    streams: Streams = request.app.state.streams
    return await streams.answer(look, position, caller.principal.person, follow=follow)


def _position(last: str | None) -> LogPosition:
    if not last:
        return LogPosition()
    attempt, colon, offset = last.partition(":")
    if not colon:
        raise RefusedError(
            "bad-cursor", f"Last-Event-ID {shown(last)} is not a place in this stream."
        )
    return LogPosition(
        attempt=cursor(attempt, "Last-Event-ID"), offset=cursor(offset, "Last-Event-ID")
    )


@router.get("/jobs/{job}/outputs")
def outputs(caller: Reader, job: str) -> tuple[TaskOutputs, ...]:
    """The manifests of a job's output files."""
    return service.outputs(caller.service, caller.principal, job)


@router.get("/jobs/{job}/outputs/{index}/{sha256}", responses=_FILE, response_class=FileResponse)
def output(
    caller: Reader,
    job: str,
    index: Annotated[int, Path(ge=0, le=ARRAY_INDEX_MAX)],
    sha256: str,
) -> FileResponse:
    """The content of one output file."""
    path = service.output(caller.service, caller.principal, job, index, sha256)
    return FileResponse(path, media_type="application/octet-stream")
