"""What Dure asks of an operator's engine, whatever it is: Slurm, Ray, Kubernetes, one machine.

An engine is driven by its operator's agent, next to the cluster. It runs attempts by key: the
attempt's id is the name under which the engine knows it, so that it can always be asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from dure.jobs import Notice


class Phase(StrEnum):
    """How far an engine says an attempt is. `ended` is believed on positive evidence only."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    ENDED = "ended"


class EngineEnd(StrEnum):
    """How an attempt ended, as its engine saw it."""

    COMPLETED = "completed"
    ERRED = "erred"
    WALLTIME_REACHED = "walltime-reached"
    STOPPED = "stopped"
    NODE_FAILED = "node-failed"
    START_FAILED = "start-failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Everything an engine needs to run one attempt. User text is data: files, argv, env."""

    attempt_id: str
    project: str
    pool_id: str
    nodes: tuple[int, ...]
    """Ordinals of the pool's nodes, rank 0 first; engines that place for themselves ignore them."""
    gpus_per_node: int
    walltime_s: int
    notice: Notice
    grace_s: int
    command: tuple[str, ...]
    script: str | None
    env: dict[str, str]
    """The user's variables; besides, at an engine, their secrets and Dure's own DURE_ ones. The
    engine adds the ranks'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What an engine knows of one attempt. Instants are the engine's own clock, in ms."""

    attempt_id: str
    engine_id: str
    phase: Phase
    started_ms: int | None = None
    ended_ms: int | None = None
    end: EngineEnd | None = None
    exit_code: int | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node of a pool: how many GPUs it offers, and whether it works."""

    ordinal: int
    gpus: int
    up: bool


@dataclass(frozen=True, slots=True)
class PoolReport:
    """A pool as the engine sees it now."""

    pool_id: str
    nodes: tuple[NodeReport, ...]


class EngineError(Exception):
    """The engine did not do it, or may or may not have: the attempt's state is unknown."""


class LaunchRefusedError(EngineError):
    """The engine will never run this launch: positive evidence that it did not start."""


class Engine(Protocol):
    """What every engine does. Each call may raise EngineError, which means unknown, never gone.

    tests/engines/contract.py states what holds for all of them.
    """

    def submit(self, launch: Launch, folder: Path) -> str:
        """Run the attempt in `folder`, the job's prepared copy. Idempotent by attempt id.

        Returns the engine's own id. Raises LaunchRefusedError when it will never run. After an
        EngineError it may be called again at any time: the engine itself sees to it that what it
        may have taken is not given to it twice.
        """
        ...

    def observe(self) -> tuple[Observation, ...]:
        """All attempts that the engine knows, with its own times, whatever their number in a fixed
        number of queries. Those are among them of which nothing but the engine knows any more.
        """
        ...

    def drift(self) -> tuple[str, ...]:
        """What the last `observe` found otherwise than Dure believes, a sentence each: another run
        of an attempt, say. Nothing is done to hide it.
        """
        ...

    def stop(self, attempt_id: str) -> None:
        """Send the attempt's notice signal and end it after its grace. Idempotent."""
        ...

    def extend(self, attempt_id: str, lease_until_ms: int) -> None:
        """Let it run until then by the engine's clock; without a longer lease it is stopped."""
        ...

    def forget(self, attempt_id: str) -> None:
        """Remove what is left of an ended attempt. Idempotent."""
        ...

    def capacity(self) -> tuple[PoolReport, ...]:
        """The cluster's pools, nodes and health."""
        ...

    def log_path(self, attempt_id: str, rank: int) -> Path:
        """The file to which node `rank` writes both its streams; it may not exist yet."""
        ...

    def close(self) -> None:
        """Let go of the engine. What runs goes on."""
        ...
