"""What holds for every engine. A new engine passes it by giving a `ContractBench` of its own:

    class TestKubernetes(EngineContract): ...    # and a fixture `bench`

Real processes on a real engine; every wait is for a level, never for a time.
"""

from __future__ import annotations

import abc
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from dure.engines import (
    Engine,
    EngineEnd,
    EngineError,
    Launch,
    LaunchRefusedError,
    Observation,
    Phase,
)
from dure.jobs import Notice

DEADLINE_S = 60
T = TypeVar("T")


def until(look: Callable[[], T]) -> T:
    """Waits on a level: asks until the answer is true, with a deadline for what never comes."""
    end = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)
    return found


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class ContractBench(abc.ABC):
    """An engine with pool `p` of at least 2 nodes of 4 GPUs, and what can befall it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "job"
        self.folder.mkdir()
        self.attempts: list[str] = []
        self.engine: Engine = self.open()

    @abc.abstractmethod
    def open(self) -> Engine:
        """An engine on the same state as the one before, which has been closed."""

    @abc.abstractmethod
    def own_times_ms(self, attempt_id: str) -> tuple[int, int]:
        """Start and end of an ended attempt in the engine's own records, read past our code."""

    @abc.abstractmethod
    def lose_reply(self) -> contextlib.AbstractContextManager[None]:
        """Within it a submit is carried out, and its reply does not come."""

    @abc.abstractmethod
    def restart(self) -> contextlib.AbstractContextManager[None]:
        """The engine's own service is down within it, and comes back."""

    @abc.abstractmethod
    def lose_node(self, attempt_id: str, rank: int) -> contextlib.AbstractContextManager[None]:
        """The node of a rank is lost within it, as in a power cut."""

    @abc.abstractmethod
    def drain(self, ordinal: int) -> contextlib.AbstractContextManager[None]:
        """The site takes no new jobs on a node within it."""

    @abc.abstractmethod
    def lose_records(self) -> None:
        """What our side keeps of attempts is gone, while the engine runs on."""

    @abc.abstractmethod
    def settle(self) -> None:
        """Returns when a crash of the engine's own service would lose nothing of what runs."""

    @abc.abstractmethod
    def hold_back(self) -> contextlib.AbstractContextManager[None]:
        """Within it what is submitted is accepted and does not start."""

    def reopen(self) -> None:
        self.engine.close()
        self.engine = self.open()

    def submit(self, attempt_id: str, *command: str, **changes: object) -> str:
        values = {
            "attempt_id": attempt_id,
            "project": "climate",
            "pool_id": "p",
            "nodes": (0,),
            "gpus_per_node": 1,
            "walltime_s": 120,
            "notice": Notice.TERM,
            "grace_s": 10,
            "command": command,
            "script": None,
            "env": {},
        }
        self.attempts.append(attempt_id)
        return self.engine.submit(Launch(**(values | changes)), self.folder)

    def bash(self, attempt_id: str, script: str, **changes: object) -> str:
        return self.submit(attempt_id, script=script, **changes)

    def seen(self) -> dict[str, Observation]:
        return {seen.attempt_id: seen for seen in self.engine.observe()}

    def becomes(self, attempt_id: str, phase: Phase) -> Observation:
        def look() -> Observation | None:
            with contextlib.suppress(EngineError):  # unknown: asked again
                found = self.seen().get(attempt_id)
                return found if found is not None and found.phase is phase else None
            return None

        return until(look)

    def ended(self, attempt_id: str) -> Observation:
        return self.becomes(attempt_id, Phase.ENDED)

    def log(self, attempt_id: str, rank: int = 0) -> str:
        path = self.engine.log_path(attempt_id, rank)
        return path.read_text() if path.exists() else ""

    def says(self, attempt_id: str, word: str, rank: int = 0) -> None:
        until(lambda: word in self.log(attempt_id, rank))

    def close(self) -> None:
        for attempt_id, seen in self.seen().items():
            if seen.phase is not Phase.ENDED:
                self.engine.extend(attempt_id, now_ms() + 60_000)
                self.engine.stop(attempt_id)
        for attempt_id, seen in self.seen().items():
            if seen.phase is not Phase.ENDED:
                self.ended(attempt_id)
            self.engine.forget(attempt_id)
        self.engine.close()


