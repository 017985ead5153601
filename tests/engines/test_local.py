"""The local engine with real processes. Every wait is for a level, never for a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from local_bench import until

from dure.engines import EngineEnd, EngineError, LaunchRefusedError, Phase
from dure.engines.local import LocalEngine, LocalPool, attempts, engine, shim
from dure.jobs import Notice

pytestmark = pytest.mark.engine


def another_shim(bench):
    program = [sys.executable, "-I", "-S", shim.__file__, bench.place("a-1"), "0"]
    subprocess.run(program, check=True)


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.mark.parametrize(
    ("command", "end", "exit_code"),
    [
        (("true",), EngineEnd.COMPLETED, 0),
        (("sh", "-c", "exit 3"), EngineEnd.ERRED, 3),
        (("sh", "-c", "kill -9 $$"), EngineEnd.ERRED, 137),
        (("no-such-program",), EngineEnd.ERRED, 127),
        (("./no-such-file",), EngineEnd.ERRED, 127),
        (("/etc/passwd",), EngineEnd.ERRED, 126),
    ],
)
def test_end_and_exit_code_are_a_shells(bench, command, end, exit_code):
    bench.submit("a-1", *command)
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (end, exit_code)
    assert seen.started_ms <= seen.ended_ms
    assert seen.detail == ("ended by SIGKILL" if exit_code == 137 else "")
    if exit_code in {126, 127}:
        assert f"dure: cannot run '{command[0]}'" in bench.log("a-1")


def test_a_command_is_never_read_by_a_shell(bench):
    bench.submit("a-1", "printf", "%s|", "$(id)", "`id`; rm -rf /", "a\nb", "한글")
    bench.ended("a-1")
    assert bench.log("a-1") == "$(id)|`id`; rm -rf /|a\nb|한글|"


def test_a_script_is_run_by_bash_in_the_jobs_folder(bench):
    (bench.folder / "data").write_text("here")
    bench.bash("a-1", "cat data\nfalse\necho ' still'")
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert bench.log("a-1") == "here still\n"


def test_the_environment_is_clean_and_carries_ranks_and_slots(bench, monkeypatch):
    monkeypatch.setenv("DURE_TOKEN", "the agent's own")
    bench.submit(
        "a-1", "env", "-0", nodes=(1, 0), gpus_per_node=2, env={"SECRET": "s", "LANG": "C"}
    )
    bench.ended("a-1")
    for rank in (0, 1):
        found = dict(line.split("=", 1) for line in bench.log("a-1", rank).split("\0") if line)
        port = found["MASTER_PORT"]
        own = str(bench.place("a-1") / str(rank))
        assert found.pop("PATH").split(":")[1:] == ["/usr/local/bin", "/usr/bin", "/bin"]
        assert found == {
            "HOME": f"{own}/home",
            "TMPDIR": f"{own}/tmp",
            "LANG": "C",
            "PYTHONUNBUFFERED": "1",
            "SECRET": "s",
            "DURE_ATTEMPT_ID": "a-1",
            "DURE_ENGINE_ROOT": str(bench.root / "engine"),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "NODE_RANK": str(rank),
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "CUDA_VISIBLE_DEVICES": "0,1",
            "PET_NNODES": "2",
            "PET_NODE_RANK": str(rank),
            "PET_NPROC_PER_NODE": "2",
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
        }


def test_the_launch_file_is_private_and_gone_once_all_ranks_began(bench):
    bench.engine._start_shims = lambda _: None  # accepted, and then nothing
    bench.bash("a-1", "sleep 60", nodes=(0, 1), env={"KEY": "hush-hush"})
    launch = bench.place("a-1") / "launch.json"
    assert launch.stat().st_mode & 0o777 == 0o600
    assert launch.parent.stat().st_mode & 0o777 == 0o700
    del bench.engine._start_shims

    until(lambda: bench.look("a-1").phase is Phase.RUNNING)
    until(lambda: not launch.exists())
    kept = [p for p in bench.root.rglob("*") if p.is_file() and b"hush-hush" in p.read_bytes()]
    assert kept == []
    bench.engine.stop("a-1")
    bench.ended("a-1")


def test_one_failing_rank_ends_the_gang_with_its_end(bench):
    script = (
        "if [ $RANK = 1 ]; then until [ -e up ]; do sleep 0.02; done; exit 4; fi\n"
        'trap "echo noticed; exit 0" TERM; touch up; sleep 60 & wait'
    )
    bench.bash("a-1", script, nodes=(0, 1))
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.ERRED, 4)
    assert seen.detail == "rank 1"
    assert bench.log("a-1") == "noticed\n"


def test_stop_gives_notice_and_grace(bench):
    bench.bash("a-1", 'trap "echo saved > checkpoint; exit 0" TERM; echo up; sleep 60 & wait')
    bench.says("a-1", "up")
    bench.engine.stop("a-1")
    bench.engine.stop("a-1")
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code, seen.detail) == (EngineEnd.STOPPED, 0, "")
    assert (bench.folder / "checkpoint").read_text() == "saved\n"


TRAINER = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(0.5)
    pathlib.Path("checkpoint").write_text("saved")
    print("notices", flush=True)
    os._exit(0)
signal.signal(signal.SIGTERM, save)
if "setsid" in sys.argv:
    os.setsid()
print("up", flush=True)
while True:
    time.sleep(60)
"""
UNDER = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


