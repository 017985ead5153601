"""`dure demo` as a user starts it: a federation of processes, to its end."""

import json
import subprocess
import sys

import psutil
import pytest

from dure.demo import checks
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


@pytest.mark.engine
@pytest.mark.timeout(150)
def test_every_claim_of_the_demo_holds(tmp_path):
    data = tmp_path / "demo"
    done = subprocess.run(
        [*DURE, "--output", "json", "--data", data], capture_output=True, text=True, check=False
    )
    found = json.loads(done.stdout)
    names = [
        check.name for check in checks.check_all(Outcome(played=(), agents=(), government_pools=()))
    ]
    assert [check["name"] for check in found["checks"]] == names
    assert [check for check in found["checks"] if not check["ok"]] == []
    assert (found["ok"], done.returncode) == (True, 0), done.stderr
    assert "a slot stands for" in done.stderr
    assert left_of(data) == []


def test_a_folder_in_use_is_not_touched(tmp_path):
    (tmp_path / "mine").write_text("mine")
    done = subprocess.run([*DURE, "--data", tmp_path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is in use" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
