"""`dure up` as its user runs it: a first start, a stop, a crash, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from dure.client import Client
from dure.federation import free_port
from dure.jobs import JobSpec, Resources
from dure.life import State
from dure.views import JobRequest, Submission
from plant import KOREA, enrol_projects, eventually

pytestmark = pytest.mark.engine


@dataclass
class Up:
    """A running `dure up` over one folder."""

    data: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[str] | None = None
    said: str = ""

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "dure",
            "up",
            "--data",
            self.data,
            "--port",
            str(self.port),
        ]
        self.process = subprocess.Popen(
            [*command, "--no-gpus"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if "Ctrl-C" in line:
                return
        pytest.fail(f"dure up ended: {self.said}")

    def end(self, signal_: signal.Signals) -> int:
        assert self.process is not None
        children = psutil.Process(self.process.pid).children()
        self.process.send_signal(signal_)
        code = self.process.wait(30)
        eventually(lambda: not any(c.is_running() for c in children), "its processes end")
        return code

    def admin(self) -> Client:
        return Client(
            f"http://127.0.0.1:{self.port}", (self.data / "admin.token").read_text().strip()
        )


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    made = Up(tmp_path / "data")
    yield made
    if made.process is not None and made.process.poll() is None:
        made.end(signal.SIGTERM)


def test_what_runs_outlives_a_stop_and_a_crash_of_the_federation(up: Up):
    up.start()
    assert up.said.count("a slot stands for") >= 4
    assert stat.S_IMODE((up.data / "admin.token").stat().st_mode) == 0o600
    with up.admin() as admin:
        token = enrol_projects(admin, time.time_ns() // 1_000_000)
    member = Client(f"http://127.0.0.1:{up.port}", token)
    go_on = up.data.parent / "go-on"
    spec = JobSpec(
        name="long",
        project="lab",
        walltime_s=120,
        script=f"echo begun\nuntil [ -e {go_on} ]; do sleep 0.1; done\necho finished\n",
        resources=Resources(),
    )
    job = member.submit(Submission((JobRequest(spec=spec),)), key="k").jobs[0].id
    eventually(lambda: member.job(job).summary.state is State.RUNNING, "it runs")

    assert up.end(signal.SIGINT) == 0
    up.start()
    eventually(lambda: member.job(job).summary.state is State.RUNNING, "it still runs")
    up.end(signal.SIGKILL)
    up.start()
    go_on.touch()
    eventually(lambda: member.job(job).summary.state is State.SUCCEEDED, "it ends")

    log = "".join(chunk.text for chunk in member.logs(job))
    assert log == "begun\nfinished\n"
    assert len(member.job(job).tasks[0].attempts) == 1


def test_a_second_federation_on_the_same_folder_or_port_is_refused_in_one_sentence(up: Up):
    up.start()
    for port, says in ((up.port, "is in use"), (free_port(), "Another control plane")):
        second = subprocess.run(
            [sys.executable, "-m", "dure", "up", "--data", up.data, "--port", str(port)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 2
        assert says in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        assert "Traceback" not in second.stderr


def test_a_running_federation_is_rehearsed_with_and_without_a_change(up: Up, tmp_path: Path):
    up.start()
    with up.admin() as admin:
        token = enrol_projects(admin, time.time_ns() // 1_000_000)
    member = Client(f"http://127.0.0.1:{up.port}", token)
    spec = JobSpec(
        name="long", project="lab", walltime_s=600, script="sleep 300", resources=Resources()
    )
    job = member.submit(Submission((JobRequest(spec=spec),)), key="k").jobs[0].id
    eventually(lambda: member.job(job).summary.state is State.RUNNING, "it runs")
    with up.admin() as admin:
        pool = admin.snapshot().running[0].pool
    [cluster] = [one.cluster_id for one in KOREA.fleet.pools if one.id == pool]
    live = [sys.executable, "-m", "dure", "rehearse", "live", "--out", "run", "--output", "json"]
    outage = f"{cluster}=2020-01-01..2099-01-01"
    done = subprocess.run(
        [*live, "--against", "asis", "--outage", outage],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "DURE_URL": f"http://127.0.0.1:{up.port}",
            "DURE_TOKEN": (up.data / "admin.token").read_text().strip(),
        },
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["as_is"]["jobs"] == 1
    assert found["as_is"]["avg_wait_s"] == 0
    moved = found["what_if"]  # its site is lost: it is begun again elsewhere when its lease ends
    assert moved["jobs"] == 1
    assert moved["avg_wait_s"] >= 3_600
    assert (tmp_path / "run" / "compare.html").exists()
    member.cancel(job)
    eventually(lambda: member.job(job).summary.state is State.CANCELLED, "it is cancelled")
