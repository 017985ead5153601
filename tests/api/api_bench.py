"""What the tests of the API share: raw requests, and whether anything changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
from sqlalchemy import inspect

from dure import codec
from dure.client import Client
from nation import Nation, spec, submission

PROBLEM = "application/problem+json"


def bearer(client: Client) -> str:
    """The header that a client authenticates with."""
    return str(client._http.headers["Authorization"])


def raw(
    nation: Nation,
    method: str,
    path: str,
    *,
    token: str | None = None,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> httpx.Response:
    """A request as it stands: bytes and text are sent as they are, other bodies as JSON."""
    content = body if isinstance(body, bytes | str) or body is None else json.dumps(body)
    sent = {"Content-Type": "application/json"} | (headers or {})
    if token is not None:
        sent["Authorization"] = token if token.startswith("Bearer ") else f"Bearer {token}"
    return nation.http.request(method, path, content=content, headers=sent)


def submission_json(**changes: Any) -> Any:
    """A good submission of `spec()` as JSON objects, its only job's spec changed."""
    plain = json.loads(codec.encode(submission(spec())))
    plain["jobs"][0]["spec"].update(changes)
    return plain


def digest(nation: Nation) -> str:
    """Over every row of every table."""
    found = hashlib.sha256()
    with nation.database.read() as connection:
        for name in sorted(inspect(connection).get_table_names()):
            rows = connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()
            found.update(repr((name, sorted(map(repr, rows)))).encode())
    return found.hexdigest()


def assert_refused(answer: httpx.Response, *, status: int | None = None) -> str:
    """A problem in one sentence, fit to be shown; the sentence."""
    assert 400 <= answer.status_code < 500, answer.text
    assert status is None or answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    problem = answer.json()
    assert set(problem) == {"type", "title", "status", "detail", "code"}
    assert problem["status"] == answer.status_code
    detail = str(problem["detail"])
    assert detail.isprintable(), detail
    assert detail.endswith("."), detail
    assert not detail.endswith(".."), detail
    assert len(detail) <= 1_500, detail
    return detail


def cut_off(nation: Nation, method: str, path: str, token: str, piece: bytes) -> int:
    """Send the head and one piece of a body, then hang up; the status that nobody hears."""
    messages = [
        {"type": "http.request", "body": piece, "more_body": True},
        {"type": "http.disconnect"},
    ]
    return streamed(nation, method, path, token, iter(messages))


def streamed(
    nation: Nation, method: str, path: str, token: str, messages: Iterator[dict[str, Any]]
) -> int:
    """Put a request to the application message by message; the status of its answer."""
    answers: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: dict[str, Any]) -> None:
        answers.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", token.encode()), (b"idempotency-key", b"k")],
    }
    portal = nation.http.portal
    assert portal is not None
    portal.call(nation.app, scope, receive, send)
    return int(answers[0]["status"])
