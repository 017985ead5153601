"""Several control planes on one PostgreSQL: one leads, and one that was paused changes nothing when
it wakes (I2, I3, I11).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import psutil
import pytest

from dure import codec
from dure.agent.wire import SyncRequest
from dure.client import ApiError, Client, UnreachableError
from dure.engines import NodeReport, PoolReport
from dure.faults import PAUSE_AT
from dure.federation import LOCAL_SETTINGS, SETTINGS, free_port
from dure.jobs import JobSpec, Resources
from dure.server import ADMIN_TOKEN
from dure.settings import Settings
from dure.store import leadership, ledger
from dure.store.database import Database
from dure.store.leadership import Standing
from dure.store.where import VARIABLE
from dure.views import JobRequest, Submission
from plant import enrol_projects, eventually
from postgres import Server

pytestmark = pytest.mark.engine

PATIENT = replace(LOCAL_SETTINGS, cycle_s=0.2, leader_lease_s=3_600)
"""Only the end of the leader's session lets another take over in time."""
HASTY = replace(LOCAL_SETTINGS, cycle_s=0.2, leader_lease_s=4, database_idle_s=3)


@dataclass
class Planes:
    """Control planes that share a database and a folder, and one scripted site."""

    folder: Path
    server: Server
    settings: Settings = PATIENT
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.server.create()
        self.database = Database(self.server.url(self.name))
        self.data = self.folder / "data"
        self.data.mkdir()

    def start(self, plane: str, pause_at: str = "") -> None:
        (self.data / SETTINGS).write_bytes(codec.encode(self.settings))
        self.ports[plane] = free_port()
        words = ["serve", "--data", self.data, "--scenario", "korea", "--port"]
        with self.log(plane).open("ab") as log:
            self.processes[plane] = subprocess.Popen(
                [sys.executable, "-m", "dure", *words, str(self.ports[plane])],
                env={**os.environ, VARIABLE: self.server.where(self.name), PAUSE_AT: pause_at},
                stdout=log,
                stderr=log,
            )
        eventually(lambda: self.answers(plane), f"{plane} answers")

    def log(self, plane: str) -> Path:
        return self.folder / f"{plane}.log"

    def said(self, plane: str) -> list[str]:
        """The names of what it logged."""
        lines = self.log(plane).read_text().splitlines()
        return [json.loads(line)["event"] for line in lines if line.startswith("{")]

    def answers(self, plane: str) -> bool:
        assert self.processes[plane].poll() is None, self.log(plane).read_text()
        try:
            with self.admin(plane) as admin:
                admin.whoami()
        except (UnreachableError, ApiError, FileNotFoundError):
            return False
        return True

    def admin(self, plane: str) -> Client:
        return Client(self.url(plane), (self.data / ADMIN_TOKEN).read_text().strip())

    def url(self, plane: str) -> str:
        return f"http://127.0.0.1:{self.ports[plane]}"

    def enrol(self, plane: str) -> None:
        with self.admin(plane) as admin:
            self.token = enrol_projects(admin, time.time_ns() // 1_000_000)
            self.site = admin.enrol_agent("nhn-national").secret

    def sync(self, plane: str) -> None:
        """The site says that it has four free nodes."""
        nodes = tuple(NodeReport(number, 8, up=True) for number in range(4))
        request = SyncRequest(
            cluster_id="nhn-national",
            engine="local",
            engine_answered=True,
            pools=(PoolReport("nhn-b200", nodes),),
            attempts=(),
        )
        httpx.post(
            f"{self.url(plane)}/v1/agent/sync",
            content=codec.encode(request),
            headers={"Authorization": f"Bearer {self.site}"},
        ).raise_for_status()

    def submit(self, plane: str, name: str) -> str:
        spec = JobSpec(
            name=name,
            project="lab",
            walltime_s=120,
            script="true",
            resources=Resources(gpu_models=("b200",)),
        )
        with Client(self.url(plane), self.token) as client:
            return client.submit(Submission((JobRequest(spec=spec),)), key=name).jobs[0].id

    def attempts(self, plane: str, job: str) -> int:
        with Client(self.url(plane), self.token) as client:
            return len(client.job(job).tasks[0].attempts)

    def standing(self) -> Standing:
        with self.database.read() as connection:
            return leadership.standing(connection)

    def leads(self, plane: str) -> bool:
        standing = self.standing()
        pid = self.processes[plane].pid
        return standing.holder is not None and standing.holder.endswith(f"({pid})")

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            process.wait(20)
        self.database.close()


@pytest.fixture
def planes(tmp_path: Path, postgres: Server) -> Iterator[Planes]:
    made = Planes(tmp_path, postgres)
    yield made
    made.close()


def assert_in_order(planes: Planes) -> None:
    with planes.database.read() as connection:
        assert ledger.audit(connection).findings == ()


@pytest.mark.parametrize("point", ["cycle.planned", "cycle.before-committed", "cycle.committed"])
def test_a_paused_leader_that_wakes_changes_nothing(planes: Planes, point: str):
    planes.settings = HASTY
    planes.start("first", pause_at=point)
    eventually(lambda: planes.leads("first"), "the first leads")
    planes.start("second")
    planes.enrol("first")
    planes.sync("first")
    job = planes.submit("first", "paused")
    paused = psutil.Process(planes.processes["first"].pid)
    eventually(lambda: paused.status() == psutil.STATUS_STOPPED, "the first is paused")

    eventually(lambda: planes.leads("second"), "the second takes over")
    planes.sync("second")
    eventually(lambda: planes.attempts("second", job) == 1, "the second places the job")
    other = planes.submit("second", "meanwhile")
    eventually(lambda: planes.attempts("second", other) == 1, "the second places another")
    term = planes.standing().term

    planes.processes["first"].send_signal(signal.SIGCONT)
    eventually(lambda: "deposed" in planes.said("first"), "the first knows")

    assert planes.leads("second")
    assert planes.standing().term == term
    assert planes.attempts("first", job) == planes.attempts("first", other) == 1
    assert_in_order(planes)
    # what is submitted to the one that stands by is placed by the one that leads
    last = planes.submit("first", "after")
    planes.sync("first")
    eventually(lambda: planes.attempts("first", last) == 1, "the leader places it")
    assert planes.leads("second")


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_another_takes_over_at_once_where_the_leader_has_ended(planes: Planes, signal_: int):
    planes.start("first")
    eventually(lambda: planes.leads("first"), "the first leads")
    planes.start("second")
    planes.enrol("second")
    assert planes.leads("first")

    planes.processes["first"].send_signal(signal_)
    eventually(lambda: planes.leads("second"), "the second takes over")

    planes.sync("second")
    job = planes.submit("second", "after")
    eventually(lambda: planes.attempts("second", job) == 1, "the second places it")
    assert_in_order(planes)


def test_a_restart_of_the_server_stops_nobody_for_long(planes: Planes):
    planes.start("first")
    planes.start("second")
    planes.enrol("second")
    planes.server.stop("immediate")
    planes.server.start()

    eventually(lambda: planes.answers("first") and planes.answers("second"), "both answer")
    planes.sync("first")
    job = planes.submit("second", "after")
    eventually(lambda: planes.attempts("first", job) == 1, "it is placed")
    assert_in_order(planes)
