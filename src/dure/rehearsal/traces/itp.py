"""ITP: ten clusters of Microsoft's, a CSV file each, in a folder; a cluster is a VC.

Source of the layout: github.com/microsoft/elasticflow-traces (Gu et al., ASPLOS'23). Users are not
published: each cluster passes for one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import csv_jobs, csvs_in, nodes_beside, stem
from dure.rehearsal.traces.trace import Rows, Trace, TraceJob, Within, gpu_count, seconds

COLUMNS: Final = ("job_id", "submission_time", "duration", "num_gpu")


def read(path: Path, within: Within) -> Trace:
    """Read one cluster's file, or a folder of them; `nodes.json` beside names the clusters' nodes,
    which are not published, by the files' names.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    files = csvs_in(path) if path.is_dir() else [path]
    return Trace(
        nodes_beside(files[0]),
        {file.name: _rows(file) for file in files},
        within=within,
    )


def _rows(file: Path) -> Callable[[], Rows]:
    vc = stem(file)

    def job(values: Sequence[str]) -> TraceJob:
        id_, submit, duration, gpus = values
        return TraceJob(
            id_,
            vc,
            vc,
            seconds("submission_time", submit),
            seconds("duration", duration),
            gpu_count("num_gpu", gpus),
        )

    return lambda: csv_jobs(file, COLUMNS, job)
