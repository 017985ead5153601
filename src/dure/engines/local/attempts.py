"""One attempt on disk: how it is accepted, what each of its ranks has come to, how it ended.

`attempt.json` is the point of acceptance: before it nothing was started, after it every rank gets
its shim sooner or later, exactly once. That a rank's shim is gone is believed on positive evidence:
its lock is free and no process has its pid and start; or the machine has started anew since.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import psutil  # type: ignore[import-untyped]  # its types are a separate package
import structlog

from dure import codec
from dure.engines import EngineEnd, Observation, Phase
from dure.engines.local import shim
from dure.engines.ranks import QUIET, Exit, RankExit, check_instant, deciding, detail_of
from dure.errors import RefusedError
from dure.removal import remove_tree

log = structlog.get_logger("dure.engine")

T = TypeVar("T")

ATTEMPT: Final = "attempt.json"
ATTEMPT_MARK: Final = "DURE_ATTEMPT_ID"
ROOT_MARK: Final = "DURE_ENGINE_ROOT"
"""Variables by which an engine knows the processes of its attempts, whatever is on its disk."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_SHIM_REQUESTS_MAX: Final = 5
_SHIM_PATIENCE_S: Final = 2.0
_SWEEP_ROUNDS: Final = 50
_SWEEP_WAIT_S: Final = 0.01


@functools.cache
def boot_id() -> str:
    """Names this run of the machine: no process outlives a change of it."""
    return _BOOT_ID.read_text(encoding="ascii").strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """What the engine keeps of an attempt that it took on: no user text, no secrets."""

    attempt_id: str
    pool_id: str
    nodes: tuple[int, ...]
    slots: tuple[tuple[str, ...], ...]
    """For each rank, the slots that it holds on its node."""
    port: int
    accepted_ms: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Taken:
    """Who took a rank; no other process ever has both."""

    pid: int
    start_ticks: int | None

    def __post_init__(self) -> None:
        check_instant(self.pid)


@dataclass(frozen=True, slots=True)
class Begun:
    """The command's process, and when it was started."""

    pid: int
    start_ticks: int | None
    started_ms: int

    def __post_init__(self) -> None:
        check_instant(self.started_ms)


