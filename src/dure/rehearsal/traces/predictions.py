"""Durations predicted by others, in a CSV file beside a trace: job_id and predicted_s."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dure.rehearsal.traces.files import csv_values
from dure.rehearsal.traces.trace import BadRowError, TraceJob, bad_trace
from dure.text import shown


def joined(jobs: Iterator[TraceJob], path: Path) -> Iterator[TraceJob]:
    """Jobs with what was predicted of each; None of a job that the file does not name.

    Both are read side by side: where they have one order, nothing is held in memory.

    Raises:
        RefusedError: `bad-trace`: the file cannot be read, or a line of it is no prediction.
    """
    predictions = _predictions(path)
    ahead: dict[str, int] = {}
    for job in jobs:
        while job.id not in ahead and (entry := next(predictions, None)):
            ahead[entry[0]] = entry[1]
        yield TraceJob(*job[:7], ahead.pop(job.id, None))


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
