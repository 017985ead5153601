"""The OpenAPI document, the routes and the client say the same."""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest
from api_bench import PROBLEM

from dure.agent.wire import Manifest
from dure.allocations import (
    Allocation,
    AllocationKind,
    Organisation,
    OrganisationKind,
    Project,
)
from dure.client import ApiError, Client
from dure.people import Person, Role, RoleGrant
from dure.views import MemberRequest, TokenRequest
from nation import Nation, spec, submission

METHODS = {"get", "head", "post", "put", "patch", "delete"}
AGENTS = "/v1/agent/"
"""Agents' operations: `dure.agent.uplink` speaks them, not the client."""
OPERATION = {"/healthz", "/metrics"}
"""For monitoring, not for people's programs."""

SHA = "0" * 64
ALLOCATION = Allocation(
    id="a", project="p", kind=AllocationKind.HOURS, starts_ms=0, ends_ms=1, credit_ucredit=1
)
Call = Callable[[Client, Path], Any]

CALLS: dict[str, tuple[str, str, Call]] = {
    "submit": ("post", "/v1/jobs", lambda c, _: c.submit(submission(spec()), key="k")),
    "plan": ("post", "/v1/plan", lambda c, _: c.plan(spec())),
    "jobs": ("get", "/v1/jobs", lambda c, _: c.jobs()),
    "job": ("get", "/v1/jobs/{job}", lambda c, _: c.job("j-1")),
    "why": ("get", "/v1/jobs/{job}/why", lambda c, _: c.why("j-1")),
    "cancel": ("post", "/v1/jobs/{job}/cancel", lambda c, _: c.cancel("j-1")),
    "recall": ("post", "/v1/jobs/{job}/recall", lambda c, _: c.recall("j-1")),
    "logs": ("get", "/v1/jobs/{job}/logs", lambda c, _: list(c.logs("j-1"))),
    "follow_events": ("get", "/v1/jobs/{job}/events", lambda c, _: list(c.follow_events("j-1"))),
    "outputs": ("get", "/v1/jobs/{job}/outputs", lambda c, _: c.outputs("j-1")),
    "output": (
        "get",
        "/v1/jobs/{job}/outputs/{index}/{sha256}",
        lambda c, _: list(c.output("j-1", 0, SHA)),
    ),
    "register_workdir": (
        "post",
        "/v1/projects/{project}/workdirs",
        lambda c, _: c.register_workdir("p", Manifest(())),
    ),
    "upload": (
        "put",
        "/v1/projects/{project}/blobs/{sha256}",
        lambda c, file: c.upload("p", SHA, file),
    ),
    "allocations": ("get", "/v1/allocations", lambda c, _: c.allocations()),
    "allocation": ("get", "/v1/allocations/{allocation}", lambda c, _: c.allocation("a")),
    "award": ("post", "/v1/allocations", lambda c, _: c.award(ALLOCATION)),
    "usage": ("get", "/v1/usage", lambda c, _: c.usage()),
    "statement": ("get", "/v1/statement", lambda c, _: c.statement()),
    "lending": ("get", "/v1/lending", lambda c, _: c.lending()),
    "reverse": (
        "post",
        "/v1/ledger/journals/{seq}/reverse",
        lambda c, _: c.reverse(1, "why"),
    ),
    "journals": ("get", "/v1/ledger/journals", lambda c, _: c.journals()),
    "acts": ("get", "/v1/acts", lambda c, _: c.acts()),
    "whoami": ("get", "/v1/whoami", lambda c, _: c.whoami()),
    "organisations": ("get", "/v1/organisations", lambda c, _: c.organisations()),
    "create_organisation": (
        "post",
        "/v1/organisations",
        lambda c, _: c.create_organisation(
            Organisation(id="o", name="O", kind=OrganisationKind.SME)
        ),
    ),
    "projects": ("get", "/v1/projects", lambda c, _: c.projects()),
    "create_project": (
        "post",
        "/v1/projects",
        lambda c, _: c.create_project(Project(id="p", organisation="o", title="P")),
    ),
    "add_member": (
        "post",
        "/v1/projects/{project}/members",
        lambda c, _: c.add_member("p", MemberRequest(person="x")),
    ),
    "remove_member": (
        "delete",
        "/v1/projects/{project}/members/{person}",
        lambda c, _: c.remove_member("p", "x"),
    ),
    "people": ("get", "/v1/people", lambda c, _: c.people()),
    "create_person": ("post", "/v1/people", lambda c, _: c.create_person(Person(id="x", name="X"))),
    "grant_role": (
        "post",
        "/v1/people/{person}/roles",
        lambda c, _: c.grant_role("x", RoleGrant(Role.OFFICER)),
    ),
    "revoke_role": (
        "delete",
        "/v1/people/{person}/roles",
        lambda c, _: c.revoke_role("x", RoleGrant(Role.OFFICER)),
    ),
    "tokens": ("get", "/v1/tokens", lambda c, _: c.tokens()),
    "create_token": ("post", "/v1/tokens", lambda c, _: c.create_token(TokenRequest(label="l"))),
    "revoke_token": ("delete", "/v1/tokens/{token}", lambda c, _: c.revoke_token("t")),
    "enrol_agent": ("post", "/v1/agents/{cluster}", lambda c, _: c.enrol_agent("k")),
    "fleet": ("get", "/v1/fleet", lambda c, _: c.fleet()),
    "pools": ("get", "/v1/pools", lambda c, _: c.pools()),
    "sites": ("get", "/v1/sites", lambda c, _: c.sites()),
    "tasks": ("get", "/v1/tasks", lambda c, _: c.tasks(project="p", open_only=True)),
    "shares": ("get", "/v1/shares", lambda c, _: c.shares()),
    "snapshot": ("get", "/v1/snapshot", lambda c, _: c.snapshot()),
}
SAME_OPERATION = {"follow_logs": "logs", "all_journals": "journals"}
"""Methods that ask another one's operation, in another way."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    nation = Nation(tmp_path_factory.mktemp("openapi"))
    answer = nation.http.get("/openapi.json")
    assert answer.status_code == 200
    yield answer.json()
    nation.close()


def public(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if method in METHODS and not path.startswith(AGENTS) and path not in OPERATION
    }


class Recorder(httpx.BaseTransport):
    """Refuses every request, and remembers it."""

    def __init__(self) -> None:
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        return httpx.Response(418, json={})


@pytest.fixture
def asked(tmp_path: Path) -> Callable[[str], httpx.Request]:
    """The request that a client's method sends."""
    recorder = Recorder()
    client = Client("http://dure.test", "token", transport=recorder)
    file = tmp_path / "file"
    file.write_bytes(b"content")

    def ask(name: str) -> httpx.Request:
        with pytest.raises(ApiError):
            CALLS[name][2](client, file)
        (request,) = recorder.requests
        return request

    return ask


