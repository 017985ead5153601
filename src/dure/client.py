"""The Python client: every public operation of the API as one typed call.

    with Client("http://127.0.0.1:8470", token) as dure:
        job = dure.submit(Submission((JobRequest(spec=spec),)), key="my-sweep-1").jobs[0]
        for chunk in dure.follow_logs(job.id):
            print(chunk.text, end="")

The CLI is built on it and uses nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from dure import codec
from dure.agent.wire import Manifest
from dure.allocations import Allocation, Organisation, Project
from dure.fleet import FleetTotals
from dure.jobs import JobSpec
from dure.journal import Journal
from dure.listing import ShareLine, TaskPage
from dure.people import Person, RoleGrant
from dure.scheduling.world import Forecast
from dure.snapshot import Snapshot
from dure.views import (
    Accepted,
    ActPage,
    AllocationView,
    EventView,
    JobPage,
    JobSummary,
    JobView,
    LendingStatement,
    LogChunk,
    MemberRequest,
    NewToken,
    PersonView,
    PoolView,
    Problem,
    ProjectView,
    ReverseRequest,
    SiteView,
    Statement,
    Submission,
    TaskOutputs,
    TokenRequest,
    TokenView,
    Upload,
    UsagePage,
    Whoami,
    Why,
)

TIMEOUT_S: Final = 30.0
STREAM_RETRIES: Final = 10
STREAM_RETRY_S: Final = 0.5

T = TypeVar("T")
Query = dict[str, Any]


class ApiError(Exception):
    """The API said no, in one sentence; `problem.code` is for programs."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class UnreachableError(Exception):
    """No answer from the control plane: whether it did anything is not known."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Where a stream of server-sent events is, and from which event it goes on."""

    path: str
    query: Query
    last_id: str = ""