@pytest.mark.parametrize(
    "command",
    [
        ("bash", "-c", "python train.py; echo after"),
        ("bash", "-c", "python train.py setsid; echo after"),
        ("python", "-c", UNDER, "train.py"),
        ("python", "-c", UNDER, "train.py", "setsid"),
    ],
)
def test_a_trainer_below_a_command_that_dies_of_the_notice_has_its_grace(bench, command):
    (bench.folder / "train.py").write_text(TRAINER)
    bench.submit("a-1", *command)
    bench.says("a-1", "up")
    bench.engine.stop("a-1")
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.STOPPED, 143)
    assert (bench.folder / "checkpoint").read_text() == "saved"
    assert bench.log("a-1") == "up\nnotices\n"


def test_a_trainer_below_a_script_has_its_grace_whatever_the_cause(bench):
    (bench.folder / "train.py").write_text(TRAINER.replace('"checkpoint"', 'os.environ["RANK"]'))
    script = "if [ $RANK = 1 ]; then until [ -e go ]; do sleep 0.02; done; exit 4; fi\n"
    bench.bash("a-1", f"{script}python train.py; true", nodes=(0, 1))
    bench.says("a-1", "up")
    (bench.folder / "go").touch()
    assert bench.ended("a-1").exit_code == 4
    assert (bench.folder / "0").read_text() == "saved"

    (bench.folder / "0").unlink()
    bench.bash("a-2", "python train.py; true", walltime_s=1)
    assert bench.ended("a-2").end is EngineEnd.WALLTIME_REACHED
    assert (bench.folder / "0").read_text() == "saved"

    (bench.folder / "0").unlink()
    bench.bash("a-3", "python train.py; true")
    bench.says("a-3", "up")
    bench.engine.extend("a-3", now_ms() - 1)
    assert bench.ended("a-3").end is EngineEnd.STOPPED
    assert (bench.folder / "0").read_text() == "saved"


@pytest.mark.parametrize("session", ["", "setsid "])
def test_what_is_left_below_a_command_that_ended_is_killed_after_its_grace(bench, session):
    idle = "trap '' TERM; touch up; while :; do sleep 60; done"
    bench.bash(
        "a-1", f'{session}bash -c "{idle}" & until [ -e up ]; do sleep 0.02; done; wait', grace_s=1
    )
    until((bench.folder / "up").exists)
    bench.engine.stop("a-1")
    assert bench.ended("a-1").exit_code == 143
    assert bench.marked("a-1") == []


def test_a_machine_that_shuts_down_gives_notice_to_all_ranks(bench):
    bench.bash("a-1", "trap 'echo noticed; exit 0' TERM; echo up; sleep 60 & wait", nodes=(0, 1))
    for rank in (0, 1):
        bench.says("a-1", "up", rank)
    os.kill(json.loads((bench.place("a-1") / "1" / "shim.json").read_text())["pid"], signal.SIGTERM)
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.STOPPED
    assert "shut down" in seen.detail
    assert [bench.log("a-1", rank) for rank in (0, 1)] == ["up\nnoticed\n"] * 2


