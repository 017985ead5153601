"""Two rehearsals side by side: what differs in what was asked, and in what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from dure.rehearsal import page, runs
from dure.rehearsal.drawing import (
    COLOURS,
    capacity_of,
    figure,
    label,
    lending_of,
    over_time,
    total,
    wait_axis,
)
from dure.rehearsal.page import Plot
from dure.rehearsal.runs import FIGURES, Run
from dure.rehearsal.words import count, percent, setting, span
from dure.units import MS_PER_HOUR

COLUMNS: Final = ("figure", "A", "B", "B - A", "B / A")

NAMES: Final = {
    "jobs": "jobs",
    "avg_jct_s": "mean completion time",
    "avg_wait_s": "mean wait",
    "p50_wait_s": "median wait",
    "p99_wait_s": "99 % wait at most",
    "p999_wait_s": "99.9 % wait at most",
    "makespan_s": "first submission to last end",
    "utilisation": "utilisation",
    "preemptions": "recalls",
    "lost_gpu_h": "GPU-h of work lost",
    "lent_gpu_h": "GPU-h lent",
}
"""What people call the figures."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One figure of both runs; `name` is that of the summary, with its unit."""

    name: str
    a: float
    b: float

    @property
    def difference(self) -> float:
        """B less A, in the figure's unit."""
        return self.b - self.a

    @property
    def ratio(self) -> float | None:
        """B by A; nothing where A is 0."""
        return self.b / self.a if self.a else None

    def cells(self) -> tuple[str, ...]:
        """The pair as text, for the columns `COLUMNS`."""
        sign = "-" if self.difference < 0 else "+" if self.difference else ""
        apart = abs(self.difference)
        points = f"{100 * apart:.1f} points"
        return (
            NAMES[self.name],
            _text(self.name, self.a),
            _text(self.name, self.b),
            sign + (points if self.name == "utilisation" else _text(self.name, apart)),
            "–" if self.ratio is None else f"{self.ratio:.3f}",
        )

    def to_dict(self) -> dict[str, float | None]:
        """As JSON has it."""
        return {"a": self.a, "b": self.b, "difference": self.difference, "ratio": self.ratio}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Run `a` and run `b`: all figures of all jobs, and of the operators that both have.

    `settings` are those that differ, as (name, a's, b's); one that a run lacks is None there.
    """

    a: Run
    b: Run
    settings: tuple[tuple[str, Any, Any], ...]
    whole: tuple[Pair, ...]
    per_operator: Mapping[str, tuple[Pair, ...]]

    @property
    def equal(self) -> bool:
        """Whether every job had the same outcome: the digests are known and equal."""
        digest = self.a.summary.get("digest")
        return digest is not None and digest == self.b.summary.get("digest")

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        """The settings as people read them."""
        return [(*setting(name, a), setting(name, b)[1]) for name, a, b in self.settings]

    def to_dict(self) -> dict[str, Any]:
        """As `dure rehearse compare --output json` prints it."""
        return {
            "a": str(self.a.folder),
            "b": str(self.b.folder),
            "equal": self.equal,
            "settings": {name: {"a": a, "b": b} for name, a, b in self.settings},
            **{pair.name: pair.to_dict() for pair in self.whole},
            "per_operator": {
                operator: {pair.name: pair.to_dict() for pair in pairs}
                for operator, pairs in self.per_operator.items()
            },
        }


def compare(a_dir: Path, b_dir: Path) -> Comparison:
    """Two runs' folders.

    Raises:
        RefusedError: `no-run`, one of them is no finished run's folder.
    """
    a, b = runs.read(a_dir), runs.read(b_dir)
    asked = sorted(a.settings.keys() | b.settings.keys())
    lent = Pair("lent_gpu_h", _lent_gpu_h(a), _lent_gpu_h(b))
    both = a.summary["per_operator"], b.summary["per_operator"]
    return Comparison(
        a,
        b,
        tuple(
            (name, a.settings.get(name), b.settings.get(name))
            for name in asked
            if a.settings.get(name) != b.settings.get(name)
        ),
        (*_pairs(a.summary, b.summary), lent),
        {name: _pairs(both[0][name], both[1][name]) for name in sorted(both[0].keys() & both[1])},
    )


def html(comparison: Comparison) -> str:
    """Both runs on one self-contained page."""
    a, b = comparison.a, comparison.b
    settings = comparison.asked
    rows = [pair.cells() for pair in comparison.whole]
    operators = [
        (operator, *cells[1:])
        for operator, pairs in comparison.per_operator.items()
        for cells in (pair.cells() for pair in pairs if pair.name == "avg_jct_s")
    ]
    asked = page.Section("What was asked differently", page.table(("setting", "A", "B"), settings))
    sections = [
        *([asked] if settings else []),
        page.Section("All jobs", page.table(COLUMNS, rows)),
        page.Section(
            "Mean completion time by operator",
            page.table(("operator", *COLUMNS[1:]), operators),
        ),
        page.Section("Side by side", page.plots([_waits(comparison), _use(a, b), _queue(a, b)])),
    ]
    outcome = "every job had the same outcome" if comparison.equal else "the outcomes differ"
    names = f"A: {a.title} ({a.folder.name}) · B: {b.title} ({b.folder.name}) · {outcome}"
    digests = " · ".join(
        f"{name}: digest {run.summary.get('digest', 'unknown')}"
        for name, run in (("A", a), ("B", b))
    )
    return page.page("Two rehearsals side by side", names, sections, digests)


def _pairs(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[Pair, ...]:
    return tuple(Pair(name, a[name], b[name]) for name in FIGURES)


def _lent_gpu_h(run: Run) -> float:
    return total(lending_of(run), "gpus_ms") / MS_PER_HOUR


def _text(name: str, value: float) -> str:
    if name.endswith("_s"):
        return span(value)
    return percent(value) if name == "utilisation" else count(value)


def _waits(comparison: Comparison) -> Plot | None:
    """Mean wait by operator, of both."""
    waits = {
        operator: next(pair for pair in pairs if pair.name == "avg_wait_s")
        for operator, pairs in comparison.per_operator.items()
    }
    if not waits:
        return None
    drawn = figure(height=120 + 44 * len(waits))
    for colour, name, values in (
        (COLOURS[0], "A", [pair.a for pair in waits.values()]),
        (COLOURS[1], "B", [pair.b for pair in waits.values()]),
    ):
        drawn.add_bar(
            y=[label(operator) for operator in waits],
            x=[max(value, 1) for value in values],
            orientation="h",
            name=name,
            marker={"color": colour},
            text=[span(value) for value in values],
        )
    most_s = max(max(pair.a, pair.b) for pair in waits.values())
    drawn.update_xaxes(title_text="mean wait, logarithmic", **wait_axis(most_s))
    drawn.update_yaxes(autorange="reversed")
    shorter = sum(pair.b < pair.a for pair in waits.values())
    longer = sum(pair.b > pair.a for pair in waits.values())
    return Plot(
        "Mean wait by operator",
        drawn,
        f"Of {len(waits)} operators, {shorter} wait less in B and {longer} wait longer.",
    )


def _use(a: Run, b: Run) -> Plot:
    """The part of the GPUs in service that was used, over time, of both."""
    frames = []
    for run in (a, b):
        used = run.table("gpus").group_by("at_ms").agg(pl.col("gpus_ms").sum()).collect()
        steps = capacity_of(run).join(used, on="at_ms").sort("at_ms")
        part = (pl.col("gpus_ms") / pl.col("capacity_ms")).fill_nan(0).alias("value")
        frames.append(steps.with_columns(part))
    drawn = _lines((a, b), frames)
    drawn.update_yaxes(title_text="of the GPUs in service", tickformat=".0%", range=[0, 1.02])
    means = [
        frame.select(pl.col("gpus_ms").sum() / pl.col("capacity_ms").sum()).item() or 0.0
        for frame in frames
    ]
    return Plot(
        "Utilisation over time",
        drawn,
        f"A used {percent(means[0])} of its GPUs in service, B {percent(means[1])}.",
    )


def _queue(a: Run, b: Run) -> Plot:
    """The GPUs that waiting jobs ask for, over time, of both."""
    frames = [
        run.table("queue")
        .group_by("at_ms")
        .agg(pl.col("gpus").sum().alias("value"))
        .sort("at_ms")
        .collect()
        for run in (a, b)
    ]
    drawn = _lines((a, b), frames)
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    peaks = [frame.select(pl.col("value").max()).item() or 0.0 for frame in frames]
    return Plot(
        "GPUs that waiting jobs ask for",
        drawn,
        f"At the most, jobs for {count(peaks[0])} GPUs waited in A, for {count(peaks[1])} in B.",
    )


def _lines(both: tuple[Run, Run], frames: list[pl.DataFrame]) -> go.Figure:
    """`value` of both runs by days since each one's start: their dates may differ."""
    drawn = figure()
    for run, frame, colour, name in zip(both, frames, COLOURS[:2], "AB", strict=True):
        drawn.add_trace(
            over_time(run, frame, "value", days=True, name=name, line={"color": colour})
        )
    drawn.update_xaxes(title_text="days since the start")
    return drawn
