"""Slurm by itself: what other engines have no like of. Two real clusters with accounting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest
from contract import until
from test_contract_slurm import SlurmContractBench

from dure.demo.clusters.processes import run
from dure.engines import EngineEnd, EngineError, LaunchRefusedError, Phase
from dure.jobs import Notice

pytestmark = pytest.mark.engine


@pytest.fixture
def bench(tmp_path, slurm_clusters):
    bench = SlurmContractBench(tmp_path, slurm_clusters[0])
    yield bench
    bench.close()


def scontrol(bench, *words):
    return bench.cluster.ask("scontrol", *words)


def test_two_clusters_run_beside_each_other_and_know_nothing_of_each_other(
    tmp_path, slurm_clusters
):
    with contextlib.ExitStack() as stack:
        benches = []
        for cluster in slurm_clusters:
            folder = tmp_path / cluster.name
            folder.mkdir()
            benches.append(SlurmContractBench(folder, cluster))
            stack.callback(benches[-1].close)
        for bench in benches:
            bench.bash("a-1", "touch up; until [ -e go ]; do sleep 0.1; done; echo $SLURM_JOB_ID")
        for bench in benches:
            until((bench.folder / "up").exists)
        for bench in benches:
            assert list(bench.seen()) == ["a-1"]
            (bench.folder / "go").touch()
            seen = bench.ended("a-1")
            assert seen.end is EngineEnd.COMPLETED
            assert seen.engine_id.split(":")[:2] == [bench.cluster.name, bench.log("a-1").strip()]


def test_slurms_account_and_words_are_the_sites(bench):
    bench.bash("a-1", "sleep 100")
    words = ("squeue", "-h", "-j", bench.job_id("a-1"), "-o", "%a|%j|%P|%k|%l|%b")
    assert bench.cluster.ask(*words).strip() == (
        f"second|a-1|gpu|dure:test-{bench.root.name}|4:00|gres:gpu:b200:1"
    )


def test_a_requeued_job_ends_with_its_first_run_and_runs_no_more(bench):
    bench.bash("a-1", "echo ran >> runs; sleep 100")
    until((bench.folder / "runs").exists)
    before = bench.becomes("a-1", Phase.RUNNING)
    job = bench.job_id("a-1")
    scontrol(bench, "update", f"JobId={job}", "Requeue=1")
    scontrol(bench, "requeue", job)
    drift = []

    def ended():
        seen = bench.seen()["a-1"]
        drift.extend(bench.engine.drift())
        return seen if seen.phase is Phase.ENDED else None

    seen = until(ended)
    assert (seen.engine_id, seen.end) == (before.engine_id, EngineEnd.NODE_FAILED)
    assert any("was requeued" in sentence for sentence in drift)
    words = ("sacct", "-X", "-n", "-P", "--duplicates", "-j", job, "-o", "Start,End")
    env = bench.cluster.env | {"SLURM_TIME_FORMAT": "%s"}
    first = run(words, env).splitlines()[0]
    assert first == f"{seen.started_ms // 1000}|{seen.ended_ms // 1000}"
    squeue = ("squeue", "-h", "-j", job, "-o", "%T")
    until(lambda: bench.cluster.ask(*squeue).strip() in {"CANCELLED", ""})
    assert (bench.folder / "runs").read_text() == "ran\n"


def test_a_site_that_cancels_a_job_gives_it_notice_and_it_counts_as_stopped(bench):
    bench.bash("a-1", 'trap "echo noticed; exit 0" TERM; echo up; while :; do sleep 0.1; done')
    bench.says("a-1", "up")
    bench.cluster.ask("scancel", bench.job_id("a-1"))
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.STOPPED, 0)
    assert seen.detail in {"Slurm: cancelled", "stopped by the cluster that it ran on"}
    assert bench.log("a-1").endswith("noticed\n")


def test_a_gang_that_the_site_cancels_ends_on_all_nodes(bench):
    bench.bash("a-1", "echo up; sleep 100", nodes=(0, 1), notice=Notice.USR1)
    for rank in (0, 1):
        bench.says("a-1", "up", rank)
    bench.cluster.ask("scancel", bench.job_id("a-1"))
    assert bench.ended("a-1").end is EngineEnd.STOPPED


def test_an_end_that_the_controller_has_purged_comes_from_accounting(bench):
    bench.bash("a-1", "exit 7")
    bench.bash("a-2", "sleep 100")
    bench.becomes("a-2", Phase.RUNNING)
    queue = bench.engine._commands.queue
    bench.engine._commands.queue = lambda: tuple(r for r in queue() if r.name != "a-1")
    seen = bench.ended("a-1")
    assert (seen.end, seen.exit_code) == (EngineEnd.ERRED, 7)
    assert (seen.started_ms, seen.ended_ms) == bench.own_times_ms("a-1")


def test_without_accounting_nothing_that_only_it_knows_is_gone(bench):
    bench.bash("a-1", "exit 7")
    bench.bash("a-2", "exit 8")
    assert bench.ended("a-2").exit_code == 8
    bench.reopen()
    queue = bench.engine._commands.queue
    with bench.cluster.without_accounting():
        assert bench.seen()["a-1"].phase is not None
        bench.bash("a-3", "echo up; sleep 100")  # a controller does without accounting for a while
        bench.says("a-3", "up")
        bench.becomes("a-3", Phase.RUNNING)
        bench.engine._commands.queue = lambda: tuple(r for r in queue() if r.name != "a-3")
        assert bench.seen()["a-3"].phase is Phase.RUNNING
    bench.engine._commands.queue = queue


def test_what_slurm_may_have_is_not_submitted_again_before_it_is_denied_twice(bench):
    submit = bench.engine._commands.submit

    def unheard(*_words):
        raise EngineError("sbatch did not get an answer")

    bench.engine._commands.submit = unheard
    with pytest.raises(EngineError, match="did not get an answer"):
        bench.bash("a-1", "echo ran >> runs")
    bench.engine._commands.submit = submit
    for _ in range(2):  # twice, but at once
        assert bench.seen() == {}
        with pytest.raises(EngineError, match="not yet said twice"):
            bench.bash("a-1", "echo ran >> runs")
    bench.reopen()
    with pytest.raises(EngineError, match="not yet said twice"):
        bench.bash("a-1", "echo ran >> runs")

    def taken():
        bench.engine.observe()
        with contextlib.suppress(EngineError):
            return bench.bash("a-1", "echo ran >> runs")

    until(taken)
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert (bench.folder / "runs").read_text() == "ran\n"


@pytest.mark.parametrize("point", ["slurm.before-sbatch", "slurm.after-sbatch"])
def test_killed_anywhere_in_submit_it_runs_once_or_not_yet(bench, monkeypatch, point):
    bench.engine.close()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.environ["DURE_CRASH_AT"] = point
            bench.engine = bench.open()
            bench.bash("a-1", "echo ran >> runs")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    bench.engine = bench.open()
    assert list(bench.seen()) == ([] if point == "slurm.before-sbatch" else ["a-1"])

    def taken():
        bench.engine.observe()
        with contextlib.suppress(EngineError):
            return bench.bash("a-1", "echo ran >> runs")

    until(taken)
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert (bench.folder / "runs").read_text() == "ran\n"


def test_of_two_jobs_for_one_attempt_the_second_is_cancelled(bench):
    bench.bash("a-1", "touch up; sleep 100")
    until((bench.folder / "up").exists)
    mark = f"--comment=dure:test-{bench.root.name}"
    words = ("--parsable", "--job-name=a-1", mark, "-A", "second", "--wrap", "touch second")
    second = bench.cluster.ask("sbatch", "-o", "/dev/null", *words).strip()
    assert bench.seen()["a-1"].phase is Phase.RUNNING
    (sentence,) = bench.engine.drift()
    assert f"job {second} is a second one of attempt a-1" in sentence
    state = ("squeue", "-h", "-j", second, "-o", "%T")
    until(lambda: bench.cluster.ask(*state).strip() in {"CANCELLED", "COMPLETED", ""})
    assert bench.seen()["a-1"].phase is Phase.RUNNING


def test_others_jobs_of_the_same_user_are_none_of_ours(bench):
    words = ("--parsable", "--job-name=a-9", "-A", "second", "-o", "/dev/null", "--wrap", "sleep 9")
    job = bench.cluster.ask("sbatch", *words).strip()
    assert bench.seen() == {}
    assert bench.cluster.ask("squeue", "-h", "-j", job, "-o", "%T").strip() != "CANCELLED"
    bench.cluster.ask("scancel", job)


def test_a_node_whose_daemon_falls_silent_fails_what_runs_there(bench):
    bench.bash("a-1", "echo up; sleep 100")
    bench.says("a-1", "up")
    bench.becomes("a-1", Phase.RUNNING)
    with bench.lose_node("a-1", 0):
        seen = bench.ended("a-1")
        assert (seen.end, seen.exit_code) == (EngineEnd.NODE_FAILED, None)
        down = [node for node in bench.engine.capacity()[0].nodes if not node.up]
        assert len(down) == 1
    assert (seen.started_ms, seen.ended_ms) == bench.own_times_ms("a-1")


def test_a_reservation_keeps_its_nodes_from_other_pools(bench):
    node = bench.cluster.node_names[2]
    scontrol(
        bench, "create", "reservation", "ReservationName=kept", "StartTime=now", "Duration=10",
        "Users=root", f"Nodes={node}",
    )  # fmt: skip
    try:
        until(lambda: not bench.engine.capacity()[0].nodes[2].up)
    finally:
        scontrol(bench, "delete", "ReservationName=kept")
    until(lambda: bench.engine.capacity()[0].nodes[2].up)


def test_a_rank_that_cannot_be_started_says_why(bench):
    site = bench.engine._site
    object.__setattr__(site, "python", "/no/such/python3")
    bench.bash("a-1", "true")
    seen = bench.ended("a-1")
    assert seen.end is EngineEnd.START_FAILED
    assert "/no/such/python3" in seen.detail


def test_slurms_refusal_is_told_in_its_words(bench):
    object.__setattr__(bench.engine._site, "accounts", {"climate": "nobodys"})
    with pytest.raises(LaunchRefusedError, match=r"Slurm refused it: .*account"):
        bench.bash("a-1", "true")
    assert bench.seen() == {}


def test_a_jobs_own_srun_runs_beside_its_rank(bench):
    script = (
        'if [ "$RANK" = 0 ]; then srun --overlap -n2 -N2 /bin/sh -c "echo on \\$SLURM_NODEID"; fi'
    )
    bench.bash("a-1", script, nodes=(0, 1))
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert sorted(bench.log("a-1").split("\n")) == ["", "on 0", "on 1"]


def test_an_agent_drives_it_from_its_configuration_file(bench, tmp_path):
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text("dure-token")
    config = tmp_path / "agent.toml"
    config.write_text(
        f"""
cluster_id = "c"
url = "http://127.0.0.1:1"
token_file = "token"
root = "agent"
[engine]
type = "slurm"
slurm_conf = "{bench.cluster.conf}"
[[pools]]
pool_id = "p"
partition = "gpu"
"""
    )
    command = [sys.executable, "-m", "dure.agent", "--config", str(config), "--log-format", "json"]
    agent = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert "sync-failed" in agent.stderr.readline()  # the engine answered; nobody else does
    agent.terminate()
    assert agent.wait(30) == 0
