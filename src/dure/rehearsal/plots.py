"""The plots of what GPUs do: in use, lent, called back, shared fairly.

Each has a sentence that says in figures what is seen. A plot with nothing to show is None.
"""

from __future__ import annotations

import polars as pl

from dure.rehearsal.drawing import (
    BAD,
    BLUE,
    DAY_MS,
    GREY,
    LENT,
    LINE,
    area,
    bucket_ms,
    calm,
    capacity_of,
    colours,
    figure,
    has_date,
    instants,
    label,
    lending_of,
    lump,
    mark_outages,
    moment,
    operator_colours,
    others_last,
    over_time,
    reach_ms,
    show_time,
    total,
)
from dure.rehearsal.page import Plot
from dure.rehearsal.runs import Run
from dure.rehearsal.words import count, gpu_hours, percent, span, things
from dure.units import MS_PER_HOUR, MS_PER_S


def in_use(run: Run) -> Plot | None:
    """GPUs in use by holder, what is lent apart, below the capacity."""
    table = run.table("gpus").with_columns(LENT.alias("lent")).collect()
    if table.is_empty():
        return None
    used, lent = (total(part, "gpus_ms") for part in (table, table.filter("lent")))
    parts = calm(run, lump(table, "owner", "gpus_ms"), "owner", "lent")
    colour = operator_colours(run)
    drawn = figure(height=430)
    for owner in sorted(set(parts["owner"]), key=others_last):
        for is_lent in (False, True):
            part = parts.filter(pl.col("owner") == owner, pl.col("lent") == is_lent)
            if total(part, "gpus_ms"):
                name = f"{label(owner)}, lent" if is_lent else label(owner)
                drawn.add_trace(area(run, part, "gpus", colour[owner], lent=is_lent, name=name))
    capacity = capacity_of(run)
    drawn.add_trace(
        over_time(run, capacity, "capacity", name="in service", line={"color": GREY, "width": 2})
    )
    mark_outages(run, drawn)
    show_time(run, drawn)
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    served = total(capacity, "capacity_ms") or 1
    return Plot(
        "GPUs in use, by holder (hatched: lent to others)",
        drawn,
        f"{percent(used / served)} of the {gpu_hours(served)} in service were used; "
        f"{gpu_hours(lent)} of that, {percent(lent / (used or 1))}, by others than their holders.",
    )


def borrowed(run: Run) -> Plot | None:
    """GPUs in use by others than their holders, by who uses them."""
    table = run.table("gpus").filter(LENT).collect()
    every = total(table, "gpus_ms")
    if not every:
        return None
    parts = calm(run, lump(table, "borrower", "gpus_ms"), "borrower")
    colour = operator_colours(run)
    drawn = figure()
    for name in sorted(set(parts["borrower"]), key=others_last):
        part = parts.filter(pl.col("borrower") == name)
        drawn.add_trace(area(run, part, "gpus", colour[name], name=label(name)))
    show_time(run, drawn)
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    sums = table.group_by("borrower").agg(pl.col("gpus_ms").sum()).sort("gpus_ms", "borrower")
    most = sums.row(-1, named=True)
    peak = calm(run, table).sort("gpus", "at_ms").row(-1, named=True)
    return Plot(
        "Lent GPUs in use, by borrower",
        drawn,
        f"{most['borrower']} borrowed most, {gpu_hours(most['gpus_ms'])} or "
        f"{percent(most['gpus_ms'] / every)}; at the peak, {moment(run, peak['at_ms'])}, "
        f"{count(round(peak['gpus']))} GPUs were lent.",
    )


def lending(run: Run) -> Plot | None:
    """Who lent how much to whom, in GPU-hours."""
    table = (
        lending_of(run)
        .group_by("lender", "borrower")
        .agg(pl.col("gpus_ms").sum())
        .filter(pl.col("gpus_ms") > 0)
    )
    if table.is_empty():
        return None
    table = lump(lump(table, "lender", "gpus_ms"), "borrower", "gpus_ms")
    table = table.group_by("lender", "borrower").agg(pl.col("gpus_ms").sum())
    sums = {(lender, borrower): value for lender, borrower, value in table.rows()}
    lenders = sorted(set(table["lender"]), reverse=True)
    borrowers = sorted(set(table["borrower"]))
    cells = [[sums.get((lender, borrower)) for borrower in borrowers] for lender in lenders]
    drawn = figure(height=130 + 34 * len(lenders))
    drawn.add_heatmap(
        x=[label(name) for name in borrowers],
        y=[label(name) for name in lenders],
        z=[[cell and cell / MS_PER_HOUR for cell in row] for row in cells],
        text=[[gpu_hours(cell) if cell else "" for cell in row] for row in cells],
        texttemplate="%{text}" if len(borrowers) <= 8 else None,
        hovertemplate="%{y} lent %{x} %{text}<extra></extra>",
        colorscale=[(0, "#eef1e6"), (0.5, "#8fb98a"), (1, "#1d6b3a")],
        zmin=0,
        xgap=3,
        ygap=3,
        showscale=len(borrowers) > 8,
        colorbar={"title": "GPU-h", "outlinewidth": 0, "thickness": 12},
    )
    drawn.update_xaxes(side="top", showgrid=False, title_text="borrower")
    drawn.update_yaxes(showgrid=False, title_text="lender")
    (lender, borrower), most = max(sums.items(), key=lambda item: (item[1], item[0]))
    return Plot(
        "GPU time lent, by lender and borrower (GPU-hours)",
        drawn,
        f"{gpu_hours(sum(sums.values()))} were lent; the most from {lender} to {borrower}, "
        f"{gpu_hours(most)}.",
    )


