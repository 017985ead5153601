"""Routes of agents, and of the files that members and agents bring."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import FileResponse

from dure.agent.wire import (
    FILE_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    FileEntry,
    KeyOffer,
    Manifest,
    SyncReply,
    SyncRequest,
)
from dure.api.jobs import _FILE
from dure.api.requests import Agent, JsonBody, Submitter, body_pieces, read_body
from dure.errors import NotFoundError
from dure.jobs import NODES_MAX
from dure.people import Action
from dure.service import Service, syncing
from dure.service import sites as service
from dure.service.access import require_seen
from dure.units import INT64_MAX
from dure.views import Upload

router = APIRouter(prefix="/v1", tags=["sites"])

_manifest = JsonBody(Manifest, MANIFEST_BYTES_MAX)

Rank = Annotated[int, Path(ge=0, lt=NODES_MAX)]


@router.post("/projects/{project}/workdirs", status_code=201, tags=["jobs"])
def register_workdir(
    caller: Submitter, project: str, body: Annotated[Manifest, Depends(_manifest)]
) -> Upload:
    """Register a tree of files; the answer names the contents still to be brought."""
    return service.register_workdir(caller.service, caller.principal, project, body)


@router.put("/projects/{project}/blobs/{sha256}", status_code=204, tags=["jobs"])
async def upload(caller: Submitter, request: Request, project: str, sha256: str) -> Response:
    """Bring the content of one file."""
    missing = NotFoundError("project", project)
    require_seen(caller.principal, Action.SUBMIT, project, missing)
    await _receive(caller.service, request, project, sha256)
    return Response(status_code=204)


async def _receive(service_: Service, request: Request, project: str, sha256: str) -> None:
    with service_.blobs.receive(sha256) as incoming:
        async for piece in body_pieces(request, FILE_BYTES_MAX):
            await to_thread.run_sync(incoming.write, piece)
    entry = FileEntry(path=sha256, size=incoming.size, sha256=sha256)
    await to_thread.run_sync(service.note_blob, service_, project, entry)


@router.put("/agent/key", status_code=204)
def enrol_key(caller: Agent, body: Annotated[KeyOffer, Depends(JsonBody(KeyOffer))]) -> Response:
    """Name the key that the site signs with, once. Idempotent."""
    syncing.enrol_key(caller.service, caller.principal, body)
    return Response(status_code=204)


@router.post("/agent/sync", response_model=SyncReply)
def sync(
    caller: Agent, body: Annotated[bytes, Depends(JsonBody(SyncRequest, raw=True))]
) -> Response:
    """A site's present in, what should be out. Idempotent."""
    report = syncing.decoded(caller.service, caller.principal, body)
    content = syncing.sync_json(caller.service, caller.principal, report)
    return Response(content, media_type="application/json")


@router.get("/agent/attempts/{attempt}/secrets")
def secrets(caller: Agent, response: Response, attempt: str) -> dict[str, str]:
    """The secrets of an open attempt's job."""
    response.headers["Cache-Control"] = "no-store"
    return service.secrets_of(caller.service, caller.principal, attempt)


@router.get("/agent/attempts/{attempt}/manifests/{sha256}")
def attempt_manifest(caller: Agent, attempt: str, sha256: str) -> Manifest:
    """A manifest that an attempt starts from."""
    return service.attempt_manifest(caller.service, caller.principal, attempt, sha256)


@router.post("/agent/attempts/{attempt}/manifests")
def register_files(
    caller: Agent, attempt: str, body: Annotated[Manifest, Depends(_manifest)]
) -> Upload:
    """Register output or checkpoint files once nothing of them is missing. Idempotent."""
    return service.register_files(caller.service, caller.principal, attempt, body)


@router.get(
    "/agent/attempts/{attempt}/blobs/{sha256}", responses=_FILE, response_class=FileResponse
)
def attempt_file(caller: Agent, attempt: str, sha256: str) -> FileResponse:
    """A content that an attempt starts from."""
    path = service.attempt_file(caller.service, caller.principal, attempt, sha256)
    return FileResponse(path, media_type="application/octet-stream")


@router.put("/agent/attempts/{attempt}/blobs/{sha256}", status_code=204)
async def bring_file(caller: Agent, request: Request, attempt: str, sha256: str) -> Response:
    """Bring the content of an output or checkpoint file."""
    project = await to_thread.run_sync(
        service.project_of_attempt, caller.service, caller.principal, attempt
    )
    await _receive(caller.service, request, project, sha256)
    return Response(status_code=204)


@router.put("/agent/attempts/{attempt}/logs/{rank}")
async def append_log(
    caller: Agent,
    request: Request,
    attempt: str,
    rank: Rank,
    offset: Annotated[int, Query(ge=0, le=INT64_MAX)],
) -> dict[str, int]:
    """Bring a piece of a node's log; the answer's `size` is where to go on."""
    data = await read_body(request, service.LOG_PIECE_BYTES_MAX)
    size = await to_thread.run_sync(
        service.append_log, caller.service, caller.principal, attempt, rank, offset, data
    )
    return {"size": size}
