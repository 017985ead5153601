"""`dure demo` as a user starts it: a federation of processes, to its end."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from dure.demo import checks
from dure.demo.clusters import ray, slurm
from dure.demo.outcome import Outcome

DURE = (sys.executable, "-m", "dure", "demo")


def left_of(folder):
    """Processes that still work for a demo in this folder."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [*process.cmdline(), process.environ().get("HOME", "")]
        except (psutil.Error, OSError):
            continue
        if any(str(folder) in word for word in words):
            found.append(process)
    return found


def demonstrated(data, *options):
    """The demo in this folder, to its end."""
    words = [*DURE, "--output", "json", "--data", data, *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return json.loads(done.stdout), done


def claims(*played):
    nothing = Outcome(played=played, agents=(), government_pools=())
    return [check.name for check in checks.check_all(nothing)]


@pytest.mark.engine
@pytest.mark.timeout(150)
def test_every_claim_of_the_demo_holds(tmp_path):
    found, done = demonstrated(tmp_path / "demo")
    assert [check["name"] for check in found["checks"]] == claims()
    assert [check for check in found["checks"] if not check["ok"]] == []
    assert (found["ok"], done.returncode) == (True, 0), done.stderr
    assert "a slot stands for" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_of(tmp_path / "demo") == []


@pytest.mark.engine
@pytest.mark.timeout(400)
def test_every_claim_holds_on_two_slurm_clusters_a_ray_cluster_and_this_machine(tmp_path):
    if (no := slurm.missing() or ray.missing()) is not None:
        pytest.skip(": ".join(no))
    found, done = demonstrated(tmp_path / "demo", "--engines", "slurm,ray,local")
    names = [check["name"] for check in found["checks"]]
    assert names[: len(claims())] == claims()
    assert "a lost site: its job moved to the other Slurm cluster" in names
    assert [check for check in found["checks"] if not check["ok"]] == []
    assert (found["ok"], done.returncode) == (True, 0), done.stderr
    assert "32 slots of Slurm play" in done.stderr
    assert "Traceback" not in done.stderr
    assert left_of(tmp_path / "demo") == []


@pytest.mark.parametrize(
    ("engines", "environment", "sentence"),
    [
        ("slurm,kubernetes", {}, "--engines names 'kubernetes'; it takes slurm, ray, local"),
        (
            "ray",
            {"RAY_BIN": "/nowhere"},
            "This machine has no Ray; to mend that: scripts/setup ray",
        ),
    ],
)
def test_an_engine_that_is_not_there_is_refused_with_what_brings_it(engines, environment, sentence):
    done = subprocess.run(
        [*DURE, "--engines", engines],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in " ".join(done.stderr.split())


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = subprocess.run([*DURE, "--data", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is in use" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