def utilisation(run: Run) -> Plot | None:
    """The part of the GPUs in service that is used, and that their holders use."""
    step_ms = bucket_ms(run)
    bucket = (pl.col("at_ms") // step_ms * step_ms).alias("at_ms")
    served = capacity_of(run).group_by(bucket).agg(pl.col("capacity_ms").sum())
    if not total(served, "capacity_ms"):
        return None
    own = pl.col("gpus_ms").filter(~LENT).sum().alias("own_ms")
    used = run.table("gpus").group_by(bucket).agg(pl.col("gpus_ms").sum(), own).collect()
    table = (
        used.join(served, on="at_ms")
        .sort("at_ms")
        .with_columns(
            (pl.col(name) / pl.col("capacity_ms")).fill_nan(0).alias(part)
            for name, part in (("gpus_ms", "all"), ("own_ms", "own"))
        )
    )
    drawn = figure()
    own_line = {"color": GREY}
    drawn.add_trace(over_time(run, table, "own", name="by their holders", line=own_line))
    drawn.add_trace(
        over_time(
            run, table, "all", name="with lending", line={"color": BLUE},
            fill="tonexty", fillcolor="rgba(68,119,170,0.18)",
        )
    )  # fmt: skip
    if run.isolated:
        drawn.add_hline(
            y=run.isolated["utilisation"],
            line={"color": BAD, "dash": "dash", "width": 1.5},
            annotation={"text": "mean with every operator alone", "font": {"color": BAD}},
            annotation_position="top left",
        )
    mark_outages(run, drawn)
    show_time(run, drawn)
    drawn.update_yaxes(title_text="of the GPUs in service", tickformat=".0%", range=[0, 1.02])
    return Plot("GPUs in use, of those in service", drawn, _used(run, table))


def _used(run: Run, table: pl.DataFrame) -> str:
    served = total(table, "capacity_ms")
    within, every = (percent(total(table, name) / served) for name in ("own_ms", "gpus_ms"))
    sentence = f"{within} of the GPUs in service were used by their holders, {every} with lending"
    if run.isolated:
        sentence += f"; with every operator alone it is {percent(run.isolated['utilisation'])}"
    return f"{sentence}."


def fairness(run: Run) -> Plot | None:
    """What each share used of all that was used, against what it is entitled to."""
    table = (
        run.table("fairness")
        .group_by("share")
        .agg(pl.col("used_ms", "entitled_ms").sum())
        .collect()
    )
    if not total(table, "used_ms") or not total(table, "entitled_ms"):
        return None
    table = (
        table.with_columns(
            (pl.col("used_ms") / pl.col("used_ms").sum()).alias("used"),
            (pl.col("entitled_ms") / pl.col("entitled_ms").sum()).alias("entitled"),
        )
        .sort("entitled", "share", descending=[True, False])
        .head(30)
        .reverse()
    )
    names = [label(name) for name in table["share"]]
    drawn = figure(height=110 + 28 * len(names))
    drawn.add_bar(
        y=names, x=table["used"].to_list(), orientation="h", name="used", width=0.5,
        marker={"color": BLUE, "opacity": 0.8},
        hovertemplate="%{y} used %{x:.1%}<extra></extra>",
    )  # fmt: skip
    drawn.add_scatter(
        y=names, x=table["entitled"].to_list(), mode="markers", name="entitled",
        marker={"symbol": "line-ns", "size": 18, "line": {"width": 3, "color": "#ccbb44"}},
        hovertemplate="%{y} is entitled to %{x:.1%}<extra></extra>",
    )  # fmt: skip
    drawn.update_xaxes(title_text="part of all", tickformat=".0%", rangemode="tozero")
    gaps = table.with_columns((pl.col("used") - pl.col("entitled")).alias("gap")).sort("gap")
    least, most = gaps.row(0, named=True), gaps.row(-1, named=True)
    return Plot(
        "What each share used, and what it is entitled to",
        drawn,
        f"{most['share']} used most beyond its part, {percent(most['used'])} for "
        f"{percent(most['entitled'])}; {least['share']} least, {percent(least['used'])} for "
        f"{percent(least['entitled'])}.",
    )


def fairness_over_time(run: Run) -> Plot | None:
    """Used part less entitled part, in points, step after step."""
    step_ms = bucket_ms(run)
    table = (
        run.table("fairness")
        .group_by("share", pl.col("at_ms") // step_ms * step_ms)
        .agg(pl.col("used_ms", "entitled_ms").sum())
        .collect()
    )
    if not total(table, "used_ms") or table["share"].n_unique() < 2:
        return None
    used, entitled = (
        (pl.col(name) / pl.col(name).sum().over("at_ms")).fill_nan(0)
        for name in ("used_ms", "entitled_ms")
    )
    sizes = table.group_by("share").agg(pl.col("entitled_ms").sum())
    largest = sizes.sort("entitled_ms", "share", descending=[True, False])["share"].head(8)
    table = table.with_columns((100 * (used - entitled)).alias("gap")).filter(
        pl.col("share").is_in(largest.to_list())
    )
    colour = colours(sorted(largest))
    drawn = figure()
    for name in sorted(largest):
        part = table.filter(pl.col("share") == name).sort("at_ms")
        drawn.add_trace(over_time(run, part, "gap", name=label(name), line={"color": colour[name]}))
    show_time(run, drawn)
    drawn.update_yaxes(title_text="points above (below) its part", zeroline=True, zerolinewidth=2)
    apart = pl.col("gap").abs().mean()
    mean = table.group_by("share").agg(apart.alias("apart")).sort("apart", "share")
    nearest, farthest = mean.row(0), mean.row(-1)
    return Plot(
        "Use above or below what a share is entitled to, over time (percentage points)",
        drawn,
        f"{farthest[0]} stood farthest from its part, {farthest[1]:.1f} points on average; "
        f"{nearest[0]} nearest, {nearest[1]:.1f} points.",
    )


def recalls(run: Run) -> Plot | None:
    """How many jobs were called back, and the work that they lost."""
    table = run.table("recalls").collect()
    if table.is_empty():
        return None
    late = len(table.filter(pl.col("at_ms") >= reach_ms(run)))
    after = f", {count(late)} of them later than is drawn," if late else ""
    step_ms = bucket_ms(run)
    middle_ms = pl.col("at_ms") // step_ms * step_ms + step_ms // 2
    steps = (
        table.group_by(middle_ms)
        .agg(pl.len().alias("recalls"), (pl.col("lost_gpu_ms").sum() / MS_PER_HOUR).alias("lost"))
        .sort("at_ms")
    )
    x = instants(run, steps["at_ms"]).to_numpy()
    drawn = figure()
    drawn.add_bar(
        x=x, y=steps["recalls"].to_list(), name="recalls",
        width=0.85 * (step_ms if has_date(run) else step_ms / DAY_MS),
        marker={"color": BLUE, "opacity": 0.75},
    )  # fmt: skip
    drawn.add_scatter(
        x=x, y=steps["lost"].to_list(), name="GPU-h of work lost (right)", yaxis="y2",
        mode="markers", marker={"color": BAD, "size": 6},
    )  # fmt: skip
    drawn.update_layout(
        yaxis={"title_text": f"recalls in {span(step_ms / MS_PER_S)}", "rangemode": "tozero"},
        yaxis2={
            "title": {"text": "GPU-h lost", "font": {"size": 12}},
            "overlaying": "y",
            "side": "right",
            "showgrid": False,
            "tickmode": "auto",
            "rangemode": "tozero",
            "automargin": True,
            "linecolor": LINE,
        },
    )
    show_time(run, drawn)
    half_ms, slowest_ms = table.select(
        pl.col("vacated_after_ms").median().alias("half"), pl.col("vacated_after_ms").max()
    ).row(0)
    return Plot(
        "Recalls, and the GPU-hours of work that they lost",
        drawn,
        f"{things(len(table), 'job was', 'jobs were')} called back{after} and lost "
        f"{gpu_hours(total(table, 'lost_gpu_ms'))} of work; half vacated within "
        f"{span(half_ms / MS_PER_S)}, the slowest in {span(slowest_ms / MS_PER_S)}.",
    )
