"""What a member asks for: a job, which an array multiplies into tasks.

A `JobSpec` is checked when it is made, wherever it comes from: the API, a job file or Python. Each
refusal is one sentence that names the field, the value and what would be right.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Final

from dure.text import (
    ENV_NAME,
    SHA256,
    check_name,
    check_relative_path,
    check_slug,
    check_text,
    shown,
)
from dure.units import MS_PER_S, WALLTIME_S_MAX

NODES_MAX: Final = 100_000
GPUS_PER_NODE_MAX: Final = 1_024
CPUS_PER_NODE_MAX: Final = 4_096
MEMORY_GIB_PER_NODE_MAX: Final = 65_536
ARRAY_TASKS_MAX: Final = 10_000
ARRAY_INDEX_MAX: Final = 1_000_000
RETRIES_MAX: Final = 100
ENV_VARIABLES_MAX: Final = 256
DEPENDENCIES_MAX: Final = 100
GRACE_S_MAX: Final = 3_600
PRIORITY_MAX: Final = 100
PRIORITY_DEFAULT: Final = 50

RESERVED_ENV: Final = frozenset(
    {"MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}
    | {"NODE_RANK", "CUDA_VISIBLE_DEVICES"}
)
"""Variables that Dure sets itself, besides everything that starts with DURE_ or PET_."""


class Tier(StrEnum):
    """How firmly a job holds its GPUs."""

    RESERVED = "reserved"
    STANDARD = "standard"
    SPARE = "spare"


class DependencyKind(StrEnum):
    """Slurm's words (sbatch(1), --dependency)."""

    AFTEROK = "afterok"
    AFTERANY = "afterany"


class Notice(StrEnum):
    """The signal that tells a job to write its checkpoint."""

    TERM = "SIGTERM"
    INT = "SIGINT"
    USR1 = "SIGUSR1"
    USR2 = "SIGUSR2"


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{field} is {value:,}; it must be from {low:,} to {high:,}")


def _check_slugs(field: str, values: tuple[str, ...]) -> None:
    for value in values:
        check_slug(field, value)
    if len(set(values)) != len(values):
        raise ValueError(f"{field} {shown(values)} names one twice")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What every node of the job needs. All nodes are alike and start together."""

    nodes: int = 1
    gpus_per_node: int = 1
    gpu_models: tuple[str, ...] = ()
    """Acceptable GPU models, `h200` or `b200` say; none named means any."""
    pools: tuple[str, ...] = ()
    """Pools that it is pinned to; none named means any."""
    cpus_per_node: int | None = None
    memory_gib_per_node: int | None = None

    def __post_init__(self) -> None:
        _check_range("nodes", self.nodes, 1, NODES_MAX)
        _check_range("gpus_per_node", self.gpus_per_node, 1, GPUS_PER_NODE_MAX)
        _check_slugs("gpu_models", self.gpu_models)
        _check_slugs("pools", self.pools)
        if self.cpus_per_node is not None:
            _check_range("cpus_per_node", self.cpus_per_node, 1, CPUS_PER_NODE_MAX)
        if self.memory_gib_per_node is not None:
            _check_range(
                "memory_gib_per_node", self.memory_gib_per_node, 1, MEMORY_GIB_PER_NODE_MAX
            )

    @property
    def gpus(self) -> int:
        """GPUs of all nodes together."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, slots=True)
class Array:
    """A job's tasks, one for each index, at most `max_running` of them at a time."""

    indices: tuple[int, ...]
    max_running: int | None = None

    def __post_init__(self) -> None:
        _check_range("array (number of tasks)", len(self.indices), 1, ARRAY_TASKS_MAX)
        for index in self.indices:
            _check_range("array index", index, 0, ARRAY_INDEX_MAX)
        if any(a >= b for a, b in pairwise(self.indices)):
            raise ValueError("array indices must rise and none may stand twice")
        if self.max_running is not None:
            _check_range("array max_running", self.max_running, 1, ARRAY_TASKS_MAX)


