"""A run's Parquet tables, written as it goes on, in memory that does not grow with it.

| table | a row is |
|---|---|
| jobs | a job that ended (every n-th, where a run asks for a sample) |
| recalls | a job called back |
| faults | capacity lost for a while |
| gpus | a step of time, an owner, a borrower: GPUs in use, and the owner's GPUs in service |
| queue | a step, an operator: jobs and GPUs waiting |
| lending | a step, a lender, a borrower: GPU-time lent |
| fairness | a step, a share: its part of what is entitled and of what is used |

`at_ms` is ms since the rehearsal's start; a step lasts `step_ms`. `gpus_ms` and the like are exact
integrals over the step, `gpus` and the like their averages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import numpy as np
import polars as pl

from dure.rehearsal.record import OWN, Faulted, JobEnded, Outcomes, Recalled
from dure.rehearsal.timeline import Timeline
from dure.units import INSTANT_MS_MAX

ROWS_MAX: Final = 65_536
"""Rows held before they are written."""

_KINDS: Final = {
    "operator": pl.String,
    "project": pl.String,
    "share": pl.String,
    "group": pl.String,
    "gpus": pl.Int64,
    "nodes": pl.Int64,
}
_JOBS: Final = {
    "id": pl.String,
    "submit_ms": pl.Int64,
    "first_start_ms": pl.Int64,
    "end_ms": pl.Int64,
    "duration_ms": pl.Int64,
    "pool": pl.String,
    "home": pl.Boolean,
    "recalls": pl.Int64,
    "lost_gpu_ms": pl.Int64,
    "borrowed_gpu_ms": pl.Int64,
}
_RECALLS: Final = {
    "at_ms": pl.Int64,
    "pool": pl.String,
    "victim": pl.String,
    "beneficiary": pl.String,
    "gpus": pl.Int64,
    "lost_gpu_ms": pl.Int64,
    "vacated_after_ms": pl.Int64,
}
_FAULTS: Final = {
    "at_ms": pl.Int64,
    "until_ms": pl.Int64,
    "kind": pl.String,
    "place": pl.String,
    "gpus": pl.Int64,
}

Row = TypeVar("Row")
Names = tuple[str, ...]


class Recorder:
    """Listens to a rehearsal (`dure.rehearsal.record.Record`) and writes its tables to a folder.

    `sample`: only every so many-th job goes into the table of jobs. Tables over time end at
    `span_ms`, if given: what was submitted before it runs on to its end, but nothing new comes, and
    the last straggler would stretch them. Tables of an earlier run in the folder are replaced, and
    its summary is removed at once: a folder without one is no run.
    """

    def __init__(self, folder: Path, *, sample: int = 1, span_ms: int = INSTANT_MS_MAX) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "summary.json").unlink(missing_ok=True)
        self._folder = folder
        self._sample = sample
        self._span_ms = span_ms
        self._ended = 0
        self._outcomes = Outcomes()
        self._jobs = _Rows(folder, "jobs", self._job_columns)
        self._recalls = _Rows(folder, "recalls", partial(_columns, _RECALLS))
        self._faults = _Rows(folder, "faults", partial(_columns, _FAULTS))
        self._used: Timeline[Names] = Timeline(span_ms)
        self._in_service: Timeline[Names] = Timeline(span_ms)
        self._jobs_waiting: Timeline[Names] = Timeline(span_ms)
        self._gpus_waiting: Timeline[Names] = Timeline(span_ms)
        self._lent: Timeline[Names] = Timeline(span_ms)
        self._share_used: Timeline[Names] = Timeline(span_ms)
        self._share_entitled: Timeline[Names] = Timeline(span_ms)

    def job_ended(self, job: JobEnded) -> None:
        """See `Record`."""
        self._jobs.add(job)

    def recalled(self, recall: Recalled) -> None:
        """See `Record`."""
        self._recalls.add(recall)

    def faulted(self, fault: Faulted) -> None:
        """See `Record`."""
        self._faults.add(fault)

    def use_changed(self, at_ms: int, owner: str, borrower: str, delta_gpus: int) -> None:
        """See `Record`."""
        self._used.change((owner, borrower), at_ms, delta_gpus)

    def capacity_changed(self, at_ms: int, owner: str, delta_gpus: int) -> None:
        """See `Record`."""
        self._in_service.change((owner,), at_ms, delta_gpus)

    def queue_changed(self, at_ms: int, operator: str, delta_jobs: int, delta_gpus: int) -> None:
        """See `Record`."""
        self._jobs_waiting.change((operator,), at_ms, delta_jobs)
        self._gpus_waiting.change((operator,), at_ms, delta_gpus)

    def share_changed(self, at_ms: int, share: str, delta_gpus: int, delta_entitled: int) -> None:
        """See `Record`."""
        self._share_used.change((share,), at_ms, delta_gpus)
        self._share_entitled.change((share,), at_ms, delta_entitled)

    def lent(self, lender: str, borrower: str, gpus: int, from_ms: int, until_ms: int) -> None:
        """See `Record`."""
        self._lent.change((lender, borrower), from_ms, gpus)
        self._lent.change((lender, borrower), until_ms, -gpus)

    def digest(self, summary: Mapping[str, Any]) -> str:
        """See `Record`."""
        self._jobs.flush()
        return self._outcomes.sealed(summary)

    def close(self, end_ms: int) -> None:
        """Write what is left; the run ended at `end_ms`, no earlier than the last event."""
        for rows in (self._jobs, self._recalls, self._faults):
            rows.close()
        end_ms = min(end_ms, self._span_ms)
        grids = {
            "gpus": self._gpus(end_ms),
            "queue": _grid(
                ("operator",), {"jobs": self._jobs_waiting, "gpus": self._gpus_waiting}, end_ms
            ),
            "lending": _grid(("lender", "borrower"), {"gpus": self._lent}, end_ms),
            "fairness": self._fairness(end_ms),
        }
        for name, frame in grids.items():
            frame.write_parquet(self._folder / f"{name}.parquet")

    def _job_columns(self, jobs: list[JobEnded]) -> pl.DataFrame:
        self._outcomes.update(jobs)
        sampled = jobs[-self._ended % self._sample :: self._sample]
        self._ended += len(jobs)
        own = _columns(_JOBS, sampled)
        kinds = _columns(_KINDS, [job.kind for job in sampled])
        wait_ms = pl.col("end_ms") - pl.col("submit_ms") - pl.col("duration_ms")
        return own.hstack(kinds).with_columns(wait_ms.alias("wait_ms"))

    def _gpus(self, end_ms: int) -> pl.DataFrame:
        unused = {(owner, OWN) for (owner,) in self._in_service.seen()} - set(self._used.seen())
        for owner, borrower in sorted(unused):
            self._used.change((owner, borrower), 0, 0)
        used = _grid(("owner", "borrower"), {"gpus": self._used}, end_ms)
        in_service = _grid(("owner",), {"capacity": self._in_service}, end_ms)
        keys = ["at_ms", "step_ms", "owner"]
        return used.join(in_service, on=keys, how="left").sort("owner", "borrower", "at_ms")

    def _fairness(self, end_ms: int) -> pl.DataFrame:
        timelines = {"used": self._share_used, "entitled": self._share_entitled}
        grid = _grid(("share",), timelines, end_ms)
        fractions = (
            (pl.col(f"{name}_ms") / pl.col(f"{name}_ms").sum().over("at_ms"))
            .fill_nan(0.0)
            .alias(f"{name}_fraction")
            for name in timelines
        )
        return grid.with_columns(*fractions)


def _grid(
    names: Sequence[str], timelines: Mapping[str, Timeline[Names]], end_ms: int
) -> pl.DataFrame:
    """Timelines of the same keys side by side: key columns, and `X_ms` and `X` of each."""
    for timeline in timelines.values():
        timeline.reach(end_ms)
    first = next(iter(timelines.values()))
    keys = sorted(first.seen())
    steps = len(first.starts_ms(end_ms))
    columns: dict[str, Any] = {
        "at_ms": np.tile(first.starts_ms(end_ms), len(keys)),
        "step_ms": np.tile(first.lengths_ms(end_ms), len(keys)),
    }
    for place, name in enumerate(names):
        repeated = [key[place] for key in keys for _ in range(steps)]
        columns[name] = pl.Series(repeated, dtype=pl.String)
    for name, timeline in timelines.items():
        integrals = [timeline.integrals(key, end_ms) for key in keys]
        columns[f"{name}_ms"] = np.concatenate([np.empty(0, np.int64), *integrals])
    averages = ((pl.col(f"{name}_ms") / pl.col("step_ms")).alias(name) for name in timelines)
    return pl.DataFrame(columns).with_columns(*averages)


class _Rows(Generic[Row]):
    """Rows on their way to one Parquet file: written in parts, joined at the end."""

    def __init__(
        self, folder: Path, name: str, columns: Callable[[list[Row]], pl.DataFrame]
    ) -> None:
        self._path = folder / f"{name}.parquet"
        self._columns = columns
        self._held: list[Row] = []
        self._parts: list[Path] = []
        for stale in folder.glob(f"{name}*.parquet"):
            stale.unlink()

    def add(self, row: Row) -> None:
        self._held.append(row)
        if len(self._held) == ROWS_MAX:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if not self._held and self._parts:
            return
        part = self._path.with_name(f"{self._path.stem}.{len(self._parts):06d}.parquet")
        self._columns(self._held).write_parquet(part)
        self._parts.append(part)
        self._held = []

    def close(self) -> None:
        """Join the parts, streaming, into the one file."""
        self.flush()
        pl.scan_parquet(self._parts).sink_parquet(self._path)
        for part in self._parts:
            part.unlink()


def _columns(schema: Mapping[str, Any], rows: Sequence[Any]) -> pl.DataFrame:
    """The attributes of `rows` that `schema` names."""
    return pl.DataFrame(
        {name: [getattr(row, name) for row in rows] for name in schema}, schema=dict(schema)
    )
