"""A run's report: one HTML file that answers what a nation asks before it decides.

What is the capacity used for, with and without lending; who waits how long; who lends how much;
what does a lost site cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dure.rehearsal import page, plots, plots_of_waits
from dure.rehearsal.drawing import capacity_of, moment, outages, total
from dure.rehearsal.runs import Run
from dure.rehearsal.words import count, gpu_hours, percent, span, things
from dure.units import MS_PER_HOUR, MS_PER_S, iso


def write(run: Run) -> Path:
    """Write `report.html` into the run's folder."""
    path = run.folder / "report.html"
    path.write_text(html(run), encoding="utf-8")
    return path


def html(run: Run) -> str:
    """The report: headline figures, answers in words, plots, a table of operators."""
    waits = plots_of_waits
    return page.page(
        run.title,
        _subtitle(run),
        [
            page.Section("In short", page.cards(_headline(run)) + page.answers(_answers(run))),
            page.Section(
                "Waits",
                page.plots(
                    [
                        waits.waits(run, "operator", "operator"),
                        waits.waits(run, "group", "kind of organisation"),
                        waits.waits_by_size(run),
                        waits.queue(run),
                    ]
                ),
            ),
            page.Section(
                "GPUs",
                page.plots(
                    [
                        plots.in_use(run),
                        plots.utilisation(run),
                        plots.borrowed(run),
                        plots.lending(run),
                        plots.recalls(run),
                    ]
                ),
            ),
            page.Section(
                "Fairness",
                page.plots(
                    [waits.joining(run), plots.fairness(run), plots.fairness_over_time(run)]
                ),
            ),
            page.Section("Operators", _operators(run)),
            *_estimates(run),
        ],
        _footer(run),
    )


def _subtitle(run: Run) -> str:
    settings = run.settings
    parts = [f"{name} {settings[name]}" for name in ("mode", "policy", "seed") if name in settings]
    if "starts_ms" in settings:
        parts.append(f"from {iso(int(settings['starts_ms']))}")
    return " · ".join([*parts, f"{span(run.summary['makespan_s'])} rehearsed"])


def _headline(run: Run) -> list[tuple[str, str, str]]:
    summary, isolated = run.summary, run.isolated or {}
    lent_ms = _sum(run, "lending", "gpus_ms")
    used_ms = _sum(run, "gpus", "gpus_ms") or 1

    def alone(name: str, shown: Any) -> str:
        return f"each alone: {shown(isolated[name])}" if name in isolated else ""

    p99, p999 = span(summary["p99_wait_s"]), span(summary["p999_wait_s"])
    return [
        ("Jobs ended", count(summary["jobs"]), _unserved(summary)),
        ("Utilisation", percent(summary["utilisation"]), alone("utilisation", percent)),
        ("Mean wait", span(summary["avg_wait_s"]), alone("avg_wait_s", span)),
        ("99 % wait at most", p99, f"99.9 % at most {p999}"),
        ("GPU-hours lent", count(lent_ms / MS_PER_HOUR), f"{percent(lent_ms / used_ms)} of use"),
        (
            "Recalls",
            count(summary["preemptions"]),
            f"{count(summary['lost_gpu_h'])} GPU-h lost",
        ),
    ]


def _unserved(summary: Mapping[str, Any]) -> str:
    if unserved := summary.get("unserved_jobs"):
        return f"{count(unserved)} never ran, and are in no figure"
    return f"of {len(summary['per_operator'])} operators"


def _answers(run: Run) -> Iterable[tuple[str, Sequence[str]]]:
    asked = (
        ("How full are the GPUs, with and without lending?", _utilisation(run)),
        ("Who waits how long?", _waits(run)),
        ("Who lends how much?", _lenders(run)),
        ("Does anybody lose by joining?", _losers(run)),
        ("What does a lost site cost?", [_outage(run, fault) for fault in outages(run).to_dicts()]),
    )
    return [(question, sentences) for question, sentences in asked if sentences]


def _utilisation(run: Run) -> list[str]:
    used_ms = _sum(run, "gpus", "gpus_ms")
    lent_ms = _sum(run, "lending", "gpus_ms")
    served_ms = total(capacity_of(run), "capacity_ms")
    if not served_ms:
        return []
    used = (
        f"{percent(used_ms / served_ms)} of {gpu_hours(served_ms)} in service were used: "
        f"{percent((used_ms - lent_ms) / served_ms)} within guarantees, "
        f"{percent(lent_ms / served_ms)} through lending."
    )
    lines = [used]
    if run.isolated:
        lines.append(
            f"The jobs' own work, without what recalls lost, filled "
            f"{percent(run.summary['utilisation'])} and was done after "
            f"{span(run.summary['makespan_s'])}; with every operator alone it fills "
            f"{percent(run.isolated['utilisation'])} and takes {span(run.isolated['makespan_s'])}."
        )
    return lines


def _waits(run: Run) -> list[str]:
    by = (
        run.table("jobs")
        .with_columns(
            pl.when(pl.col("group") == "").then(pl.col("operator")).otherwise(pl.col("group"))
            .alias("who")
        )
        .group_by("who")
        .agg(
            pl.len().alias("jobs"),
            *((pl.col("wait_ms").quantile(q) / MS_PER_S).alias(name)
              for name, q in plots_of_waits.QUANTILES.items()),
        )
        .sort("p90", "who")
        .collect()
    )  # fmt: skip
    return [
        f"{row['who']}: half of {things(row['jobs'] * run.sample, 'job', 'jobs')} within "
        f"{span(row['p50'])}, 9 in 10 within {span(row['p90'])}, 99 in 100 within "
        f"{span(row['p99'])}."
        for row in by.to_dicts()
    ]