class EngineContract:
    """The tests. Where a class says nothing else, an attempt is `a-1`."""

    @pytest.mark.parametrize(
        ("command", "end", "exit_code"),
        [
            (("true",), EngineEnd.COMPLETED, 0),
            (("sh", "-c", "exit 3"), EngineEnd.ERRED, 3),
            (("sh", "-c", "kill -9 $$"), EngineEnd.ERRED, 137),
            (("no-such-program",), EngineEnd.ERRED, 127),
        ],
    )
    def test_an_end_has_its_exit_code(self, bench, command, end, exit_code):
        bench.submit("a-1", *command)
        seen = bench.ended("a-1")
        assert (seen.end, seen.exit_code) == (end, exit_code)
        assert seen.started_ms <= seen.ended_ms

    def test_user_text_is_data(self, bench, tmp_path):
        marker = tmp_path / "marker"
        hostile = [
            "$(id)", "`id`", f"; touch {marker}", "a\nb", "%j %x", "'; DROP", "--wrap=id", "한글",
            f"\n#SBATCH --output={marker}",
        ]  # fmt: skip
        env = {"HOSTILE": "".join(hostile), "BASH_ENV_": f"$(touch {marker})"}
        bench.submit("a-1", "sh", "-c", 'printf "%s|" "$HOSTILE" "$@"', "sh", *hostile, env=env)
        bench.ended("a-1")
        assert bench.log("a-1") == "|".join(["".join(hostile), *hostile, ""])
        assert not marker.exists()

    def test_a_script_runs_in_the_jobs_folder(self, bench):
        (bench.folder / "data").write_text("here")
        bench.bash("a-1", "#SBATCH --exclusive\ncat data\nfalse\necho ' still'")
        assert bench.ended("a-1").end is EngineEnd.COMPLETED
        assert bench.log("a-1") == "here still\n"

    def test_the_agents_own_environment_does_not_reach_a_job(self, bench, monkeypatch):
        monkeypatch.setenv("DURE_TOKEN", "the agent's own")
        bench.reopen()
        bench.submit("a-1", "env", env={"SECRET": "s"})
        bench.ended("a-1")
        assert "SECRET=s\n" in bench.log("a-1")
        assert "the agent's own" not in bench.log("a-1")

    def test_secrets_do_not_stay_on_disk(self, bench):
        bench.bash("a-1", "echo up; sleep 100", env={"KEY": "hush-hush"})
        bench.says("a-1", "up")
        files = (path for path in bench.root.rglob("*") if path.is_file())
        assert [path for path in files if b"hush-hush" in path.read_bytes()] == []

    def test_submitted_twice_it_runs_once(self, bench):
        for _ in range(2):
            bench.bash("a-1", "echo ran >> runs; until [ -e go ]; do sleep 0.1; done")
        bench.becomes("a-1", Phase.RUNNING)
        bench.reopen()
        bench.bash("a-1", "echo ran >> runs")
        (bench.folder / "go").touch()
        bench.ended("a-1")
        bench.bash("a-1", "echo ran >> runs")
        assert bench.ended("a-1").end is EngineEnd.COMPLETED
        assert (bench.folder / "runs").read_text() == "ran\n"

    def test_it_is_found_by_its_key_with_the_engines_own_id(self, bench):
        bench.bash("a-1", "until [ -e go ]; do sleep 0.1; done")
        before = bench.becomes("a-1", Phase.RUNNING)
        assert before.engine_id
        assert before.started_ms is not None
        bench.reopen()
        assert bench.seen()["a-1"] == before
        (bench.folder / "go").touch()
        assert bench.ended("a-1").engine_id == before.engine_id

    def test_a_gang_has_ranks_that_know_of_each_other(self, bench):
        bench.bash(
            "a-1",
            "echo $RANK $NODE_RANK $WORLD_SIZE $PET_NNODES $PET_NPROC_PER_NODE\n"
            "echo $MASTER_ADDR:$MASTER_PORT; echo $CUDA_VISIBLE_DEVICES",
            nodes=(0, 1),
            gpus_per_node=2,
        )
        assert bench.ended("a-1").end is EngineEnd.COMPLETED
        said = [bench.log("a-1", rank).splitlines() for rank in (0, 1)]
        assert [lines[0] for lines in said] == ["0 0 2 2 2", "1 1 2 2 2"]
        assert said[0][1] == said[1][1] != ":"
        assert [len(lines[2].split(",")) for lines in said] == [2, 2]

    def test_one_failing_rank_ends_the_gang_with_its_end(self, bench):
        script = (
            "if [ $RANK = 1 ]; then until [ -e up ]; do sleep 0.1; done; exit 4; fi\n"
            'trap "echo noticed; exit 0" TERM; touch up; sleep 100 & wait'
        )
        bench.bash("a-1", script, nodes=(0, 1))
        seen = bench.ended("a-1")
        assert (seen.end, seen.exit_code, seen.detail) == (EngineEnd.ERRED, 4, "rank 1")
        assert "noticed" in bench.log("a-1")

    def test_tasks_of_an_array_run_beside_each_other_on_gpus_of_their_own(self, bench):
        for index in range(4):
            bench.bash(
                f"a-{index}",
                "touch up-$INDEX; until [ -e up-0 -a -e up-1 -a -e up-2 -a -e up-3 ]; do "
                "sleep 0.1; done; echo $CUDA_VISIBLE_DEVICES",
                env={"INDEX": str(index)},
            )
        assert {bench.ended(f"a-{i}").end for i in range(4)} == {EngineEnd.COMPLETED}

    @pytest.mark.parametrize("notice", [Notice.TERM, Notice.USR1])
    def test_a_stop_gives_notice_and_grace(self, bench, notice):
        trap = f'trap "sleep 1; echo saved > checkpoint; exit 0" {notice.value}'
        bench.bash("a-1", f"{trap}; echo up; while :; do sleep 0.1; done", notice=notice)
        bench.says("a-1", "up")
        for _ in range(2):
            bench.engine.stop("a-1")
        seen = bench.ended("a-1")
        assert (seen.end, seen.exit_code) == (EngineEnd.STOPPED, 0)
        assert (bench.folder / "checkpoint").read_text() == "saved\n"

    def test_what_ignores_its_notice_is_killed_after_its_grace(self, bench):
        bench.bash("a-1", "trap '' TERM; echo up; while :; do sleep 0.1; done", grace_s=1)
        bench.says("a-1", "up")
        bench.engine.stop("a-1")
        seen = bench.ended("a-1")
        assert (seen.end, seen.exit_code) == (EngineEnd.STOPPED, 137)

    def test_walltime_ends_with_notice(self, bench):
        script = 'trap "echo noticed; exit 0" USR1; echo up; while :; do sleep 0.1; done'
        bench.bash("a-1", script, walltime_s=2, notice=Notice.USR1)
        seen = bench.ended("a-1")
        assert seen.end is EngineEnd.WALLTIME_REACHED
        assert seen.ended_ms - seen.started_ms >= 2_000
        assert bench.log("a-1").endswith("noticed\n")

    def test_what_is_stopped_before_it_starts_never_runs(self, bench):
        with bench.hold_back():
            bench.bash("a-1", "echo ran > runs")
            assert bench.seen()["a-1"].phase is Phase.ACCEPTED
            bench.engine.stop("a-1")
        seen = bench.ended("a-1")
        assert (seen.end, seen.started_ms) == (EngineEnd.STOPPED, None)
        assert not (bench.folder / "runs").exists()

    def test_without_a_longer_lease_it_is_stopped(self, bench):
        bench.bash("a-1", "echo up; sleep 100")
        bench.says("a-1", "up")
        bench.engine.extend("a-1", now_ms() + 60_000)
        bench.becomes("a-1", Phase.RUNNING)
        bench.engine.extend("a-1", now_ms() - 1)
        seen = bench.ended("a-1")
        assert seen.end is EngineEnd.STOPPED
        assert "lease" in seen.detail

    def test_after_a_lost_reply_it_is_found_and_not_run_again(self, bench):
        with bench.lose_reply(), pytest.raises(EngineError):
            bench.bash("a-1", "echo ran >> runs; until [ -e go ]; do sleep 0.1; done")
        bench.becomes("a-1", Phase.RUNNING)
        bench.bash("a-1", "echo ran >> runs")
        (bench.folder / "go").touch()
        assert bench.ended("a-1").end is EngineEnd.COMPLETED
        assert (bench.folder / "runs").read_text() == "ran\n"

    def test_a_restart_of_the_engine_loses_and_doubles_nothing(self, bench):
        bench.bash("a-1", "echo ran >> runs; until [ -e go ]; do sleep 0.1; done")
        before = bench.becomes("a-1", Phase.RUNNING)
        bench.settle()
        with bench.restart():
            pass
        assert bench.becomes("a-1", Phase.RUNNING) == before
        (bench.folder / "go").touch()
        assert bench.ended("a-1").end is EngineEnd.COMPLETED
        assert (bench.folder / "runs").read_text() == "ran\n"

    def test_an_engine_that_does_not_answer_denies_nothing(self, bench):
        bench.bash("a-1", "echo up; until [ -e go ]; do sleep 0.1; done")
        bench.becomes("a-1", Phase.RUNNING)
        bench.settle()
        with bench.restart():
            try:
                assert "a-1" in bench.seen()
            except EngineError:
                (bench.folder / "silent").touch()
        (bench.folder / "go").touch()
        assert bench.ended("a-1").end is EngineEnd.COMPLETED

    def test_a_lost_node_ends_the_whole_gang_as_such(self, bench):
        bench.bash("a-1", "echo up; sleep 100", nodes=(0, 1))
        for rank in (0, 1):
            bench.says("a-1", "up", rank)
        bench.becomes("a-1", Phase.RUNNING)
        with bench.lose_node("a-1", 1):
            assert bench.ended("a-1").end is EngineEnd.NODE_FAILED

    def test_what_our_side_forgot_the_engine_tells_or_ends(self, bench):
        bench.bash("a-1", "echo up; sleep 100")
        bench.says("a-1", "up")
        bench.lose_records()
        if "a-1" in bench.seen():  # an engine that knows it by itself tells of it, and can stop it
            bench.engine.stop("a-1")
            assert bench.ended("a-1").end is EngineEnd.STOPPED

    def test_an_attempt_that_lives_cannot_be_forgotten(self, bench):
        bench.bash("a-1", "sleep 100")
        with pytest.raises(EngineError):
            bench.engine.forget("a-1")
        bench.engine.stop("a-1")
        bench.ended("a-1")
        for _ in range(2):
            bench.engine.forget("a-1")
        assert bench.seen() == {}
        bench.reopen()
        assert bench.seen() == {}

    def test_usage_is_the_engines_own_to_the_millisecond_it_counts(self, bench):
        bench.bash("a-1", "sleep 1.2")
        bench.bash("a-2", "sleep 100", nodes=(0, 1))
        ended = [bench.ended("a-1")]
        bench.becomes("a-2", Phase.RUNNING)
        bench.engine.stop("a-2")
        ended.append(bench.ended("a-2"))
        for seen in ended:
            assert (seen.started_ms, seen.ended_ms) == bench.own_times_ms(seen.attempt_id)

    def test_each_rank_has_its_log_to_the_byte(self, bench):
        text = "a" * 100_000 + "\n한글\n"
        (bench.folder / "text").write_text(text)
        bench.bash("a-1", "cat text; echo $RANK >&2", nodes=(0, 1))
        bench.ended("a-1")
        assert [bench.log("a-1", rank) for rank in (0, 1)] == [f"{text}0\n", f"{text}1\n"]

    def test_what_can_never_run_is_refused(self, bench):
        with pytest.raises(LaunchRefusedError, match="no pool 'q'"):
            bench.bash("a-1", "true", pool_id="q")
        with pytest.raises(LaunchRefusedError):
            bench.bash("a-1", "true", gpus_per_node=999)
        with pytest.raises(LaunchRefusedError, match="cannot name"):
            bench.bash("../a", "true")
        assert bench.seen() == {}

    def test_capacity_is_what_the_engine_has_and_a_drained_node_is_down(self, bench):
        (pool,) = bench.engine.capacity()
        assert pool.pool_id == "p"
        assert len(pool.nodes) >= 2
        assert {(node.gpus, node.up) for node in pool.nodes} == {(4, True)}
        with bench.drain(1):
            (pool,) = bench.engine.capacity()
            assert [node.ordinal for node in pool.nodes if not node.up] == [1]
        until(lambda: all(node.up for node in bench.engine.capacity()[0].nodes))
