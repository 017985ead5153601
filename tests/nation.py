"""A nation for tests: the real service, store, API and control cycle, with a clock that tests hold.

Sites are scripted: `Site` speaks the agents' own protocol and says what its test tells it to.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event
from starlette.testclient import TestClient

from dure import codec, scenario
from dure.agent.identity import Identity
from dure.agent.wire import AttemptReport, KeyOffer, Manifest, Order, SyncReply, SyncRequest, Wish
from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.api.app import Pulse, create_app
from dure.api.metrics import Metrics
from dure.attestation import statement
from dure.client import Client
from dure.control.cycle import Control, Report, tick
from dure.engines import EngineEnd, NodeReport, Phase, PoolReport
from dure.jobs import JobSpec, Resources
from dure.people import Person, Role, TokenScope
from dure.service import Service, access
from dure.settings import Settings
from dure.store import ledger, site_keys, sites
from dure.store.blobs import Blobs, Logs
from dure.store.database import Database
from dure.store.migrate import migrate
from dure.store.secrets import Vault
from dure.units import MS_PER_HOUR, MS_PER_S, UCREDIT_PER_CREDIT, instant_from_iso
from dure.views import JobRequest, MemberRequest, Submission, TokenRequest, Upload
from wire import Wire

NOON = instant_from_iso("2026-11-23T12:00:00")
DAY_MS = 24 * MS_PER_HOUR
KOREA = scenario.load(scenario.find("korea"))
SETTINGS = Settings()


def _no_power_cut(connection: sqlite3.Connection, _record: object) -> None:
    """Tests in one process need no fsync; it is most of what a commit costs."""
    connection.execute("PRAGMA synchronous = OFF")


def found(database: Database) -> None:
    """Make a database that of a nation with Korea's scenario."""
    migrate(database)
    with database.write() as connection:
        sites.load_scenario(connection, KOREA, int(NOON))


@cache
def _empty_database() -> bytes:
    """Such a database: made once, copied for each nation."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "dure.sqlite"
        database = Database(file)
        found(database)
        with database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()
        return file.read_bytes()


def _fresh_database(file: Path) -> Database:
    file.write_bytes(_empty_database())
    database = Database(file)
    event.listen(database.engine, "connect", _no_power_cut)
    return database


class Nation:
    """Korea's scenario on a fresh database at noon of 2026-11-23; `database`: on this one."""

    def __init__(self, folder: Path, database: Database | None = None, first_id: int = 1) -> None:
        self.now_ms = int(NOON)
        self.folder = folder
        self._ids = count(first_id)
        self.database = database or _fresh_database(folder / "dure.sqlite")
        self.wakes = 0
        self.service = Service(
            database=self.database,
            blobs=Blobs(folder / "blobs"),
            logs=Logs(folder / "logs"),
            vault=Vault(folder / "secret.key"),
            settings=SETTINGS,
            now_ms=lambda: self.now_ms,
            new_id=lambda: f"{next(self._ids):016x}",
            wake=self._woken,
            up_since_ms=self.now_ms,
        )
        self.control = Control(
            database=self.database,
            settings=SETTINGS,
            up_since_ms=self.now_ms,
            new_attempt_id=lambda: f"a-{next(self._ids):020x}",
        )
        self.app = create_app(self.service, Metrics(), Pulse())
        self.http = TestClient(self.app, raise_server_exceptions=False)
        self._wire = Wire(self.app)
        self.http.__enter__()  # one event loop for all requests, not one for each
        tokens: list[str] = []
        access.first_administrator(self.service, tokens.append)
        self.admin_token = tokens[0] if tokens else ""  # a restored nation has its administrators
        self.admin = self.client(self.admin_token)

    def _woken(self) -> None:
        self.wakes += 1

    def close(self) -> None:
        self.http.__exit__()
        self.http.close()
        self.database.close()

    def client(self, token: str) -> Client:
        return Client("http://testserver", token, transport=self.transport)

    @property
    def transport(self) -> httpx.BaseTransport:
        return self._wire

    def tick(self) -> Report:
        """One control cycle; a plan that the linter faults fails the test."""
        report = tick(self.control, KOREA, self.now_ms)
        assert report.violations == ()
        assert report.stuck == ()
        return report

    def pass_s(self, seconds: float) -> None:
        self.now_ms += round(seconds * MS_PER_S)

    # ---- people ----------------------------------------------------------------------------------

    def project(self, name: str, kind: OrganisationKind = OrganisationKind.UNIVERSITY) -> None:
        self.admin.create_organisation(Organisation(id=f"{name}-org", name=name, kind=kind))
        self.admin.create_project(Project(id=name, organisation=f"{name}-org", title=name))

    def person(self, name: str) -> None:
        self.admin.create_person(Person(id=name, name=name))

    def token(self, person: str, *scopes: TokenScope) -> str:
        request = TokenRequest(
            label="test", person=person, scopes=scopes or (TokenScope.READ, TokenScope.SUBMIT)
        )
        return self.admin.create_token(request).secret

    def member(self, project: str, person: str, role: Role = Role.MEMBER) -> Client:
        """A new person in a project, with a client of their own."""
        self.person(person)
        self.admin.add_member(project, MemberRequest(person=person, role=role))
        return self.client(self.token(person, TokenScope.READ, TokenScope.SUBMIT, TokenScope.ADMIN))

    def hours(
        self, project: str, credit: float = 1_000, name: str | None = None, days: int = 365
    ) -> str:
        allocation = Allocation(
            id=name or f"{project}-hours",
            project=project,
            kind=AllocationKind.HOURS,
            starts_ms=self.now_ms - DAY_MS,
            ends_ms=self.now_ms + days * DAY_MS,
            credit_ucredit=round(credit * UCREDIT_PER_CREDIT),
        )
        self.admin.award(allocation)
        return allocation.id

    def lab(self, project: str = "lab", credit: float = 1_000) -> Client:
        """A project with an hours allocation; the client of its one member."""
        self.project(project)
        self.hours(project, credit)
        return self.member(project, f"{project}-member")

    # ---- what is asked ---------------------------------------------------------------------------

    def assert_book_in_order(self) -> None:
        """Audit the ledger and its stored balances (I3, I4, I6)."""
        with self.database.read() as connection:
            audit = ledger.audit(connection)
            assert site_keys.audit(connection) == ()
        assert audit.findings == ()


