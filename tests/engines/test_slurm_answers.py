"""What Slurm's commands say, and what sbatch is told: pure, without a cluster."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from local_bench import launch

from dure.engines import EngineEnd, EngineError, LaunchRefusedError, NodeReport, Phase
from dure.engines.slurm import SlurmPool, SlurmSite
from dure.engines.slurm.answers import Run, read_queue, read_runs, read_version
from dure.engines.slurm.nodes import pool_report, read_nodes
from dure.engines.slurm.options import sbatch_options

MARK = "dure:nhn"
SITE = SlurmSite(type="slurm", accounts={"climate": "natl"})
POOL = SlurmPool(pool_id="p", partition="gpu", gpu_type="b200")
LOG = Path("/shared/a-1/slurm.log")


def run_of(line: str) -> Run:
    (run,) = read_queue(line, MARK)
    return run


def test_the_queue_is_read_and_strangers_are_left_out():
    text = (
        f"12|RUNNING|100|105|N/A|{MARK}|a-1\n"
        "13|RUNNING|100|105|N/A|(null)|a-1\n"
        f"14|PENDING|100|900|N/A|{MARK}|a-2\n"
        "15|RUNNING|1|2|3|a comment | with bars|of another's | job\n"
        "a line of another's job name\n"
    )
    running, waiting = read_queue(text, MARK)
    assert (running.job_id, running.submitted_s, running.started_s) == (12, 100, 105)
    assert running.phase is Phase.RUNNING
    assert waiting.phase is Phase.ACCEPTED  # 900 is when it may start, not when it did


@pytest.mark.parametrize(
    ("state", "end"),
    [
        ("COMPLETED", EngineEnd.COMPLETED),
        ("FAILED", EngineEnd.ERRED),
        ("TIMEOUT", EngineEnd.WALLTIME_REACHED),
        ("CANCELLED by 1000", EngineEnd.STOPPED),
        ("PREEMPTED", EngineEnd.STOPPED),
        ("NODE_FAIL", EngineEnd.NODE_FAILED),
    ],
)
def test_states_that_are_ends(state, end):
    run = run_of(f"12|{state}|100|105|110|{MARK}|a-1")
    assert (run.phase, run.end, run.ended_s) == (Phase.ENDED, end, 110)


@pytest.mark.parametrize("state", ["COMPLETING", "SUSPENDED", "RUNNING", "a state of 2031"])
def test_no_other_state_is_an_end(state):
    run = run_of(f"12|{state}|100|105|110|{MARK}|a-1")
    assert (run.phase, run.end, run.ended_s) == (Phase.RUNNING, None, None)


def test_an_ours_that_cannot_be_read_makes_the_answer_none():
    with pytest.raises(EngineError, match="a row that is none"):
        read_queue(f"x|RUNNING|100|105|N/A|{MARK}|a-1\n", MARK)


def test_each_run_of_a_requeued_job_has_its_row():
    text = "12|100|105|110|REQUEUED|0:15|a-1|/w\n12|110|230|Unknown|RUNNING|0:0|a-1|/w\n"
    first, second = read_runs(text)
    assert (first.submitted_s, first.ended_s, first.end) == (100, 110, None)
    assert (second.submitted_s, second.ended_s, second.phase) == (110, None, Phase.RUNNING)


@pytest.mark.parametrize(
    ("word", "code"), [("3:0", 3), ("0:9", 137), ("0:0", 0), ("1:15", 1), ("0:125", 253)]
)
def test_an_exit_code_is_a_shells(word, code):
    (run,) = read_runs(f"12|100|105|110|FAILED|{word}|a-1|/w")
    assert run.exit_code == code


@given(st.text(max_size=200))
def test_no_answer_breaks_the_reader(text):
    for read in (read_runs, read_nodes, lambda t: read_queue(t, MARK)):
        with contextlib.suppress(EngineError):
            read(text)


@pytest.mark.parametrize(
    ("state", "up", "kept"),
    [
        ("idle", True, False),
        ("mix", True, False),
        ("alloc", True, False),
        ("idle~", True, False),
        ("mix-", True, False),
        ("idle*", False, False),
        ("down*", False, False),
        ("drain", False, False),
        ("drng", False, False),
        ("maint", False, False),
        ("resv", True, True),
        ("a state of 2031", False, False),
    ],
)
def test_only_what_takes_jobs_is_up(state, up, kept):
    (node,) = read_nodes(f"n1|gpu|{state}|gpu:b200:8(S:0-1)|64|1000000\n")
    assert (node.up, node.kept, node.gpus) == (up, kept, {"b200": 8})


def test_a_pool_is_the_nodes_of_its_partition_with_its_gpus_by_number():
    text = (
        "n10|gpu|idle|gpu:b200:8|64|1\n"
        "n2|gpu|idle|gpu:b200:8,nvme:1|64|1+\n"
        "n2|debug|idle|gpu:b200:8|64|1\n"
        "n1|gpu|resv|gpu:b200:4(S:0,1),gpu:h100:2|64|1\n"
        "n3|gpu|idle|(null)|64|1\n"
        "n4|gpu|idle|gpu:h100:8|64|1\n"
    )
    nodes = read_nodes(text)
    assert pool_report(POOL, nodes).nodes == (
        NodeReport(0, 4, up=False),
        NodeReport(1, 8, up=True),
        NodeReport(2, 8, up=True),
    )
    any_type = SlurmPool(pool_id="p", partition="gpu", reservation="ours")
    assert [node.gpus for node in pool_report(any_type, nodes).nodes] == [6, 8, 8, 8]
    assert pool_report(any_type, nodes).nodes[0].up


@pytest.mark.parametrize(
    ("text", "version"), [("slurm-wlm 22.05.8\n", (22, 5)), ("slurm 23.11.4", (23, 11))]
)
def test_versions(text, version):
    assert read_version(text) == version


def test_what_is_no_version_is_said():
    with pytest.raises(EngineError, match="is not a version of Slurm"):
        read_version("command not found")


def test_a_gang_is_asked_for_in_our_own_words_alone():
    asked = launch(nodes=(0, 1), gpus_per_node=8, walltime_s=3_601, grace_s=30)
    assert sbatch_options(asked, POOL, SITE, LOG) == [
        "--no-requeue",
        "--job-name=a-1",
        "--partition=gpu",
        "--account=natl",
        "--nodes=2",
        "--ntasks-per-node=1",
        "--gres=gpu:b200:8",
        "--time=62",  # walltime, grace and the minute that --signal may come early
        "--signal=TERM@30",
        "--chdir=/shared/a-1",
        "--output=/shared/a-1/slurm.log",
    ]


@given(
    command=st.lists(st.text()).map(tuple),
    script=st.none() | st.text(),
    env=st.dictionaries(st.text(), st.text()),
)
def test_no_text_of_a_user_changes_what_sbatch_is_told(command, script, env):
    asked = launch(command=command, script=script, env=env)
    assert sbatch_options(asked, POOL, SITE, LOG) == sbatch_options(launch(), POOL, SITE, LOG)


@pytest.mark.parametrize("attempt_id", ["a\n", "a b", "--wrap=id", "A", "../a", ""])
def test_an_id_that_could_be_more_than_a_name_is_refused(attempt_id):
    with pytest.raises(LaunchRefusedError, match="cannot name a job"):
        sbatch_options(launch(attempt_id=attempt_id), POOL, SITE, LOG)


def test_a_project_without_an_account_is_refused_where_the_site_maps_any():
    with pytest.raises(LaunchRefusedError, match="no Slurm account to project 'genome'"):
        sbatch_options(launch(project="genome"), POOL, SITE, LOG)
    free = SlurmSite(type="slurm")
    options = sbatch_options(launch(project="genome"), POOL, free, LOG)
    assert not any(word.startswith("--account") for word in options)
    with_default = SlurmSite(type="slurm", account="rest", accounts={"climate": "natl"})
    assert "--account=rest" in sbatch_options(launch(project="genome"), POOL, with_default, LOG)
