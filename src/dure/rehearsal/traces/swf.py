"""SWF: the Standard Workload Format 2.2 of the Parallel Workloads Archive; the file is one VC.

Source of the layout: Chapin et al., JSSPP 1999; cs.huji.ac.il/labs/parallel/workload/swf.html. A
processor stands for a GPU, so that the load offered stays what it was: those a job asked for (field
8), or was given (field 5) where that is unknown (-1).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import nodes_beside, opened, stem
from dure.rehearsal.traces.trace import (
    GPUS_PER_NODE,
    BadRowError,
    Trace,
    TraceJob,
    Within,
    gpu_count,
    parsed,
    seconds,
)

FIELDS: Final = 18

_STATUS: Final = {"0": "failed", "1": "completed", "5": "cancelled"}


def read(log: Path, within: Within) -> Trace:
    """Read a log; its nodes are MaxProcs (or MaxNodes) of its header, eight processors a node, or
    what `nodes.json` beside it says where the header does not.

    Raises:
        RefusedError: `bad-trace`: the file cannot be read, or nothing says how many nodes.
    """
    vc = stem(log)
    processors = _processors(log)
    nodes = {vc: -(-processors // GPUS_PER_NODE)} if processors else nodes_beside(log)
    return Trace(
        nodes,
        {log.name: lambda: parsed(_lines(log), lambda fields: _job(vc, fields))},
        within=within,
    )


def _processors(log: Path) -> int:
    """Of the header's `; MaxProcs: 128`; 0 where it has none."""
    found = {"MaxProcs": 0, "MaxNodes": 0}
    with opened(log) as text:
        for line in text:
            if not line.startswith(";"):
                break
            key, _, value = line.lstrip("; ").partition(":")
            if key in found and value.strip().isdecimal():
                found[key] = int(value)
    return found["MaxProcs"] or found["MaxNodes"]


def _lines(log: Path) -> Iterator[tuple[int, list[str]]]:
    with opened(log) as text:
        for number, line in enumerate(text, 1):
            if not line.startswith(";") and (fields := line.split()):
                yield number, fields


def _job(vc: str, fields: list[str]) -> TraceJob:
    if len(fields) != FIELDS:
        raise BadRowError("bad-columns", f"fields are {len(fields)}; right is {FIELDS}")
    id_, submit, _, runtime, allocated, _, _, requested, _, _, status, user = fields[:12]
    if status in {"2", "3", "4"}:
        raise BadRowError(
            "partial",
            f"status is {status}; right is 0, 1 or 5: part of a job that has its own line",
        )
    if runtime == "-1":
        raise BadRowError("never-ran", "run time is -1; right is how long the job ran")
    return TraceJob(
        id_,
        vc,
        user,
        seconds("submit time", submit),
        seconds("run time", runtime),
        gpu_count("processors", allocated if requested == "-1" else requested),
        _STATUS.get(status, ""),
    )
