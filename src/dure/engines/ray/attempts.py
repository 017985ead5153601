"""One attempt at a Ray cluster, on disk: that Ray was asked, in which session, and how it ended.

`attempt.json` is written before Ray is asked, and once more when Ray is known to have it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog

from dure import codec
from dure.engines import EngineEnd, Launch, Observation, Phase
from dure.engines.layout import lay_out
from dure.engines.local import shim
from dure.engines.ranks import Exit, RankExit, deciding, detail_of
from dure.engines.ray.answers import Job
from dure.errors import RefusedError
from dure.units import MS_PER_S

log = structlog.get_logger("dure.engine")

ATTEMPT: Final = "attempt.json"
ENDED: Final = "ended.json"
LOST: Final = "lost.json"  # as dure.engines.ray.driver writes it, which imports Ray

STOP_MARGIN_S: Final = 30
"""How long after its grace a job that was told to stop is left to its ranks."""
_WORDS_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is kept of an attempt that Ray was asked to run: no user text, no secrets."""

    attempt_id: str
    nodes: int
    grace_s: int
    session: str
    """Ray's session: jobs of another one died with it."""
    taken: bool = False
    """Whether Ray is known to have it."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """What is read of a rank's file."""

    pid: int
    start_ticks: int | None
    started_ms: int


@dataclass(slots=True)
class Attempt:
    """An attempt, and what was last seen of it. `folder` does not exist for one that only Ray
    knows of.
    """

    folder: Path
    asked: Asked
    seen: Observation | None = None

    @property
    def ended(self) -> Observation | None:
        """Its end, once that is known: it does not change."""
        return self.seen if self.seen is not None and self.seen.phase is Phase.ENDED else None

    @property
    def engine_id(self) -> str:
        """The name of the run: an attempt's id is taken once in a session."""
        return f"{self.asked.session}:{self.asked.attempt_id}"

    def take(self) -> None:
        """Notes that Ray has it."""
        if not self.asked.taken:
            self.asked = dataclasses.replace(self.asked, taken=True)
            if self.folder.exists():
                shim.write_over(self.folder / ATTEMPT, dataclasses.asdict(self.asked))

    def live(self) -> None:
        """Notes how far it is, of a job that Ray has not ended: it runs once all ranks do."""
        begun = self._begun()
        runs = len(begun) == self.asked.nodes
        self.seen = Observation(
            attempt_id=self.asked.attempt_id,
            engine_id=self.engine_id,
            phase=Phase.RUNNING if runs else Phase.ACCEPTED,
            started_ms=min(begun.values()) if runs else None,
        )

    def look(self, job: Job, now_ms: int) -> None:
        """Notes what a job's row says; an end only once its ranks had the time to write theirs."""
        self.take()
        if not job.ended or (self._waits_for_ranks() and now_ms < self._patience_ms(job)):
            self.live()
        else:
            self._settle(job.ended_ms or now_ms, self._verdict(job))

    def lose(self, now_ms: int) -> None:
        """Notes that the cluster was built anew: what ran in the session before it died with it."""
        words = "Ray's session ended and with it the job"
        self._settle(now_ms, (EngineEnd.NODE_FAILED, None, words))

    def ask_to_stop(self) -> float:
        """Writes the stop that its ranks look for; how many seconds ago that first was."""
        stop = self.folder / shim.STOP
        shim.write_once(stop, {"cause": shim.ASKED})
        return max(0.0, time.time() - stop.stat().st_mtime)

    def _settle(self, ended_ms: int, verdict: tuple[EngineEnd, int | None, str]) -> None:
        """Notes its end. When, is the ranks' word: Ray's own times are the driver's."""
        end, exit_code, detail = verdict
        begun, exits = self._begun(), self.exits()
        if len(exits) >= max(1, len(begun)) and end is not EngineEnd.NODE_FAILED:
            ended_ms = max(e.ended_ms for e in exits)
        started_ms = min(begun.values(), default=None)
        self.seen = Observation(
            attempt_id=self.asked.attempt_id,
            engine_id=self.engine_id,
            phase=Phase.ENDED,
            started_ms=started_ms,
            ended_ms=max(ended_ms, started_ms or 0),
            end=end,
            exit_code=exit_code,
            detail=detail,
        )
        if self.folder.exists():
            shim.write_over(self.folder / ENDED, _plain(self.seen))
            (self.folder / shim.LAUNCH).unlink(missing_ok=True)

    def exits(self) -> list[RankExit]:
        """How each rank ended that has written so."""
        found = ((rank, self._of_rank(Exit, rank, shim.EXIT)) for rank in range(self.asked.nodes))
        return [RankExit(rank, **dataclasses.asdict(exit_)) for rank, exit_ in found if exit_]

    def _begun(self) -> dict[int, int]:
        found = {r: self._of_rank(_Begun, r, shim.BEGUN) for r in range(self.asked.nodes)}
        return {rank: begun.started_ms for rank, begun in found.items() if begun is not None}

    def _of_rank(self, kind: type[Any], rank: int, name: str) -> Any:
        return _decoded(kind, self.folder / str(rank) / name)

    def _waits_for_ranks(self) -> bool:
        """Whether a rank that began has neither ended nor been lost."""
        told = {e.rank for e in self.exits()}
        lost = self._lost()
        return bool(self._begun().keys() - told - ({lost["rank"]} if lost else set()))

    def _patience_ms(self, job: Job) -> int:
        return (job.ended_ms or 0) + (self.asked.grace_s + STOP_MARGIN_S) * MS_PER_S

    def _lost(self) -> dict[str, Any] | None:
        with contextlib.suppress(shim.SpoiltError, OSError):
            found = shim.read_json(self.folder / LOST)
            if found is not None and isinstance(found.get("rank"), int):
                return found
        return None

    def _verdict(self, job: Job) -> tuple[EngineEnd, int | None, str]:
        lost, exits = self._lost(), self.exits()
        if lost is not None:
            why = str(lost.get("why", ""))[:_WORDS_MAX]
            return EngineEnd.NODE_FAILED, None, f"rank {lost['rank']} is lost: {why}"
        if len(exits) == self.asked.nodes:
            first = deciding(exits)
            return first.end, first.exit_code, detail_of(exits)
        if not self.folder.exists() or ((self.folder / shim.STOP).exists() and not self._begun()):
            return EngineEnd.STOPPED, None, f"Ray: {job.status.lower()}"
        lines = job.message.strip().splitlines()
        words = f"Ray: {lines[-1][:_WORDS_MAX] if lines else job.status.lower()}"
        if job.end is EngineEnd.ERRED and not self._begun():
            return EngineEnd.START_FAILED, None, words
        return job.end, None if job.end is EngineEnd.NODE_FAILED else job.exit_code, words