def _lenders(run: Run) -> list[str]:
    sums = (
        run.table("lending")
        .group_by("lender")
        .agg(pl.col("gpus_ms").sum())
        .filter(pl.col("gpus_ms") > 0)
        .sort("gpus_ms", "lender", descending=[True, False])
        .collect()
    )
    borrowed = (
        run.table("lending").group_by("borrower").agg(pl.col("gpus_ms").sum()).collect().rows()
    )
    taken = dict(borrowed)
    return [
        f"{lender} lent {gpu_hours(gpus_ms)} and borrowed {gpu_hours(taken.get(lender, 0))}."
        for lender, gpus_ms in sums.rows()
    ]


def _losers(run: Run) -> list[str]:
    if not run.isolated:
        return []
    alone = run.isolated["per_operator"]
    worse = [
        f"{name}: jobs end after {span(figures['avg_jct_s'])} on average, alone after "
        f"{span(alone[name]['avg_jct_s'])}."
        for name, figures in sorted(run.summary["per_operator"].items())
        if figures["jobs"] and name in alone and figures["avg_jct_s"] > alone[name]["avg_jct_s"]
    ]
    return worse or ["No: of no operator do jobs end later on average than alone."]


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
    peak_gpus = peak.select(pl.col("gpus").max()).item() or 0.0
    back = (
        f"it was down to the usual {count(level)} again {span((after[0] - until_ms) / MS_PER_S)} "
        "after the site came back"
        if len(after)
        else f"it did not come down to the usual {count(level)} again"
    )
    return (
        f"{fault['place']} was away for {span(length_ms / MS_PER_S)} from "
        f"{moment(run, at_ms).removeprefix('on ')}: {gpu_hours(fault['gpus'] * length_ms)} not "
        f"served. Jobs submitted meanwhile waited {span(meanwhile)} on average, in as long a time "
        f"before it {span(before)}. Waiting jobs asked for up to {count(peak_gpus)} GPUs; {back}."
    )


def _mean_wait_s(run: Run, from_ms: int, until_ms: int) -> float:
    submitted = pl.col("submit_ms").is_between(from_ms, until_ms, closed="left")
    mean = run.table("jobs").filter(submitted).select(pl.col("wait_ms").mean()).collect().item()
    return (mean or 0.0) / MS_PER_S


def _sum(run: Run, table: str, column: str) -> int:
    return int(run.table(table).select(pl.col(column).sum()).collect().item())


def _operators(run: Run) -> str:
    columns = (
        "operator", "jobs", "mean wait", "median", "99 %", "99.9 %", "utilisation", "recalls",
        "lost GPU-h", "mean completion", "alone",
    )  # fmt: skip
    rows = [
        (
            row["operator"],
            count(row["jobs"]),
            *(span(row[f"{name}_wait_s"]) for name in ("avg", "p50", "p99", "p999")),
            percent(row["utilisation"]),
            count(row["preemptions"]),
            count(row["lost_gpu_h"]),
            span(row["avg_jct_s"]),
            span(row["isolated_avg_jct_s"]) if row.get("isolated_avg_jct_s") is not None else "–",
        )
        for row in run.table("operators").collect().to_dicts()
    ]
    return page.table(columns, rows)


def _estimates(run: Run) -> Iterable[page.Section]:
    """How far what was foretold was off, where the run knows."""
    rows = [
        ("How well are starts foretold?", _start_estimates(run.summary.get("start_estimates"))),
        ("How well are run times foretold?", _run_estimates(run.summary.get("estimates"))),
    ]
    answered = [(question, sentences) for question, sentences in rows if sentences]
    if answered:
        yield page.Section("Estimates", page.answers(answered))


def _start_estimates(found: Mapping[str, Any] | None) -> list[str]:
    if not found or not found["asked"]:
        return []
    asked = things(found["asked"], "job", "jobs")
    lines = [f"{asked} asked when submitted, {count(found['waited'])} of them had to wait."]
    if found["waited"]:
        lines.append(
            f"Start estimates: {percent(found['waited_within_90'])} of those that waited started "
            f"within their 90 % range, {percent(found['waited_within_50'])} within their 50 % "
            f"range. Half of the 90 % ranges were at most {span(found['median_width_90_s'])} wide."
        )
    if found["unforeseen"]:
        lines.append(f"For {things(found['unforeseen'], 'job', 'jobs')} no start was foreseen.")
    return lines


def _run_estimates(found: Mapping[str, Any] | None) -> list[str]:
    if not found or not found["jobs"]:
        return []
    half, most = 2 ** found["median_log2"], 2 ** found["p90_log2"]
    line = (
        f"Of {things(found['jobs'], 'job', 'jobs')}, half ran within a factor of {half:.2f} of "
        f"their estimate, nine in ten within {most:.1f}; {percent(found['covered'])} ended by "
        "their high estimate."
    )
    return [line]


def _footer(run: Run) -> str:
    shown = ", ".join(f"{name} {value}" for name, value in run.settings.items() if name != "title")
    digest = f"digest {run.summary['digest']}" if "digest" in run.summary else ""
    sampled = f"of the jobs every {run.sample}th is kept" if run.sample > 1 else ""
    return " · ".join(part for part in (shown, sampled, digest) if part)
