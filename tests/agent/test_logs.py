"""Logs on their way up: no log, however large or fast, holds up another."""

from __future__ import annotations

import os
import threading

import pytest
from agent_bench import FakeControl

from dure.agent.logs import ROUND_BYTES_MAX, LogPusher
from dure.engines import Phase


@pytest.fixture
def control():
    return FakeControl()


def test_a_huge_log_goes_up_in_parts_beside_the_others(bench):
    bench.run_to_running(nodes=(0, 1))
    huge, small = bytes(3 * ROUND_BYTES_MAX + 7), b"rank 1 is here\n"
    bench.engine.log_path("a-1", 0).write_bytes(huge)
    bench.engine.log_path("a-1", 1).write_bytes(small)
    for parts in (1, 2, 3):
        bench.tick()
        assert len(bench.control.logs["a-1", 0]) == parts * ROUND_BYTES_MAX
        assert bench.control.logs["a-1", 1] == small
    bench.tick()
    assert bench.control.logs["a-1", 0] == huge


def test_the_rest_of_an_ended_ones_log_goes_up_at_once(bench):
    bench.run_to_running()
    huge = bytes(3 * ROUND_BYTES_MAX + 7)
    bench.engine.log_path("a-1", 0).write_bytes(huge)
    bench.engine.complete("a-1")
    bench.tick(times=2)
    assert bench.report.phase is Phase.ENDED
    assert bench.control.logs["a-1", 0] == huge


def test_a_log_that_grows_as_fast_as_it_is_pushed_ends_a_push_all_the_same(control, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"x" * 10)
    real, left = control.push_log, [50]

    def push_log(*words):
        if left[0]:
            left[0] -= 1
            with path.open("ab") as file:
                file.write(b"x" * 10)
        return real(*words)

    control.push_log = push_log
    pusher = LogPusher(control)
    assert pusher.push("a-1", 0, path)
    assert len(control.log_calls) == 1
    assert pusher.behind("a-1", 0, path)


def test_after_a_restart_a_push_goes_on_where_the_control_plane_is(control, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(bytes(range(256)) * 5_000)
    have = ROUND_BYTES_MAX + 11
    control.logs["a-1", 0] = path.read_bytes()[:have]
    pusher = LogPusher(control)
    for _ in range(3):
        assert pusher.push("a-1", 0, path, ROUND_BYTES_MAX)
    assert control.logs["a-1", 0] == path.read_bytes()


@pytest.mark.parametrize("other", ["link", "pipe", "folder"])
def test_what_is_no_log_is_neither_read_nor_waited_for(control, tmp_path, other):
    (tmp_path / "token").write_bytes(b"the agent's own")
    path = tmp_path / "log"
    if other == "link":
        path.symlink_to(tmp_path / "token")
    elif other == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    pusher = LogPusher(control)
    assert not pusher.behind("a-1", 0, path)
    # In a thread of its own: what opens a pipe that nobody writes would wait for ever.
    pushing = threading.Thread(target=pusher.push, args=("a-1", 0, path), daemon=True)
    pushing.start()
    pushing.join(10)
    assert not pushing.is_alive()
    assert control.logs == {}
