"""What a run shows, in sentences: the answers to what a nation asks before it decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import polars as pl

from dure.rehearsal import page
from dure.rehearsal.drawing import (
    capacity_of,
    lending_of,
    moment,
    outages,
    period,
    quantile,
    reach_ms,
    seconds,
    total,
)
from dure.rehearsal.plots_of_waits import QUANTILES
from dure.rehearsal.runs import Run
from dure.rehearsal.words import count, gpu_hours, percent, span, things
from dure.units import MS_PER_HOUR, MS_PER_S

EQUAL_WITHIN: Final = 0.0005
"""Mean times that differ by less than what is shown of them are equal."""


def answers(run: Run) -> Iterator[tuple[str, str]]:
    """Questions, and answers in HTML; a question that the run says nothing about is left out."""
    asked = (
        ("How full are the GPUs, with and without lending?", page.says(_use(run))),
        ("Does anybody lose by joining?", page.says(_losers(run))),
        ("Who waits how long?", _waits(run)),
        ("Who lends how much?", _lenders(run)),
        ("What does a lost site cost?", page.says(_outages(run))),
    )
    return ((question, said) for question, said in asked if said)


def _use(run: Run) -> Iterator[str]:
    used_ms = table_sum(run, "gpus", "gpus_ms")
    lent_ms = total(lending_of(run), "gpus_ms")
    served_ms = total(capacity_of(run), "capacity_ms")
    if not served_ms:
        return
    yield (
        f"{percent(used_ms / served_ms)} of {gpu_hours(served_ms)} in service {period(run)} were "
        f"used: {percent((used_ms - lent_ms) / served_ms)} by their holders, "
        f"{percent(lent_ms / served_ms)} through lending."
    )
    alone = run.isolated
    if alone and run.has_span:
        yield f"With every operator alone, {percent(alone['utilisation'])} are used."
    elif alone:
        yield (
            f"All jobs were done after {span(run.summary['makespan_s'])}; with every operator "
            f"alone that takes {span(alone['makespan_s'])}."
        )


def _losers(run: Run) -> Iterator[str]:
    if not run.isolated:
        return
    alone = run.isolated["per_operator"]
    worse = [
        f"The jobs of {name} end after {span(figures['avg_jct_s'])} on average, which is "
        f"{percent(figures['avg_jct_s'] / alone[name]['avg_jct_s'] - 1)} later than alone."
        for name, figures in sorted(run.summary["per_operator"].items())
        if figures["jobs"]
        and name in alone
        and figures["avg_jct_s"] > (1 + EQUAL_WITHIN) * alone[name]["avg_jct_s"]
    ]
    yield from worse or ["No: of no operator do jobs end later on average than alone."]
    if (never := run.summary["jobs"] - run.isolated["jobs"]) > 0:
        yield (
            f"{things(never, 'job', 'jobs')} never run to their end with every operator alone, and "
            "are in none of the figures of that."
        )


def _waits(run: Run) -> str:
    """Waits by kind of organisation, or by operator where that is not known."""
    who = pl.when(pl.col("group") == "").then(pl.col("operator")).otherwise(pl.col("group"))
    by = (
        run.table("jobs")
        .group_by(who.alias("who"))
        .agg(
            pl.len().alias("jobs"),
            seconds("wait_ms").mean().alias("mean"),
            *(quantile("wait_ms", q).alias(name) for name, q in QUANTILES.items()),
        )
        .sort("mean", "who")
        .collect()
    )
    if by.is_empty():
        return ""
    columns = ("whose jobs", "jobs", "half wait at most", "9 in 10", "99 in 100", "mean wait")
    rows = [
        (
            row["who"],
            count(row["jobs"] * run.sample),
            *(span(row[name]) for name in (*QUANTILES, "mean")),
        )
        for row in by.to_dicts()
    ]
    return page.table(columns, rows)


def _lenders(run: Run) -> str:
    lent, borrowed = (
        dict(lending_of(run).group_by(side).agg(pl.col("gpus_ms").sum()).rows())
        for side in ("lender", "borrower")
    )
    names = {name for name, gpus_ms in (lent | borrowed).items() if gpus_ms}
    if not names:
        return ""
    order = sorted(names, key=lambda name: (-lent.get(name, 0), name))
    rows = [
        (name, *(f"{count(side.get(name, 0) / MS_PER_HOUR)}" for side in (lent, borrowed)))
        for name in order
    ]
    return page.table(("GPU-hours", "lent to others", "borrowed from others"), rows)


def _outages(run: Run) -> Iterator[str]:
    within_reach = outages(run).filter(pl.col("at_ms") < reach_ms(run))
    return (_outage(run, fault) for fault in within_reach.to_dicts())


def _outage(run: Run, fault: Mapping[str, Any]) -> str:
    """What the loss of a site did: GPU time away, waits meanwhile and before, the queue after."""
    at_ms, until_ms = fault["at_ms"], fault["until_ms"]
    length_ms = until_ms - at_ms
    before = _mean_wait_s(run, at_ms - length_ms, at_ms)
    meanwhile = _mean_wait_s(run, at_ms, until_ms)
    queue = run.table("queue").group_by("at_ms").agg(pl.col("gpus").sum()).sort("at_ms").collect()
    usual = queue.filter(pl.col("at_ms").is_between(at_ms - length_ms, at_ms, closed="left"))
    level = usual.select(pl.col("gpus").mean()).item() or 0.0
    after = queue.filter(pl.col("at_ms") >= until_ms, pl.col("gpus") <= level)["at_ms"].head(1)
    peak = queue.filter(pl.col("at_ms").is_between(at_ms, until_ms))
    peak_gpus = round(peak.select(pl.col("gpus").max()).item() or 0.0)
    return (
        f"{fault['place']} was away for {span(length_ms / MS_PER_S)} from "
        f"{moment(run, at_ms).removeprefix('on ')}: {gpu_hours(fault['gpus'] * length_ms)} not "
        f"served. Jobs submitted meanwhile waited {span(meanwhile)} on average, in as long a time "
        f"before it {span(before)}. {_queue_over(level, peak_gpus, after, until_ms)}"
    )


def _queue_over(level_gpus: float, peak_gpus: int, after: pl.Series, until_ms: int) -> str:
    """What waiting jobs asked for; `after` has when it was as little as before the loss again."""
    was = count(round(level_gpus))
    if not peak_gpus:
        return f"Waiting jobs had asked for {was} GPUs before; meanwhile none waited."
    back = (
        f"{span((after[0] - until_ms) / MS_PER_S)} after the site came back"
        if len(after)
        else "only after the end"
    )
    return (
        f"Waiting jobs had asked for {was} GPUs before; meanwhile it was up to "
        f"{count(peak_gpus)}, and it was back at {was} {back}."
    )


def _mean_wait_s(run: Run, from_ms: int, until_ms: int) -> float:
    submitted = pl.col("submit_ms").is_between(from_ms, until_ms, closed="left")
    mean = run.table("jobs").filter(submitted).select(pl.col("wait_ms").mean()).collect().item()
    return (mean or 0.0) / MS_PER_S


def table_sum(run: Run, table: str, column: str) -> int:
    """The sum of an integer column of one of the run's tables."""
    return int(run.table(table).select(pl.col(column).sum()).collect().item())
