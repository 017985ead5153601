"""A whole federation on one machine: the control plane and an agent for each operator's cluster.

Each is a process of its own, as it would be across a nation; only the clusters are small: a slot
here stands for many GPUs there. What runs goes on when the federation stops, and is found again.
"""

from __future__ import annotations

import ctypes
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Protocol, Self

from dure import codec
from dure.client import ApiError, Client, UnreachableError
from dure.engines.local.devices import nvml_gpus
from dure.errors import RefusedError
from dure.fleet import EngineKind
from dure.scenario import LocalCluster, Scenario, to_json
from dure.scheduling.tuning import Tuning
from dure.server import ADMIN_TOKEN, write_private
from dure.settings import Settings
from dure.store.where import SETTINGS

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 30.0
STOP_S_MAX: Final = 8.0
RESTART_S_MAX: Final = 10.0

LOCAL_SETTINGS: Final = Settings(
    cycle_s=0.5,
    sync_interval_s=0.4,
    silent_after_s=10.0,
    missing_confirm_s=6.0,
    tuning=Tuning(min_runtime_s=2, recall_s=10),
)
"""On one machine everything is near: there is no engine to spare from being asked. Nobody waits
there for long, so that borrowers are called back after seconds, not minutes."""

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """A cluster of the scenario as this machine plays it."""

    cluster: LocalCluster
    operator: str
    gpu_model: str
    slots: int
    stands_for: int
    """GPUs in service today."""
    uses_real_gpus: bool
    engine: EngineKind = EngineKind.LOCAL


class RealCluster(Protocol):
    """A cluster with daemons of its own, which plays one of the scenario's."""

    def configured(self, pool_id: str) -> dict[str, object]:
        """What its agent's configuration says of it: `engine`, `pools` and the like."""

    def lose_node(self, attempt_id: str, rank: int) -> None:
        """The node of a running attempt's rank is gone at once, with all that runs there."""

    def lose(self) -> None:
        """All of it is gone at once, as in a power cut."""


