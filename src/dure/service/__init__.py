"""What Dure does when it is asked: use cases, one function each, over the store.

Each takes the `Service` and the `Principal` who asks, checks what they may do, and does it all in
one transaction or nothing. `submit` is where a job's way begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock

from sqlalchemy import Connection

from dure.agent.wire import SyncReply, SyncRequest
from dure.control.memory import Memory
from dure.control.snapshot import Moment
from dure.scenario import Scenario
from dure.settings import Settings
from dure.store import sites as site_store
from dure.store.blobs import Blobs, Logs
from dure.store.database import Database
from dure.store.secrets import Vault


@dataclass(slots=True, kw_only=True)
class Told:
    """A cluster's last sync and what it was answered; `wishes` is `attempts.Standing.wishes`."""

    report: SyncRequest
    received_ms: int
    """When that was said, or was noted to be said again: as the database has it."""
    again_ms: int = 0
    """When it was last said again."""
    wishes: str
    reply: SyncReply
    orders_json: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What use cases need: the stores, the clock, and a way to start a control cycle at once."""

    database: Database
    blobs: Blobs
    logs: Logs
    vault: Vault
    settings: Settings
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    """Sixteen random hex digits."""
    wake: Callable[[], None]
    up_since_ms: int
    memory: Memory = field(default_factory=Memory)
    told: dict[str, Told] = field(default_factory=dict)
    """By cluster: see `dure.service.syncing`."""
    heard: dict[str, tuple[bytes, SyncRequest]] = field(default_factory=dict)
    """By token: an agent's last body, and what it says."""
    noting: Lock = field(default_factory=Lock)
    """Held by whoever writes down when sites were heard again."""
    _scenarios: dict[int, Scenario] = field(default_factory=dict)

    def scenario(self, connection: Connection) -> Scenario:
        """The present scenario. A version never changes, so each is decoded once."""
        version = site_store.scenario_version(connection)
        if version not in self._scenarios:
            self._scenarios[version] = site_store.read_scenario(connection, version)
        return self._scenarios[version]

    def moment(self, connection: Connection) -> Moment:
        """Now, under the present scenario."""
        return Moment(
            now_ms=self.now_ms(),
            up_since_ms=self.up_since_ms,
            scenario=self.scenario(connection),
            settings=self.settings,
            memory=self.memory,
        )
