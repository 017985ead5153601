"""A Slurm cluster as an engine: one query of its queue a round, whatever the number of jobs.

The attempt's id is the job's name, and a comment marks the job as this cluster's of Dure: by these
two Slurm is asked for an attempt. A run is (cluster, job id, submit time); jobs are not requeued by
Slurm but ended, so that each run is an attempt of its own. Jobs run as the agent's own user: who
shares the pool shares that account.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from dure.engines import (
    EngineError,
    Launch,
    LaunchRefusedError,
    Observation,
    Phase,
    PoolReport,
    gang_rank,
    layout,
)
from dure.engines.local import shim
from dure.engines.slurm import attempts
from dure.engines.slurm.answers import Run
from dure.engines.slurm.attempts import Asked, Attempt
from dure.engines.slurm.commands import Commands
from dure.engines.slurm.nodes import pool_report
from dure.engines.slurm.options import sbatch_options
from dure.engines.slurm.site import SlurmPool, SlurmSite
from dure.faults import crash_point
from dure.removal import move_away, remove_tree
from dure.text import SLUG, shown
from dure.units import MS_PER_S

FIRST_LEASE_MS: Final = 60_000
"""How long a job may go on before its first `extend`, should its agent die in between."""

STOP_MARGIN_S: Final = 30
"""How long after its grace a job that was told to stop is left to its ranks, before scancel."""

_PROGRAMS: Final = (
    Path(shim.__file__),
    Path(gang_rank.__file__),
    *(Path(__file__).with_name(name) for name in ("batch.sh", "rank.py")),
)
"""What runs on the nodes."""

log = structlog.get_logger("dure.engine")


@dataclass(frozen=True, slots=True)
class _Absence:
    """Since when Slurm says that it has no such job, and when it said so last (monotonic s)."""

    since_s: float
    last_s: float


class SlurmEngine:
    """Implements `dure.engines.Engine`. One at a time drives a root folder, which the cluster's
    nodes see at the same path. Raises EngineError where Slurm's commands are too old, or not there.
    """

    def __init__(
        self, root: Path, site: SlurmSite, pools: Iterable[SlurmPool], cluster_id: str
    ) -> None:
        self._root = root.absolute()
        self._site = site
        self._pools = {pool.pool_id: pool for pool in pools}
        self._commands = Commands(site, f"dure:{cluster_id}")
        self._commands.check_version()
        self._folders = {name: self._root / name for name in ("attempts", "gone", "trash")}
        self._lock: int | None = layout.take(self._folders, _PROGRAMS)
        self._attempts = attempts.load(self._folders["attempts"])
        self._absent: dict[str, _Absence] = {}
        self._drift: tuple[str, ...] = ()
        self._cluster = ""
        """Slurm's own name of the cluster, once it has said it."""

    def close(self) -> None:
        """See `Engine.close`."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def submit(self, launch: Launch, folder: Path) -> str:
        """See `Engine.submit`. An attempt that Slurm may have is not given to it again before Slurm
        has said twice, `settle_s` apart, that it has no such job.
        """
        known = self._attempts.get(launch.attempt_id)
        if known is not None and known.asked.job_id is not None:
            return str(known.asked.job_id)
        if known is not None:
            self._check_absent(known)
        pool = self._pools.get(launch.pool_id)
        if pool is None:
            raise LaunchRefusedError(f"this cluster has no pool {shown(launch.pool_id)}")
        place = self._folders["attempts"] / launch.attempt_id
        options = sbatch_options(launch, pool, self._site, place / attempts.JOB_LOG)
        try:
            attempt = attempts.write(place, launch, folder, self._site.path)
            self._write_lease(attempt, time.time_ns() // 1_000_000 + FIRST_LEASE_MS)
        except OSError as error:
            remove_tree(place)  # with the secrets that it may hold already
            raise EngineError(f"attempt {launch.attempt_id} cannot be written: {error}") from error
        self._attempts[launch.attempt_id] = attempt
        self._absent.pop(launch.attempt_id, None)
        crash_point("slurm.before-sbatch")
        programs = self._root / "programs" / "dure" / "engines" / "slurm"
        arguments = (programs / "batch.sh", place, self._site.python, programs / "rank.py")
        try:
            job_id = self._commands.submit(options, [str(word) for word in arguments])
        except LaunchRefusedError:
            self._drop(launch.attempt_id)
            raise
        crash_point("slurm.after-sbatch")
        attempt.become(job_id)
        return str(job_id)

    def observe(self) -> tuple[Observation, ...]:
        """See `Engine.observe`. The accounting database is asked only for what the controller no
        longer has, once for all of it.
        """
        if not self._cluster:
            self._cluster = self._commands.cluster_name()
        queue = self._commands.queue()
        named = self._ours(queue)
        drift = []
        for attempt_id, runs in named.items():
            drift += self._adopt(attempt_id, runs)
        by_job = {run.job_id: run for runs in named.values() for run in runs}
        past = self._past(by_job)
        seen = []
        for attempt_id, attempt in tuple(self._attempts.items()):
            drift += self._look(attempt, by_job, past)
            if attempt_id not in self._absent:
                seen += [] if attempt.seen is None else [attempt.seen]
            elif not attempt.folder.exists():  # Slurm alone knew of it
                self._drop(attempt_id)
        self._drift = tuple(drift)
        return tuple(seen)

    def drift(self) -> tuple[str, ...]:
        """See `Engine.drift`."""
        return self._drift

    def stop(self, attempt_id: str) -> None:
        """See `Engine.stop`. Its ranks give notice and grace; what outlasts that is cancelled."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.ended is not None:
            return
        job_id = attempt.asked.job_id
        # Without its folder nobody would look for a stop there.
        waited_s = attempt.ask_to_stop() if attempt.folder.exists() else math.inf
        if job_id is None:
            return
        if waited_s > attempt.asked.grace_s + STOP_MARGIN_S:
            self._commands.cancel([job_id])
        elif attempt.seen is None or attempt.seen.phase is Phase.ACCEPTED:
            self._commands.cancel([job_id], pending_only=True)

    def extend(self, attempt_id: str, lease_until_ms: int) -> None:
        """See `Engine.extend`."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.ended is None and attempt.folder.exists():
            try:
                self._write_lease(attempt, lease_until_ms)
            except OSError as error:
                raise EngineError(
                    f"the lease of {attempt_id} cannot be written: {error}"
                ) from error

    def forget(self, attempt_id: str) -> None:
        """See `Engine.forget`. Raises EngineError while the attempt is live.

        Slurm itself still lists the job for a while: until it does not, a note is kept of it.
        """
        attempt = self._attempts.get(attempt_id)
        lives = attempt is not None and attempt.ended is None and attempt.asked.job_id is not None
        if lives and attempt_id not in self._absent:
            raise EngineError(f"attempt {attempt_id} is live and cannot be forgotten")
        if SLUG.match(attempt_id):
            self._drop(attempt_id)

    def capacity(self) -> tuple[PoolReport, ...]:
        """See `Engine.capacity`."""
        nodes = self._commands.nodes()
        return tuple(pool_report(pool, nodes) for pool in self._pools.values())

    def log_path(self, attempt_id: str, rank: int) -> Path:
        """See `Engine.log_path`."""
        return self._folders["attempts"] / attempt_id / str(rank) / shim.LOG

    def _check_absent(self, attempt: Attempt) -> None:
        absent = self._absent.get(attempt.asked.attempt_id)
        if absent is None or absent.last_s - absent.since_s < self._site.settle_s:
            raise EngineError(
                "Slurm was asked before, and has not yet said twice that it has it not"
            )

    @staticmethod
    def _write_lease(attempt: Attempt, until_ms: int) -> None:
        """Only once a quarter of the lease is over: a shared file system pays for each write."""
        path = attempt.folder / shim.LEASE
        left_ms = until_ms - time.time_ns() // 1_000_000
        with contextlib.suppress(shim.SpoiltError):
            lease = shim.read_json(path)
            if lease is not None and 0 <= until_ms - lease.get("until_ms", 0) < left_ms // 4:
                return
        shim.write_over(path, {"until_ms": until_ms}, durable=False)

    def _drop(self, attempt_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            remove_tree(move_away(self._folders["attempts"] / attempt_id, self._folders["trash"]))
        attempt = self._attempts.pop(attempt_id, None)
        self._absent.pop(attempt_id, None)
        if attempt is not None and attempt.asked.job_id is not None:
            (self._folders["gone"] / attempt_id).touch()

    def _ours(self, queue: Iterable[Run]) -> dict[str, list[Run]]:
        """The queue by attempt, oldest job first, without what has been forgotten."""
        gone = {path.name for path in self._folders["gone"].iterdir()}
        named: dict[str, list[Run]] = {}
        for run in sorted(queue, key=lambda run: run.job_id):
            named.setdefault(run.name, []).append(run)
        for attempt_id in gone - named.keys():
            (self._folders["gone"] / attempt_id).unlink(missing_ok=True)
        return {name: runs for name, runs in named.items() if name not in gone and SLUG.match(name)}

    def _adopt(self, attempt_id: str, runs: list[Run]) -> list[str]:
        """Matches jobs of a name with the attempt of that id; what one has too many is cancelled.

        Returns what is not as Dure believes.
        """
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            place = self._folders["attempts"] / attempt_id
            asked = Asked(attempt_id=attempt_id, nodes=1, grace_s=0, asked_ms=0)
            attempt = self._attempts[attempt_id] = Attempt(place, asked)
        self._absent.pop(attempt_id, None)
        own = next((run for run in runs if run.job_id == attempt.asked.job_id), runs[0])
        attempt.become(own.job_id, own.submitted_s)
        others = [run for run in runs if run.job_id != own.job_id and run.phase is not Phase.ENDED]
        if others:
            self._commands.cancel(run.job_id for run in others)
        return [
            f"job {run.job_id} is a second one of attempt {attempt_id}; it is cancelled"
            for run in others
        ]

    def _past(self, queue: Mapping[int, Run]) -> dict[int, list[Run]] | None:
        """What accounting says of the jobs whose end the controller does not tell, by job and then
        by time; None where it does not answer.
        """
        open_ = [a for a in self._attempts.values() if a.ended is None]
        ids = {
            a.asked.job_id
            for a in open_
            if a.asked.job_id is not None and not self._tells(a, queue.get(a.asked.job_id))
        }
        nameless = {a.asked.attempt_id: a for a in open_ if a.asked.job_id is None}
        try:
            found = list(self._commands.runs(ids)) if ids else []
            if nameless:
                since_ms = min(a.asked.asked_ms for a in nameless.values())
                found += self._commands.runs_named(nameless, since_ms // MS_PER_S - 60)
        except EngineError as error:
            log.warning("accounting-silent", error=str(error))
            return None
        past: dict[int, list[Run]] = {}
        for run in sorted(found, key=lambda run: (run.job_id, run.submitted_s)):
            past.setdefault(run.job_id, []).append(run)
            attempt = self._attempts.get(run.name)
            if attempt is not None and run.folder == str(attempt.folder):
                attempt.become(run.job_id, run.submitted_s)
        return past

    @staticmethod
    def _tells(attempt: Attempt, run: Run | None) -> bool:
        """Whether the controller's word of it is enough: it lives, or its ranks tell its end."""
        if run is None or not attempt.is_job(run):
            return False
        return run.phase is not Phase.ENDED or attempt.has_told(run)

    def _look(
        self, attempt: Attempt, queue: Mapping[int, Run], past: Mapping[int, list[Run]] | None
    ) -> list[str]:
        """Brings an attempt up to date with what Slurm says. Returns what Dure does not expect."""
        asked = attempt.asked
        run = queue.get(asked.job_id) if asked.job_id is not None else None
        again = run is not None and not attempt.is_job(run)
        drift = []
        if run is not None and again and run.phase is not Phase.ENDED:
            self._commands.cancel([run.job_id])
            drift.append(
                f"job {run.job_id} of attempt {asked.attempt_id} was requeued; "
                "its second run is cancelled"
            )
        if attempt.ended is not None:
            return drift
        if run is not None and not again and run.phase is not Phase.ENDED:
            attempt.live(run, self._cluster)
            return drift
        told = None if past is None or asked.job_id is None else past.get(asked.job_id)
        first = next((r for r in told or () if attempt.is_job(r) and r.ended_s is not None), None)
        if first is not None:
            attempt.settle(first, self._cluster)
            self._absent.pop(asked.attempt_id, None)
        elif run is not None and not again and (past is None or attempt.has_told(run)):
            attempt.settle(run, self._cluster)
        elif run is None and past is not None:
            self._note_absent(asked.attempt_id)
        return drift

    def _note_absent(self, attempt_id: str) -> None:
        now_s = time.monotonic()
        since_s = self._absent[attempt_id].since_s if attempt_id in self._absent else now_s
        self._absent[attempt_id] = _Absence(since_s, now_s)
