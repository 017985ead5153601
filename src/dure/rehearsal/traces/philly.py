"""Philly: Microsoft's multi-tenant cluster, `cluster_job_log`, a JSON array of jobs.

Source of the layout: github.com/msr-fiddle/philly-traces (Jeon et al., ATC'19). A job's duration is
the sum of its attempts', its GPUs those of its largest attempt. The VCs' quotas are not published:
`nodes.json` beside the log says them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dure.rehearsal.traces.files import json_items, nodes_beside
from dure.rehearsal.traces.trace import BadRowError, Trace, TraceJob, Within, moment_s, parsed
from dure.text import shown


def read(log: Path, within: Within) -> Trace:
    """Read a job log; jobs that never ran, or were running still, are left out as such.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    return Trace(
        nodes_beside(log), {log.name: lambda: parsed(json_items(log), _job)}, within=within
    )


def _job(item: Any) -> TraceJob:
    attempts = _of(item, "attempts", list)
    if not attempts:
        raise BadRowError("never-ran", "attempts is []; right is one at least")
    return TraceJob(
        _of(item, "jobid", str),
        _of(item, "vc", str),
        _of(item, "user", str),
        moment_s("submitted_time", _of(item, "submitted_time", str)),
        sum(map(_ran_s, attempts)),
        max(map(_gpus, attempts)),
        _of(item, "status", str),
    )


def _ran_s(attempt: Any) -> int:
    if not isinstance(attempt, dict) or not attempt.get("end_time"):
        raise BadRowError("no-end", "end_time is null; right is when the attempt ended")
    ends = _of(attempt, "end_time", str)
    ran_s = moment_s("end_time", ends) - moment_s("start_time", _of(attempt, "start_time", str))
    if ran_s < 0:
        raise BadRowError("bad-end_time", f"end_time is {ends}; right is not before start_time")
    return ran_s


def _gpus(attempt: Any) -> int:
    return sum(len(_of(node, "gpus", list)) for node in _of(attempt, "detail", list))


def _of(item: Any, key: str, kind: type) -> Any:
    value = item.get(key) if isinstance(item, dict) else None
    if not isinstance(value, kind):
        right = "a list" if kind is list else "text"
        raise BadRowError(f"bad-{key}", f"{key} is {shown(value)}; right is {right}")
    return value
