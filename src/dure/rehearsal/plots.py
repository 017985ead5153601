"""The plots of what GPUs do: in use, lent, called back, shared fairly.

Each has a sentence that says in figures what is seen. A plot with nothing to show is None.
"""

from __future__ import annotations

import polars as pl

from dure.rehearsal.drawing import (
    BAD,
    BLUE,
    GREY,
    LINE,
    area,
    bucket_ms,
    capacity_of,
    colours,
    figure,
    instants,
    label,
    lump,
    mark_outages,
    moment,
    others_last,
    over_time,
    time_title,
    total,
)
from dure.rehearsal.page import Plot
from dure.rehearsal.record import OWN
from dure.rehearsal.runs import Run
from dure.rehearsal.words import count, gpu_hours, percent, span, things
from dure.units import MS_PER_HOUR, MS_PER_S


def in_use(run: Run) -> Plot | None:
    """GPUs in use by their owner, the owner's own people and others apart, below the capacity."""
    table = run.table("gpus").collect()
    if table.is_empty():
        return None
    table = lump(table, "owner", "gpus_ms")
    colour = colours(table["owner"])
    drawn = figure(height=430)
    for owner in sorted(set(table["owner"]), key=others_last):
        for lent in (False, True):
            part = table.filter(pl.col("owner") == owner, (pl.col("borrower") != OWN) == lent)
            if not total(part, "gpus_ms"):
                continue
            steps = part.group_by("at_ms").agg(pl.col("gpus").sum()).sort("at_ms")
            name = f"{label(owner)}, by others" if lent else label(owner)
            drawn.add_trace(area(run, steps, "gpus", colour[owner], lent=lent, name=name))
    capacity = capacity_of(run)
    drawn.add_trace(
        over_time(run, capacity, "capacity", name="in service", line={"color": GREY, "width": 2})
    )
    mark_outages(run, drawn)
    drawn.update_xaxes(title_text=time_title(run))
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    used = total(table, "gpus_ms")
    others = total(table.filter(pl.col("borrower") != OWN), "gpus_ms")
    served = total(capacity, "capacity_ms") or 1
    return Plot(
        "GPUs in use, by owner (hatched: by others than the owner)",
        drawn,
        f"{percent(used / served)} of the {gpu_hours(served)} in service were used; "
        f"{gpu_hours(others)} of that, {percent(others / (used or 1))}, by others than the owner.",
    )


def borrowed(run: Run) -> Plot | None:
    """GPUs in use on others' pools, by who uses them."""
    table = run.table("gpus").filter(pl.col("borrower") != OWN).collect()
    every = total(table, "gpus_ms")
    if not every:
        return None
    table = lump(table, "borrower", "gpus_ms")
    colour = colours(table["borrower"])
    drawn = figure()
    parts = table.group_by("borrower", "at_ms").agg(pl.col("gpus", "gpus_ms").sum()).sort("at_ms")
    for name in sorted(set(table["borrower"]), key=others_last):
        part = parts.filter(pl.col("borrower") == name)
        drawn.add_trace(area(run, part, "gpus", colour[name], name=label(name)))
    drawn.update_xaxes(title_text=time_title(run))
    drawn.update_yaxes(title_text="GPUs", rangemode="tozero")
    sums = table.group_by("borrower").agg(pl.col("gpus_ms").sum()).sort("gpus_ms", "borrower")
    most = sums.row(-1, named=True)
    peak = parts.group_by("at_ms").agg(pl.col("gpus").sum()).sort("gpus", "at_ms").row(-1)
    return Plot(
        "GPUs in use on others' pools, by user",
        drawn,
        f"{most['borrower']} used most, {gpu_hours(most['gpus_ms'])} or "
        f"{percent(most['gpus_ms'] / every)}; at the peak, {moment(run, peak[0])}, "
        f"{count(peak[1])} GPUs served others than their owner.",
    )