def test_every_public_operation_has_exactly_one_method(document: dict[str, Any]):
    called = [(method, path) for method, path, _ in CALLS.values()]
    assert sorted(called) == sorted(public(document))


def test_the_table_here_names_every_method_of_the_client():
    methods = {
        name
        for name, member in vars(Client).items()
        if inspect.isfunction(member) and not name.startswith("_")
    }
    assert methods == set(CALLS) | set(SAME_OPERATION) | {"close"}


@pytest.mark.parametrize("name", CALLS)
def test_a_method_sends_its_operation(
    document: dict[str, Any], asked: Callable[[str], httpx.Request], name: str
):
    method, path, _ = CALLS[name]
    request = asked(name)
    assert request.method == method.upper()
    template = re.sub(r"\{[a-z0-9]+\}", "[^/]+", path)
    assert re.fullmatch(template, request.url.path)

    operation = public(document)[method, path]
    known = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "query"}
    assert set(request.url.params) <= known
    required = {
        p["name"] for p in operation.get("parameters", ()) if p["in"] == "query" and p["required"]
    }
    assert required <= set(request.url.params)


@pytest.mark.parametrize("name", CALLS)
def test_what_a_method_sends_fits_the_documents_schema(
    document: dict[str, Any], asked: Callable[[str], httpx.Request], name: str
):
    method, path, _ = CALLS[name]
    body = public(document)[method, path].get("requestBody")
    request = asked(name)
    if body is None:
        assert request.content == b""
    elif "application/json" in body["content"]:
        schema = body["content"]["application/json"]["schema"]
        rooted = schema | {"components": document["components"]}
        jsonschema_rs.validate(rooted, json.loads(request.content))
    else:
        assert set(body["content"]) == {"application/octet-stream"}


@pytest.mark.parametrize("name", CALLS)
def test_the_document_promises_what_a_method_reads(document: dict[str, Any], name: str):
    method, path, _ = CALLS[name]
    returned = typing.get_type_hints(getattr(Client, name))["return"]
    responses = public(document)[method, path]["responses"]
    (good, *_) = (found for status, found in sorted(responses.items()) if status.startswith("2"))
    if returned is type(None):
        assert "content" not in good
        return
    ((kind, content),) = good["content"].items()
    if typing.get_origin(returned) is not None and typing.get_origin(returned) is not tuple:
        assert kind in {"text/event-stream", "application/octet-stream"}
        return
    assert kind == "application/json"
    schema = content["schema"]
    if typing.get_origin(returned) is tuple:
        assert schema["type"] == "array"
        schema, returned = schema["items"], typing.get_args(returned)[0]
    assert schema["$ref"].rsplit("/", 1)[-1].removesuffix("-Output") == returned.__name__


# ---- the document itself -------------------------------------------------------------------------


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for inner in part.values():
            yield from references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from references(inner)


def test_every_reference_leads_somewhere(document: dict[str, Any]):
    assert document["openapi"].startswith("3.1")
    for reference in set(references(document)):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert found


def test_every_schema_is_one(document: dict[str, Any]):
    for schema in document["components"]["schemas"].values():
        jsonschema_rs.validator_for(schema | {"components": document["components"]})


def test_every_operation_is_told_apart_described_and_can_say_no(document: dict[str, Any]):
    ids = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            ids.append(operation["operationId"])
            assert operation["description"].rstrip().endswith(".")
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"\{([a-z0-9]+)\}", path)), (method, path)
            if path not in OPERATION:
                assert operation["security"] == [{"token": []}]
                assert operation["x-token-scope"] in {"read", "submit", "admin", "agent"}
                assert set(operation["responses"]["default"]["content"]) == {PROBLEM}
    assert len(set(ids)) == len(ids)


def test_headers_that_matter_are_in_the_document(document: dict[str, Any]):
    headers = {
        (path, parameter["name"], parameter["required"])
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "header"
    }
    assert headers == {
        ("/v1/jobs", "Idempotency-Key", True),
        ("/v1/jobs/{job}/events", "Last-Event-ID", False),
        ("/v1/jobs/{job}/logs", "Last-Event-ID", False),
    }


def test_submitting_twice_is_in_the_document(document: dict[str, Any]):
    responses = document["paths"]["/v1/jobs"]["post"]["responses"]
    assert {"200", "201", "default"} == set(responses)
