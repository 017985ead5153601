"""A task of the federation as squeue and sacct would show it.

Partitions are pools, accounts are projects, nodes are called by their pool and their number there.
Sources: squeue(1), "JOB STATE CODES", "JOB REASON CODES"; sacct(1), "Job Accounting Fields".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dure.cli.slurm_layout import Field, ranges
from dure.life import TERMINAL, EndCause, State
from dure.listing import TaskLine
from dure.scheduling import explain
from dure.units import iso

NONE: Final = "N/A"
_SIGNAL_BASE: Final = 128

STATES: Final[Mapping[State, tuple[str, str]]] = {
    State.WAITING: ("PD", "PENDING"),
    State.QUEUED: ("PD", "PENDING"),
    State.INTENDED: ("CF", "CONFIGURING"),
    State.STARTING: ("CF", "CONFIGURING"),
    State.RUNNING: ("R", "RUNNING"),
    State.UNKNOWN: ("UN", "UNKNOWN"),  # its site is silent; Slurm has no such state
    State.CANCELLING: ("CG", "COMPLETING"),
    State.RECALLING: ("CG", "COMPLETING"),
    State.SUCCEEDED: ("CD", "COMPLETED"),
    State.FAILED: ("F", "FAILED"),
    State.TIMED_OUT: ("TO", "TIMEOUT"),
    State.CANCELLED: ("CA", "CANCELLED"),
}
_NODE_FAIL: Final = ("NF", "NODE_FAIL")
_ENDS: Final[Mapping[EndCause, tuple[str, str]]] = {
    EndCause.COMPLETED: STATES[State.SUCCEEDED],
    EndCause.ERRED: STATES[State.FAILED],
    EndCause.WALLTIME_REACHED: STATES[State.TIMED_OUT],
    EndCause.CANCELLED: STATES[State.CANCELLED],
    EndCause.RECALLED: ("PR", "PREEMPTED"),
    EndCause.NODE_FAILED: _NODE_FAIL,
    EndCause.START_FAILED: ("BF", "BOOT_FAIL"),
    EndCause.LOST: _NODE_FAIL,
}
_OF_PLATFORM: Final = frozenset({EndCause.NODE_FAILED, EndCause.START_FAILED, EndCause.LOST})

_REASONS: Final = {
    **dict.fromkeys(
        (
            explain.WAITING_FOR_NODES, explain.HOLDS_RESERVATION, explain.WAITING_FOR_RECALL,
            explain.NODES_DOWN,
        ),
        "Resources",
    ),
    **dict.fromkeys(
        (explain.BEHIND_RESERVATION, explain.BEYOND_GUARANTEE, explain.FAIR_SHARE), "Priority"
    ),
    explain.CLUSTER_SILENT: "ReqNodeNotAvail",
    explain.ARRAY_CAP: "JobArrayTaskLimit",
    explain.ALLOCATION_HELD: "AssocGrpBillingMinutes",
    explain.ALLOCATION_GPUS_IN_USE: "AssocGrpGRES",
    explain.ALLOCATION_WINDOW: "AssocMaxWallDurationPerJobLimit",
    explain.SHARE_LIMIT: "AssocGrpGRES",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One line of an answer: a task, or tasks of an array that wait alike."""

    task: TaskLine
    now_ms: int
    indices: tuple[int, ...]
    past: bool = False
    """It is an attempt that another followed."""

    @property
    def number(self) -> str:
        """`12`, `12_3`, `12_[4-7%2]`."""
        job = self.task.job.removeprefix("j-")
        if not self.in_array:
            return job
        if len(self.indices) == 1:
            return f"{job}_{self.indices[0]}"
        running = f"%{self.task.max_running}" if self.task.max_running else ""
        return f"{job}_[{ranges(self.indices)}{running}]"

    @property
    def in_array(self) -> bool:
        """Whether its job is an array, of one task even."""
        return self.task.tasks > 1 or self.task.index > 0

    @property
    def state(self) -> tuple[str, str]:
        """Its state, compact and whole; a task that a platform's fault ended is NODE_FAIL."""
        run = self.task.run
        if self.task.state is State.FAILED and run is not None and run.cause in _OF_PLATFORM:
            return _ENDS[run.cause] if run.cause is not None else _NODE_FAIL
        return STATES[self.task.state]

    @property
    def elapsed_s(self) -> int:
        """How long its last attempt has run."""
        run = self.task.run
        if run is None or run.started_ms is None:
            return 0
        return max(0, (run.ended_ms or self.now_ms) - run.started_ms) // 1_000

    @property
    def placed(self) -> bool:
        """Whether it holds nodes now, or did when it ended."""
        return self.past or self.task.state not in {State.WAITING, State.QUEUED}

    @property
    def partition(self) -> str:
        """The pool of its last attempt, those that it is pinned to, or any."""
        if self.task.run is not None and self.placed:
            return self.task.run.pool
        return ",".join(self.task.resources.pools) or "any"

    @property
    def nodelist(self) -> str:
        """`nhn-b200-n[0-1]`; empty before it has nodes."""
        run = self.task.run
        if run is None or not self.placed:
            return ""
        return node_names(run.pool, run.nodes)

    @property
    def reason(self) -> str:
        """Why it waits, in Slurm's word where there is one, else in Dure's."""
        if self.task.state is State.WAITING:
            return "Dependency"
        if self.task.state is not State.QUEUED or self.task.reason is None:
            return "None"
        return _REASONS.get(self.task.reason.code, self.task.reason.code)

    @property
    def starts_ms(self) -> int | None:
        """When it started; while it waits, when it is expected to."""
        if self.task.state in {State.WAITING, State.QUEUED}:
            return self.task.expected_ms
        return None if self.task.run is None else self.task.run.started_ms

    @property
    def ends_ms(self) -> int | None:
        """When it ended, or will at the latest."""
        run = self.task.run
        if self.task.state in TERMINAL:
            return self.task.ended_ms
        if run is None or run.started_ms is None or not self.placed:
            return None
        return run.started_ms + self.task.walltime_s * 1_000


