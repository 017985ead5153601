"""Server-sent events: resumed anywhere, a stream repeats and misses nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from api_bench import assert_refused, bearer, raw
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import codec
from dure.agent.wire import Order
from dure.api import stream
from dure.api.stream import Piece, Streams
from dure.client import Client
from dure.engines import EngineEnd
from dure.errors import RefusedError
from dure.life import State
from dure.service import jobs as service
from dure.views import LogChunk
from nation import Nation, Site, spec, submit


@dataclass(frozen=True)
class Event:
    id: str
    event: str
    data: Any


def events(text: str) -> list[Event]:
    """The events of a stream, by the standard's own form: fields, a blank line."""
    found = []
    for block in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            if line and not line.startswith(":"):
                name, _, value = line.partition(":")
                fields[name] = value.removeprefix(" ")
        if fields:
            data = json.loads(fields["data"])
            found.append(Event(fields.get("id", ""), fields.get("event", "message"), data))
    return found


class Reader:
    """Reads streams of one job as its member."""

    def __init__(self, nation: Nation, lab: Client, job: str) -> None:
        self.nation, self.lab, self.job = nation, lab, job

    def __call__(self, what: str, last: str | None = None) -> list[Event]:
        headers = {} if last is None else {"Last-Event-ID": last}
        path = f"/v1/jobs/{self.job}/{what}"
        answer = raw(self.nation, "GET", path, token=bearer(self.lab), headers=headers)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        return events(answer.text)


def write(site: Site, order: Order, text: bytes, offset: int = 0) -> None:
    path = f"/v1/agent/attempts/{order.attempt_id}/logs/0"
    assert site.http.put(path, params={"offset": offset}, content=text).is_success


WORDS = ("epoch 1: 손실 0.9\n", "checkpoint 🎉 written\n", "두 번째 시도\nñ\n")


