"""What lists show of tasks and shares over the whole federation: `dure squeue`, `sacct`, `sshare`.

A part of `dure.views`: instants are ms since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.errors import Reason
from dure.jobs import Resources, Tier
from dure.life import EndCause, State


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """The last attempt of a task. `nodes` are ordinals in its pool."""

    number: int
    operator: str
    cluster: str
    pool: str
    gpu_model: str
    nodes: tuple[int, ...]
    started_ms: int | None
    ended_ms: int | None
    cause: EndCause | None
    gpu_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """One task with what its job asked for. `expected_ms` is its foreseen start while it waits."""

    job: str
    index: int
    tasks: int
    """How many its job has; `max_running` of them may run at a time."""
    max_running: int | None
    name: str
    project: str
    allocation: str
    submitter: str
    tier: Tier
    priority: int
    resources: Resources
    walltime_s: int
    state: State
    reason: Reason | None
    exit_code: int | None
    accepted_ms: int
    ended_ms: int | None
    expected_ms: int | None
    run: RunLine | None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest first. `next` is the cursor of the following page, None at the end."""

    tasks: tuple[TaskLine, ...]
    next: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareLine:
    """Where a share stands below its parent, in millionths: what its weight entitles it to, what
    it has used of late (its usage halves with every half-life), what it holds now.

    Usage in credit-seconds counts those below it too.
    """

    share: str
    parent: str | None
    weight_milli: int
    entitled_ppm: int
    used_ppm: int
    held_ppm: int
    used_credit_s: int
    gpus_held: int