def node_names(pool: str, nodes: Sequence[int]) -> str:
    """Nodes of a pool as a host list."""
    listed = ranges(sorted(nodes))
    return f"{pool}-n{listed}" if len(nodes) == 1 else f"{pool}-n[{listed}]"


def shown(tasks: Sequence[TaskLine], now_ms: int, *, each: bool) -> list[Shown]:
    """Lines of tasks, oldest first; with `each`, no two share one."""
    groups: dict[tuple[object, ...], list[TaskLine]] = {}
    for task in reversed(tasks):
        alone = each or task.state not in {State.WAITING, State.QUEUED}
        code = task.reason.code if task.reason else None
        key = (task.job, task.index) if alone else (task.job, task.state, code)
        groups.setdefault(key, []).append(task)
    return [
        Shown(task=group[0], now_ms=now_ms, indices=tuple(sorted(one.index for one in group)))
        for group in groups.values()
    ]


# ---- texts ---------------------------------------------------------------------------------------


def span(seconds: int) -> str:
    """squeue's: `0:05`, `1:02:03`, `2-03:04:05`."""
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}-{h:02}:{m:02}:{s:02}"
    return f"{h}:{m:02}:{s:02}" if h else f"{m}:{s:02}"


def clock_span(seconds: int) -> str:
    """sacct's: `00:00:05`, `2-03:04:05`."""
    days, rest = divmod(seconds, 24 * 3_600)
    text = f"{rest // 3_600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}-{text}" if days else text


def at(instant_ms: int | None, otherwise: str = NONE) -> str:
    """`2026-11-24T00:26:16`, in UTC."""
    return otherwise if instant_ms is None else iso(instant_ms).removesuffix("Z")


def gres(task: TaskLine) -> str:
    """`gres/gpu:b200:8`: GPUs a node, of a model where one is known."""
    models = [task.run.gpu_model] if task.run else list(task.resources.gpu_models)
    model = f":{models[0]}" if len(models) == 1 else ""
    return f"gres/gpu{model}:{task.resources.gpus_per_node}"


def cpus(task: TaskLine) -> int:
    """The CPUs it asked for, on all nodes; 0 where it left them to the site."""
    return (task.resources.cpus_per_node or 0) * task.resources.nodes


