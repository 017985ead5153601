"""What people see of a rehearsal: progress while it runs, bad rows, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

from dure.cli.render import console, line, table
from dure.cli.shell import Shell
from dure.rehearsal.words import count, percent, span, things

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

BATCH: Final = 1_000
"""Jobs that pass between two looks at the bar: a look a job would cost more than the job."""

_COLUMNS: Final = (
    "operator", "jobs", "completion", "wait", "wait 50 %", "99 %", "99.9 %", "used", "recalls",
    "GPU-h lost",
)  # fmt: skip

Passing = Callable[[Iterator[Any]], Iterator[Any]]


@contextmanager
def bar(shell: Shell, what: str, unit: str) -> Iterator[Callable[[int | None], Passing]]:
    """A bar with rate and time left on a terminal, silence elsewhere.

    It gives what makes, of a number of things, that through which they are to pass.
    """
    if not shell.stderr.isatty():
        yield lambda _total: iter
        return
    with _progress(shell, unit) as shown:
        task = shown.add_task(what, total=None)

        def begin(total: int | None) -> Passing:
            shown.reset(task, total=total)

            def passing(things: Iterator[Any]) -> Iterator[Any]:
                return chain.from_iterable(batches(things))

            def batches(things: Iterator[Any]) -> Iterator[list[Any]]:
                while batch := list(islice(things, BATCH if unit == "jobs" else 1)):
                    yield batch
                    shown.advance(task, len(batch))

            return passing

        yield begin


def _progress(shell: Shell, unit: str) -> Progress:
    from rich.progress import (  # noqa: PLC0415 (only where something is shown)
        BarColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text  # noqa: PLC0415

    class Rate(ProgressColumn):
        """Things a second."""

        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed or 0
            return Text(
                f"{speed:,.0f} {unit}/s" if speed >= 10 else f"{60 * speed:,.1f} {unit}/min"
            )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} " + unit),
        Rate(),
        TimeRemainingColumn(),
        console=console(shell.stderr),
        transient=True,
    )


def show_bad_rows(shell: Shell, bad: Mapping[str, Any]) -> None:
    """What of a trace was no job: causes with their counts, and the first few of each."""
    counts = bad.get("counts")
    if not counts:
        return
    to = console(shell.stderr)
    line(to, f"{sum(counts.values()):,} rows are no jobs and are left out:")
    rows = [(cause, f"{count:,}") for cause, count in sorted(counts.items())]
    to.print(table(("cause", "rows"), rows, right={"rows"}))
    for example in bad["examples"]:
        line(to, f"  {example}")


def show(to: Console, found: Mapping[str, Any], out: object | None) -> None:
    """A rehearsal's figures, of all and by operator."""
    line(to, found["settings"]["title"])
    to.print(_figures(found))
    if unserved := found.get("unserved_jobs"):
        line(to, f"Never ran, so in no figure: {things(unserved, 'job', 'jobs')}.")
    if "isolated" in found:
        alone = found["isolated"]
        line(to, "")
        line(to, "The same with every operator alone:")
        to.print(_figures(alone))
        if unserved := found["jobs"] - alone["jobs"]:
            line(to, f"Never run that way, so in no figure: {things(unserved, 'job', 'jobs')}.")
    line(to, "")
    if (off := found.get("estimates")) and off["jobs"]:
        line(
            to,
            f"Run times estimated: half within a factor of {2 ** off['median_log2']:.2f}, "
            f"{off['covered']:.1%} within the high estimate.",
        )
    if (starts := found.get("start_estimates")) and starts["waited"]:
        line(
            to,
            f"Starts foretold: of {things(starts['waited'], 'job', 'jobs')} that waited, "
            f"{starts['waited_within_90']:.1%} started within their 90 % range, "
            f"{starts['waited_within_50']:.1%} within that of 50 %.",
        )
    line(
        to,
        f"{span(found['makespan_s'])} to the last end, rehearsed in {found['wall_s']:,.2f} s: "
        f"{found['jobs_per_s']:,} jobs/s, {found['peak_rss_mib']:,.0f} MiB at most.",
    )
    line(to, f"Digest: {found['digest']}")
    if out is not None:
        line(to, f"Report: {out}/report.html")


def _figures(found: Mapping[str, Any]) -> Table:
    """Of all and of each operator with jobs: mean times from submission to end, mean waits, and
    what so many wait at most.
    """
    each = found["per_operator"].items()
    rows = [("all", found), *((name, one) for name, one in each if one["jobs"])]
    cells = [
        (
            name,
            f"{one['jobs']:,}",
            span(one["avg_jct_s"]),
            *(span(one[f"{rank}_wait_s"]) for rank in ("avg", "p50", "p99", "p999")),
            percent(one["utilisation"]),
            count(one["preemptions"]),
            count(one["lost_gpu_h"]),
        )
        for name, one in rows
    ]
    return table(_COLUMNS, cells, right=set(_COLUMNS[1:]))


def show_sweep(to: Console, found: Mapping[str, Any], figures: Sequence[str]) -> None:
    """What each setting of a sweep came to: means over its seeds, with their spread."""
    settings = found["settings"]
    keys = [key for key in settings[0] if key != "n" and not isinstance(settings[0][key], dict)]
    rows = [
        (
            *(one[key] for key in keys),
            one["n"],
            *(f"{one[name]['mean']:,.3f} ± {one[name]['sd']:,.3f}" for name in figures),
        )
        for one in settings
    ]
    to.print(table((*keys, "runs", *figures), rows, right={"runs", *figures}))
