"""Real processes to crash: a control plane and one site, each started with its own crash point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import select

from dure import codec, scenario
from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.client import ApiError, Client, UnreachableError
from dure.faults import CRASH_AT
from dure.federation import LOCAL_SETTINGS, SETTINGS, Federation, free_port, play
from dure.jobs import JobSpec, Resources
from dure.people import Person, Role, TokenScope
from dure.store.database import Database
from dure.store.lending_schema import lending
from dure.store.where import DATABASE
from dure.units import MS_PER_HOUR, UCREDIT_PER_CREDIT
from dure.views import JobRequest, JobView, MemberRequest, Submission, TokenRequest

KOREA = scenario.load(scenario.find("korea"))
DEADLINE_S = 60
NODES = 4
"""Of NHN Cloud's site, with eight B200 each."""


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait on a level, not an edge: until it holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def enrol_projects(admin: Client, now_ms: int) -> str:
    """Project `lab`, and `own` of NHN Cloud itself, each with hours; a token of their PI."""
    admin.create_person(Person(id="kim", name="kim"))
    for project, organisation in (("lab", "org"), ("own", "nhn-cloud")):
        kind = OrganisationKind.UNIVERSITY
        admin.create_organisation(Organisation(id=organisation, name=organisation, kind=kind))
        admin.create_project(Project(id=project, organisation=organisation, title=project))
        admin.add_member(project, MemberRequest(person="kim", role=Role.PI))
        admin.award(
            Allocation(
                id=f"{project}-hours",
                project=project,
                kind=AllocationKind.HOURS,
                starts_ms=now_ms - MS_PER_HOUR,
                ends_ms=now_ms + 1_000 * MS_PER_HOUR,
                credit_ucredit=100_000 * UCREDIT_PER_CREDIT,
            )
        )
    request = TokenRequest(label="t", person="kim", scopes=(TokenScope.READ, TokenScope.SUBMIT))
    return admin.create_token(request).secret


@dataclass
class Plant:
    """One control plane and NHN Cloud's site, on real processes, over a folder of their own."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        now_ms = time.time_ns() // 1_000_000
        nhn = [site for site in play(KOREA, now_ms, gpus=False) if "nhn" in site.cluster.cluster_id]
        self.federation = Federation(
            data=self.folder / "data",
            scenario=KOREA,
            port=free_port(),
            played=tuple(nhn),
            say=lambda _: None,
        )
        self.federation.data.mkdir()
        (self.federation.data / SETTINGS).write_bytes(codec.encode(LOCAL_SETTINGS))
        self.scenario_file = self.federation.data / "scenario.json"
        self.scenario_file.write_text(scenario.to_json(KOREA))
        self.runs = self.folder / "runs"

    # ---- processes -------------------------------------------------------------------------------

    def start_control(self, crash_at: str = "") -> None:
        options = self.federation._serve_options(self.scenario_file)
        self._start("control", [sys.executable, "-m", "dure", "serve", *options], crash_at)

    def start_agent(self, crash_at: str = "") -> None:
        with self.federation.administrator() as admin:
            config = self.federation._agent_config(admin, self.federation.played[0])
        self._start("agent", [sys.executable, "-m", "dure.agent", "--config", config], crash_at)

    def _start(self, name: str, command: list[str | Path], crash_at: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command,
                env={**os.environ, CRASH_AT: crash_at},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if name == "control":
            eventually(self.federation._answers, "the control plane answers")

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def await_crash(self, name: str) -> None:
        """Until the process has died at its crash point."""
        process = self.processes[name]
        eventually(lambda: process.poll() is not None, f"{name} reaches its crash point")
        assert process.returncode == -signal.SIGKILL

    def stop(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(20)

    # ---- people and jobs -------------------------------------------------------------------------

    def enrol(self) -> None:
        """Projects with allocations, and a member of both."""
        with self.federation.administrator() as admin:
            self.token = enrol_projects(admin, time.time_ns() // 1_000_000)

    @property
    def member(self) -> Client:
        return Client(self.federation.url, self.token)

    def spec(self, name: str, script: str = "sleep 0.3") -> JobSpec:
        """A job that leaves a line each time that it runs."""
        return JobSpec(
            name=name,
            project="lab",
            walltime_s=120,
            script=f"echo {name} >> {self.runs}\n{script}\n",
            resources=Resources(gpu_models=("b200",)),
        )

    def submit(self, *specs: JobSpec, key: str) -> list[str]:
        """Submit as a client that does not give up: the same key until there is an answer."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                with self.member as client:
                    request = Submission(tuple(JobRequest(spec=spec) for spec in specs))
                    return [job.id for job in client.submit(request, key=key).jobs]
            except UnreachableError:
                assert time.monotonic() < deadline
                self.revive()

    def revive(self) -> None:
        """Start again, without a crash point, what has died."""
        for name, start in (("control", self.start_control), ("agent", self.start_agent)):
            if name in self.processes and self.processes[name].poll() is not None:
                start()

    def ended(self, job: str) -> JobView:
        """The job, once it has ended; what dies meanwhile is started again."""
        found: list[JobView] = []

        def has_ended() -> bool:
            self.revive()
            try:
                with self.member as client:
                    found[:] = [client.job(job)]
            except (UnreachableError, ApiError):
                return False
            return found[0].summary.ended_ms is not None

        eventually(has_ended, f"{job} ends")
        return found[0]

    def lenders_of(self, attempt: str) -> list[str]:
        """Who lent to an attempt, by the book of lending: each as often as it is written there."""
        database = Database(self.federation.data / DATABASE)
        with database.read() as connection:
            mine = select(lending.c.lender).where(lending.c.attempt == attempt)
            query = mine.order_by(lending.c.lender)
            found = list(connection.scalars(query))
        database.close()
        return found

    def runs_of(self, name: str) -> int:
        """How often a job's script was really run."""
        lines = self.runs.read_text().splitlines() if self.runs.exists() else []
        return lines.count(name)
