"""A control plane and an engine in memory, and an agent between them whose pool is no thread."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import Executor, Future
from pathlib import Path

from dure.agent.identity import own_identity
from dure.agent.loop import Agent, Site
from dure.agent.uplink import UplinkError, UplinkRefusedError
from dure.agent.wire import FileEntry, Manifest, Order, SyncReply, Wish
from dure.engines import (
    EngineEnd,
    EngineError,
    LaunchRefusedError,
    NodeReport,
    Observation,
    Phase,
    PoolReport,
)
from dure.jobs import Notice
from dure.store.files import digest
from dure.views import Upload

POOLS = (PoolReport("p", (NodeReport(0, 4, up=True),)),)


def order(attempt_id: str = "a-1", **changes) -> Order:
    values = {
        "attempt_id": attempt_id,
        "wish": Wish.RUN,
        "accepted": False,
        "job_id": "j-1",
        "job_name": "train",
        "task_index": 0,
        "attempt_number": 1,
        "project": "climate",
        "pool_id": "p",
        "nodes": (0,),
        "gpus_per_node": 1,
        "walltime_s": 60,
        "notice": Notice.TERM,
        "grace_s": 5,
        "command": ("true",),
        "script": None,
        "env": {},
        "workdir": None,
        "checkpoint_dir": None,
        "checkpoint": None,
        "outputs_dir": None,
    }
    return Order(**(values | changes))


def entry(path: str, content: bytes, *, executable: bool = False) -> FileEntry:
    return FileEntry(path, len(content), hashlib.sha256(content).hexdigest(), executable)


def tree(**files: bytes) -> Manifest:
    return Manifest(tuple(entry(path, files[path]) for path in sorted(files)))


def reply(*orders: Order, closed=(), strangers=(), lease_s=60, interval_s=1.0) -> SyncReply:
    return SyncReply(
        orders=orders,
        closed=tuple(closed),
        strangers=tuple(strangers),
        lease_s=lease_s,
        interval_s=interval_s,
    )


class FakeControl:
    """Implements `Uplink`. `down` loses calls; `lose_replies` carries them out and says nothing."""

    def __init__(self) -> None:
        self.reply = reply()
        self.requests = []
        self.offers = []
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, Manifest] = {}
        self.logs: dict[tuple[str, int], bytes] = {}
        self.log_calls = []
        self.hidden: dict[str, str] = {}
        self.down = False
        self.lose_replies = 0
        self.refuse_puts = False
        self.log_bytes_max = 10**9

    def hold(self, **files: bytes) -> str:
        """The digest of a tree that attempts may start from."""
        manifest = tree(**files)
        self.blobs |= {e.sha256: files[e.path] for e in manifest.files}
        self.manifests[digest(manifest)] = manifest
        return digest(manifest)

    @property
    def reports(self):
        return {report.attempt_id: report for report in self.requests[-1].attempts}

    def _answer(self) -> None:
        if self.lose_replies:
            self.lose_replies -= 1
            raise UplinkError("the reply was lost")

    def _hear(self) -> None:
        if self.down:
            raise UplinkError("nobody answers")

    def enrol(self, offer):
        self._hear()
        self.offers.append(offer)

    def sync(self, request):
        self._hear()
        self.requests.append(request)
        self._answer()
        return self.reply

    def secrets(self, _attempt_id):
        self._hear()
        return dict(self.hidden)

    def fetch(self, _attempt_id, entry):
        self._hear()
        if entry.sha256 not in self.blobs:
            raise UplinkRefusedError("404")
        content = self.blobs[entry.sha256]
        yield from (content[at : at + 3] for at in range(0, len(content), 3))

    def manifest(self, _attempt_id, sha256):
        self._hear()
        if sha256 not in self.manifests:
            raise UplinkRefusedError("404")
        return self.manifests[sha256]

    def register(self, _attempt_id, manifest):
        self._hear()
        missing = tuple(sorted({e.sha256 for e in manifest.files} - self.blobs.keys()))
        if not missing:
            self.manifests[digest(manifest)] = manifest
        self._answer()
        return Upload(sha256=digest(manifest), missing=missing)

    def put(self, _attempt_id, entry, content):
        self._hear()
        if self.refuse_puts:
            raise UplinkRefusedError("413")
        self.blobs[entry.sha256] = content.read()
        self._answer()

    def push_log(self, attempt_id, rank, offset, content):
        self._hear()
        self.log_calls.append((offset, len(content)))
        have = self.logs.setdefault((attempt_id, rank), b"")
        if offset == len(have) and len(have) < self.log_bytes_max:
            self.logs[attempt_id, rank] = have + content
        self._answer()
        return len(self.logs[attempt_id, rank])


class FakeEngine:
    """Implements `Engine`; a test says what becomes of attempts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: dict[str, Observation] = {}
        self.launches = []
        self.calls = []
        self.silent = False
        self.refuses = False
        self.hangs_up = False
        """The next submit is carried out, and answered with an error."""
        self.drops = False
        """Submits are answered with an error, and not carried out."""

    def submit(self, launch, folder):
        if self.refuses:
            raise LaunchRefusedError("no such node")
        if self.drops:
            raise EngineError("timed out")
        if launch.attempt_id not in self.seen:
            self.launches.append((launch, folder))
            self.become(launch.attempt_id, Phase.ACCEPTED)
        if self.hangs_up:
            self.hangs_up = False
            raise EngineError("timed out")
        return launch.attempt_id

    def become(self, attempt_id, phase, end=None, exit_code=None):
        self.seen[attempt_id] = Observation(
            attempt_id=attempt_id,
            engine_id=f"e-{attempt_id}",
            phase=phase,
            started_ms=None if phase is Phase.ACCEPTED else 1_000,
            ended_ms=2_000 if end else None,
            end=end,
            exit_code=exit_code,
        )

    def complete(self, attempt_id):
        self.become(attempt_id, Phase.ENDED, EngineEnd.COMPLETED, 0)

    def observe(self):
        if self.silent:
            raise EngineError("no answer")
        return tuple(self.seen.values())

    def drift(self):
        return ()

    def stop(self, attempt_id):
        self.calls.append(("stop", attempt_id))

    def extend(self, attempt_id, lease_until_ms):
        self.calls.append(("extend", attempt_id, lease_until_ms))

    def forget(self, attempt_id):
        self.calls.append(("forget", attempt_id))
        self.seen.pop(attempt_id, None)

    def capacity(self):
        return POOLS

    def log_path(self, attempt_id, rank):
        return self.root / f"{attempt_id}.{rank}.log"