def test_what_ignores_its_notice_is_killed_after_its_grace(bench):
    bench.bash("a-1", "trap '' TERM; echo up; while :; do sleep 60; done", grace_s=1)
    bench.says("a-1", "up")
    bench.engine.stop("a-1")
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.STOPPED, 137)
    assert bench.marked("a-1") == []


def test_walltime_ends_with_notice(bench):
    script = 'trap "echo noticed; exit 0" USR1; sleep 60 & wait'
    bench.bash("a-1", script, walltime_s=1, notice=Notice.USR1)
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.WALLTIME_REACHED
    assert seen.ended_ms - seen.started_ms >= 1_000
    assert bench.log("a-1") == "noticed\n"


def test_without_a_longer_lease_it_is_stopped(bench):
    bench.bash("a-1", "echo up; sleep 60")
    bench.says("a-1", "up")
    bench.engine.extend("a-1", now_ms() + 60_000)
    bench.engine.close()  # nobody is there to stop it
    engine = bench.open()
    assert bench.look("a-1").phase is Phase.RUNNING
    engine.extend("a-1", now_ms() - 1)
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.STOPPED
    assert "lease" in seen.detail


def test_nothing_that_a_job_leaves_behind_survives_it(bench):
    bench.bash(
        "a-1",
        "setsid sleep 1000 & (setsid sh -c 'setsid sleep 1000 & sleep 1000' &)\n"
        "env -i setsid sleep 1234567 & echo $! > hidden; exit 0",
    )
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert bench.marked("a-1") == []
    assert not psutil.pid_exists(int((bench.folder / "hidden").read_text()))


def test_a_killed_shim_is_a_failed_node_and_the_other_ranks_go(bench):
    bench.bash("a-1", "setsid sleep 1000 & echo up; sleep 1000", nodes=(0, 1))
    for rank in (0, 1):
        bench.says("a-1", "up", rank)
    victim = json.loads((bench.place("a-1") / "1" / "shim.json").read_text())["pid"]
    os.kill(victim, signal.SIGKILL)
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.NODE_FAILED
    assert seen.detail == "rank 1: its supervisor was killed"
    assert bench.marked("a-1") == []
    assert all(node.up for pool in bench.engine.capacity() for node in pool.nodes)


def test_a_restarted_machine_failed_its_nodes(bench):
    bench.engine._start_shims = lambda _: None
    bench.bash("a-1", "echo ran", nodes=(0, 1))
    bench.engine.close()
    path = bench.place("a-1") / "attempt.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"boot_id": "an earlier one"}))
    (bench.place("a-1") / "0" / "begun.json").touch()  # what was not durable is empty
    bench.open()
    assert bench.ended("a-1").end is EngineEnd.NODE_FAILED
    assert bench.log("a-1") == ""


@pytest.mark.parametrize("shim_sees_it", [True, False])
def test_what_runs_on_after_the_sites_disk_was_emptied_is_ended(bench, shim_sees_it):
    script = (
        "setsid sleep 1000 & env -i setsid sleep 1000 & echo $! > hidden\n"
        "trap '' TERM; echo up; while :; do sleep 1000; done"
    )
    bench.bash("a-1", script, grace_s=60)
    bench.says("a-1", "up")
    hidden = int((bench.folder / "hidden").read_text())
    supervisor = psutil.Process(
        json.loads((bench.place("a-1") / "0" / "shim.json").read_text())["pid"]
    )
    bench.engine.close()
    if not shim_sees_it:
        supervisor.suspend()
    shutil.rmtree(bench.root / "engine")
    bench.open()
    assert bench.marked("a-1") == []
    supervisor.resume()
    until(lambda: not psutil.pid_exists(hidden))
    until(lambda: not supervisor.is_running())
    assert bench.engine.observe() == ()


