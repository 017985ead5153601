"""What Ray answers over HTTP, read into values. No I/O.

Shapes: JobDetails of Ray's Jobs REST API, and its State API's nodes. What cannot be read makes the
whole answer unreadable, for a dropped row would look like a job that is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from dure.engines import EngineEnd, EngineError, NodeReport, PoolReport
from dure.engines.ray.site import RayPool
from dure.text import shown

MARK: Final = "dure_cluster"
"""Key of a job's metadata that says of which cluster of Dure it is."""
ATTEMPT_KEY: Final = "dure_attempt"

VERSION_FLOOR: Final = (2, 52)
"""Ray 2.52, the first with token authentication."""

ENDS: Final = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
_LIVE: Final = frozenset({"PENDING", "RUNNING"})

_ERRORS: Final = {
    "JOB_ENTRYPOINT_COMMAND_ERROR": EngineEnd.ERRED,
    "JOB_SUPERVISOR_ACTOR_DIED": EngineEnd.NODE_FAILED,
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": EngineEnd.START_FAILED,
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": EngineEnd.START_FAILED,
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": EngineEnd.START_FAILED,
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": EngineEnd.NODE_FAILED,
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": EngineEnd.START_FAILED,
    "RUNTIME_ENV_SETUP_FAILURE": EngineEnd.START_FAILED,
    "LOST_JOB_DRIVER": EngineEnd.NODE_FAILED,
}
"""What JobErrorType of a failed job means where its ranks say nothing; the driver's own code
otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of ours, as Ray tells of it."""

    attempt_id: str
    status: str
    ended_ms: int | None
    exit_code: int | None
    error: str
    message: str

    @property
    def ended(self) -> bool:
        """Whether Ray has ended it."""
        return self.status in ENDS

    @property
    def end(self) -> EngineEnd:
        """What its status means by itself."""
        if self.status == "SUCCEEDED":
            return EngineEnd.COMPLETED
        return EngineEnd.STOPPED if self.status == "STOPPED" else _ERRORS.get(
            self.error, EngineEnd.ERRED if self.exit_code is not None else EngineEnd.NODE_FAILED
        )  # fmt: skip


def read_version(answer: Any) -> tuple[tuple[int, int], str]:
    """Ray's version, and the name of the session: a cluster that was built anew has another.

    Raises EngineError where the answer is none of Ray's.
    """
    try:
        major, minor = answer["ray_version"].split(".")[:2]
        return (int(major), int(minor)), _session(answer["session_name"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise EngineError(f"{shown(answer)} is not an answer of Ray's /api/version") from error


def _session(name: Any) -> str:
    if not isinstance(name, str) or not name:
        raise ValueError(name)
    return name


def read_jobs(answer: Any, cluster_id: str) -> dict[str, Job]:
    """The jobs that carry our mark, by attempt. Raises EngineError where unreadable."""
    if not isinstance(answer, list):
        raise EngineError(f"Ray's list of jobs is none: {shown(answer)}")
    jobs = (_job(row, cluster_id) for row in answer)
    return {job.attempt_id: job for job in jobs if job is not None}


def _job(row: Any, cluster_id: str) -> Job | None:
    try:
        marks = row.get("metadata") or {}
        if marks.get(MARK) != cluster_id or ATTEMPT_KEY not in marks:
            return None
        return Job(
            attempt_id=str(marks[ATTEMPT_KEY]),
            status=_status(row["status"]),
            ended_ms=_number(row.get("end_time")),
            exit_code=_number(row.get("driver_exit_code")),
            error=str(row.get("error_type") or ""),
            message=str(row.get("message") or ""),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(f"Ray's list has a job that is none: {shown(row)}") from error


def _status(word: Any) -> str:
    if word not in ENDS | _LIVE:
        raise ValueError(word)
    return str(word)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node, as Ray tells of it; a node that came back is another one of the same name."""

    name: str
    up: bool
    gpus: int
    types: frozenset[str]


def read_nodes(answer: Any) -> tuple[Node, ...]:
    """The nodes that Ray lists, the dead ones too. Raises EngineError where unreadable."""
    try:
        rows = answer["data"]["result"]["result"]
        return tuple(_node(row) for row in rows)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError(f"Ray's list of nodes is none: {shown(answer)}") from error


def _node(row: Any) -> Node:
    total = row.get("resources_total") or {}
    prefix = "accelerator_type:"
    return Node(
        name=row["node_ip"],
        up=row["state"] == "ALIVE",
        gpus=int(total.get("GPU", 0)),
        types=frozenset(n.removeprefix(prefix) for n in total if n.startswith(prefix)),
    )


def pool_report(pool: RayPool, nodes: Iterable[Node]) -> PoolReport:
    """The nodes that have the pool's GPUs, numbered in the order of their names.

    A dead node counts as down until one of its name is up again.
    """
    found: dict[str, Node] = {}
    for node in nodes:
        ours = node.gpus and (pool.gpu_type is None or pool.gpu_type in node.types)
        if ours and (node.up or node.name not in found):
            found[node.name] = node
    numbered = enumerate(found[name] for name in sorted(found, key=_by_number))
    return PoolReport(
        pool.pool_id, tuple(NodeReport(at, node.gpus, up=node.up) for at, node in numbered)
    )


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    """Addresses in the order of their numbers."""
    return tuple((int(p), "") if p.isdigit() else (-1, p) for p in name.split("."))
