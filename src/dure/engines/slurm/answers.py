"""What Slurm's commands answer, read into values. No I/O.

Columns are asked for by format, not as JSON: in 22.05 `squeue --json` ignores every filter, and its
shape changes with each release, while these columns have been the same since before 20.11. Text
that a stranger wrote can only stand in the last column. A row that cannot be read makes the
whole answer unreadable where it should be ours, for a dropped row would look like a job that is
gone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dure.engines import EngineEnd, EngineError, Phase
from dure.text import shown
from dure.units import MS_PER_S

QUEUE_FORMAT: Final = "%A|%T|%V|%S|%e|%k|%j"
"""squeue(1): job id, state, submitted, started, ends, comment, name; instants as SLURM_TIME_FORMAT
says, here in seconds."""

RUNS_FORMAT: Final = "JobIDRaw,Submit,Start,End,State,ExitCode,JobName,WorkDir"
"""sacct(1), one row a run: with `--duplicates` the runs before a requeue have rows of their own."""

VERSION_FLOOR: Final = (22, 5)
"""Slurm 22.05, the oldest that the contract suite has passed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of one job: Slurm gives a requeued job another submit time, never another id."""

    job_id: int
    submitted_s: int
    state: str
    started_s: int | None
    ended_s: int | None
    exit_code: int | None
    name: str
    folder: str = ""
    """Where it was submitted to run; squeue is not asked for it."""

    @property
    def phase(self) -> Phase:
        """How far it is; Slurm's word for a job that is being cleaned up is not an end yet."""
        if self.state in _ENDS:
            return Phase.ENDED
        running = self.started_s is not None and self.state not in _WAITING
        return Phase.RUNNING if running else Phase.ACCEPTED

    @property
    def end(self) -> EngineEnd | None:
        """What its state means by itself; None while it has not ended."""
        return _ENDS.get(self.state)


_WAITING: Final = frozenset({"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD"})

_ENDS: Final = {
    "COMPLETED": EngineEnd.COMPLETED,
    "FAILED": EngineEnd.ERRED,
    "OUT_OF_MEMORY": EngineEnd.ERRED,
    "TIMEOUT": EngineEnd.WALLTIME_REACHED,
    "DEADLINE": EngineEnd.WALLTIME_REACHED,
    "CANCELLED": EngineEnd.STOPPED,
    "PREEMPTED": EngineEnd.STOPPED,
    "REVOKED": EngineEnd.STOPPED,
    "NODE_FAIL": EngineEnd.NODE_FAILED,
    "BOOT_FAIL": EngineEnd.NODE_FAILED,
    "LAUNCH_FAILED": EngineEnd.NODE_FAILED,
    "RECONFIG_FAIL": EngineEnd.NODE_FAILED,
}
"""squeue(1), JOB STATE CODES. A preempted job is its owner's recall: it is stopped."""

_VERSION: Final = re.compile(r"\Aslurm(?:-wlm)? (\d+)\.(\d+)")


def read_queue(text: str, mark: str) -> tuple[Run, ...]:
    """The jobs that carry our mark, of an answer of squeue. Raises EngineError where unreadable."""
    runs = []
    for line in text.splitlines():
        fields = line.split("|", 6)
        if len(fields) == 7 and fields[5] == mark:
            job_id, state, submitted, started, ended, _, name = fields
            runs.append(_run((job_id, submitted, started, ended, state, "", name, "")))
    return tuple(runs)


def read_runs(text: str) -> tuple[Run, ...]:
    """The runs of an answer of sacct, in its order. Raises EngineError where one is unreadable."""
    return tuple(_run(tuple(line.split("|", 7))) for line in text.splitlines() if line)


def _run(fields: tuple[str, ...]) -> Run:
    try:
        job_id, submitted, started, ended, state, exit_code, name, folder = fields
        word = state.split()[0].rstrip("+")  # "CANCELLED by 1000"
        code = _exit_code(exit_code)
        over = word in _ENDS or word in {"REQUEUED", "RESIZING"}
        return Run(
            job_id=int(job_id),
            submitted_s=int(submitted),
            state=word,
            started_s=_instant(started),
            ended_s=_instant(ended) if over else None,
            exit_code=code,
            name=name,
            folder=folder,
        )
    except (ValueError, IndexError) as error:
        raise EngineError(
            f"Slurm's answer has a row that is none: {shown('|'.join(fields))}"
        ) from error


def _instant(text: str) -> int | None:
    """Seconds, or None for what has not come: `N/A`, `Unknown`, `None`."""
    return int(text) if text.isdigit() and text != "0" else None


def _exit_code(text: str) -> int | None:
    """Slurm's `CODE:SIGNAL`, as a shell would say it."""
    if ":" not in text:
        return None
    code, number = map(int, text.split(":", 1))
    return code or (128 + number if number else 0)


def ms(instant_s: int | None) -> int | None:
    """Slurm counts in seconds."""
    return None if instant_s is None else instant_s * MS_PER_S


def read_version(text: str) -> tuple[int, int]:
    """`slurm-wlm 22.05.8` -> (22, 5). Raises EngineError where it names no version."""
    found = _VERSION.match(text)
    if found is None:
        raise EngineError(f"{shown(text.strip())} is not a version of Slurm")
    return int(found[1]), int(found[2])
