"""One attempt at a Slurm cluster, on disk: that Slurm was asked, which job it became, how it ended.

`attempt.json` is written before sbatch is called, and once more with the job's id after it. An
attempt without an id is one that Slurm may have or not.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dure.engines import EngineEnd, Launch, Observation, Phase, kept
from dure.engines.layout import write_launch
from dure.engines.local import shim
from dure.engines.ranks import RankExit, deciding, detail_of
from dure.engines.slurm.answers import Run, ms

JOB_LOG: Final = "slurm.log"

_BY_SLURM: Final = frozenset({EngineEnd.NODE_FAILED, EngineEnd.WALLTIME_REACHED})
"""Ends of which Slurm alone knows, whatever the ranks have written."""
_WORDS_MAX: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is kept of an attempt that Slurm was asked to run: no user text, no secrets."""

    attempt_id: str
    nodes: int
    grace_s: int
    asked_ms: int
    job_id: int | None = None
    submitted_s: int | None = None
    """With the job's id the attempt's name in Slurm: a requeued job has another."""


@dataclass(slots=True)
class Attempt:
    """An attempt, and what was last seen of it. `folder` does not exist for one that only Slurm
    knows of.
    """

    folder: Path
    asked: Asked
    seen: Observation | None = None

    @property
    def ended(self) -> Observation | None:
        """Its end, once that is known: it does not change."""
        return self.seen if self.seen is not None and self.seen.phase is Phase.ENDED else None

    def become(self, job_id: int, submitted_s: int | None = None) -> None:
        """Notes which job it is, and when that was submitted, when either is first known."""
        asked = self.asked
        if asked.job_id is None:
            asked = dataclasses.replace(asked, job_id=job_id)
        if asked.submitted_s is None and asked.job_id == job_id:
            asked = dataclasses.replace(asked, submitted_s=submitted_s)
        if asked != self.asked:
            self.asked = asked
            if self.folder.exists():
                shim.write_over(self.folder / kept.ATTEMPT, dataclasses.asdict(asked))

    def is_job(self, run: Run) -> bool:
        """Whether this is the attempt's own run, not one of another job or after a requeue."""
        return (run.job_id, run.submitted_s) == (self.asked.job_id, self.asked.submitted_s)

    def live(self, run: Run, cluster: str) -> None:
        """Notes how far its run is, which has not ended."""
        self.seen = Observation(
            attempt_id=self.asked.attempt_id,
            engine_id=engine_id(cluster, run),
            phase=run.phase,
            started_ms=ms(run.started_s) if run.phase is Phase.RUNNING else None,
        )

    def settle(self, run: Run, cluster: str) -> None:
        """Notes how it ended: when, is Slurm's word; how, its ranks' where Slurm has no other."""
        end, exit_code, detail = self._verdict(run)
        never = run.started_s == run.ended_s and not self.exits()  # as Slurm writes it
        self.seen = Observation(
            attempt_id=self.asked.attempt_id,
            engine_id=engine_id(cluster, run),
            phase=Phase.ENDED,
            started_ms=None if never else ms(run.started_s),
            ended_ms=ms(run.ended_s),
            end=end,
            exit_code=exit_code,
            detail=detail,
        )
        if self.folder.exists():
            kept.note_ended(self.folder, self.seen)

    def has_told(self, run: Run) -> bool:
        """Whether an ended run needs no other word than the controller's and its ranks'."""
        told = run.end is not EngineEnd.ERRED or len(self.exits()) == self.asked.nodes
        return told and run.ended_s is not None

    def exits(self) -> list[RankExit]:
        """How each rank ended that has written so."""
        return kept.exits(self.folder, self.asked.nodes)

    def _verdict(self, run: Run) -> tuple[EngineEnd, int | None, str]:
        exits = self.exits()
        end = run.end or EngineEnd.NODE_FAILED  # a run that was requeued: its nodes were taken
        if end in _BY_SLURM or run.state == "OUT_OF_MEMORY" or len(exits) < self.asked.nodes:
            return self._by_state(run, end, exits)
        first = deciding(exits)
        if end is EngineEnd.STOPPED:  # by the site: then it may have ended before its rank knew
            return end, first.exit_code, detail_of(exits) or _said(run)
        return first.end, first.exit_code, detail_of(exits)

    def _by_state(
        self, run: Run, end: EngineEnd, exits: list[RankExit]
    ) -> tuple[EngineEnd, int | None, str]:
        """The end where ranks say nothing, or not what counts."""
        detail = _said(run)
        begun = any((self.folder / str(r) / shim.BEGUN).exists() for r in range(self.asked.nodes))
        if end is EngineEnd.ERRED and not begun and not exits and self.folder.exists():
            return EngineEnd.START_FAILED, None, ": ".join(filter(None, (detail, self._words())))
        return end, None if end is EngineEnd.NODE_FAILED else run.exit_code, detail

    def _words(self) -> str:
        """What the batch script said last, of a rank that could not be started."""
        for path in (self.folder / JOB_LOG, *sorted(self.folder.glob("srun.*.err"))):
            lines = (kept.whole(path) or b"").decode("utf-8", "replace").strip().splitlines()
            if lines:
                return lines[-1][:_WORDS_MAX]
        return ""

    def ask_to_stop(self) -> float:
        """Writes the stop that its ranks look for; how many seconds ago that first was."""
        stop = self.folder / shim.STOP
        shim.write_once(stop, {"cause": shim.ASKED})
        return max(0.0, time.time() - stop.stat().st_mtime)


def _said(run: Run) -> str:
    return f"Slurm: {run.state.lower().replace('_', ' ')}"


def engine_id(cluster: str, run: Run) -> str:
    """The name of one run in Slurm: cluster, job id, and when it was submitted."""
    return f"{cluster}:{run.job_id}:{run.submitted_s}"


def write(place: Path, launch: Launch, folder: Path, path: str) -> Attempt:
    """Lays everything down that the nodes read. From here on Slurm may have the attempt.

    Raises OSError.
    """
    write_launch(place, launch, folder, {"path": path})
    asked = Asked(
        attempt_id=launch.attempt_id,
        nodes=len(launch.nodes),
        grace_s=launch.grace_s,
        asked_ms=time.time_ns() // 1_000_000,
    )
    kept.note_asked(place, asked)
    return Attempt(place, asked)


def load(attempts: Path) -> dict[str, Attempt]:
    """The attempts on disk, by id."""
    return {
        asked.attempt_id: Attempt(place, asked, seen)
        for place, asked, seen in kept.load(attempts, Asked)
    }