def test_a_shim_whose_folder_is_gone_stops_its_command_with_all_below_it(bench):
    bench.bash("a-1", "setsid sleep 1000 & (trap '' TERM; sleep 1000) & echo up; wait", grace_s=1)
    bench.says("a-1", "up")
    assert bench.marked("a-1") != []
    bench.engine.close()
    shutil.rmtree(bench.root / "engine")
    until(lambda: bench.marked("a-1") == [])
    bench.open()


def test_what_another_engine_runs_is_left_alone(bench):
    bench.bash("a-1", "echo up; sleep 1000")
    bench.says("a-1", "up")
    pools = [LocalPool(pool_id="p", nodes=1, gpus_per_node=1)]
    LocalEngine(bench.root / "other", pools).close()
    bench.engine.close()
    bench.open()
    assert bench.look("a-1").phase is Phase.RUNNING
    assert bench.marked("a-1") != []


def test_submit_is_idempotent_and_a_restarted_engine_finds_its_attempts(bench):
    bench.bash("a-1", "echo ran >> runs; sleep 60", nodes=(0,))
    bench.bash("a-1", "echo ran >> runs; sleep 60", nodes=(0,))
    until(lambda: bench.look("a-1").phase is Phase.RUNNING)
    before = bench.look("a-1")
    bench.engine.close()
    bench.open()
    bench.bash("a-1", "echo ran >> runs; sleep 60", nodes=(0,))
    assert bench.look("a-1") == before
    bench.engine.stop("a-1")
    bench.ended("a-1")
    bench.bash("a-1", "echo ran >> runs", nodes=(0,))
    assert bench.ended("a-1").end is EngineEnd.STOPPED
    assert (bench.folder / "runs").read_text() == "ran\n"


@pytest.mark.parametrize("point", ["local.before-accept", "local.after-accept", "local.after-shim"])
def test_killed_anywhere_in_submit_it_runs_once_or_not_yet(bench, monkeypatch, point):
    bench.engine.close()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.environ["DURE_CRASH_AT"] = point
            bench.open()
            bench.bash("a-1", "echo ran >> runs", nodes=(0, 1))
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    bench.open()
    known = [seen.attempt_id for seen in bench.engine.observe()]
    assert known == ([] if point == "local.before-accept" else ["a-1"])
    bench.bash("a-1", "echo ran >> runs", nodes=(0, 1))
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert (bench.folder / "runs").read_text() == "ran\nran\n"


def test_a_second_shim_finds_the_rank_taken(bench):
    bench.bash("a-1", "echo ran >> runs; until [ -e go ]; do sleep 0.05; done")
    until((bench.folder / "runs").exists)
    bench.engine._ask_for_shim(bench.place("a-1"), 0)
    another_shim(bench)  # gives up: the first holds the lock
    (bench.folder / "go").touch()
    bench.ended("a-1")
    another_shim(bench)  # leaves: it ended
    assert (bench.folder / "runs").read_text() == "ran\n"


def test_a_rank_whose_shim_was_killed_is_not_run_by_another(bench):
    bench.bash("a-1", "echo ran >> runs; touch up; sleep 60")
    until((bench.folder / "up").exists)
    os.kill(json.loads((bench.place("a-1") / "0" / "shim.json").read_text())["pid"], signal.SIGKILL)
    another_shim(bench)
    assert bench.ended("a-1").end is EngineEnd.NODE_FAILED
    assert (bench.folder / "runs").read_text() == "ran\n"


def test_no_rank_starts_before_all_can(bench):
    bench.engine._start_shims = lambda _: None
    bench.bash("a-1", "echo ran >> runs", nodes=(0, 1))
    bench.engine._ask_for_shim(bench.place("a-1"), 0)
    until((bench.place("a-1") / "0" / "shim.json").exists)
    assert bench.look("a-1").phase is Phase.ACCEPTED
    assert not (bench.place("a-1") / "0" / "begun.json").exists()
    del bench.engine._start_shims
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert (bench.folder / "runs").read_text() == "ran\nran\n"


