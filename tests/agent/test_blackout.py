"""An owner has its pools to itself when it says so, and what ran there has had its notice."""

from __future__ import annotations

from datetime import datetime

import pytest
from agent_bench import AgentBench, order, reply
from hypothesis import given
from hypothesis import strategies as st

from dure.agent.blackout import Blackout, closed_pools
from dure.engines import EngineEnd, Phase

OFFICE = Blackout(
    days=("mon", "tue", "wed", "thu", "fri"), begin="09:00", end="18:00", zone="Asia/Seoul",
    notice_s=900,
)  # fmt: skip
NIGHTS = Blackout(days=("fri",), begin="22:00", end="06:00", notice_s=0, pools=("p",))
ONCE = Blackout(starts="2026-12-24T18:00:00+09:00", ends="2026-12-26T09:00:00+09:00", notice_s=60)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


@pytest.mark.parametrize(
    ("blackout", "at", "closed"),
    [
        (OFFICE, "2026-11-24T08:44:59+09:00", False),
        (OFFICE, "2026-11-24T08:45:00+09:00", True),
        (OFFICE, "2026-11-24T17:59:59+09:00", True),
        (OFFICE, "2026-11-24T18:00:00+09:00", False),
        (OFFICE, "2026-11-28T12:00:00+09:00", False),  # a Saturday
        (OFFICE, "2026-11-24T00:30:00+00:00", True),
        (NIGHTS, "2026-11-27T21:59:59+00:00", False),
        (NIGHTS, "2026-11-27T22:00:00+00:00", True),
        (NIGHTS, "2026-11-28T05:59:59+00:00", True),
        (NIGHTS, "2026-11-28T06:00:00+00:00", False),
        (NIGHTS, "2026-11-28T22:30:00+00:00", False),
        (ONCE, "2026-12-24T17:58:59+09:00", False),
        (ONCE, "2026-12-24T17:59:00+09:00", True),
        (ONCE, "2026-12-26T08:59:59+09:00", True),
        (ONCE, "2026-12-26T09:00:00+09:00", False),
    ],
)
def test_a_pool_is_closed_from_the_notice_to_the_end(blackout: Blackout, at: str, closed: bool):  # noqa: FBT001
    assert blackout.closes("p", ms(at)) is closed


def test_only_pools_that_are_named_are_closed():
    assert closed_pools([NIGHTS], ["p", "q"], ms("2026-11-27T23:00:00+00:00")) == {"p"}


@given(st.integers(0, 86_400), st.integers(0, 6 * 86_400))
def test_a_window_shorter_than_its_notice_stays_closed_to_its_end(notice_s: int, before_s: int):
    window = Blackout(days=("wed",), begin="12:00", end="12:05", notice_s=notice_s)
    begins_ms = ms("2026-11-25T12:00:00+00:00")
    assert window.closes("p", begins_ms - before_s * 1_000) is (before_s <= notice_s)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({}, "either"),
        ({"days": ("mon",), "starts": "2026-12-24T18:00:00+09:00"}, "either"),
        ({"days": ("monday",), "begin": "09:00", "end": "10:00"}, "days"),
        ({"begin": "09:00", "end": "10:00"}, "days"),
        ({"days": ("mon",), "begin": "9", "end": "10:00"}, "begin '9'"),
        ({"days": ("mon",), "begin": "09:00", "end": "24:00"}, "end '24:00'"),
        ({"days": ("mon",), "begin": "09:00", "end": "10:00", "zone": "Mars/North"}, "zone"),
        ({"starts": "2026-12-24T18:00:00", "ends": "2026-12-26T09:00:00+09:00"}, "starts"),
        ({"starts": "2026-12-26T09:00:00Z", "ends": "2026-12-26T09:00:00Z"}, "not after"),
        ({"days": ("mon",), "begin": "09:00", "end": "10:00", "notice_s": -1}, "notice_s"),
        ({"pools": ("No!",), "days": ("mon",), "begin": "09:00", "end": "10:00"}, "pools"),
    ],
)
def test_what_is_no_time_is_refused(wrong: dict[str, object], says: str):
    with pytest.raises(ValueError, match=says):
        Blackout(**wrong)


def closes_at(bench: AgentBench, at_ms: int, ends_ms: int) -> None:
    instants = [f"{datetime.fromtimestamp(t / 1_000).astimezone():%Y-%m-%dT%H:%M:%S%z}"
                for t in (at_ms, ends_ms)]  # fmt: skip
    bench.blackouts = (Blackout(starts=instants[0], ends=instants[1], notice_s=0),)
    bench.restart()


def test_what_runs_when_a_pool_closes_has_notice_and_says_why_it_ended(bench: AgentBench):
    closes_at(bench, 1_010_000, 1_020_000)
    bench.run_to_running()
    bench.tick()
    assert ("stop", "a-1") not in bench.engine.calls
    assert bench.control.requests[-1].pools[0].nodes[0].up
    bench.now_ms = 1_010_000
    bench.tick(times=3)
    assert bench.engine.calls.count(("stop", "a-1")) == 1
    assert not bench.control.requests[-1].pools[0].nodes[0].up

    bench.engine.become("a-1", Phase.ENDED, EngineEnd.STOPPED)
    bench.tick(times=3)
    assert bench.report.end is EngineEnd.STOPPED
    assert "its owner has closed the pool" in bench.report.detail
    bench.now_ms = 1_020_000
    bench.tick()
    assert bench.control.requests[-1].pools[0].nodes[0].up


def test_what_was_ordered_for_a_closed_pool_goes_back_unstarted(bench: AgentBench):
    closes_at(bench, 1_000_000, 1_500_000)
    bench.control.reply = reply(order())
    bench.tick(times=3)
    assert bench.engine.launches == []
    assert (bench.report.end, bench.report.started_ms) == (EngineEnd.STOPPED, None)


def test_a_pool_closes_also_while_the_control_plane_is_away(bench: AgentBench):
    closes_at(bench, 1_010_000, 1_020_000)
    bench.run_to_running()
    bench.control.down = True
    bench.now_ms = 1_010_000
    bench.tick(times=3)
    assert bench.engine.calls.count(("stop", "a-1")) == 1