class AtOnce(Executor):
    """Does the work where it is asked for; with `held`, only when it is released."""

    def __init__(self) -> None:
        self.held = None

    def submit(self, fn, /, *args, **kwargs):
        future = Future()
        if self.held is not None:
            self.held.append((future, fn, args, kwargs))
        else:
            self._do(future, fn, args, kwargs)
        return future

    def release(self) -> None:
        work, self.held = self.held, None
        for item in work:
            self._do(*item)

    @staticmethod
    def _do(future, fn, args, kwargs):
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  as an executor's thread does
            future.set_exception(error)


class AgentBench:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.control = FakeControl()
        self.engine = FakeEngine(root)
        self.now_ms = 1_000_000
        self.blackouts = ()
        self.restart()

    def restart(self) -> None:
        """What a killed agent leaves is what is on disk."""
        self.executor = AtOnce()
        self.agent = Agent(
            Site(
                cluster_id="c",
                engine_name="fake",
                engine=self.engine,
                uplink=self.control,
                identity=own_identity(self.root),
                blackouts=self.blackouts,
                root=self.root / "agent",
                executor=self.executor,
                now_ms=lambda: self.now_ms,
                dice=random.Random(0),
            )
        )

    def tick(self, *, times: int = 1) -> float:
        for _ in range(times):
            delay_s = self.agent.tick()
            self.now_ms += 1_000
        return delay_s

    @property
    def folder(self) -> Path:
        return self.root / "agent" / "work" / "a-1"

    @property
    def report(self):
        """What the last sync said of the attempt."""
        return self.control.reports["a-1"]

    def run_to_running(self, **changes) -> None:
        self.control.reply = reply(order(**changes))
        self.tick()
        self.engine.become("a-1", Phase.RUNNING)
        self.tick()