def test_a_stop_before_the_start_runs_nothing(bench):
    bench.engine._start_shims = lambda _: None
    bench.bash("a-1", "echo ran > runs")
    bench.engine.stop("a-1")
    del bench.engine._start_shims
    seen = bench.ended("a-1")
    assert (seen.end, seen.started_ms) == (EngineEnd.STOPPED, None)
    assert not (bench.folder / "runs").exists()


def test_slots_are_held_until_the_end_and_counted_on_disk(bench):
    bench.bash("a-1", "sleep 60", nodes=(0, 1), gpus_per_node=3)
    with pytest.raises(LaunchRefusedError, match="node 1 of pool p has 1 of its 4 GPUs free"):
        bench.bash("a-2", "true", nodes=(1,), gpus_per_node=2)
    bench.engine.close()
    bench.open()
    with pytest.raises(LaunchRefusedError, match="needs 2"):
        bench.bash("a-2", "true", nodes=(0,), gpus_per_node=2)
    bench.submit("a-3", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES", nodes=(1,))
    bench.ended("a-3")
    assert bench.log("a-3") == "3\n"
    bench.engine.stop("a-1")
    bench.ended("a-1")
    bench.bash("a-2", "true", nodes=(1,), gpus_per_node=4)
    assert bench.ended("a-2").end is EngineEnd.COMPLETED


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pool_id": "q"}, "this cluster has no pool 'q'"),
        ({"nodes": (2,)}, "pool p has no node 2"),
        ({"nodes": (0, 0), "gpus_per_node": 3}, "node 0 of pool p has 1 of its 4 GPUs free"),
        ({"attempt_id": "../a"}, "attempt id '../a' cannot name a folder"),
    ],
)
def test_what_can_never_run_is_refused(bench, changes, sentence):
    with pytest.raises(LaunchRefusedError, match=sentence):
        bench.submit(changes.pop("attempt_id", "a-1"), "true", **changes)
    assert bench.engine.observe() == ()


def test_a_drained_node_is_down_and_takes_nothing(bench):
    down = bench.root / "engine" / "nodes" / "p" / "1.down"
    down.parent.mkdir(parents=True)
    down.touch()
    assert [node.up for node in bench.engine.capacity()[0].nodes] == [True, False]
    with pytest.raises(LaunchRefusedError, match="node 1 of pool p is down"):
        bench.submit("a-1", "true", nodes=(1,))


def test_forget_removes_what_ended_and_only_that(bench):
    bench.bash("a-1", "sleep 60")
    with pytest.raises(EngineError, match="is live"):
        bench.engine.forget("a-1")
    bench.engine.stop("a-1")
    bench.ended("a-1")
    bench.engine.forget("a-1")
    bench.engine.forget("a-1")
    assert bench.engine.observe() == ()
    assert not bench.place("a-1").exists()


def test_one_agent_at_a_time(bench):
    with pytest.raises(EngineError, match="another agent drives"):
        LocalEngine(bench.root / "engine", [LocalPool(pool_id="p", nodes=1, gpus_per_node=1)])


def test_the_shim_server_may_die_and_nothing_is_lost(bench):
    bench.bash("a-1", "echo up; until [ -e go ]; do sleep 0.05; done")
    bench.says("a-1", "up")
    bench.engine._server.kill()
    bench.engine._server.wait()
    bench.bash("a-2", "touch go")
    assert bench.ended("a-2").end is EngineEnd.COMPLETED
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert Path(bench.root / "engine" / "shim.log").read_text() == ""


FORGED = '{"end":"completed","exit_code":0,"started_ms":1,"ended_ms":2,"detail":""}'