def ended_job(nation: Nation, site: Site, *logs: bytes) -> Reader:
    """A job whose attempts wrote `logs`; all but the last were ended by a failed node."""
    lab = nation.lab()
    (job,) = submit(lab, spec())
    for at, text in enumerate(logs):
        nation.pass_s(1_000)
        site.start_all()
        order = site.orders[f"{job}.0"]
        if text:
            write(site, order, text)
        last = at == len(logs) - 1
        site.end(order, EngineEnd.COMPLETED if last else EngineEnd.NODE_FAILED, 0)
        site.round()
    assert lab.job(job).summary.state is State.SUCCEEDED
    return Reader(nation, lab, job)


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A job of three attempts, its logs cut into small chunks."""
    nation = Nation(tmp_path_factory.mktemp("streams"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "LOG_CHUNK_BYTES", 7)
        yield ended_job(nation, Site(nation), *(word.encode() for word in WORDS))
    nation.close()


# ---- logs ----------------------------------------------------------------------------------------


def test_a_log_is_told_whole_through_all_attempts_and_then_done(ended: Reader):
    *pieces, done = ended("logs?follow=true")
    assert done.event == "done"
    assert "".join(piece.data["text"] for piece in pieces) == "".join(WORDS)
    assert {piece.data["attempt_number"] for piece in pieces} == {1, 2, 3}
    assert len(pieces) > 9
    for piece in pieces:
        assert "\ufffd" not in piece.data["text"]
        assert piece.id == f"{piece.data['attempt_number']}:{piece.data['end']}"
        assert len(piece.data["text"].encode()) == piece.data["end"] - piece.data["offset"]


@pytest.mark.parametrize("what", ["logs", "logs?follow=true", "events"])
def test_a_stream_cut_at_any_event_goes_on_there(ended: Reader, what: str):
    whole = ended(what)
    for cut in range(len(whole) - 1):
        assert whole[: cut + 1] + ended(what, whole[cut].id) == whole


def test_reading_on_from_the_end_is_done_at_once(ended: Reader):
    for what in ("logs?follow=true", "events"):
        *_, last, done = ended(what)
        assert ended(what, last.id) == [done]


def test_an_empty_last_event_id_is_the_start(ended: Reader):
    assert ended("logs", "") == ended("logs")
    assert ended("events", "") == ended("events")


@given(
    raw_=st.binary(max_size=60) | st.text(max_size=20).map(str.encode),
    sizes=st.lists(st.integers(4, 12), min_size=1, max_size=4),
)
@settings(max_examples=120, deadline=None)
def test_characters_are_never_cut_in_two(raw_: bytes, sizes: list[int]):
    """Whatever the bytes and the chunks, the pieces together are the text of the whole."""
    text, at, step = "", 0, 0
    while at < len(raw_):
        piece = raw_[at : at + sizes[step % len(sizes)]]
        more, taken = service._whole_characters(piece, final=at + len(piece) == len(raw_))
        assert taken > 0
        text, at, step = text + more, at + taken, step + 1
    assert text == raw_.decode("utf-8", errors="replace")


def test_half_a_character_waits_for_its_other_half(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    order = site.orders[f"{job}.0"]
    text = "끝".encode()
    read = Reader(nation, lab, job)
    write(site, order, b"a" + text[:2])
    first, _ = read("logs")
    assert first.data["text"] == "a"
    assert [event.event for event in read("logs", first.id)] == ["done"]
    write(site, order, text[2:], offset=3)
    second, _ = read("logs", first.id)
    assert second.data["text"] == "끝"


def test_what_is_not_utf8_is_told_as_such_and_only_at_the_end(nation: Nation, site: Site):
    read = ended_job(nation, site, b"a\xff\xfeb\xea\xb0")
    (piece, _) = read("logs")
    assert piece.data["text"] == "a\ufffd\ufffdb\ufffd"
    assert piece.id == "1:6"


def test_an_attempt_that_wrote_nothing_is_passed_over(nation: Nation, site: Site):
    read = ended_job(nation, site, b"", b"second\n")
    (piece, done) = read("logs?follow=true")
    assert (piece.id, piece.data["text"], done.event) == ("2:7", "second\n", "done")


def test_a_log_may_hold_what_would_end_an_event(nation: Nation, site: Site):
    text = "a\n\nid: 9:9\nevent: done\ndata: {}\n\r\n\x85\x0b\u2028 \u2029\x1cb\0\n"
    read = ended_job(nation, site, text.encode())
    *pieces, done = read("logs")
    assert "".join(piece.data["text"] for piece in pieces) == text
    assert (pieces[-1].id, done.event) == (f"1:{len(text.encode())}", "done")
    assert "".join(chunk.text for chunk in read.lab.logs(read.job)) == text


@pytest.mark.parametrize("what", ["logs", "events"])
@pytest.mark.parametrize(
    "last", ["x", "-1", "1:x", "1:-1", ":", "1:", "1:2:3", "9" * 19 + ":0", "１:0", "1:0 ", "1.5"]
)
def test_a_bad_last_event_id_is_refused(ended: Reader, what: str, last: str):
    headers = {"Last-Event-ID": last.encode()}
    path = f"/v1/jobs/{ended.job}/{what}"
    answer = ended.nation.http.get(path, headers=headers | {"Authorization": bearer(ended.lab)})
    assert "Last-Event-ID" in assert_refused(answer, status=400)


def test_there_is_no_log_of_a_task_that_is_not_there(ended: Reader):
    path = f"/v1/jobs/{ended.job}/logs?task=1"
    assert_refused(raw(ended.nation, "GET", path, token=bearer(ended.lab)), status=404)


# ---- events --------------------------------------------------------------------------------------


def test_events_rise_and_end_with_the_job(ended: Reader):
    *told, done = ended("events")
    numbers = [int(event.id) for event in told]
    assert numbers == sorted(set(numbers))
    assert [event.data["seq"] for event in told] == numbers
    assert told[-1].data["state"] == "succeeded"
    assert done.event == "done"
    assert [event.data for event in told] == [
        json.loads(json.dumps(event))
        for event in raw(
            ended.nation, "GET", f"/v1/jobs/{ended.job}/why", token=bearer(ended.lab)
        ).json()["events"]
    ]


def test_the_client_reads_both_to_the_end(ended: Reader):
    assert "".join(chunk.text for chunk in ended.lab.follow_logs(ended.job)) == "".join(WORDS)
    assert [event.seq for event in ended.lab.follow_events(ended.job)] == [
        int(event.id) for event in ended("events")[:-1]
    ]


def test_a_cancelled_jobs_stream_ends(nation: Nation):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    lab.cancel(job)
    read = Reader(nation, lab, job)
    assert read("events")[-1].event == "done"
    assert [event.event for event in read("logs?follow=true")] == ["done"]


# ---- the stream itself, with its own clock -------------------------------------------------------


class Clock:
    """Time passes only where the stream sleeps."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 0.0
        patch.setattr(stream, "time", self)
        patch.setattr(stream, "sleep", self.sleep)

    def monotonic(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


Look = Callable[[int], Any]


def story(*pieces: Piece) -> Look:
    """What each look finds; the last for ever."""
    left = list(pieces)

    async def look(_place: int) -> Piece:
        return left.pop(0) if len(left) > 1 else left[0]

    return look


NOTHING = Piece((), 0, ended=False)
THE_END = Piece((), 0, ended=True)
SOMETHING = Piece((({"x": 1}, "1"),), 1, ended=False)


async def body(streams: Streams, look: Look, *, follow: bool = True) -> AsyncIterator[bytes]:
    answer = await streams.answer(look, 0, "kim", follow=follow)
    async for part in answer.body_iterator:  # type: ignore[attr-defined]  # a StreamingResponse
        yield part


def told(look: Look, *, follow: bool = True) -> list[bytes]:
    async def collect() -> list[bytes]:
        return [part async for part in body(Streams(), look, follow=follow)]

    return asyncio.run(collect())


def test_silence_is_broken_by_comments_that_are_no_events(clock: Clock):
    looks = round(stream.KEEPALIVE_S / stream.POLL_S) * 3
    parts = told(story(*[NOTHING] * looks, SOMETHING, THE_END))
    comments = [part for part in parts if part.startswith(b":")]
    assert 2 <= len(comments) <= 3
    assert [event.event for event in events(b"".join(parts).decode())] == ["message", "done"]


def test_comments_after_an_event_are_no_events_to_the_client_either():
    chunk = LogChunk(task_index=0, attempt_number=1, rank=0, offset=0, end=3, text="one")
    first, done = f"id: 1\ndata: {codec.encode_text(chunk)}\n\n", "event: done\ndata: {}\n\n"
    content = first + stream.KEEPALIVE_COMMENT.decode() + done
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, text=content)
    played = httpx.MockTransport(lambda _: answer)
    with Client("http://dure.test", "token", transport=played) as client:
        assert list(client.follow_logs("j-1")) == [chunk]


