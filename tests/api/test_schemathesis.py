"""Requests made up from the OpenAPI document: no 5xx, and every answer is as documented (I9)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from api_bench import bearer
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from test_access import ROWS

from dure.api import stream
from dure.engines import EngineEnd
from dure.people import TokenScope
from nation import Nation, Site, spec, submit

EXAMPLES = 2
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
LABELS = [f"{method.upper()} {path}" for method, path in ROWS]
ASKED = [
    (caller, label)
    for label in LABELS
    for caller in (["agent"] if "/v1/agent/" in label else ["member", "admin"])
]


class World:
    """A nation with a job that has ended, and its OpenAPI document as a source of requests."""

    def __init__(self, nation: Nation) -> None:
        self.nation = nation
        site = Site(nation)
        lab = nation.lab()
        (job,) = submit(lab, spec())
        site.start_all()
        order = site.orders[f"{job}.0"]
        site.end(order, EngineEnd.COMPLETED, 0)
        site.round()
        schema = schemathesis.openapi.from_asgi("/openapi.json", nation.app)
        found = (result.ok() for result in schema.get_all_operations())
        self.operations = {operation.label: operation for operation in found}
        self.headers = {
            "member": bearer(lab),
            "admin": f"Bearer {nation.token('admin', *_NOT_AGENT)}",
            "agent": site.http.headers["Authorization"],
        }
        self.ids = {
            "job": job,
            "index": 0,
            "sha256": "0" * 64,
            "project": "lab",
            "person": "lab-member",
            "token": "f" * 16,
            "cluster": "sk-industrial",
            "allocation": "lab-hours",
            "attempt": order.attempt_id,
            "rank": 0,
            "seq": 2,
        }


_NOT_AGENT = [scope for scope in TokenScope if scope is not TokenScope.AGENT]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    nation = Nation(tmp_path_factory.mktemp("schemathesis"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "AGE_S_MAX", 0.0)  # a job made up here never ends
        patch.setattr(stream, "POLL_S", 0.0)
        yield World(nation)
    nation.close()


def strategies(world: World, label: str) -> list[Any]:
    """Requests with ids that exist, with any ids, and with something wrong."""
    operation = world.operations[label]
    names = {parameter.name for parameter in operation.path_parameters}
    made = [operation.as_strategy()]
    if names:
        known = {name: world.ids[name] for name in names}
        made.append(operation.as_strategy(path_parameters=known))
    if operation.body or operation.query:
        made.append(operation.as_strategy(GenerationMode.NEGATIVE))
    return made


@pytest.mark.parametrize(("caller", "label"), ASKED)
def test_answers_are_as_documented(world: World, caller: str, label: str):
    headers = {"Authorization": world.headers[caller]}

    for requests in strategies(world, label):

        @given(case=requests)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: schemathesis.Case) -> None:
            answer = case.call(session=world.nation.http, headers=headers)
            case.validate_response(answer, checks=CHECKS)

        ask()


def test_every_operation_is_asked(world: World):
    assert set(world.operations) == {*LABELS, "GET /healthz", "GET /metrics"}