@dataclass(frozen=True, slots=True)
class Dependency:
    """Run after another job: of the same submission by its name, or an earlier one by its id."""

    kind: DependencyKind
    job: str

    def __post_init__(self) -> None:
        check_text("dependency", self.job, limit=80)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Where the job keeps what it resumes from, and how it is told to write it."""

    dir: str
    signal: Notice = Notice.TERM
    grace_s: int = 30

    def __post_init__(self) -> None:
        check_relative_path("checkpoint dir", self.dir)
        _check_range("checkpoint grace_s", self.grace_s, 1, GRACE_S_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """One job as its owner asked for it. Immutable once accepted.

    `command` is an argument vector and `script` the text of a shell script; exactly one is given.
    Either runs once on each node, in the job's folder, which starts as a copy of `workdir` (the
    digest of an uploaded manifest). Secrets travel beside the spec, never in it.
    """

    name: str
    project: str
    walltime_s: int
    allocation: str | None = None
    command: tuple[str, ...] = ()
    script: str | None = None
    workdir: str | None = None
    env: dict[str, str] | None = None
    resources: Resources = Resources()
    array: Array | None = None
    dependencies: tuple[Dependency, ...] = ()
    retries: int = 0
    checkpoint: Checkpoint | None = None
    outputs: str | None = None
    data_class: str = "public"
    tier: Tier = Tier.STANDARD
    priority: int = PRIORITY_DEFAULT

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_slug("project", self.project)
        _check_range("walltime_s", self.walltime_s, 1, WALLTIME_S_MAX)
        self._check_what_runs()
        check_environment("env", self.env or {})
        if self.allocation is not None:
            check_slug("allocation", self.allocation)
        if self.workdir is not None and not SHA256.match(self.workdir):
            raise ValueError(f"workdir {shown(self.workdir)} is not the SHA-256 of a manifest")
        if self.outputs is not None:
            check_relative_path("outputs", self.outputs)
        check_slug("data_class", self.data_class)
        _check_range("retries", self.retries, 0, RETRIES_MAX)
        _check_range("priority", self.priority, 0, PRIORITY_MAX)
        if len(self.dependencies) > DEPENDENCIES_MAX:
            raise ValueError(
                f"dependencies has {len(self.dependencies):,} entries; "
                f"at most {DEPENDENCIES_MAX} are allowed"
            )

    def _check_what_runs(self) -> None:
        if bool(self.command) == bool(self.script):
            raise ValueError("give either a command or a script, not both and not neither")
        for word in self.command:
            check_text("command", word)
        if self.command and not self.command[0]:
            raise ValueError("command has an empty first word; it must name a program")
        if self.script is not None:
            check_text("script", self.script)

    @property
    def grace_s(self) -> int:
        """Seconds between the notice signal and the end."""
        return self.checkpoint.grace_s if self.checkpoint else DEFAULT_GRACE_S

    @property
    def indices(self) -> tuple[int, ...]:
        """The array's indices; a job without an array is one task with index 0."""
        return self.array.indices if self.array else (0,)


DEFAULT_GRACE_S: Final = 10
END_SLACK_S: Final = 10
"""What an engine may take to notice that a job's time is over."""


def occupied_ms(walltime_s: int, grace_s: int) -> int:
    """The longest that a job keeps its GPUs: walltime, grace, and the engine's slowness."""
    return (walltime_s + grace_s + END_SLACK_S) * MS_PER_S


def check_environment(field: str, variables: dict[str, str]) -> None:
    """Names that a process environment can carry, none that Dure sets itself, text values.

    Raises:
        ValueError: anything else.
    """
    if len(variables) > ENV_VARIABLES_MAX:
        raise ValueError(
            f"{field} has {len(variables):,} variables; at most {ENV_VARIABLES_MAX} are allowed"
        )
    for name, value in variables.items():
        if not ENV_NAME.match(name):
            raise ValueError(
                f"{field} {shown(name)} is not a variable's name; use letters, digits and _, "
                "not starting with a digit"
            )
        if name in RESERVED_ENV or name.startswith(("DURE_", "PET_")):
            raise ValueError(f"{field} {name} is set by Dure; choose another name")
        check_text(f"{field} {name}", value)