@pytest.mark.parametrize(
    "harm",
    [
        "echo '{}' > {name}.json",
        "echo '[1]' > {name}.json",
        ": > {name}.json",
        "python3 -c 'print(\"[\" * 60_000)' > {name}.json",
        "truncate -s 1G {name}.json",
        "mkfifo {name}.json",
        "mkdir {name}.json",
        "ln -s /dev/zero {name}.json",
        f"echo '{FORGED}' | sed s/2/-2/ > {{name}}.json",
    ],
)
@pytest.mark.parametrize("name", ["exit", "begun"])
def test_what_a_job_does_to_its_control_files_is_its_own_trouble(bench, harm, name):
    harm = harm.replace("{name}", name)
    bench.bash("a-2", "trap 'exit 0' TERM; echo up; sleep 1000 & wait")
    bench.says("a-2", "up")
    spoil = f"cd $HOME/..; [ {name} = exit ] || rm begun.json; {harm}; echo spoilt; kill -9 $PPID"
    bench.bash("a-1", spoil)
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.NODE_FAILED
    assert bench.look("a-2").phase is Phase.RUNNING
    assert bench.marked("a-1") == []
    bench.engine.close()
    bench.open()
    assert bench.ended("a-1").end is EngineEnd.NODE_FAILED
    bench.engine.forget("a-1")
    bench.engine.stop("a-2")
    assert bench.ended("a-2").end is EngineEnd.STOPPED


def test_an_end_that_a_job_forges_is_not_believed_while_its_supervisor_lives(bench):
    bench.bash("a-1", f"echo '{FORGED}' > $HOME/../exit.json; echo forged; sleep 1; exit 3")
    bench.says("a-1", "forged")
    assert bench.look("a-1").phase is not Phase.ENDED
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.ERRED, 3)
    assert seen.ended_ms > 2


@pytest.mark.parametrize("harm", ["chmod 000 .", "rm -rf ../0", "rm lock; mkdir lock"])
def test_a_control_folder_that_is_taken_away_fails_its_attempt_alone(bench, harm):
    bench.bash("a-2", "trap 'exit 0' TERM; echo up; sleep 1000 & wait")
    bench.says("a-2", "up")
    bench.bash("a-1", f"cd $HOME/..; {harm}; kill -9 $PPID; sleep 1000")
    assert bench.ended("a-1").end is EngineEnd.NODE_FAILED
    assert bench.look("a-2").phase is Phase.RUNNING
    bench.engine.forget("a-1")
    assert not bench.place("a-1").exists()
    bench.engine.stop("a-2")


def test_an_attempt_whose_acceptance_a_job_spoilt_does_not_keep_the_agent_down(bench):
    bench.bash("a-1", "cd $HOME/../..; echo '{}' > attempt.json; touch ../stray; echo up; sleep 99")
    bench.says("a-1", "up")
    bench.engine.close()
    bench.open()
    assert bench.engine.observe() == ()
    assert bench.marked("a-1") == []
    until(lambda: not bench.place("a-1").exists())


@pytest.mark.parametrize("other", ["pipe", "link"])
def test_a_log_that_is_something_else_is_not_written_to(bench, other):
    bench.engine._start_shims = lambda _: None  # accepted, and then nothing
    bench.submit("a-1", "echo", "said")
    place = bench.place("a-1") / "0" / "log"
    target = bench.root / "target"
    target.touch()
    os.mkfifo(place) if other == "pipe" else place.symlink_to(target)
    del bench.engine._start_shims
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.START_FAILED
    assert "its log cannot be opened" in seen.detail
    assert target.read_bytes() == b""


@pytest.mark.parametrize("removed", [True, False])
def test_secrets_of_an_attempt_that_could_not_be_accepted_do_not_stay(bench, monkeypatch, removed):
    def full(*_words):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(attempts, "accept", full)
        if not removed:  # as when the agent is killed in between
            patch.setattr(engine, "remove_tree", lambda path: path.exists())
        with pytest.raises(EngineError, match="No space left"):
            bench.submit("a-1", "true", env={"KEY": "hush-hush"})
    assert bench.place("a-1").exists() == (not removed)
    bench.engine.forget("a-1")
    assert [p for p in bench.root.rglob("*") if p.is_file() and b"hush" in p.read_bytes()] == []


def test_forget_removes_what_a_job_made_read_only(bench):
    bench.bash("a-1", "mkdir -p $HOME/go/pkg; touch $HOME/go/pkg/x; chmod -R a-w $HOME/..")
    bench.ended("a-1")
    bench.engine.forget("a-1")
    assert list((bench.root / "engine" / "trash").iterdir()) == []
    assert not bench.place("a-1").exists()
    assert bench.engine.observe() == ()
