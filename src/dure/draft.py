"""A job while it is being written down: fields from a file and from flags, any of them unsaid.

A draft turns into a `JobSpec` once nothing is missing. Here also stand the short forms in which
people write its values (`256+`, `0-7%4`, `H200:8`), the same in a file and in a flag.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final

from dure.errors import RefusedError
from dure.jobs import (
    ARRAY_INDEX_MAX,
    ARRAY_TASKS_MAX,
    Array,
    Checkpoint,
    Dependency,
    DependencyKind,
    JobSpec,
    Notice,
    Resources,
    Tier,
)
from dure.text import ENV_NAME, shown
from dure.views import JobRequest

_JOB_ID: Final = re.compile(r"\Aj-\d{1,18}\Z")
_AT_LEAST: Final = re.compile(r"\A(\d{1,9})\+?\Z")
_GRACE: Final = re.compile(r"\A(\d{1,9})([smh]?)\Z")
_GRACE_S: Final = {"": 1, "s": 1, "m": 60, "h": 3_600}
_RANGE: Final = re.compile(r"\A(\d{1,9})(?:-(\d{1,9})(?::(\d{1,9}))?)?\Z")
_ACCELERATOR: Final = re.compile(r"\A(?P<model>[^:]*[^:\s])\s*(?::\s*(?P<count>[^:]*))?\Z")
_COUNT: Final = re.compile(r"\A\d{1,9}\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What was said of a job. None, or an empty mapping, is what was not.

    `run` and `setup` are shell text, `command` an argument vector; `env` maps a name to None where
    its value must still be given, `secrets` where it comes from the submitter's own environment.
    """

    name: str | None = None
    project: str | None = None
    allocation: str | None = None
    command: tuple[str, ...] | None = None
    run: str | None = None
    setup: str | None = None
    workdir: Path | None = None
    env: dict[str, str | None] = field(default_factory=dict)
    secrets: dict[str, str | None] = field(default_factory=dict, repr=False)
    nodes: int | None = None
    gpus_per_node: int | None = None
    gpu_models: tuple[str, ...] | None = None
    pools: tuple[str, ...] | None = None
    cpus_per_node: int | None = None
    memory_gib_per_node: int | None = None
    walltime_s: int | None = None
    array: Array | None = None
    retries: int | None = None
    after_ok: tuple[str, ...] | None = None
    after_any: tuple[str, ...] | None = None
    checkpoint_dir: str | None = None
    signal: Notice | None = None
    grace_s: int | None = None
    outputs: str | None = None
    data_class: str | None = None
    tier: Tier | None = None
    priority: int | None = None

    def over(self, under: Draft) -> Draft:
        """The same, with what it leaves unsaid taken from `under`; variables are merged."""
        merged: dict[str, Any] = {}
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(under, one.name)
            if isinstance(mine, dict):
                merged[one.name] = {**theirs, **mine}
            else:
                merged[one.name] = theirs if mine is None else mine
        if self.command is not None:  # a command replaces the file's, whichever form that had
            merged["run"] = self.run
        for name in self.env:
            if name not in self.secrets:
                merged["secrets"].pop(name, None)
        for name in self.secrets:
            if name not in self.env:
                merged["env"].pop(name, None)
        return Draft(**merged)

    def spec(self, workdir: str | None = None) -> JobSpec:
        """The job itself; `workdir` is the digest of the uploaded folder.

        Raises:
            ValueError: something is missing or wrong.
        """
        if self.walltime_s is None:
            raise ValueError("time is missing; say how long the job may run, 2:00:00 for two hours")
        return JobSpec(
            name=self.name or "job",
            project=self.project or "",
            walltime_s=self.walltime_s,
            resources=self._resources(),
            dependencies=self._dependencies(),
            **self._what_runs(),
            **_said(
                allocation=self.allocation,
                env=self._environment(),
                array=self.array,
                checkpoint=self._checkpoint(),
                outputs=self.outputs,
                retries=self.retries,
                data_class=self.data_class,
                tier=self.tier,
                priority=self.priority,
                workdir=workdir,
            ),
        )

    def _resources(self) -> Resources:
        return Resources(
            **_said(
                nodes=self.nodes,
                gpus_per_node=self.gpus_per_node,
                gpu_models=self.gpu_models,
                pools=self.pools,
                cpus_per_node=self.cpus_per_node,
                memory_gib_per_node=self.memory_gib_per_node,
            )
        )

    def _what_runs(self) -> dict[str, Any]:
        if self.command is not None and self.run is not None:
            raise ValueError("run and command are both given; keep one")
        if not self.command and not (self.run or "").strip():
            raise ValueError("run is missing; write what the job runs, or a command after --")
        if not (self.setup or "").strip():
            return {"command": self.command} if self.command else {"script": self.run}
        run = self.run or f"exec {shlex.join(self.command or ())}\n"
        return {"script": script(self.setup or "", run)}

    def _environment(self) -> dict[str, str] | None:
        env = {}
        for name, value in self.env.items():
            if value is None:
                raise ValueError(f"envs {shown(name)} has no value; write one, or --env NAME=VALUE")
            env[name] = value
        return env or None

    def _checkpoint(self) -> Checkpoint | None:
        if self.checkpoint_dir is None:
            if self.signal is not None or self.grace_s is not None:
                raise ValueError("checkpoint has no dir; name the folder the job resumes from")
            return None
        return Checkpoint(
            dir=self.checkpoint_dir, **_said(signal=self.signal, grace_s=self.grace_s)
        )

    def _dependencies(self) -> tuple[Dependency, ...]:
        return tuple(
            Dependency(kind, job)
            for kind, jobs in (
                (DependencyKind.AFTEROK, self.after_ok),
                (DependencyKind.AFTERANY, self.after_any),
            )
            for job in jobs or ()
        )