def memory(task: TaskLine) -> str:
    """`64G`; 0 where it left it to the site."""
    gib = task.resources.memory_gib_per_node
    return f"{gib}G" if gib else "0"


def tres(task: TaskLine) -> str:
    """`billing=8,cpu=64,gres/gpu=8,mem=128G,node=2`."""
    asked = task.resources
    found = {"billing": asked.gpus, "cpu": cpus(task), "gres/gpu": asked.gpus, "node": asked.nodes}
    parts = [f"{name}={count}" for name, count in found.items() if count]
    if asked.memory_gib_per_node:
        parts.insert(-1, f"mem={asked.memory_gib_per_node * asked.nodes}G")
    return ",".join(parts)


def exit_text(code: int | None) -> str:
    """`3:0`, or `0:9` for what signal 9 ended."""
    if code is None:
        return "0:0"
    return f"0:{code - _SIGNAL_BASE}" if code > _SIGNAL_BASE else f"{code}:0"


def accounting_state(one: Shown) -> str:
    """The state that sacct shows: of an attempt that is past, how it ended."""
    run = one.task.run
    if run is not None and run.cause is not None and (one.past or one.task.state in TERMINAL):
        return _ENDS[run.cause][1]
    return one.state[1]


def _if_known(value: Callable[[Shown], str]) -> Callable[[Shown], str]:
    return lambda one: value(one) or NONE


_SQUEUE: Final[Mapping[str, tuple[str, Field[Shown]]]] = {
    "jobarrayid": ("i", Field("JOBID", lambda one: one.number)),
    "jobid": ("A", Field("JOBID", lambda one: one.task.job.removeprefix("j-"))),
    "arrayjobid": ("F", Field("ARRAY_JOB_ID", lambda one: one.task.job.removeprefix("j-"))),
    "arraytaskid": (
        "K",
        Field("ARRAY_TASK_ID", lambda one: ranges(one.indices) if one.in_array else NONE),
    ),
    "name": ("j", Field("NAME", lambda one: one.task.name)),
    "username": ("u", Field("USER", lambda one: one.task.submitter)),
    "account": ("a", Field("ACCOUNT", lambda one: one.task.project)),
    "partition": ("P", Field("PARTITION", lambda one: one.partition)),
    "statecompact": ("t", Field("ST", lambda one: one.state[0])),
    "state": ("T", Field("STATE", lambda one: one.state[1])),
    "timeused": ("M", Field("TIME", lambda one: span(one.elapsed_s))),
    "timelimit": ("l", Field("TIME_LIMIT", lambda one: span(one.task.walltime_s))),
    "timeleft": (
        "L",
        Field("TIME_LEFT", lambda one: span(max(0, one.task.walltime_s - one.elapsed_s))),
    ),
    "numnodes": ("D", Field("NODES", lambda one: str(one.task.resources.nodes))),
    "numcpus": ("C", Field("CPUS", lambda one: str(cpus(one.task)))),
    "tres-per-node": ("b", Field("TRES_PER_NODE", lambda one: gres(one.task))),
    "minmemory": ("m", Field("MIN_MEMORY", lambda one: memory(one.task))),
    "reasonlist": (
        "R",
        Field("NODELIST(REASON)", lambda one: one.nodelist or f"({one.reason})"),
    ),
    "nodelist": ("N", Field("NODELIST", lambda one: one.nodelist)),
    "reason": ("r", Field("REASON", lambda one: one.reason)),
    "starttime": ("S", Field("START_TIME", lambda one: at(one.starts_ms))),
    "endtime": ("e", Field("END_TIME", lambda one: at(one.ends_ms))),
    "submittime": ("V", Field("SUBMIT_TIME", lambda one: at(one.task.accepted_ms))),
    "prioritylong": ("Q", Field("PRIORITY", lambda one: str(one.task.priority))),
    "priority": ("p", Field("PRIORITY", lambda one: str(one.task.priority))),
    "qos": ("q", Field("QOS", lambda one: one.task.tier)),
    "cluster": ("v", Field("CLUSTER", _if_known(lambda one: cluster(one.task)))),
}


def cluster(task: TaskLine) -> str:
    """The cluster of its last attempt."""
    return task.run.cluster if task.run else ""