def spec(**changes: object) -> JobSpec:
    """A small job of project `lab`."""
    plain = JobSpec(
        name="train",
        project="lab",
        walltime_s=3_600,
        command=("python", "train.py"),
        resources=Resources(gpus_per_node=8, gpu_models=("b200",)),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def submission(*specs: JobSpec, secrets: dict[str, str] | None = None) -> Submission:
    return Submission(tuple(JobRequest(spec=one, secrets=secrets) for one in specs))


_KEYS = count(1)


def submit(client: Client, *specs: JobSpec, key: str | None = None) -> list[str]:
    """Submit; the jobs' ids."""
    accepted = client.submit(submission(*specs), key=key or f"key-{next(_KEYS)}")
    return [job.id for job in accepted.jobs]


@dataclass
class Site:
    """A scripted site: an agent of `cluster` that offers `nodes` nodes of one pool."""

    nation: Nation
    cluster: str = "nhn-national"
    pool: str = "nhn-b200"
    nodes: int = 4
    gpus: int = 8
    down: set[int] = field(default_factory=set)
    answers: bool = True
    reports: dict[str, AttemptReport] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    drift: tuple[str, ...] = ()
    identity: Identity = field(default_factory=lambda: Identity(Ed25519PrivateKey.generate()))
    reply: SyncReply | None = None

    def __post_init__(self) -> None:
        token = self.nation.admin.enrol_agent(self.cluster).secret
        self.http = httpx.Client(
            base_url="http://testserver",
            transport=self.nation.transport,
            headers={"Authorization": f"Bearer {token}"},
        )
        offer = KeyOffer(cluster_id=self.cluster, public_key=self.identity.public_key)
        assert self.http.put("/v1/agent/key", content=codec.encode(offer)).status_code == 204

    def signed(self, report: AttemptReport) -> AttemptReport:
        """A report as a site sends it: an end is signed."""
        if report.phase is not Phase.ENDED:
            return report
        return replace(report, signature=self.identity.sign(statement(self.cluster, report)))

    def sync(self) -> SyncReply:
        """Tell the present; what is closed is forgotten."""
        nodes = tuple(NodeReport(n, self.gpus, n not in self.down) for n in range(self.nodes))
        request = SyncRequest(
            cluster_id=self.cluster,
            engine="local",
            engine_answered=self.answers,
            pools=(PoolReport(self.pool, nodes),),
            attempts=tuple(self.signed(report) for report in self.reports.values()),
            drift=self.drift,
            denied=tuple(sorted(self.denied)) if self.answers else (),
        )
        response = self.http.post("/v1/agent/sync", content=codec.encode(request))
        assert response.status_code == 200, response.text
        self.reply = codec.read(SyncReply, response.content)
        for closed in self.reply.closed:
            self.reports.pop(closed, None)
        return self.reply

    @property
    def orders(self) -> dict[str, Order]:
        """What should exist here, by job id and task index."""
        assert self.reply is not None
        return {f"{order.job_id}.{order.task_index}": order for order in self.reply.orders}

    def accept(self, order: Order) -> None:
        self.reports[order.attempt_id] = AttemptReport(
            attempt_id=order.attempt_id, engine_id="e", phase=Phase.ACCEPTED
        )

    def run(self, order: Order) -> None:
        self.reports[order.attempt_id] = AttemptReport(
            attempt_id=order.attempt_id,
            engine_id="e",
            phase=Phase.RUNNING,
            started_ms=self.nation.now_ms,
        )

    def saves(self, order: Order) -> None:
        """It has just written its checkpoint."""
        before = self.reports[order.attempt_id]
        self.reports[order.attempt_id] = replace(before, saved_ms=self.nation.now_ms)

    def end(self, order: Order, end: EngineEnd, exit_code: int | None = None) -> None:
        before = self.reports.get(order.attempt_id)
        self.reports[order.attempt_id] = AttemptReport(
            attempt_id=order.attempt_id,
            engine_id="e",
            phase=Phase.ENDED,
            started_ms=before.started_ms if before else None,
            ended_ms=self.nation.now_ms,
            end=end,
            exit_code=exit_code,
        )

    def lose(self, order: Order) -> None:
        """From now on its engine knows nothing of it."""
        self.reports.pop(order.attempt_id, None)
        self.denied.add(order.attempt_id)

    def register(self, order: Order, manifest: Manifest) -> Upload:
        """Register files of an attempt; the answer names the contents still to be brought."""
        path = f"/v1/agent/attempts/{order.attempt_id}/manifests"
        response = self.http.post(path, content=codec.encode(manifest))
        assert response.status_code == 200, response.text
        return codec.read(Upload, response.content)

    def round(self) -> None:
        """Sync, cycle, sync: the site knows what was decided."""
        self.sync()
        self.nation.tick()
        self.sync()

    def start_all(self) -> None:
        """Run every order that is not running yet."""
        self.round()
        for order in self.orders.values():
            if order.wish is Wish.RUN and order.attempt_id not in self.reports:
                self.run(order)
        self.round()