def lending(run: Run) -> Plot | None:
    """Who lent how much to whom, in GPU-hours."""
    table = (
        run.table("lending")
        .group_by("lender", "borrower")
        .agg(pl.col("gpus_ms").sum())
        .filter(pl.col("gpus_ms") > 0)
        .collect()
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
    """The part of the GPUs in service that is used, and that the owners themselves use."""
    capacity = capacity_of(run)
    if not total(capacity, "capacity_ms"):
        return None
    own = pl.col("gpus_ms").filter(pl.col("borrower") == OWN).sum().alias("own_ms")
    table = (
        run.table("gpus")
        .group_by("at_ms")
        .agg(pl.col("gpus_ms").sum(), own)
        .sort("at_ms")
        .collect()
        .join(capacity, on="at_ms")
        .with_columns(
            (pl.col(name) / pl.col("capacity_ms")).fill_nan(0).alias(part)
            for name, part in (("gpus_ms", "all"), ("own_ms", "own"))
        )
    )
    drawn = figure()
    drawn.add_trace(over_time(run, table, "own", name="by owners alone", line={"color": GREY}))
    drawn.add_trace(
        over_time(
            run, table, "all", name="by all", line={"color": BLUE},
            fill="tonexty", fillcolor="rgba(68,119,170,0.18)",
        )
    )  # fmt: skip
    isolated = run.isolated
    if isolated:
        drawn.add_hline(
            y=isolated["utilisation"],
            line={"color": BAD, "dash": "dash", "width": 1.5},
            annotation={"text": "every operator alone", "font": {"color": BAD}},
        )
    mark_outages(run, drawn)
    drawn.update_xaxes(title_text=time_title(run))
    drawn.update_yaxes(title_text="of the GPUs in service", tickformat=".0%", range=[0, 1.02])
    served = total(table, "capacity_ms")
    alone = total(table, "own_ms") / served
    every = total(table, "gpus_ms") / served
    sentence = (
        f"Owners' own use filled {percent(alone)} of the GPUs in service, and with the others' "
        f"{percent(every)}"
    )
    if isolated:
        sentence += f"; with every operator alone it is {percent(isolated['utilisation'])}"
    return Plot("Utilisation with and without others' use", drawn, f"{sentence}.")


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
    colour = colours(largest)
    drawn = figure()
    for name in sorted(largest):
        part = table.filter(pl.col("share") == name).sort("at_ms")
        drawn.add_trace(over_time(run, part, "gap", name=label(name), line={"color": colour[name]}))
    drawn.update_xaxes(title_text=time_title(run))
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
    step_ms = bucket_ms(run)
    half_ms, slowest_ms = table.select(
        pl.col("vacated_after_ms").median().alias("half"), pl.col("vacated_after_ms").max()
    ).row(0)
    steps = (
        table.group_by(pl.col("at_ms") // step_ms * step_ms)
        .agg(pl.len().alias("recalls"), (pl.col("lost_gpu_ms").sum() / MS_PER_HOUR).alias("lost"))
        .sort("at_ms")
    )
    x = instants(run, steps["at_ms"]).to_numpy()
    drawn = figure()
    drawn.add_bar(
        x=x,
        y=steps["recalls"].to_list(),
        name="recalls",
        marker={"color": BLUE, "opacity": 0.75},
    )
    drawn.add_scatter(
        x=x, y=steps["lost"].to_list(), name="GPU-h lost (right)", yaxis="y2", mode="markers",
        marker={"color": BAD, "size": 7},
    )  # fmt: skip
    drawn.update_layout(
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
        bargap=0.15,
    )
    drawn.update_xaxes(title_text=time_title(run))
    drawn.update_layout(yaxis_title_text=f"recalls in {span(step_ms / MS_PER_S)}")
    return Plot(
        "Recalls, and the GPU-hours of work that they lost",
        drawn,
        f"{things(len(table), 'job was', 'jobs were')} called back and lost "
        f"{gpu_hours(total(table, 'lost_gpu_ms'))} of work; half vacated within "
        f"{span(half_ms / MS_PER_S)}, the slowest in {span(slowest_ms / MS_PER_S)}.",
    )