def _said(**values: Any) -> dict[str, Any]:
    """What was said of some fields; the rest keep the defaults of `dure.jobs`."""
    return {name: value for name, value in values.items() if value is not None}


def script(setup: str, run: str) -> str:
    """One script of a setup and what runs after it, in one shell: what setup exports stays.

    The first command of setup that fails ends the job with its exit code. A subshell would not do:
    `set -e` has no force inside `( ... ) || exit` (POSIX, XCU 2.14 set).

    Raises:
        ValueError: one of them names an interpreter of its own.
    """
    for field_, text in (("setup", setup), ("run", run)):
        if text.startswith("#!"):
            raise ValueError(
                f"{field_} begins with {shown(text.splitlines()[0])}; "
                "setup and run are one shell script, so leave the #! line out"
            )
    return f"set -e\n{setup.rstrip()}\nset +e\n{run}"


# ---- how people write values ---------------------------------------------------------------------


def at_least(name: str, text: str, unit: str) -> int:
    """`32` or `32+`: this many, or more."""
    if not (match := _AT_LEAST.match(text.strip())):
        raise ValueError(f"{name} {shown(text)} is not {unit}; write a whole number, 32 or 32+")
    return int(match[1])


def cpus_from_text(text: str) -> int:
    """CPUs a node. Raises ValueError."""
    return at_least("cpus", text, "a number of CPUs")


def memory_gib_from_text(text: str) -> int:
    """Memory a node in GiB. Raises ValueError."""
    return at_least("memory", text, "a number of GiB, written without a unit")


def grace_s_from_text(text: str) -> int:
    """Seconds of grace: `90`, `90s`, `2m`, `1h`. Raises ValueError."""
    if not (match := _GRACE.match(text.strip())):
        raise ValueError(f"grace {shown(text)} is not a length of time; write seconds, 90s or 2m")
    return int(match[1]) * _GRACE_S[match[2]]


def signal_from_text(text: str) -> Notice:
    """`SIGUSR1` or `USR1`. Raises ValueError."""
    name = text.strip().upper()
    for notice in Notice:
        if name in {notice.value, notice.value.removeprefix("SIG")}:
            return notice
    raise ValueError(f"signal {shown(text)} is not one of {', '.join(Notice)}")


def tier_from_text(text: str) -> Tier:
    """One of the tiers. Raises ValueError."""
    if text not in set(Tier):
        raise ValueError(f"tier {shown(text)} is not one of {', '.join(Tier)}")
    return Tier(text)


def array_from_text(text: str) -> Array:
    """`0-7`, `1,3,5-9:2`, with `%4` at the end for at most four at a time, as sbatch reads it.

    Source: sbatch(1), option --array.

    Raises:
        ValueError: another form, or more tasks than a job may have.
    """
    listed, percent, running = text.strip().partition("%")
    wrong = f"array {shown(text)} is not a list of indices; write 0-7, 1,3,5-9:2 or 0-7%4"
    if percent and not _COUNT.match(running):
        raise ValueError(wrong)
    found: set[int] = set()
    for part in listed.split(","):
        if not (match := _RANGE.match(part.strip())):
            raise ValueError(wrong)
        first = int(match[1])
        indices = range(first, int(match[2] or first) + 1, int(match[3] or 1) or 1)
        if match[3] and not int(match[3]):
            raise ValueError(wrong)
        if not indices:
            raise ValueError(f"array {shown(text)} goes backwards; write the smaller index first")
        if indices[-1] > ARRAY_INDEX_MAX:
            raise ValueError(f"array index is {indices[-1]:,}; at most {ARRAY_INDEX_MAX:,}")
        if len(found) + len(indices) > 2 * ARRAY_TASKS_MAX:
            raise ValueError(f"array {shown(text)} has more than {ARRAY_TASKS_MAX:,} tasks")
        found.update(indices)
    return Array(tuple(sorted(found)), int(running) if percent else None)


