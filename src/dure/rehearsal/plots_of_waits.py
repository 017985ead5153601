"""The plots of what users feel: waits, the queue, and what each operator gained by joining.

As in `dure.rehearsal.plots`, a plot comes with a sentence, and is None without anything to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log10
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from dure.rehearsal.drawing import (
    BAD,
    BLUE,
    GOOD,
    GREY,
    area,
    calm,
    figure,
    label,
    lump,
    mark_outages,
    moment,
    operator_colours,
    others_last,
    quantile,
    seconds,
    show_time,
    total,
    wait_axis,
)
from dure.rehearsal.page import Plot
from dure.rehearsal.runs import Run
from dure.rehearsal.words import at_most, count, percent, span, things

SIZES: Final = (
    (1, "1 GPU"), (8, "2–8 GPUs"), (64, "9–64 GPUs"), (512, "65–512 GPUs"), (None, "over 512 GPUs"),
)  # fmt: skip
"""Classes of jobs by GPUs: up to a node, a rack or so, a pod, and the largest."""

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


def waits(run: Run, by: str, noun: str) -> Plot | None:
    """How long jobs waited, by a column of the table of jobs: median, 90 % and 99 %."""
    table = (
        run.table("jobs")
        .filter(pl.col(by) != "")
        .group_by(by)
        .agg(
            (pl.len() * run.sample).alias("jobs"),
            seconds("wait_ms").mean().alias("mean"),
            *(quantile("wait_ms", q).alias(name) for name, q in QUANTILES.items()),
        )
        .sort("p99", by, descending=[False, True])
        .collect()
    )
    if table.is_empty():
        return None
    worst = table.row(-1, named=True)
    best = table.row(0, named=True)
    sentence = f"The jobs of {worst[by]} waited longest: {_up_to(worst)}"
    if len(table) > 1:
        sentence += f"; those of {best[by]} shortest: {_up_to(best)}"
    return Plot(f"Wait by {noun}", _ranges(table, by), f"{sentence}.")


def _ranges(table: pl.DataFrame, by: str) -> go.Figure:
    """A bar a row, from the median to the 90th and on to the 99th percentile."""
    names = [label(name) for name in table[by]]
    shown = {name: table[name].clip(1.0).to_list() for name in QUANTILES}
    drawn = figure(height=110 + 30 * len(names), barmode="overlay")
    for low, high, colour, name in (
        ("p50", "p90", "rgba(68,119,170,0.75)", "from the median to 9 in 10"),
        ("p90", "p99", "rgba(68,119,170,0.3)", "to 99 in 100"),
    ):
        drawn.add_bar(
            y=names,
            x=[end - start for start, end in zip(shown[low], shown[high], strict=True)],
            base=shown[low],
            orientation="h",
            marker={"color": colour},
            width=0.5,
            hoverinfo="skip",
            name=name,
        )
    drawn.add_scatter(
        y=names,
        x=shown["p50"],
        mode="markers",
        marker={"color": BLUE, "size": 11, "line": {"color": "#ffffff", "width": 1.5}},
        name="median",
        customdata=[
            [count(row["jobs"]), *(span(row[name]) for name in (*QUANTILES, "mean"))]
            for row in table.to_dicts()
        ],
        hovertemplate="<b>%{y}</b><br>%{customdata[0]} jobs<br>median %{customdata[1]}<br>"
        "9 in 10 within %{customdata[2]}<br>99 in 100 within %{customdata[3]}<br>"
        "mean %{customdata[4]}<extra></extra>",
    )
    drawn.add_scatter(
        y=names,
        x=shown["p99"],
        mode="text",
        text=[f" {span(longest)}" for longest in table["p99"]],
        textposition="middle right",
        showlegend=False,
        hoverinfo="skip",
    )
    drawn.update_xaxes(title_text="wait, logarithmic", **wait_axis(1.6 * max(shown["p99"])))
    return drawn


def _up_to(row: Mapping[str, Any]) -> str:
    return f"half {at_most(row['p50'])}, 99 in 100 {at_most(row['p99'])}"


def waits_by_size(run: Run) -> Plot | None:
    """Mean wait of jobs, by operator and by how many GPUs they take."""
    size = pl.lit(len(SIZES) - 1)
    for place in reversed(range(len(SIZES) - 1)):
        size = pl.when(pl.col("gpus") <= SIZES[place][0]).then(place).otherwise(size)
    table = (
        run.table("jobs")
        .group_by("operator", size.alias("size"))
        .agg((pl.len() * run.sample).alias("jobs"), seconds("wait_ms").mean().alias("wait"))
        .sort("operator", "size", descending=[True, False])
        .collect()
    )
    if table.is_empty():
        return None
    names = sorted(set(table["operator"]), reverse=True)
    used = sorted(set(table["size"]))
    cells = {(row["operator"], row["size"]): row for row in table.to_dicts()}
    rows = [[cells.get((name, place)) for place in used] for name in names]
    longest_s = max(row["wait"] for row in cells.values())
    marks = wait_axis(max(longest_s, 60))
    drawn = figure(height=120 + 34 * len(names))
    drawn.add_heatmap(
        x=[SIZES[place][1] for place in used],
        y=[label(name) for name in names],
        z=[[cell and log10(max(cell["wait"], 1)) for cell in row] for row in rows],
        text=[[span(cell["wait"]) if cell else "" for cell in row] for row in rows],
        customdata=[[count(cell["jobs"]) if cell else "0" for cell in row] for row in rows],
        texttemplate="%{text}",
        hovertemplate="%{y}, %{x}: mean wait %{text}, %{customdata} jobs<extra></extra>",
        colorscale=[(0, "#e8eef2"), (0.5, "#7fa8c4"), (1, "#1f4e79")],
        zmin=0,
        zmax=log10(marks["tickvals"][-1]),
        xgap=3,
        ygap=3,
        colorbar={
            "tickvals": [log10(mark) for mark in marks["tickvals"]],
            "ticktext": marks["ticktext"],
            "outlinewidth": 0,
            "thickness": 12,
        },
    )
    drawn.update_xaxes(side="top", showgrid=False)
    drawn.update_yaxes(showgrid=False)
    worst = table.sort("wait", "operator", "size").row(-1, named=True)
    return Plot(
        "Mean wait by operator and size of job",
        drawn,
        f"The jobs of {worst['operator']} with {SIZES[worst['size']][1]} waited longest: "
        f"{span(worst['wait'])} on average, over {things(worst['jobs'], 'job', 'jobs')}.",
    )


def queue(run: Run) -> Plot | None:
    """GPUs that waiting jobs ask for, by operator."""
    table = run.table("queue").collect()
    if not total(table, "gpus_ms"):
        return None
    table = lump(table, "operator", "gpus_ms")
    colour = operator_colours(run)
    drawn = figure()
    parts = calm(run, table, "operator")
    for name in sorted(set(table["operator"]), key=others_last):
        part = parts.filter(pl.col("operator") == name)
        drawn.add_trace(area(run, part, "gpus", colour[name], name=label(name)))
    mark_outages(run, drawn)
    show_time(run, drawn)
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    steps = table.group_by("at_ms").agg(
        pl.col("gpus", "jobs", "gpus_ms").sum(), pl.col("step_ms").first()
    )
    peak = steps.sort("gpus", "at_ms").row(-1, named=True)
    empty = total(steps.filter(pl.col("gpus_ms") == 0), "step_ms") / total(steps, "step_ms")
    mean = total(steps, "gpus_ms") / total(steps, "step_ms")
    return Plot(
        "GPUs that waiting jobs ask for, by operator",
        drawn,
        f"Jobs for {count(mean)} GPUs waited on average; the most, "
        f"{things(round(peak['jobs']), 'job', 'jobs')} for {count(round(peak['gpus']))} GPUs, "
        f"{moment(run, peak['at_ms'])}; {percent(empty)} of the time nothing waited.",
    )


def joining(run: Run) -> Plot | None:
    """What each operator's jobs gained by joining: mean completion time together by alone."""
    if not run.isolated:
        return None
    table = (
        run.table("operators")
        .filter(pl.col("jobs") > 0, pl.col("isolated_avg_jct_s") > 0)
        .with_columns((pl.col("avg_jct_s") / pl.col("isolated_avg_jct_s")).alias("ratio"))
        .sort("ratio", "operator", descending=[True, False])
        .collect()
    )
    if table.is_empty():
        return None
    ratios = table["ratio"].to_list()
    drawn = figure(height=110 + 30 * len(table), showlegend=False)
    drawn.add_bar(
        y=[label(name) for name in table["operator"]],
        x=ratios,
        orientation="h",
        width=0.55,
        marker={"color": [GOOD if ratio <= 1 else BAD for ratio in ratios], "opacity": 0.8},
        text=[
            f"{row['ratio']:.2f}: {span(row['avg_jct_s'])}, alone {span(row['isolated_avg_jct_s'])}"
            for row in table.to_dicts()
        ],
        textposition="auto",
        insidetextanchor="middle",
        hoverinfo="skip",
    )
    drawn.add_vline(x=1, line={"color": GREY, "width": 1.5, "dash": "dash"})
    drawn.update_xaxes(
        title_text="together by alone (below 1: gains)", range=[0, max(1.1, 1.05 * max(ratios))]
    )
    worse = sum(ratio > 1 for ratio in ratios)
    best = table.row(-1, named=True)
    return Plot(
        "What each operator gained by joining (mean completion time, together by alone)",
        drawn,
        f"{len(ratios) - worse} of {len(ratios)} operators' jobs end no later than alone; "
        f"{best['operator']} gains most, {span(best['avg_jct_s'])} instead of "
        f"{span(best['isolated_avg_jct_s'])}.",
    )
