"""Dure's own layout: a folder with `jobs.csv` and `nodes.json`.

`jobs.csv` has job_id, vc, user, submit, duration, gpus and status, times in seconds; `nodes.json`
the nodes of each VC. CSV may be gzipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import csv_jobs, nodes_of
from dure.rehearsal.traces.trace import Trace, TraceJob, Within, bad_trace, gpu_count, seconds

COLUMNS: Final = ("job_id", "vc", "user", "submit", "duration", "gpus", "status")


def read(folder: Path, within: Within) -> Trace:
    """Read a trace's folder.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    jobs = csv_in(folder, "jobs")
    return Trace(
        nodes_of(folder / "nodes.json"),
        {jobs.name: lambda: csv_jobs(jobs, COLUMNS, _job)},
        within=within,
    )


def csv_in(folder: Path, stem: str) -> Path:
    """The file `stem`.csv of a folder, gzipped or not.

    Raises:
        RefusedError: `bad-trace`: there is neither.
    """
    for name in (f"{stem}.csv", f"{stem}.csv.gz"):
        if (folder / name).is_file():
            return folder / name
    raise bad_trace(f"There is no {stem}.csv or {stem}.csv.gz in {folder}; a trace needs it.")


def _job(values: Sequence[str]) -> TraceJob:
    id_, vc, user, submit, duration, gpus, status = values
    return TraceJob(
        id_,
        vc,
        user,
        seconds("submit", submit),
        seconds("duration", duration),
        gpu_count("gpus", gpus),
        status,
    )