def gpu_model_from_text(text: str) -> str:
    """A GPU model as the fleet writes it: `H200` -> `h200`, `RTX PRO 6000` -> `rtx-pro-6000`."""
    return "-".join(re.split(r"[\s_-]+", text.strip().lower())).removeprefix("nvidia-")


def accelerators_from_texts(texts: Sequence[str]) -> tuple[tuple[str, ...], int]:
    """GPU models of which any will do, and their one count a node: `H200:8`, `B200:8`, or `8`.

    Raises:
        ValueError: not of that form, or different counts.
    """
    if len(texts) == 1 and _COUNT.match(texts[0].strip()):
        return (), int(texts[0])
    models: list[str] = []
    counts: set[int] = set()
    for text in texts:
        match = _ACCELERATOR.match(text.strip())
        count = "1" if match and match["count"] is None else match and match["count"].strip()
        if not match or not _COUNT.match(count or ""):
            raise ValueError(
                f"accelerators {shown(text)} is not a GPU model and a whole number a node; "
                "write H200:8"
            )
        models.append(gpu_model_from_text(match["model"]))
        counts.add(int(count or ""))
    if len(counts) != 1:
        raise ValueError(
            f"accelerators {shown(', '.join(texts))} must have one count for all models; "
            "write {H200: 8, B200: 8}"
        )
    return tuple(models), counts.pop()


# ---- from drafts to a submission -----------------------------------------------------------------


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    found = get_close_matches(word, sorted(known), n=1)
    return found[0] if found else None


def check_dependencies(jobs: Sequence[JobSpec]) -> None:
    """Each dependency names a job of this submission or an earlier job's id, and none goes round.

    Raises:
        ValueError: a name stands twice, is not known, or its jobs wait for each other.
    """
    names = [job.name for job in jobs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"name {shown(name)} stands twice; give each job its own")
    graph: dict[str, list[str]] = {}
    for job in jobs:
        after = [dependency.job for dependency in job.dependencies]
        for other in after:
            if other not in names and not _JOB_ID.match(other):
                guess = nearest(other, names)
                hint = f"did you mean {guess}" if guess else "use its id, j-812 say"
                raise ValueError(
                    f"depends of {job.name} names {shown(other)}, "
                    f"which is no job of this submission; {hint}"
                )
        graph[job.name] = [other for other in after if other in names]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        raise ValueError(f"depends goes round in a circle: {circle}; take one out") from None


def requests(
    drafts: Sequence[Draft], environ: Mapping[str, str], workdirs: Sequence[str | None]
) -> tuple[JobRequest, ...]:
    """The jobs of a submission, with their secrets; `environ` is the submitter's environment.

    Raises:
        RefusedError: `bad-job`: one sentence on the first thing that is wrong.
    """
    made: list[JobRequest] = []
    for one, workdir in zip(drafts, workdirs, strict=True):
        try:
            secrets = _secrets(one.secrets, environ)
            made.append(JobRequest(spec=one.spec(workdir), secrets=secrets))
        except ValueError as error:
            where = f"{one.name}: " if len(drafts) > 1 else ""
            raise RefusedError("bad-job", f"{where}{error}.") from None
    try:
        check_dependencies([request.spec for request in made])
    except ValueError as error:
        raise RefusedError("bad-job", f"{error}.") from None
    return tuple(made)


def _secrets(
    secrets: Mapping[str, str | None], environ: Mapping[str, str]
) -> dict[str, str] | None:
    given = {}
    for name, value in secrets.items():
        if not ENV_NAME.match(name):  # it may be the secret itself, so it is not shown
            raise ValueError("secrets need a variable's name each; write NAME: value or NAME=value")
        if value is None and name not in environ:
            raise ValueError(
                f"secrets {shown(name)} has no value, and your environment has no variable of "
                "that name; export it first"
            )
        given[name] = environ[name] if value is None else value
    return given or None