@dataclass(slots=True)
class Attempt:
    """An accepted attempt, with what has been read of it so far: ends do not change."""

    folder: Path
    accepted: Accepted
    begun_ms: dict[int, int] = field(default_factory=dict)
    exits: dict[int, RankExit] = field(default_factory=dict)
    ended: Observation | None = None
    asked: dict[int, tuple[int, float]] = field(default_factory=dict)
    """For each rank, how often a shim was asked for, and when last (monotonic seconds)."""

    @property
    def ranks(self) -> range:
        """One rank for each node."""
        return range(len(self.accepted.nodes))

    def place(self, rank: int) -> Path:
        """The folder of one rank's own files."""
        return self.folder / str(rank)

    def observe(self) -> Observation:
        """What is so now. Declares ranks failed whose shims are gone, and has the others stop."""
        if self.ended is not None:
            return self.ended
        for rank in self.ranks:
            self._look_guarded(rank)
        failed = [e for e in self.exits.values() if e.end not in QUIET]
        if failed and len(self.exits) < len(self.ranks):
            self._stop_the_others(min(e.rank for e in failed))
        started_ms = min(self.begun_ms.values(), default=None)
        if len(self.exits) == len(self.ranks):
            with self._logged("launch-file-left"):
                (self.folder / shim.LAUNCH).unlink(missing_ok=True)
            self.ended = _end(self.accepted.attempt_id, tuple(self.exits.values()), started_ms)
            return self.ended
        return Observation(
            attempt_id=self.accepted.attempt_id,
            engine_id=self.accepted.attempt_id,
            phase=Phase.RUNNING if len(self.begun_ms) == len(self.ranks) else Phase.ACCEPTED,
            started_ms=started_ms,
        )

    def waiting_ranks(self) -> tuple[int, ...]:
        """Ranks that no shim took, of which none was asked for or the last took too long."""
        if self.accepted.boot_id != boot_id():
            return ()
        now_s = time.monotonic()
        return tuple(
            rank
            for rank in self.ranks
            if rank not in self.exits
            and now_s - self.asked.get(rank, (0, -_SHIM_PATIENCE_S))[1] >= _SHIM_PATIENCE_S
            and not _stands(self.place(rank) / shim.SHIM)
        )

    def _look_guarded(self, rank: int) -> None:
        """One attempt's folder, whatever its job did to it, is not the others'."""
        try:
            self._look(rank)
        except shim.SpoiltError:
            self._fail_spoilt(rank)
        except OSError as error:
            if error.errno in shim.SPOILT | {errno.ENOENT}:
                self._fail_spoilt(rank)
            else:  # what was known of it stays
                self._log("attempt-unreadable", error)

    def _look(self, rank: int) -> None:
        if rank in self.exits:
            return
        begun = None if rank in self.begun_ms else self._read(Begun, rank, shim.BEGUN)
        if begun is not None:
            self.begun_ms[rank] = begun.started_ms
        taken = self._read(Taken, rank, shim.SHIM)
        asked, _ = self.asked.get(rank, (0, 0.0))
        if (
            taken is None
            and not self._restarted
            and asked <= _SHIM_REQUESTS_MAX
            and not _stands(self.place(rank) / shim.EXIT)
        ):
            return
        lock = shim.try_lock(self.place(rank) / shim.LOCK)
        if lock is None:
            return
        try:
            self._declare(rank, taken)
        finally:
            os.close(lock)

    @property
    def _restarted(self) -> bool:
        return self.accepted.boot_id != boot_id()

    def _read(self, type_: type[T], rank: int, name: str) -> T | None:
        """What a rank's file says; None where there is none. Raises as `shim.read_whole`."""
        try:
            content = shim.read_whole(self.place(rank) / name)
            return None if content is None else codec.decode(type_, content)
        except (shim.SpoiltError, RefusedError, RecursionError) as error:
            if self._restarted:  # a loss of power empties what was not durable: never written
                return None
            raise shim.SpoiltError(name) from error

    def _declare(self, rank: int, taken: Taken | None) -> None:
        """With the rank's lock held, so that no shim is alive: says how it must have ended."""
        if (found := self._read(Exit, rank, shim.EXIT)) is not None:
            self._keep(rank, found)
        elif self._restarted:
            self._end_rank(rank, EngineEnd.NODE_FAILED, "its machine was restarted")
        elif taken is None:
            self._end_rank(rank, EngineEnd.START_FAILED, "no supervisor could be started for it")
        else:
            alive = shim.start_ticks(taken.pid) == taken.start_ticks is not None
            # Its shim was killed; one that lives ends its own tree by ancestry.
            if not alive and self._sweep(rank):
                self._end_rank(rank, EngineEnd.NODE_FAILED, "its supervisor was killed")

    def _fail_spoilt(self, rank: int) -> None:
        """Ends a rank whose files its own job changed or took away."""
        self._stop_the_others(rank)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):
                lock = shim.try_lock(self.place(rank) / shim.LOCK)
                if lock is None:  # its shim lives and ends it, having been told to stop
                    return
                stack.callback(os.close, lock)
            if self._sweep(rank):
                self._end_rank(rank, EngineEnd.NODE_FAILED, "its control files were changed")

    def _stop_the_others(self, rank: int) -> None:
        with self._logged("stop-unwritten"):
            shim.write_once(self.folder / shim.STOP, {"cause": shim.PEER, "rank": rank})

    def _sweep(self, rank: int) -> bool:
        mine = {ATTEMPT_MARK: self.accepted.attempt_id, "NODE_RANK": str(rank)}
        return sweep(self.folder.parent.parent, lambda env: mine.items() <= env.items())

    def _end_rank(self, rank: int, end: EngineEnd, detail: str) -> None:
        started_ms = self.begun_ms.get(rank)
        ended_ms = max(time.time_ns() // 1_000_000, started_ms or 0)
        found = Exit(end, None, started_ms, ended_ms, detail)
        with self._logged("end-unwritten"):  # an engine that starts anew finds it again
            shim.write_over(self.place(rank) / shim.EXIT, dataclasses.asdict(found))
        self._keep(rank, found)

    def _keep(self, rank: int, found: Exit) -> None:
        if found.started_ms is not None:
            self.begun_ms[rank] = found.started_ms
        self.exits[rank] = RankExit(rank, **dataclasses.asdict(found))

    @contextlib.contextmanager
    def _logged(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._log(what, error)

    def _log(self, what: str, error: OSError) -> None:
        log.warning(what, attempt_id=self.accepted.attempt_id, error=str(error))


def _stands(path: Path) -> bool:
    """Whether there is anything of that name, a dangling link even. Never raises."""
    return os.path.lexists(path)


def _end(attempt_id: str, exits: tuple[RankExit, ...], started_ms: int | None) -> Observation:
    first = deciding(exits)
    return Observation(
        attempt_id=attempt_id,
        engine_id=attempt_id,
        phase=Phase.ENDED,
        started_ms=started_ms,
        ended_ms=max(e.ended_ms for e in exits),
        end=first.end,
        exit_code=first.exit_code,
        detail=detail_of(exits),
    )


def sweep(root: Path, is_meant: Callable[[dict[str, str]], bool]) -> bool:
    """Kills what this user runs with the mark of the engine in `root`, where its environment is
    meant; True when nothing is left. A process that cleared its environment escapes this.
    """
    for _ in range(_SWEEP_ROUNDS):
        left = _marked(root, is_meant)
        if not left:
            return True
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(_SWEEP_WAIT_S)
    return False


def _marked(root: Path, is_meant: Callable[[dict[str, str]], bool]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            is_ours = process.uids().real == os.getuid()
        except (psutil.Error, OSError):  # gone, a zombie, or another user's: not ours
            continue
        if is_ours and environment.get(ROOT_MARK) == str(root) and is_meant(environment):
            found.append(process)
    return found


def accept(folder: Path, accepted: Accepted) -> Attempt:
    """Makes the attempt the engine's own, durably: from here on it runs."""
    shim.write_once(folder / ATTEMPT, dataclasses.asdict(accepted), durable=True)
    shim.sync_folder(folder.parent)
    return Attempt(folder, accepted)


def load(attempts: Path) -> dict[str, Attempt]:
    """The accepted attempts on disk. What was being written when the agent died never started,
    and is removed, and so is what a job has made unreadable: the engine knows no such attempt.
    """
    found = {}
    for folder in sorted(attempts.iterdir()):
        accepted = _accepted(folder)
        if accepted is None:
            remove_tree(folder)
        else:
            found[accepted.attempt_id] = Attempt(folder, accepted)
    return found


def _accepted(folder: Path) -> Accepted | None:
    try:
        content = shim.read_whole(folder / ATTEMPT, shim.LAUNCH_BYTES_MAX)
        found = None if content is None else codec.decode(Accepted, content)
    except (shim.SpoiltError, RefusedError) as error:
        log.warning("attempt-lost", folder=folder.name, error=str(error))
        return None
    return found if found is not None and found.attempt_id == folder.name else None