def test_a_stream_that_grew_old_is_cut_without_done(clock: Clock):
    parts = told(story(SOMETHING, NOTHING))
    assert clock.now_s >= stream.AGE_S_MAX
    assert [event.event for event in events(b"".join(parts).decode())] == ["message"]


def test_without_following_a_stream_tells_what_is_there(clock: Clock):
    parts = told(story(SOMETHING, SOMETHING, NOTHING), follow=False)
    assert [event.event for event in events(b"".join(parts).decode())] == [
        "message",
        "message",
        "done",
    ]
    assert clock.now_s == 0


def test_too_many_streams_are_asked_to_come_later(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, ended: Reader
):
    monkeypatch.setattr(stream, "STREAMS_MAX", 2)

    async def crowd() -> int:
        streams = Streams()
        first, second = (body(streams, story(SOMETHING)) for _ in range(2))
        await anext(first)
        await anext(second)
        with pytest.raises(RefusedError, match="Too many streams"):
            await anext(body(streams, story(SOMETHING)))
        await first.aclose()
        return streams.open.total()

    asyncio.run(crowd())
    monkeypatch.setattr(stream, "STREAMS_MAX", 0)
    path = f"/v1/jobs/{ended.job}/events"
    answer = raw(ended.nation, "GET", path, token=bearer(ended.lab))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


def test_a_reader_who_leaves_gives_the_place_back(clock: Clock):
    async def leave() -> int:
        streams = Streams()
        answer = await streams.answer(story(SOMETHING, NOTHING), 0, "kim", follow=True)
        parts = answer.body_iterator  # type: ignore[attr-defined]  # a StreamingResponse
        await anext(parts)
        assert streams.open.total() == 1
        await parts.aclose()
        return streams.open.total()

    assert asyncio.run(leave()) == 0


def test_a_refusal_comes_before_the_first_byte(ended: Reader):
    stranger = ended.nation.lab("stranger")
    for what in ("logs", "logs?follow=true", "events"):
        path = f"/v1/jobs/{ended.job}/{what}"
        assert_refused(raw(ended.nation, "GET", path, token=bearer(stranger)), status=404)