class Client:
    """One connection pool to one control plane, with one token."""

    def __init__(
        self, url: str, token: str, *, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give back the connections."""
        self._http.close()

    # ---- jobs ------------------------------------------------------------------------------------

    def submit(self, submission: Submission, *, key: str) -> Accepted:
        """Submit jobs, all or none. The same `key` twice is one submission."""
        headers = {"Idempotency-Key": key}
        return self._post("/v1/jobs", Accepted, submission, headers=headers)

    def plan(self, spec: JobSpec) -> Forecast:
        """Where and when the job would run and what it would cost; commits nothing."""
        return self._post("/v1/plan", Forecast, spec)

    def jobs(
        self,
        *,
        project: str | None = None,
        state: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> JobPage:
        """A page of jobs, newest first; `after` is the cursor of the page before."""
        query = {"project": project, "state": state, "after": after, "limit": limit}
        return self._get("/v1/jobs", JobPage, query)

    def job(self, job: str) -> JobView:
        """A job whole."""
        return self._get(f"/v1/jobs/{_part(job)}", JobView)

    def tasks(  # noqa: PLR0913 (a list's parameters are its filters)
        self,
        *,
        project: str | None = None,
        submitter: str | None = None,
        job: str | None = None,
        open_only: bool = False,
        since_ms: int | None = None,
        after: int | None = None,
        limit: int = 500,
    ) -> TaskPage:
        """A page of tasks, newest first, each with its job and its last attempt. `since_ms` leaves
        out what ended before.
        """
        query = {
            "project": project,
            "submitter": submitter,
            "job": job,
            "open_only": open_only,
            "since_ms": since_ms,
            "after": after,
            "limit": limit,
        }
        return self._get("/v1/tasks", TaskPage, query)

    def shares(self) -> tuple[ShareLine, ...]:
        """How shares stand: the caller's projects' with all above them, or the whole tree."""
        return self._get("/v1/shares", tuple[ShareLine, ...])

    def why(self, job: str) -> Why:
        """Why a job is where it is."""
        return self._get(f"/v1/jobs/{_part(job)}/why", Why)

    def cancel(self, job: str, *, task: int | None = None) -> JobSummary:
        """Cancel what of a job, or of one of its tasks, has not ended. Idempotent."""
        query = "" if task is None else f"?task={task}"
        return self._post(f"/v1/jobs/{_part(job)}/cancel{query}", JobSummary)

    def recall(self, job: str) -> JobSummary:
        """Call a job's GPUs back: notice, grace, back to the queue (programme office)."""
        return self._post(f"/v1/jobs/{_part(job)}/recall", JobSummary)

    def logs(self, job: str, *, task: int = 0, rank: int = 0) -> Iterator[LogChunk]:
        """What is there of a task's logs now, all its attempts, oldest first."""
        return self._logs(job, {"task": task, "rank": rank, "follow": False})

    def follow_logs(self, job: str, *, task: int = 0, rank: int = 0) -> Iterator[LogChunk]:
        """The same, and on until the task has ended, across lost connections."""
        return self._logs(job, {"task": task, "rank": rank, "follow": True})

    def _logs(self, job: str, query: Query) -> Iterator[LogChunk]:
        stream = Stream(f"/v1/jobs/{_part(job)}/logs", query)
        for event in self._events(stream):
            yield codec.read(LogChunk, event.data)

    def follow_events(self, job: str, *, after: int = 0) -> Iterator[EventView]:
        """What happened to a job and what happens, until it has ended."""
        stream = Stream(f"/v1/jobs/{_part(job)}/events", {"after": after})
        for event in self._events(stream):
            yield codec.read(EventView, event.data)

    def outputs(self, job: str) -> tuple[TaskOutputs, ...]:
        """The manifests of a job's output files."""
        return self._get(f"/v1/jobs/{_part(job)}/outputs", tuple[TaskOutputs, ...])

    def output(self, job: str, index: int, sha256: str) -> Iterator[bytes]:
        """The content of one output file, in pieces."""
        path = f"/v1/jobs/{_part(job)}/outputs/{index}/{_part(sha256)}"
        with self._reaching(), self._http.stream("GET", path) as response:
            if response.is_error:
                response.read()
                _raise(response)
            yield from response.iter_bytes()

    # ---- uploads ---------------------------------------------------------------------------------

    def register_workdir(self, project: str, manifest: Manifest) -> Upload:
        """Register a tree; the answer says which contents are still to be uploaded."""
        return self._post(f"/v1/projects/{_part(project)}/workdirs", Upload, manifest)

    def upload(self, project: str, sha256: str, file: Path) -> None:
        """Upload the content of one file."""
        with file.open("rb") as content, self._reaching():
            response = self._http.put(
                f"/v1/projects/{_part(project)}/blobs/{_part(sha256)}",
                content=iter(lambda: content.read(1 << 18), b""),
                headers={"Content-Length": str(file.stat().st_size)},
            )
        _raise(response)

    # ---- accounts --------------------------------------------------------------------------------

    def allocations(self, *, project: str | None = None) -> tuple[AllocationView, ...]:
        """Allocations that the caller may see, with their balances."""
        return self._get("/v1/allocations", tuple[AllocationView, ...], {"project": project})

    def allocation(self, allocation: str) -> AllocationView:
        """One allocation and its balance."""
        return self._get(f"/v1/allocations/{_part(allocation)}", AllocationView)

    def award(self, allocation: Allocation) -> AllocationView:
        """Make an allocation (programme office)."""
        return self._post("/v1/allocations", AllocationView, allocation)

    def usage(
        self,
        *,
        project: str | None = None,
        job: str | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> UsagePage:
        """What attempts used, line by line."""
        query = {"project": project, "job": job, "after": after, "limit": limit}
        return self._get("/v1/usage", UsagePage, query)

    def statement(
        self,
        *,
        project: str | None = None,
        operator: str | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Statement:
        """Sums over a window for a project, an operator or, with neither, the nation."""
        query = _window(project, operator, from_ms, until_ms)
        return self._get("/v1/statement", Statement, query)

    def lending(
        self,
        *,
        project: str | None = None,
        operator: str | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> LendingStatement:
        """What shares lent each other over a window: a project's, an operator's or, with neither,
        all that the caller may see.
        """
        query = _window(project, operator, from_ms, until_ms)
        return self._get("/v1/lending", LendingStatement, query)

    def journals(self, *, after: int = 0, limit: int = 500) -> tuple[Journal, ...]:
        """Journals of the ledger after the one numbered `after` (auditors, programme office)."""
        query = {"after": after, "limit": limit}
        return self._get("/v1/ledger/journals", tuple[Journal, ...], query)

    def reverse(self, seq: int, reason: str) -> Journal:
        """Take a grant back, or give a settled charge back (programme office)."""
        return self._post(f"/v1/ledger/journals/{seq}/reverse", Journal, ReverseRequest(reason))

    def all_journals(self) -> Iterator[Journal]:
        """The whole ledger, page by page."""
        after = 0
        while page := self.journals(after=after):
            yield from page
            after = page[-1].seq

    def acts(self, *, after: int | None = None, limit: int = 100) -> ActPage:
        """A page of who did what with a right that others lack, newest first (oversight)."""
        return self._get("/v1/acts", ActPage, {"after": after, "limit": limit})

    # ---- people and projects ---------------------------------------------------------------------

    def whoami(self) -> Whoami:
        """Who the token says the caller is."""
        return self._get("/v1/whoami", Whoami)

    def organisations(self) -> tuple[Organisation, ...]:
        """All organisations."""
        return self._get("/v1/organisations", tuple[Organisation, ...])

    def create_organisation(self, organisation: Organisation) -> Organisation:
        """Enrol an organisation (programme office)."""
        return self._post("/v1/organisations", Organisation, organisation)

    def projects(self) -> tuple[ProjectView, ...]:
        """Projects that the caller may see."""
        return self._get("/v1/projects", tuple[ProjectView, ...])

    def create_project(self, project: Project) -> ProjectView:
        """Enrol a project (programme office)."""
        return self._post("/v1/projects", ProjectView, project)

    def add_member(self, project: str, member: MemberRequest) -> ProjectView:
        """Make a person a member or PI of a project."""
        return self._post(f"/v1/projects/{_part(project)}/members", ProjectView, member)

    def remove_member(self, project: str, person: str) -> None:
        """End a person's membership."""
        self._delete(f"/v1/projects/{_part(project)}/members/{_part(person)}")

    def people(self) -> tuple[PersonView, ...]:
        """Everybody (administrators)."""
        return self._get("/v1/people", tuple[PersonView, ...])

    def create_person(self, person: Person) -> PersonView:
        """Enrol a person (programme office)."""
        return self._post("/v1/people", PersonView, person)

    def grant_role(self, person: str, grant: RoleGrant) -> PersonView:
        """Give a person a role (administrators)."""
        return self._post(f"/v1/people/{_part(person)}/roles", PersonView, grant)

    def revoke_role(self, person: str, grant: RoleGrant) -> None:
        """Take a role back (administrators)."""
        query = {"role": grant.role, "scope": grant.scope}
        self._delete(f"/v1/people/{_part(person)}/roles", query)

    def tokens(self) -> tuple[TokenView, ...]:
        """The caller's tokens; an administrator sees all."""
        return self._get("/v1/tokens", tuple[TokenView, ...])

    def create_token(self, request: TokenRequest) -> NewToken:
        """Make a token; its secret is shown this once."""
        return self._post("/v1/tokens", NewToken, request)

    def revoke_token(self, token: str) -> None:
        """Revoke a token at once."""
        self._delete(f"/v1/tokens/{_part(token)}")

    def enrol_agent(self, cluster: str) -> NewToken:
        """Make a token for a cluster's agent; an earlier one is revoked."""
        return self._post(f"/v1/agents/{_part(cluster)}", NewToken)

    # ---- fleet -----------------------------------------------------------------------------------

    def fleet(self, *, at_ms: int | None = None) -> FleetTotals:
        """The plan's totals at an instant."""
        return self._get("/v1/fleet", FleetTotals, {"at_ms": at_ms})

    def pools(self) -> tuple[PoolView, ...]:
        """Pools as planned and as reported now."""
        return self._get("/v1/pools", tuple[PoolView, ...])

    def sites(self) -> tuple[SiteView, ...]:
        """Sites that the caller oversees or administers."""
        return self._get("/v1/sites", tuple[SiteView, ...])

    def snapshot(self) -> Snapshot:
        """The running federation, as a rehearsal begins with it (programme office)."""
        return self._get("/v1/snapshot", Snapshot)

    # ---- how it is said --------------------------------------------------------------------------

    def _get(self, path: str, type_: type[T], query: Query | None = None) -> T:
        return self._decode(self._request("GET", path, params=_given(query)), type_)

    def _post(
        self, path: str, type_: type[T], body: Any = None, headers: dict[str, str] | None = None
    ) -> T:
        headers = {"Content-Type": "application/json"} | (headers or {})
        content = b"" if body is None else codec.encode(body)
        return self._decode(self._request("POST", path, content=content, headers=headers), type_)

    def _delete(self, path: str, query: Query | None = None) -> None:
        self._request("DELETE", path, params=_given(query))

    def _request(self, method: str, path: str, **sent: Any) -> httpx.Response:
        with self._reaching():
            response = self._http.request(method, path, **sent)
        _raise(response)
        return response

    @staticmethod
    def _decode(response: httpx.Response, type_: type[T]) -> T:
        return codec.read(type_, response.content)

    def _reaching(self) -> _Reaching:
        return _Reaching(str(self._http.base_url))

    def _events(self, stream: Stream) -> Iterator[ServerSentEvent]:
        """Events of a stream to its `done`; a lost connection resumes after the last one seen."""
        last_id, failures = stream.last_id, 0
        while True:
            try:
                for event in self._connect(stream, last_id):
                    if event.event == "done":
                        return
                    last_id, failures = event.id, 0
                    yield event
                failures = 0  # the server let go of it in order, to be asked again
            except httpx.TransportError as error:
                failures += 1
                if failures > STREAM_RETRIES:
                    raise UnreachableError(f"The stream of {stream.path} broke: {error}") from error
            time.sleep(STREAM_RETRY_S)

    def _connect(self, stream: Stream, last_id: str) -> Iterator[ServerSentEvent]:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        with connect_sse(
            self._http, "GET", stream.path, params=_given(stream.query), headers=headers
        ) as source:
            if source.response.is_error:
                source.response.read()
                _raise(source.response)
            # A comment after an event that has an id comes out as an event without data, which by
            # the HTML standard (9.2.6, server-sent events) is none.
            yield from (event for event in source.iter_sse() if event.data)


class _Reaching:
    """Turns transport errors into one that says which control plane did not answer."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, httpx.TransportError):
            raise UnreachableError(
                f"The control plane at {self._url} did not answer ({type(error).__name__}: {error})"
            ) from error


def _part(value: str) -> str:
    """One segment of a path, whatever the user typed."""
    return quote(value, safe="")


def _window(
    project: str | None, operator: str | None, from_ms: int | None, until_ms: int | None
) -> Query:
    return {"project": project, "operator": operator, "from_ms": from_ms, "until_ms": until_ms}


def _given(query: Query | None) -> Query:
    return {name: value for name, value in (query or {}).items() if value is not None}


def _raise(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        problem = codec.read(Problem, response.content)
    except ValueError:
        text = f"The control plane answered {response.status_code} without saying why."
        problem = Problem(
            type="about:blank",
            title=response.reason_phrase,
            status=response.status_code,
            detail=text,
            code="http-error",
        )
    raise ApiError(problem)


def last_lines(chunks: Sequence[LogChunk], count: int) -> list[str]:
    """The last `count` lines of a log."""
    return "".join(chunk.text for chunk in chunks).splitlines()[-count:]