def write(place: Path, launch: Launch, folder: Path, given: dict[str, Any]) -> None:
    """Lays everything down that the nodes read. `given` is the site's: `path`, `bundle`, `session`.

    From here on Ray may have the attempt. Raises OSError.
    """
    content = {
        "argv": lay_out(place, launch),
        "folder": str(folder.absolute()),
        "walltime_s": launch.walltime_s,
        "notice": launch.notice.value,
        "grace_s": launch.grace_s,
        "gpus_per_node": launch.gpus_per_node,
        "world": len(launch.nodes),
        "bundle": given["bundle"],
        "environment": {
            "PATH": given["path"],
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",  # or a job's log would come at its end
            **launch.env,
            "DURE_ATTEMPT_ID": launch.attempt_id,
        },
    }
    shim.write_once(place / shim.LAUNCH, content)


def note(place: Path, asked: Asked) -> Attempt:
    """Writes down that Ray is asked. Raises OSError."""
    shim.write_once(place / ATTEMPT, dataclasses.asdict(asked), durable=True)
    shim.sync_folder(place.parent)
    return Attempt(place, asked)


def load(attempts: Path) -> dict[str, Attempt]:
    """The attempts on disk. A folder of which Ray was never told is left out."""
    found = {}
    for folder in sorted(attempts.iterdir()):
        asked = _decoded(Asked, folder / ATTEMPT)
        if asked is not None and asked.attempt_id == folder.name:
            found[folder.name] = Attempt(folder, asked, _decoded(Observation, folder / ENDED))
    return found


def _decoded(kind: type[Any], path: Path) -> Any:
    """A file that a job may have put anything in the place of; None where it cannot be read."""
    try:
        content = shim.read_whole(path)
        return None if content is None else codec.decode(kind, content)
    except (shim.SpoiltError, OSError):
        return None
    except RefusedError as error:
        log.warning("attempt-lost", folder=path.parent.name, error=str(error))
        return None


def _plain(seen: Observation) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(seen).items() if value is not None}
