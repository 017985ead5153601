from __future__ import annotations

import io
import json

import httpx
import pytest
from agent_bench import entry, order, reply

from dure import codec
from dure.agent.uplink import HttpUplink, UplinkError, UplinkRefusedError
from dure.agent.wire import Manifest, SyncRequest
from dure.store.files import digest
from dure.views import Upload

REQUEST = SyncRequest(cluster_id="c", engine="local", engine_answered=True, pools=(), attempts=())
DATA = entry("data", b"right")


def uplink(answer) -> HttpUplink:
    return HttpUplink("http://control/", "dure-token", transport=httpx.MockTransport(answer))


def test_sync_carries_the_token_and_the_whole_present():
    wanted = reply(order("a-1"), closed=["a-0"])

    def answer(request):
        assert (request.method, str(request.url)) == ("POST", "http://control/v1/agent/sync")
        assert request.headers["authorization"] == "Bearer dure-token"
        assert codec.decode(SyncRequest, request.content) == REQUEST
        return httpx.Response(200, content=codec.encode(wanted))

    assert uplink(answer).sync(REQUEST) == wanted


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"[]", b"\xff", b'{"orders": 3}', codec.encode(reply())[:-1] + b',"x":1}']
)
def test_a_reply_that_is_none_is_an_error_not_a_crash(body):
    with pytest.raises(UplinkError, match="the reply to sync is not one"):
        uplink(lambda _: httpx.Response(200, content=body)).sync(REQUEST)


@pytest.mark.parametrize(
    ("status", "error"),
    [
        *((status, UplinkError) for status in (401, 429, 500, 503)),
        *((status, UplinkRefusedError) for status in (302, 404, 413)),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(status, error):
    away = {"location": "http://elsewhere/"}
    agent = uplink(lambda _: httpx.Response(status, headers=away))
    for call in (
        lambda: agent.sync(REQUEST),
        lambda: agent.secrets("a-1"),
        lambda: list(agent.fetch("a-1", DATA)),
        lambda: agent.manifest("a-1", DATA.sha256),
        lambda: agent.put("a-1", DATA, io.BytesIO(b"right")),
        lambda: agent.push_log("a-1", 0, 0, b"x"),
    ):
        with pytest.raises(error) as raised:
            call()
        assert type(raised.value) is error
        assert "dure-token" not in str(raised.value)


def test_a_network_that_fails_is_an_error():
    def answer(request):
        raise httpx.ConnectTimeout("no route", request=request)

    agent = uplink(answer)
    for call in (
        lambda: agent.sync(REQUEST),
        lambda: agent.register("a-1", Manifest((DATA,))),
        lambda: list(agent.fetch("a-1", DATA)),
    ):
        with pytest.raises(UplinkError, match="ConnectTimeout: no route"):
            call()


def test_secrets_that_are_none_are_not_quoted():
    with pytest.raises(UplinkError) as raised:
        uplink(lambda _: httpx.Response(200, json={"KEY": ["hush"]})).secrets("a-1")
    assert "hush" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_content_travels_by_its_digest():
    held = {}

    def answer(request):
        path = request.url.path
        assert path == f"/v1/agent/attempts/a-1/blobs/{DATA.sha256}"
        match request.method:
            case "PUT":
                assert request.headers["content-length"] == "5"
                held[path] = request.read()
                return httpx.Response(204)
            case _:
                return httpx.Response(200, content=held[path])

    agent = uplink(answer)
    agent.put("a-1", DATA, io.BytesIO(b"right"))
    assert b"".join(agent.fetch("a-1", DATA)) == b"right"


def test_a_file_that_changed_is_brought_as_announced_or_is_the_sites_trouble():
    def answer(request):
        assert request.content == b"right"
        return httpx.Response(201)

    uplink(answer).put("a-1", DATA, io.BytesIO(b"right and more"))
    with pytest.raises(OSError, match="'data' has become shorter"):
        uplink(answer).put("a-1", DATA, io.BytesIO(b"righ"))


def test_manifests_travel_by_their_digest():
    manifest = Manifest((DATA,))
    upload = Upload(sha256=digest(manifest), missing=(DATA.sha256,))

    def answer(request):
        if request.method == "POST":
            assert request.url.path == "/v1/agent/attempts/a-1/manifests"
            assert codec.decode(Manifest, request.content) == manifest
            return httpx.Response(200, content=codec.encode(upload))
        assert request.url.path == f"/v1/agent/attempts/a-1/manifests/{upload.sha256}"
        return httpx.Response(200, content=codec.encode(manifest))

    agent = uplink(answer)
    assert agent.register("a-1", manifest) == upload
    assert agent.manifest("a-1", upload.sha256) == manifest
    with pytest.raises(UplinkError, match="the reply to manifests is not one"):
        uplink(lambda _: httpx.Response(200, content=b"{}")).manifest("a-1", upload.sha256)


def test_a_log_goes_on_where_the_control_plane_says():
    def answer(request):
        assert request.url.path == "/v1/agent/attempts/a-1/logs/3"
        assert request.url.params["offset"] == "7"
        return httpx.Response(200, json={"size": 7 + len(request.content)})

    assert uplink(answer).push_log("a-1", 3, 7, b"abc") == 10


@pytest.mark.parametrize("body", [b"", b"[]", b'{"size": "x"}', json.dumps({"s": 1}).encode()])
def test_a_log_reply_without_a_size_is_an_error(body):
    with pytest.raises(UplinkError, match="not a size"):
        uplink(lambda _: httpx.Response(200, content=body)).push_log("a-1", 0, 0, b"x")
