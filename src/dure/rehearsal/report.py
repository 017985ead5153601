"""A run's report: one HTML file for whoever decides.

First the answers in figures and sentences (`findings`), then the plots behind them, then the words
that they are written in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dure.rehearsal import findings, page, plots, plots_of_waits
from dure.rehearsal.drawing import has_date, lending_of, period, total
from dure.rehearsal.findings import table_sum
from dure.rehearsal.page import Section
from dure.rehearsal.runs import Run
from dure.rehearsal.words import MEANINGS, count, percent, setting, span, things
from dure.units import MS_PER_HOUR


def write(run: Run) -> Path:
    """Write `report.html` into the run's folder."""
    path = run.folder / "report.html"
    path.write_text(html(run), encoding="utf-8")
    return path


def html(run: Run) -> str:
    """The report: headline figures, answers, plots, a table of operators, words."""
    waits = plots_of_waits
    drawn = {
        "GPUs": (plots.in_use(run), plots.utilisation(run)),
        "Waits": (
            waits.waits(run, "operator", "operator"),
            waits.waits(run, "group", "kind of organisation"),
            waits.waits_by_size(run),
            waits.queue(run),
        ),
        "Lending": (plots.lending(run), plots.borrowed(run), plots.recalls(run)),
        "Fairness": (
            waits.joining(run),
            plots.fairness(run),
            plots.fairness_over_time(run),
        ),
    }
    sections = [
        Section("In short", page.cards(_headline(run)) + page.answers(findings.answers(run))),
        *(Section(title, page.plots(shown)) for title, shown in drawn.items() if any(shown)),
        Section("Operators", _operators(run)),
        *_estimates(run),
        Section("Words", page.answers((word, page.says([one])) for word, one in MEANINGS.items())),
    ]
    return page.page(run.title, _subtitle(run), sections, _footer(run))


def _subtitle(run: Run) -> str:
    settings = run.settings
    asked = (f"{name} {settings[name]}" for name in ("mode", "policy", "seed") if name in settings)
    return " · ".join(["Rehearsed: " + period(run).removeprefix("in the "), *asked])


def _headline(run: Run) -> list[tuple[str, str, str]]:
    summary, isolated = run.summary, run.isolated or {}
    lent_ms = total(lending_of(run), "gpus_ms")
    used_ms = table_sum(run, "gpus", "gpus_ms") or 1
    lost_ms = table_sum(run, "recalls", "lost_gpu_ms")

    def alone(name: str, shown: Any) -> str:
        return f"each alone: {shown(isolated[name])}" if name in isolated else ""

    longest = f"1 in 1,000 over {span(summary['p999_wait_s'])}"
    return [
        ("Jobs ended", count(summary["jobs"]), _unserved(summary)),
        ("GPUs used", percent(summary["utilisation"]), alone("utilisation", percent)),
        ("Mean wait", span(summary["avg_wait_s"]), alone("avg_wait_s", span)),
        ("1 in 100 waits over", span(summary["p99_wait_s"]), longest),
        ("GPU-hours lent", count(lent_ms / MS_PER_HOUR), f"{percent(lent_ms / used_ms)} of use"),
        (
            "Recalls",
            count(summary["preemptions"]),
            f"{count(lost_ms / MS_PER_HOUR)} GPU-h of work lost by them",
        ),
    ]


def _unserved(summary: Mapping[str, Any]) -> str:
    if unserved := summary.get("unserved_jobs"):
        return f"{count(unserved)} never ran, and are in no figure"
    return f"of {things(len(summary['per_operator']), 'operator', 'operators')}"


def _operators(run: Run) -> str:
    columns = (
        "operator", "jobs", "mean wait", "half", "99 in 100", "99.9 in 100", "used", "recalls",
        "lost GPU-h", "mean completion", *(["alone"] if run.isolated else []),
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
            *([_if_any(row["isolated_avg_jct_s"])] if run.isolated else []),
        )
        for row in run.table("operators").collect().to_dicts()
    ]
    remark = (
        "Whose jobs they are, wherever they ran. Used: what they took, of what the operator has, "
        "which borrowing can take above 100 %. Lost GPU-h: work done again after recalls and "
        "faults, and notice times."
    )
    return page.table(columns, rows) + page.says([remark])


def _if_any(seconds: float | None) -> str:
    return "–" if seconds is None else span(seconds)


def _estimates(run: Run) -> Iterable[Section]:
    """How far what was foretold was off, where the run knows."""
    rows = [
        ("How well are starts foretold?", _start_estimates(run.summary.get("start_estimates"))),
        ("How well are run times foretold?", _run_estimates(run.summary.get("estimates"))),
    ]
    answered = [(question, page.says(sentences)) for question, sentences in rows if sentences]
    if answered:
        yield Section("Estimates", page.answers(answered))


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
    hidden = {"title"} if has_date(run) else {"title", "starts_ms"}
    asked = (setting(*one) for one in run.settings.items() if one[0] not in hidden)
    shown = ", ".join(f"{name} {value}" for name, value in asked)
    digest = f"digest {run.summary['digest']}" if "digest" in run.summary else ""
    sampled = f"of the jobs every {run.sample}th is kept" if run.sample > 1 else ""
    return " · ".join(part for part in (shown, sampled, digest) if part)
