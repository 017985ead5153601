"""How figures look: quiet, alike, legible on light and on dark paper.

Colours are Paul Tol's "bright" and "muted" schemes (SRON/EPS/TN/09-002), told apart by people with
any colour vision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from math import log10
from typing import Any, Final

import plotly.graph_objects as go
import polars as pl

from dure.rehearsal.page import FONTS
from dure.rehearsal.record import OWN, SITE_OUTAGE
from dure.rehearsal.runs import Run
from dure.rehearsal.words import span
from dure.units import MS_PER_S

COLOURS: Final = (
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#44aa99", "#999933",
    "#cc6677", "#88ccee",
)  # fmt: skip
BLUE: Final = COLOURS[0]
GREY: Final = "#9aa3ab"
LINE: Final = "rgba(128,136,144,0.22)"
GOOD: Final = "#228833"
BAD: Final = "#cc5566"

SHOWN_MAX: Final = len(COLOURS)
"""Names that a plot tells apart; the smallest beyond that are shown as one."""
OTHERS: Final = "others"

LENT: Final = (pl.col("borrower") != OWN) & (pl.col("borrower") != pl.col("owner"))
"""Whether GPUs in use serve others than whose they are."""

PIECES: Final = 300
"""Pieces of time that an area over time has at most."""

DAY_MS: Final = 86_400_000
YEAR_MS: Final = 365 * DAY_MS
BUCKETS_MS: Final = (
    60_000, 300_000, 900_000, 3_600_000, 21_600_000, DAY_MS, 7 * DAY_MS, 28 * DAY_MS,
)  # fmt: skip

WAITS_S: Final = {1: "≤ 1 s", 10: "10 s", 60: "1 min", 600: "10 min", 3_600: "1 h",
                  21_600: "6 h", 86_400: "1 day", 604_800: "1 week", 2_592_000: "30 days",
                  31_536_000: "1 year"}  # fmt: skip
"""Marks on an axis of waits, which is logarithmic: they reach from seconds to weeks."""


def figure(height: int = 380, **layout: Any) -> go.Figure:
    """An empty figure in the report's manner."""
    axis = {
        "gridcolor": LINE,
        "zerolinecolor": LINE,
        "linecolor": LINE,
        "automargin": True,
        "title": {"font": {"size": 12}},
    }
    made = go.Figure()
    made.update_layout(
        height=height,
        margin={"l": 10, "r": 16, "t": 34, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONTS, "size": 13},
        legend={
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
            "traceorder": "normal",
        },
        hoverlabel={"bordercolor": LINE},
        template=None,
    )
    made.update_xaxes(**axis)
    made.update_yaxes(**axis)
    made.update_layout(**layout)
    return made


def colours(names: Iterable[str]) -> Mapping[str, str]:
    """A colour for each name, by its first place; `OTHERS` and `OWN` are grey."""
    known = [name for name in dict.fromkeys(names) if name not in {OTHERS, OWN}]
    picked = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(known)}
    return picked | {OTHERS: GREY, OWN: GREY}


def operator_colours(run: Run) -> Mapping[str, str]:
    """The same colour for an operator in all plots of a run, as owner, as borrower or as who waits;
    those with most GPUs and use get theirs first, so that the large are told apart.
    """
    sizes = [
        run.table("gpus").group_by(pl.col(side).alias("name")).agg(pl.col(column).sum().alias("ms"))
        for side, column in (("owner", "capacity_ms"), ("borrower", "gpus_ms"))
    ]
    waiting = run.table("queue").group_by(pl.col("operator").alias("name"))
    sizes.append(waiting.agg(pl.col("gpus_ms").sum().alias("ms")))
    names = (
        pl.concat(sizes)
        .group_by("name")
        .agg(pl.col("ms").sum())
        .sort("ms", "name", descending=[True, False])
        .collect()["name"]
    )
    return colours(names)


def label(name: str) -> str:
    """A name as plotly may get it, which reads some HTML."""
    return escape(name)


def lump(frame: pl.DataFrame, column: str, value: str) -> pl.DataFrame:
    """The smallest names of `column` become `OTHERS`, where too many are there to be told apart."""
    sizes = frame.group_by(column).agg(pl.col(value).sum()).sort(value, column, descending=True)
    if len(sizes) <= SHOWN_MAX:
        return frame
    kept = sizes[column].head(SHOWN_MAX - 1).to_list()
    return frame.with_columns(
        pl.when(pl.col(column).is_in(kept)).then(pl.col(column)).otherwise(pl.lit(OTHERS))
    )


def instants(run: Run, at_ms: pl.Series) -> pl.Series:
    """Where on the axis of time: an instant in UTC where the run has a date, else days."""
    if not has_date(run):
        return at_ms / DAY_MS
    return (at_ms + _starts_ms(run)).cast(pl.Datetime("ms"))


def has_date(run: Run) -> bool:
    """Whether the run has a date: a trace whose clock counts from 0 has none."""
    return _starts_ms(run) >= YEAR_MS


def _starts_ms(run: Run) -> int:
    return int(run.settings.get("starts_ms", 0))


def reach_ms(run: Run) -> int:
    """Where the tables over time end."""
    ends_ms = run.table("gpus").select((pl.col("at_ms") + pl.col("step_ms")).max())
    return int(ends_ms.collect().item() or 0)


def show_time(run: Run, drawn: go.Figure) -> None:
    """Make the axis of time that of all plots of the run."""
    first, last = instants(run, pl.Series([0, reach_ms(run)])).to_list()
    title = "UTC" if has_date(run) else "days since the start"
    drawn.update_xaxes(title_text=title, range=[first, last])


