"""Dure's own layout: a folder with `jobs.csv` and `nodes.json`, and predictions in a file beside.

`jobs.csv` has job_id, vc, user, submit, duration, gpus and status, times in seconds; `nodes.json`
the nodes of each VC; predictions are job_id and predicted_s. CSV may be gzipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from dure.rehearsal.traces.files import csv_jobs, csv_values, nodes_of
from dure.rehearsal.traces.trace import (
    BadRowError,
    Rows,
    Trace,
    TraceJob,
    Within,
    bad_trace,
    gpu_count,
    seconds,
)
from dure.text import shown

COLUMNS: Final = ("job_id", "vc", "user", "submit", "duration", "gpus", "status")


def read(folder: Path, *, within: Within = Within.OWN, predictions: Path | None = None) -> Trace:
    """Read a trace's folder.

    Raises:
        RefusedError: `bad-trace`: a file is missing or cannot be read as what it should be.
    """
    jobs = csv_in(folder, "jobs")

    def rows() -> Rows:
        return csv_jobs(jobs, COLUMNS, _job)

    return Trace(
        jobs.name,
        nodes_of(folder / "nodes.json"),
        rows if predictions is None else with_predictions(rows, predictions),
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


def with_predictions(rows: Callable[[], Rows], path: Path) -> Callable[[], Rows]:
    """Rows with what was predicted of each job; None of a job that the file does not name.

    Both files are read side by side: where they have one order, nothing is held in memory.
    """

    def joined() -> Rows:
        predictions = _predictions(path)
        ahead: dict[str, int] = {}
        for line, job in rows():
            if isinstance(job, BadRowError):
                yield line, job
                continue
            while job.id not in ahead and (entry := next(predictions, None)):
                ahead[entry[0]] = entry[1]
            yield line, TraceJob(*job[:7], ahead.pop(job.id, None))

    return joined


def _predictions(path: Path) -> Iterator[tuple[str, int]]:
    """Published predictions may be below zero: a model's output as it came, used only to order."""
    for line, values in csv_values(path, ("job_id", "predicted_s")):
        if isinstance(values, BadRowError):
            raise bad_trace(f"{path.name}:{line}: {values}.") from values
        try:
            yield values[0], round(float(values[1]))
        except (ValueError, OverflowError) as wrong:
            raise bad_trace(
                f"{path.name}:{line}: predicted_s is {shown(values[1])}; right is a number."
            ) from wrong


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