@dataclass(slots=True)
class Child:
    """A process that is started again when it ends on its own."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    failures: int = 0
    again_at_s: float = 0.0

    def start(self) -> None:
        """Start it; what it says goes to its log."""
        self.log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self.log.open("ab") as log:
            self.process = _spawn(self.command, log)

    def ended(self) -> int | None:
        """Its exit code, once it has ended."""
        return None if self.process is None else self.process.poll()


@dataclass(slots=True)
class Federation:
    """The processes of one data folder. Use it as a context manager."""

    data: Path
    scenario: Scenario
    port: int
    played: tuple[Played, ...]
    say: Callable[[str], None]
    settings: Settings = LOCAL_SETTINGS
    """Of a new data folder; an old one has its own."""
    real: Mapping[str, RealCluster] = field(default_factory=dict)
    """By cluster; the local engine plays the others."""
    children: list[Child] = field(default_factory=list)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{HOST}:{self.port}"

    @property
    def token_file(self) -> Path:
        """Where the administrator's token is."""
        return self.data / ADMIN_TOKEN

    def administrator(self) -> Client:
        """A client with the administrator's token."""
        return Client(self.url, self.token_file.read_text().strip())

    def agent_root(self, cluster: str) -> Path:
        """Where a cluster's agent keeps its things."""
        return self.data / "agents" / cluster

    def engine_root(self, cluster: str) -> Path:
        """Where a cluster's engine keeps its attempts."""
        return self.agent_root(cluster) / "engine"

    def start(self) -> None:
        """Start everything; return when every site has reported.

        Raises:
            RefusedError: the control plane did not come up; says what it said last.
        """
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        settings = self.data / SETTINGS
        if not settings.exists():
            settings.write_bytes(codec.encode(self.settings))
        document = self.data / "scenario.json"
        document.write_text(to_json(self.scenario))
        self._add("control-plane", [*_dure("serve"), *self._serve_options(document)])
        self._await(self._answers, "The control plane did not come up")
        with self.administrator() as admin:
            for played in self.played:
                cluster = played.cluster.cluster_id
                config = self._agent_config(admin, played)
                command = [sys.executable, "-m", "dure.agent", "--config", str(config)]
                self._add(_agent(cluster), command)
            self._await(lambda: self._all_reported(admin), "Not every site has reported")

    def _serve_options(self, document: Path) -> list[str]:
        data, port = str(self.data), str(self.port)
        return ["--data", data, "--scenario", str(document), "--host", HOST, "--port", port]

    def _agent_config(self, admin: Client, played: Played) -> Path:
        """Write an agent's configuration, and its token where it has none."""
        cluster = played.cluster.cluster_id
        folder = self.agent_root(cluster)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        token = folder / "token"
        if not token.exists():
            write_private(token, admin.enrol_agent(cluster).secret)
        real = self.real.get(cluster)
        pool_id = played.cluster.pool_id
        own = _local(played) if real is None else real.configured(pool_id)
        config = folder / "agent.json"
        config.write_text(
            json.dumps(
                {
                    "cluster_id": cluster,
                    "url": self.url,
                    "token_file": "token",
                    "root": ".",
                    **own,
                }
            )
        )
        return config

    def _add(self, name: str, command: list[str]) -> None:
        child = Child(name, command, self.data / "processes" / f"{name}.log")
        self.children.append(child)
        child.start()

    def _await(self, condition: Callable[[], bool], otherwise: str) -> None:
        deadline_s = time.monotonic() + START_S_MAX
        while not condition():
            gone = [child for child in self.children if child.ended() is not None]
            if gone or time.monotonic() > deadline_s:
                child = gone[0] if gone else self.children[-1]
                self.stop()
                raise RefusedError("not-started", f"{otherwise}: {_last_line(child.log)}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        if not self.token_file.exists():
            return False
        try:
            with self.administrator() as admin:
                admin.whoami()
        except (UnreachableError, ApiError):
            return False
        return True

    def _all_reported(self, admin: Client) -> bool:
        up = {pool.cluster for pool in admin.pools() if pool.nodes_up}
        return up >= {played.cluster.cluster_id for played in self.played}

    def keep(self, until: Callable[[], bool]) -> None:
        """Start again what ends on its own, until told to stop."""
        while not until():
            now_s = time.monotonic()
            for child in self.children:
                code = child.ended()
                if code is not None and child.again_at_s == 0.0:
                    wait_s = min(RESTART_S_MAX, 2.0 ** min(child.failures, 8))
                    child.failures, child.again_at_s = child.failures + 1, now_s + wait_s
                    self.say(f"{child.name} ended ({code}); it starts again in {wait_s:.0f} s")
                elif code is not None and now_s >= child.again_at_s:
                    child.again_at_s = 0.0
                    child.start()
            time.sleep(0.2)

    def lose_site(self, cluster: str) -> None:
        """A real cluster and its agent are gone at once, as in a power cut, and stay so."""
        for child in tuple(self.children):
            if child.name == _agent(cluster) and child.process is not None:
                child.process.kill()
                child.process.wait()
                self.children.remove(child)
        self.real[cluster].lose()

    def stop(self) -> None:
        """Stop every process, agents first; what they run goes on."""
        for child in reversed(self.children):
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline_s = time.monotonic() + STOP_S_MAX
        for child in reversed(self.children):
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.children.clear()


def play(scenario: Scenario, now_ms: int, *, gpus: bool) -> tuple[Played, ...]:
    """How this machine plays a scenario: its `[[local.cluster]]` entries.

    With `gpus`, the machine's NVIDIA GPUs, where NVML finds any now, play the first of them.

    Raises:
        RefusedError: the scenario says nothing of playing it locally.
    """
    if not scenario.local:
        raise RefusedError(
            "nothing-to-play", f"Scenario {scenario.name} has no [[local.cluster]] to run here."
        )
    found = len(nvml_gpus()) if gpus else 0
    return tuple(
        _played(scenario, cluster, now_ms, found if position == 0 else 0)
        for position, cluster in enumerate(scenario.local)
    )


def _played(scenario: Scenario, cluster: LocalCluster, now_ms: int, real_gpus: int) -> Played:
    pool = scenario.fleet.pool(cluster.pool_id)
    return Played(
        cluster=cluster,
        operator=scenario.fleet.operator(pool.operator_id).name,
        gpu_model=pool.gpu_model,
        slots=real_gpus or cluster.nodes * pool.gpus_per_node,
        stands_for=pool.nodes_in_service(now_ms) * pool.gpus_per_node,
        uses_real_gpus=real_gpus > 0,
    )


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def check_port_free(port: int) -> None:
    """Raises RefusedError where somebody listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise RefusedError(
                "port-in-use", f"Port {port} of {HOST} is in use; choose another with --port."
            ) from None


def _local(played: Played) -> dict[str, object]:
    """What an agent's configuration says of a cluster that the local engine plays."""
    nodes = played.cluster.nodes
    declared = {"nodes": nodes, "gpus_per_node": played.slots // nodes}
    slots = {"devices": "nvml"} if played.uses_real_gpus else declared
    return {"engine": "local", "pools": [{"pool_id": played.cluster.pool_id, **slots}]}


def _agent(cluster: str) -> str:
    return f"agent-{cluster}"


def _dure(*words: str) -> list[str]:
    return [sys.executable, "-m", "dure", *words]


def _spawn(command: Iterable[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
    """A process in a session of its own, so that Ctrl-C reaches the federation alone; it is
    told to stop when the federation dies.
    """
    return subprocess.Popen(  # noqa: S603  our own interpreter, with our own words
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        preexec_fn=_stop_with_parent,  # noqa: PLW1509  one system call, no lock
    )


def _stop_with_parent() -> None:
    """Linux' prctl(2) PR_SET_PDEATHSIG; elsewhere a federation that is killed leaves processes."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1] if lines else "it said nothing"
