"""The control plane's process: one database, one control loop, one API.

Everything it keeps is in one folder: `dure.sqlite`, `blobs/`, `logs/`, `secret.key` and, from the
first start on, `admin.token`. A lock on the folder keeps a second control plane out. On PostgreSQL
several processes share the database and the folder; one of them leads (`dure.control.leader`).
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from sqlalchemy.exc import DBAPIError

from dure.api.app import Pulse, create_app
from dure.api.metrics import Metrics
from dure.control.cycle import Control, Report
from dure.control.leader import Leader
from dure.control.loop import ControlLoop
from dure.errors import RefusedError
from dure.scenario import Scenario
from dure.service import Service, access
from dure.settings import Settings
from dure.store import sites
from dure.store.blobs import Blobs, Logs
from dure.store.database import Database
from dure.store.migrate import migrate
from dure.store.secrets import Vault
from dure.store.where import opened, where

ADMIN_TOKEN: Final = "admin.token"  # noqa: S105  a file's name
SWITCH_S: Final = 0.0005
"""How long one thread computes while another waits to. A request gives way at each statement;
with Python's 5 ms a control cycle beside it would cost it that much each time."""
_LOG = structlog.get_logger("dure.server")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """What a control plane is started with. `scenario` None: go on with the one it has."""

    data: Path
    host: str
    port: int
    scenario: Scenario | None
    settings: Settings


def now_ms() -> int:
    """The clock of the control plane."""
    return time.time_ns() // 1_000_000


def new_id() -> str:
    """Sixteen random hex digits."""
    return secrets.token_hex(8)


def new_attempt_id() -> str:
    """Never used before, here or in any earlier life of an engine that still remembers."""
    return f"a-{secrets.token_hex(10)}"


@contextmanager
def occupied(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold a folder's lock, alone or with others who would share it.

    Raises:
        RefusedError: a process holds it that will not share it, or with whom this one will not.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                "already-running", f"Another control plane is running on {folder}.", status=409
            ) from None
        yield
    finally:
        os.close(descriptor)


def serve(config: ServerConfig) -> None:
    """Run until SIGTERM or SIGINT.

    Raises:
        RefusedError: the folder is in use, or was written by a newer Dure, or has no scenario, or
            the database cannot be used.
    """
    os.umask(0o077)  # what is kept here is nobody else's to read
    sys.setswitchinterval(SWITCH_S)
    told_to_stop = threading.Event()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        # uvicorn takes these over while it serves, and raises them again once it has stopped:
        # then there is still the loop to end and the database to close.
        signal.signal(signal_, lambda *_: told_to_stop.set())
    alone = isinstance(where(config.data, config.settings), Path)
    with (
        occupied(config.data, alone=alone),
        opened(config.data, config.settings) as database,
    ):
        migrate(database)
        with database.write() as connection:
            if config.scenario is not None:
                sites.load_scenario(connection, config.scenario, now_ms())
            if sites.scenario_version(connection) == 0:
                raise RefusedError("no-scenario", f"{config.data} has no scenario; name one.")
        _run(config, database, told_to_stop)


def _run(config: ServerConfig, database: Database, told_to_stop: threading.Event) -> None:
    up_since_ms = now_ms()
    metrics, pulse = Metrics(), Pulse()
    service = Service(
        database=database,
        blobs=Blobs(config.data / "blobs"),
        logs=Logs(config.data / "logs"),
        vault=Vault(config.data / "secret.key"),
        settings=config.settings,
        now_ms=now_ms,
        new_id=new_id,
        wake=lambda: loop.wake(),  # noqa: PLW0108  the loop is made below, from the service
        up_since_ms=up_since_ms,
    )
    token_file = config.data / ADMIN_TOKEN
    access.first_administrator(service, lambda token: write_private(token_file, token))

    def scenario() -> Scenario:
        with database.read() as connection:
            return service.scenario(connection)

    def after(report: Report | None, took_s: float) -> None:
        if report is None:
            metrics.faults.inc()
            return
        pulse.beat()
        metrics.cycle(report, took_s)

    leader = Leader(
        database,
        f"{socket.gethostname()}:{config.port} ({os.getpid()})",
        config.settings.leader_lease_s,
        time.monotonic,
    )

    def leads() -> bool:
        found = leader.leads()
        metrics.leads.set(found)
        if not found:
            pulse.beat()  # standing by is all that it has to do
        return found

    control = Control(
        database=leader.database,
        settings=config.settings,
        up_since_ms=up_since_ms,
        new_attempt_id=new_attempt_id,
        memory=service.memory,
    )
    loop = ControlLoop(control, scenario, now_ms, after, leads)
    app = create_app(service, metrics, pulse)
    loop.start()
    _LOG.info("serving", url=f"http://{config.host}:{config.port}", data=str(config.data))
    try:
        if told_to_stop.is_set():
            return
        uvicorn.run(
            app,
            host=config.host,
            port=config.port,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=3,
            server_header=False,
        )
    finally:
        loop.stop()
        with suppress(DBAPIError):  # then the next leader waits
            leader.resign()


def write_private(path: Path, text: str) -> None:
    """Write a file, readable by its owner only, whole or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
