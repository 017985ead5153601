"""What Ray says, read: what cannot be read is unknown, never gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from dure.engines import EngineEnd, EngineError
from dure.engines.ray import RayEngine, RayPool, RaySite
from dure.engines.ray.answers import Node, pool_report, read_jobs, read_nodes, read_version


def job(**changes: object) -> dict[str, object]:
    marks = {"dure_cluster": "c", "dure_attempt": "a-1"}
    return {"status": "RUNNING", "metadata": marks, "submission_id": "dure-c-a-1"} | changes


def test_only_jobs_with_our_mark_are_ours():
    others = [job(metadata=None), job(metadata={"dure_cluster": "d", "dure_attempt": "a-2"})]
    assert list(read_jobs([job(), *others], "c")) == ["a-1"]


@pytest.mark.parametrize(
    ("row", "end"),
    [
        (job(status="SUCCEEDED"), EngineEnd.COMPLETED),
        (job(status="STOPPED"), EngineEnd.STOPPED),
        (job(status="FAILED", driver_exit_code=3), EngineEnd.ERRED),
        (job(status="FAILED", error_type="JOB_SUPERVISOR_ACTOR_DIED"), EngineEnd.NODE_FAILED),
        (job(status="FAILED", error_type="RUNTIME_ENV_SETUP_FAILURE"), EngineEnd.START_FAILED),
        (job(status="FAILED"), EngineEnd.NODE_FAILED),
    ],
)
def test_an_end_is_told_from_status_error_and_exit_code(row: dict[str, object], end: EngineEnd):
    found = read_jobs([row], "c")["a-1"]
    assert found.ended
    assert found.end is end


@pytest.mark.parametrize(
    "answer", [None, {}, {"jobs": []}, [None], ["job"], [job(status="ASLEEP")],
               [job(status="FAILED", end_time="soon")]],
)  # fmt: skip
def test_a_list_of_jobs_that_cannot_be_read_denies_nothing(answer: object):
    with pytest.raises(EngineError):
        read_jobs(answer, "c")


@pytest.mark.parametrize(
    "answer", [None, {}, {"ray_version": "2"}, {"ray_version": "2.60.0", "session_name": ""}]
)
def test_what_is_no_ray_is_refused(answer: object):
    with pytest.raises(EngineError, match="not an answer of Ray's"):
        read_version(answer)


@pytest.mark.parametrize("answer", [None, {}, {"data": {"result": {"result": [{}]}}}])
def test_a_list_of_nodes_that_cannot_be_read_is_unknown(answer: object):
    with pytest.raises(EngineError):
        read_nodes(answer)


def node(name: str, *, up: bool = True, gpus: int = 4, kind: str = "A100") -> Node:
    return Node(name=name, up=up, gpus=gpus, types=frozenset({kind}))


def test_a_pool_is_the_nodes_with_its_gpus_in_the_order_of_their_addresses():
    nodes = [node("10.0.0.10"), node("10.0.0.9"), node("10.0.0.1", gpus=0),
             node("10.0.0.2", kind="H100")]  # fmt: skip
    pool = pool_report(RayPool(pool_id="p", gpus_per_node=4, gpu_type="A100"), nodes)
    assert [(n.ordinal, n.gpus) for n in pool.nodes] == [(0, 4), (1, 4)]
    (only,) = pool_report(RayPool(pool_id="p", gpus_per_node=4, gpu_type="H100"), nodes).nodes
    assert only.up


def test_a_node_that_came_back_is_one_node_and_up():
    pool = RayPool(pool_id="p", gpus_per_node=4)
    for nodes in ([node("a", up=False), node("a")], [node("a"), node("a", up=False)]):
        assert [n.up for n in pool_report(pool, nodes).nodes] == [True]
    assert [n.up for n in pool_report(pool, [node("a", up=False)]).nodes] == [False]


class Pretended(BaseHTTPRequestHandler):
    """Answers as a Ray does that was started without tokens."""

    version = "2.60.0"
    asks = False

    def do_GET(self) -> None:
        denied = self.asks and self.headers["Authorization"] != "Bearer right"
        answer = (
            {"ray_version": self.version, "session_name": "s"} if "version" in self.path else []
        )
        content = b"no" if denied else json.dumps(answer).encode()
        self.send_response(401 if denied else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dashboard(request) -> Iterator[str]:
    handler = type("Handler", (Pretended,), getattr(request, "param", {}))
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def opened(tmp_path, dashboard: str, token: str | None) -> RayEngine:
    path = tmp_path / "token"
    if token is not None:
        path.touch(mode=0o600)
        path.write_text(token)
    site = RaySite(
        type="ray", dashboard=dashboard, python="/usr/bin/python3", without_token=token is None,
        token_file=None if token is None else str(path),
    )  # fmt: skip
    return RayEngine(tmp_path / "engine", site, [RayPool(pool_id="p", gpus_per_node=4)], "c")


def test_a_cluster_that_answers_without_a_token_is_refused(tmp_path, dashboard):
    with pytest.raises(EngineError, match="without a token: whoever reaches its dashboard"):
        opened(tmp_path, dashboard, "right")


def test_a_cluster_without_tokens_is_driven_where_the_site_accepts_it(tmp_path, dashboard):
    opened(tmp_path, dashboard, None).close()


@pytest.mark.parametrize("dashboard", [{"asks": True}], indirect=True)
def test_a_wrong_token_is_told_from_a_cluster_that_is_away(tmp_path, dashboard):
    opened(tmp_path, dashboard, "right").close()
    with pytest.raises(EngineError, match=r"401 no; is token_file the cluster's\?"):
        opened(tmp_path, dashboard, "wrong")


@pytest.mark.parametrize("dashboard", [{"version": "2.51.1"}], indirect=True)
def test_a_ray_that_has_no_tokens_yet_is_refused(tmp_path, dashboard):
    with pytest.raises(EngineError, match=r"this Ray is 2\.51; Dure needs 2\.52 or newer"):
        opened(tmp_path, dashboard, "right")


@pytest.mark.parametrize(("mode", "text", "says"), [
    (0o644, "right", "make its mode 0600"), (0o600, " \n", "is empty"), (0o600, "é", "cannot be"),
])  # fmt: skip
def test_a_token_file_that_others_can_read_or_that_holds_none_is_refused(
    tmp_path, dashboard, mode, text, says
):
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    site = RaySite(type="ray", dashboard=dashboard, python="/usr/bin/python3", token_file=str(path))
    with pytest.raises(EngineError, match=says):
        RayEngine(tmp_path / "engine", site, [RayPool(pool_id="p", gpus_per_node=4)], "c")