SQUEUE_LETTERS: Final = {letter: field for letter, field in _SQUEUE.values() if letter != "v"}
SQUEUE_NAMES: Final = {name: field for name, (_, field) in _SQUEUE.items()}

SACCT: Final[Mapping[str, Field[Shown]]] = {
    field.heading.lower(): field
    for field in (
        Field("JobID", lambda one: one.number, 12, left=True),
        Field("JobIDRaw", lambda one: one.number, 12, left=True),
        Field("JobName", lambda one: one.task.name),
        Field("Partition", lambda one: one.partition),
        Field("Account", lambda one: one.task.project),
        Field("User", lambda one: one.task.submitter, 9),
        Field("AllocCPUS", lambda one: str(cpus(one.task))),
        Field("NCPUS", lambda one: str(cpus(one.task))),
        Field("ReqCPUS", lambda one: str(cpus(one.task)), 8),
        Field("AllocNodes", lambda one: str(one.task.resources.nodes if one.task.run else 0)),
        Field("NNodes", lambda one: str(one.task.resources.nodes), 8),
        Field("ReqNodes", lambda one: str(one.task.resources.nodes), 8),
        Field("NodeList", lambda one: one.nodelist or "None assigned", 15),
        Field("ReqTRES", lambda one: tres(one.task)),
        Field("AllocTRES", lambda one: tres(one.task) if one.task.run else ""),
        Field("ReqMem", lambda one: memory(one.task)),
        Field("State", accounting_state),
        Field("ExitCode", lambda one: exit_text(one.task.exit_code), 8),
        Field("Elapsed", lambda one: clock_span(one.elapsed_s)),
        Field("ElapsedRaw", lambda one: str(one.elapsed_s)),
        Field("Timelimit", lambda one: clock_span(one.task.walltime_s)),
        Field("TimelimitRaw", lambda one: str(one.task.walltime_s // 60)),
        Field("Submit", lambda one: at(one.task.accepted_ms), 19),
        Field("Eligible", lambda one: at(one.task.accepted_ms), 19),
        Field("Start", lambda one: at(_began_ms(one), "Unknown"), 19),
        Field("End", lambda one: at(_ended_ms(one), "Unknown"), 19),
        Field(
            "Restarts", lambda one: str(max(0, (one.task.run.number if one.task.run else 1) - 1))
        ),
        Field("QOS", lambda one: one.task.tier),
        Field("Priority", lambda one: str(one.task.priority)),
        Field("Cluster", lambda one: cluster(one.task)),
        Field("Reason", lambda one: one.reason, 22),
    )
}


def _began_ms(one: Shown) -> int | None:
    return None if one.task.run is None else one.task.run.started_ms


def _ended_ms(one: Shown) -> int | None:
    run = one.task.run
    return one.task.ended_ms if run is None or run.ended_ms is None else run.ended_ms


def as_json(one: Shown) -> dict[str, object]:
    """A task under Slurm's names, as squeue's and sacct's --json have them."""
    task, run = one.task, one.task.run
    return {
        "job_id": int(task.job.removeprefix("j-")),
        "array_task_id": task.index if one.in_array else None,
        "array_task_string": ranges(one.indices) if len(one.indices) > 1 else "",
        "name": task.name,
        "user_name": task.submitter,
        "account": task.project,
        "partition": one.partition,
        "qos": task.tier,
        "cluster": cluster(task),
        "job_state": accounting_state(one),
        "state_reason": one.reason,
        "state_description": task.reason.sentence if task.reason else "",
        "nodes": one.nodelist,
        "node_count": task.resources.nodes,
        "tres_per_node": gres(task),
        "tres_req_str": tres(task),
        "time_limit": task.walltime_s // 60,
        "submit_time": task.accepted_ms // 1_000,
        "start_time": _seconds(one.starts_ms),
        "end_time": _seconds(one.ends_ms),
        "exit_code": task.exit_code,
        "restart_cnt": max(0, run.number - 1) if run else 0,
        "priority": task.priority,
    }


def _seconds(instant_ms: int | None) -> int:
    """Seconds since the epoch; 0 for never, as Slurm has it."""
    return 0 if instant_ms is None else instant_ms // 1_000