def moment(run: Run, at_ms: int) -> str:
    """An instant in a sentence: `on 2027-03-01`, `on 2027-03-01 at 14:20` in a run of some days, or
    `on day 12`.
    """
    if not has_date(run):
        return f"on day {at_ms // DAY_MS + 1:,}"
    (at,) = pl.Series([at_ms + _starts_ms(run)]).cast(pl.Datetime("ms")).to_list()
    return f"on {at:%Y-%m-%d at %H:%M}" if reach_ms(run) <= 14 * DAY_MS else f"on {at:%Y-%m-%d}"


def period(run: Run) -> str:
    """What the tables over time are about: `in the 24 h from 2026-11-23`."""
    length = span(reach_ms(run) / MS_PER_S)
    if not has_date(run):
        return f"in the {length}"
    (at,) = pl.Series([_starts_ms(run)]).cast(pl.Datetime("ms")).to_list()
    return f"in the {length} from {at:%Y-%m-%d}"


def wait_axis(most_s: float) -> dict[str, Any]:
    """A logarithmic axis of waits up to `most_s` seconds."""
    reach = next((mark for mark in WAITS_S if mark >= most_s), max(WAITS_S))
    marks = [mark for mark in WAITS_S if mark <= reach]
    return {
        "type": "log",
        "range": [-0.08, log10(reach) + 0.08],
        "tickvals": marks,
        "ticktext": [WAITS_S[mark] for mark in marks],
    }


def seconds(column: str) -> pl.Expr:
    """A column in ms as seconds."""
    return pl.col(column) / MS_PER_S


def quantile(column: str, rank: float) -> pl.Expr:
    """The nearest-rank quantile of a column in ms, as seconds: as in a run's summary."""
    return seconds(column).quantile(rank, interpolation="equiprobable")


def over_time(run: Run, frame: pl.DataFrame, value: str, **style: Any) -> go.Scatter:
    """A line in steps of `value` over `at_ms`, to the end of the last step; `days=True` counts days
    whether the run has a date or not.
    """
    at_ms = frame["at_ms"].extend_constant(reach_ms(run), 1)
    values = frame[value]
    return go.Scatter(
        x=(at_ms / DAY_MS if style.pop("days", False) else instants(run, at_ms)).to_numpy(),
        y=values.extend(values.tail(1)).to_numpy(),
        mode="lines",
        line={"width": 1.6, "shape": "hv"} | style.pop("line", {}),
        **style,
    )


def area(run: Run, frame: pl.DataFrame, value: str, colour: str, **style: Any) -> go.Scatter:
    """A stacked area in steps; `lent=True` hatches it."""
    hatched = {"fillpattern": {"shape": "/", "size": 5, "solidity": 0.45}}
    lent = style.pop("lent", False)
    return over_time(
        run,
        frame,
        value,
        line={"width": 0, "color": colour},
        fillcolor=colour,
        stackgroup="all",
        **(hatched if lent else {}),
        **style,
    )


def total(frame: pl.DataFrame, column: str) -> int:
    """The sum of an integer column."""
    return int(frame.select(pl.col(column).sum()).item())


def others_last(name: str) -> tuple[bool, str]:
    """The order of names in a legend."""
    return name == OTHERS, name


def bucket_ms(run: Run, pieces: int = 100) -> int:
    """A length of time that cuts the run into so many pieces or fewer: what jumps from step to step
    is calmer over it.
    """
    last_ms = reach_ms(run)
    return next((length for length in BUCKETS_MS if last_ms <= pieces * length), BUCKETS_MS[-1])


def calm(run: Run, frame: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Averages `gpus` of the integrals `gpus_ms`, by `keys`, over pieces of time as long as can be
    told apart on a screen.
    """
    step_ms = bucket_ms(run, PIECES)
    at_ms = pl.col("at_ms") // step_ms * step_ms
    length_ms = pl.min_horizontal(pl.col("at_ms") + step_ms, reach_ms(run)) - pl.col("at_ms")
    return (
        frame.group_by(at_ms, *keys)
        .agg(pl.col("gpus_ms").sum())
        .with_columns((pl.col("gpus_ms") / length_ms).alias("gpus"))
        .sort("at_ms", *keys)
    )


def lending_of(run: Run) -> pl.DataFrame:
    """What one holder lent to another: what a share lends below its own root stays there."""
    return run.table("lending").filter(pl.col("lender") != pl.col("borrower")).collect()


def capacity_of(run: Run) -> pl.DataFrame:
    """GPUs in service, of all owners: `at_ms`, `capacity`, `capacity_ms` (GPU-ms in the step)."""
    return (
        run.table("gpus")
        .unique(["at_ms", "owner"])
        .group_by("at_ms")
        .agg(pl.col("capacity", "capacity_ms").sum())
        .sort("at_ms")
        .collect()
    )


def mark_outages(run: Run, drawn: go.Figure) -> None:
    """Shade the times at which a site was away."""
    for fault in outages(run).to_dicts():
        x0, x1 = instants(run, pl.Series([fault["at_ms"], fault["until_ms"]])).to_list()
        drawn.add_vrect(
            x0=x0,
            x1=x1,
            fillcolor=BAD,
            opacity=0.14,
            line_width=0,
            annotation={"text": f"{label(fault['place'])} away", "font": {"color": BAD}},
            annotation_position="top left",
        )


def outages(run: Run) -> pl.DataFrame:
    """The faults that took a site away, the longest dozen, in order of time."""
    return (
        run.table("faults")
        .filter(pl.col("kind") == SITE_OUTAGE)
        .sort(pl.col("until_ms") - pl.col("at_ms"), descending=True)
        .head(12)
        .sort("at_ms", "place")
        .collect()
    )
