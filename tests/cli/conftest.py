"""A `dure` to run in this process, against a control plane that each test scripts."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from pydantic_core import to_json

from dure.allocations import BudgetUnit
from dure.cli import run
from dure.cli.shell import Shell
from dure.life import State
from dure.people import Role, RoleGrant, TokenScope
from dure.views import JobSummary, Whoami

NOW_MS = 1_800_000_000_000


@dataclass
class Asked:
    """One request that the fake control plane got."""

    method: str
    path: str
    query: dict
    headers: httpx.Headers
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Plane:
    """A control plane of canned answers: (method, path) -> a value, a response or a function."""

    def __init__(self):
        self.answers = {}
        self.asked: list[Asked] = []

    def on(self, method, path, answer):
        self.answers[method, path] = answer

    def refuse(self, method, path, status, detail, code="refused"):
        problem = {
            "type": "about:blank",
            "title": "no",
            "status": status,
            "detail": detail,
            "code": code,
        }
        self.on(method, path, httpx.Response(status, json=problem))

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.decode().partition("?")[0]
        query = dict(request.url.params)
        asked = Asked(request.method, path, query, request.headers, request.read())
        self.asked.append(asked)
        answer = self.answers.get((request.method, path))
        if callable(answer):
            answer = answer(asked)
        if isinstance(answer, httpx.Response):
            return answer
        if answer is None:
            problem = {"type": "", "title": "", "status": 404, "detail": "Gone.", "code": "none"}
            return httpx.Response(404, json=problem)
        return httpx.Response(200, content=to_json(answer))

    def one(self, method, path) -> Asked:
        (found,) = [a for a in self.asked if (a.method, a.path) == (method, path)]
        return found


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@dataclass
class Dure:
    plane: Plane
    folder: Path
    environ: dict = field(default_factory=dict)
    transport: httpx.BaseTransport | None = None

    def __call__(self, *argv, stdin="", stdout=None) -> Result:
        out, err = io.StringIO(), io.StringIO()
        shell = Shell(
            environ=self.environ,
            folder=self.folder,
            stdin=io.StringIO(stdin),
            stdout=stdout or out,
            stderr=err,
            transport=self.transport or httpx.MockTransport(self.plane.handle),
            now_ms=lambda: NOW_MS,
        )
        code = run(argv, shell)
        return Result(code, out.getvalue(), err.getvalue())


@pytest.fixture
def plane() -> Plane:
    return Plane()


@pytest.fixture
def dure(plane, tmp_path) -> Dure:
    home = tmp_path / "home"
    folder = tmp_path / "here"
    home.mkdir()
    folder.mkdir()
    environ = {"HOME": str(home), "DURE_URL": "http://plane", "DURE_TOKEN": "secret-token"}
    return Dure(plane, folder, environ)


@pytest.fixture
def me() -> Whoami:
    grants = (RoleGrant(Role.MEMBER, "vision"),)
    return Whoami(person="kim", grants=grants, scopes=(TokenScope.READ, TokenScope.SUBMIT))


@pytest.fixture
def summary() -> Callable[..., JobSummary]:
    def make(**changes):
        fields = {
            "id": "j-12",
            "name": "train",
            "project": "vision",
            "allocation": "vision-2027",
            "submitter": "kim",
            "state": State.QUEUED,
            "tasks": 1,
            "accepted_ms": NOW_MS - 60_000,
            "ended_ms": None,
        }
        return JobSummary(**{**fields, **changes})

    return make


UNIT = BudgetUnit.UCREDIT
