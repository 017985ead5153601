"""Helios: SenseTime's clusters, `cluster_log.csv` with `cluster_gpu_number.csv` beside it.

Source of the layout: github.com/S-Lab-System-Group/HeliosData (Hu et al., SC'21).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import columns_of, csv_jobs, csv_values, nodes_beside
from dure.rehearsal.traces.trace import (
    GPUS_PER_NODE,
    BadRowError,
    Trace,
    TraceJob,
    Within,
    bad_trace,
    gpu_count,
    moment_s,
    seconds,
)

COLUMNS: Final = ("job_id", "vc", "user", "submit_time", "duration", "gpu_num", "state")

_GPUS_BY_DAY: Final = "cluster_gpu_number.csv"


def read(log: Path, within: Within) -> Trace:
    """Read a cluster's log; jobs on CPUs, half of them, are left out as `no-gpus`.

    A VC has the most GPUs that it had on any day, or what `nodes.json` says where none is told.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    by_day = log.parent / _GPUS_BY_DAY
    nodes = _nodes_at_most(by_day) if by_day.is_file() else nodes_beside(log)
    return Trace(nodes, {log.name: lambda: csv_jobs(log, COLUMNS, _job)}, within=within)


def _nodes_at_most(by_day: Path) -> dict[str, int]:
    vcs = [column for column in columns_of(by_day) if column not in {"date", "total"}]
    most = dict.fromkeys(vcs, 0)
    for line, values in csv_values(by_day, ["date", *vcs]):
        try:
            if isinstance(values, BadRowError):
                raise values
            for vc, text in zip(vcs, values[1:], strict=True):
                most[vc] = max(most[vc], gpu_count(vc, text))
        except BadRowError as wrong:
            raise bad_trace(f"{by_day.name}:{line}: {wrong}.") from wrong
    return {vc: -(-gpus // GPUS_PER_NODE) for vc, gpus in most.items() if gpus}


def _job(values: Sequence[str]) -> TraceJob:
    id_, vc, user, submit, duration, gpus, state = values
    return TraceJob(
        id_,
        vc,
        user,
        moment_s("submit_time", submit),
        seconds("duration", duration),
        gpu_count("gpu_num", gpus),
        state,
    )
