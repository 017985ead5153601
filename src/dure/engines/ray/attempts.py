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

from dure.engines import EngineEnd, Observation, Phase, kept
from dure.engines.local import shim
from dure.engines.ranks import RankExit, deciding, detail_of
from dure.engines.ray.answers import Job
from dure.units import MS_PER_S

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
                shim.write_over(self.folder / kept.ATTEMPT, dataclasses.asdict(self.asked))

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
            kept.note_ended(self.folder, self.seen)

    def exits(self) -> list[RankExit]:
        """How each rank ended that has written so."""
        return kept.exits(self.folder, self.asked.nodes)

    def _begun(self) -> dict[int, int]:
        """When each rank began, ms, of those that have."""
        paths = ((r, self.folder / str(r) / shim.BEGUN) for r in range(self.asked.nodes))
        found = ((rank, kept.decoded(_Begun, path)) for rank, path in paths)
        return {rank: begun.started_ms for rank, begun in found if begun is not None}

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


def note(place: Path, asked: Asked) -> Attempt:
    """Writes down that Ray is asked. Raises OSError."""
    kept.note_asked(place, asked)
    return Attempt(place, asked)


def load(attempts: Path) -> dict[str, Attempt]:
    """The attempts on disk, by id."""
    return {
        asked.attempt_id: Attempt(place, asked, seen)
        for place, asked, seen in kept.load(attempts, Asked)
    }
