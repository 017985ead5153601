"""`dure rehearse`: what it prints, writes and refuses."""

import io
import json
import os
import subprocess
import sys

import pytest

from dure.cli.rehearsed import bar
from dure.cli.shell import Shell
from dure.rehearsal import asking
from dure.rehearsal.runs import FIGURES

HEADER = "job_id,vc,user,submit,duration,gpus,status\n"
ROWS = [
    "1,a,kim,0,7200,8,COMPLETED",
    "2,a,kim,60,7200,16,COMPLETED",
    "3,b,lee,90,600,8,COMPLETED",
    "4,b,lee,95,900,4,FAILED",
]
BAD = ["5,c,lee,96,900,4,FAILED", "6,a,lee,97,-3,4,FAILED", "7,a,lee,98,5,999,FAILED"]
ANSWERED = [*FIGURES, "per_operator", "wall_s", "jobs_per_s", "peak_rss_mib", "digest"]


@pytest.fixture
def folder(dure):
    """A trace of two VCs, in the folder that commands run in."""
    made = dure.folder / "trace"
    made.mkdir()
    (made / "nodes.json").write_text('{"a": 2, "b": 1}')
    (made / "jobs.csv").write_text(HEADER + "\n".join(ROWS) + "\n")
    (made / "predicted.csv").write_text(
        "job_id,predicted_s\n" + "".join(f"{n},{1000 * n}\n" for n in range(1, 5))
    )
    return made


def rehearsed(dure, *argv):
    result = dure("rehearse", *argv, "--output", "json")
    assert result.code == 0, result.err
    return result.json


@pytest.mark.parametrize("mode", ["isolated", "federated", "one-pool"])
@pytest.mark.parametrize("policy", ["fifo", "sjf", "best-effort", "dure"])
def test_a_trace_is_answered_with_its_figures(dure, folder, mode, policy):
    found = rehearsed(dure, "trace", "trace", "--mode", mode, "--policy", policy)

    assert list(found)[: len(ANSWERED)] == ANSWERED
    assert found["jobs"] == 4
    assert list(found["per_operator"]) == ["a", "b"]
    assert list(found["per_operator"]["a"]) == list(FIGURES)
    assert len(found["digest"]) == 64
    assert found["bad_rows"] == {"counts": {}, "examples": []}
    assert found["settings"]["mode"] == mode
    assert found["settings"]["policy"] == policy


def test_predictions_are_a_file_the_truth_or_our_own(dure, folder):
    seen = {
        given: rehearsed(dure, "trace", "trace", "--predictions", given)["settings"]["foresight"]
        for given in ("trace/predicted.csv", "true", "learned")
    }

    assert list(seen.values()) == ["given", "true", "learned"]
    assert rehearsed(dure, "trace", "trace", "--policy", "qssf", "--predictions", "true")
    refused = dure("rehearse", "trace", "trace", "--policy", "qssf")
    assert refused.code == 2
    assert "give --predictions FILE" in refused.err
    (folder / "predicted.csv").rename(folder / "predicted_duration_s.csv")
    assert rehearsed(dure, "trace", "trace", "--policy", "qssf")


def test_our_own_estimates_and_foretold_starts_tell_their_error(dure, folder):
    found = rehearsed(dure, "trace", "trace", "--ask-every", "1")

    assert found["estimates"]["jobs"] == 4
    assert found["start_estimates"]["asked"] <= 4


def test_bad_rows_are_counted_and_shown_with_file_and_line(dure, folder):
    (folder / "jobs.csv").write_text(HEADER + "\n".join(ROWS + BAD) + "\n")

    result = dure("rehearse", "trace", "trace", "-o", "json")

    assert result.json["jobs"] == 4
    assert sum(result.json["bad_rows"]["counts"].values()) == 3
    assert "3 rows are no jobs" in result.err
    for line in (6, 7, 8):
        assert f"jobs.csv:{line}: " in result.err


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trace", "nowhere"], "There is no file"),
        (["trace", "trace", "--mode", "alone"], "right is one of isolated, federated, one-pool"),
        (["trace", "trace", "--policy", "lifo"], "right is one of dure, fifo"),
        (["trace", "trace", "--format", "x"], "right is one of auto, dure"),
        (["trace", "trace", "--set", "recall_max=1"], "known are recall_s, recalls_max"),
        (["trace", "trace", "--set", "recalls_max=-1"], "right is 0 to 1000000000"),
        (["trace", "trace", "--set", "half_life_s=0"], "half_life_s is 0; it must be from 1 to"),
        (["trace", "trace", "--set", "recalls_max"], "right is 0 to 1000000000"),
        (["trace", "trace", "--policy", "fifo", "--set", "recalls_max=1"], "--policy dure only"),
        (["trace", "trace", "--predictions", "none.csv"], "There is no file"),
        (["trace", "trace", "--checkpoint-overhead-s", "-1"], "greater than or equal to 0"),
        (["trace", "trace", "--out", "trace/jobs.csv"], "is a file; name a folder"),
        (["run", "nowhere", "--out", "x"], "There is no scenario 'nowhere'"),
        (["run", "two-sites", "--out", "x", "--policy", "fifo"], "one of dure, no-lending"),
        (["run", "two-sites", "--out", "x", "--set", "a.b=1"], "--set a.b=1: a is not a known key"),
        (["compare", "trace", "trace"], "is no finished rehearsal"),
        (["sweep", "trace", "--out", "x", "--seeds", "1..2"], "a trace has no seed"),
        (["sweep", "trace", "--out", "x", "--engine", "dask"], "right is one of processes, ray"),
        (["sweep", "trace", "--out", "x", "--set-each", "a"], "write KEY=VALUE,VALUE"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(dure, folder, argv, sentence):
    result = dure("rehearse", *argv)

    assert (result.code, result.out) == (2, "")
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err


def test_a_folder_gets_tables_a_summary_and_a_report(dure, folder):
    result = dure("rehearse", "trace", "trace", "--out", "one", "--compare-alone")

    assert result.code == 0
    assert "Report: one/report.html" in result.out
    summary = json.loads((dure.folder / "one" / "summary.json").read_bytes())
    assert set(summary["isolated"]["per_operator"]) == {"a", "b"}
    assert summary["settings"]["title"] == "trace: dure, federated"
    assert "</html>" in (dure.folder / "one" / "report.html").read_text(encoding="utf-8")


def test_two_folders_are_set_side_by_side(dure, folder):
    dure("rehearse", "trace", "trace", "--out", "one")
    dure("rehearse", "trace", "trace", "--out", "same")
    dure("rehearse", "trace", "trace", "--out", "other", "--mode", "isolated", "--policy", "fifo")

    same = rehearsed(dure, "compare", "one", "same")
    other = dure("rehearse", "compare", "one", "other", "--out", "both.html")

    assert same["equal"]
    assert "The outcomes differ." in other.out
    assert "isolated" in other.out
    assert "</html>" in (dure.folder / "both.html").read_text(encoding="utf-8")


def test_a_scenario_is_rehearsed_the_same_for_the_same_seed_only(dure):
    one, same, other, idle = (
        rehearsed(dure, "run", "two-sites", "--out", out, "--seed", seed, *more)
        for out, seed, *more in (
            ("one", "3"), ("same", "3"), ("other", "4"), ("idle", "3", "--policy", "no-lending"),
        )
    )  # fmt: skip

    assert one["digest"] == same["digest"]
    assert one["digest"] != other["digest"]
    assert one["settings"]["seed"] == 3
    assert idle["preemptions"] == 0
    assert (dure.folder / "one" / "report.html").is_file()


def test_dials_and_keys_of_a_scenario_can_be_set(dure):
    found = rehearsed(
        dure, "run", "two-sites", "--out", "one",
        "--set", "min_runtime_s=1000000", "--set", "rehearsal.ends=2026-11-23T12:00Z",
    )  # fmt: skip

    assert found["preemptions"] == 0
    assert found["settings"]["min_runtime_s"] == "1000000"


def test_a_sweep_answers_each_setting_and_writes_it_down(dure, folder):
    found = rehearsed(dure, "sweep", "trace", "--out", "swept", "--set-each", "policy=fifo,dure")

    assert [one["policy"] for one in found["settings"]] == ["fifo", "dure"]
    assert {path.name for path in (dure.folder / "swept").iterdir()} == {
        "runs.parquet", "settings.parquet", "sweep.json",
    }  # fmt: skip
    alone = rehearsed(dure, "trace", "trace", "--policy", "fifo")
    assert found["runs"][0]["digest"] == alone["digest"]


def test_an_interrupt_ends_it_quietly(dure, folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(asking, "replay", interrupted)

    result = dure("rehearse", "trace", "trace", "--out", "one")

    assert (result.code, result.out, result.err) == (130, "", "")
    assert not (dure.folder / "one" / "summary.json").exists()


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_all_jobs_pass_the_bar_in_their_order(tmp_path, stream):
    shell = Shell(
        environ={}, folder=tmp_path, stdin=stream, stdout=io.StringIO(), stderr=stream
    )  # fmt: skip

    with bar(shell, "Rehearsing", "jobs") as begin:
        passed = list(begin(2_500)(iter(range(2_500))))

    assert passed == list(range(2_500))
    assert ("jobs/s" in stream.getvalue()) == stream.isatty()


@pytest.mark.parametrize("argv", [["trace", "trace"], ["run", "two-sites", "--out", "run"]])
def test_the_digest_does_not_hang_on_the_order_of_sets(dure, folder, argv):
    digests = set()
    for seed in ("0", "1"):
        done = subprocess.run(
            [sys.executable, "-m", "dure", "rehearse", *argv, "-o", "json"],
            cwd=dure.folder,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        digests.add(json.loads(done.stdout)["digest"])

    assert len(digests) == 1
