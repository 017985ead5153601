"""`dure rehearse`: the scheduler on simulated clocks. All but `live` need no server."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dure.cli.render import emit, line, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.errors import RefusedError
from dure.text import shown

if TYPE_CHECKING:
    from dure.cli.rehearsed import Passing
    from dure.rehearsal.asking import Asking, Ready

JOBS_IN_TABLE_MAX: Final = 2_000_000
"""Rows of the table of jobs; of more jobs, every so many-th is kept."""

SHOWN: Final = ("avg_jct_s", "avg_wait_s", "p999_wait_s", "utilisation")
"""Figures of a sweep that people see; the files have all."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A dial of the scheduler; repeatable."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="DIR", help="Write Parquet tables and an HTML report here."),
]
AloneOption = Annotated[
    bool, typer.Option("--compare-alone", help="Rehearse every operator alone too.")
]
ModeOption = Annotated[
    str,
    typer.Option(
        metavar="isolated|federated|one-pool",
        help="Every VC alone; a job in any one VC; gangs across VCs.",
    ),
]
PredictionsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|true|learned",
        help="Expected run times: CSV of job_id and predicted_s, the truth, or our estimator.",
    ),
]
AskOption = Annotated[
    int | None,
    typer.Option(
        "--ask-every", min=1, metavar="N", help="Hold every N-th job's start against its estimate."
    ),
]
FormatOption = Annotated[
    str, typer.Option("--format", metavar="auto|dure|helios|philly|itp|openb|swf")
]
OverheadOption = Annotated[
    int, typer.Option(min=0, max=86_400, metavar="S", help="What a recall costs its job.")
]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    from dure.cli import rehearse_live  # noqa: PLC0415 (it takes this module's steps)

    rehearse = typer.Typer(help="The scheduler on simulated clocks.", no_args_is_help=True)
    rehearse.command("run")(run)
    rehearse.command("trace")(trace)
    rehearse.command("compare")(compare)
    rehearse.command("sweep")(sweep)
    rehearse.command("live")(rehearse_live.live)
    app.add_typer(rehearse, name="rehearse")


def run(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    scenario: Annotated[str, typer.Argument(help="A name or a TOML file.")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="For Parquet tables and an HTML report.")
    ],
    *,
    policy: Annotated[
        str | None, typer.Option(metavar="dure|no-lending", help="Default: as the file says.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Default: as the file says.")] = None,
    ask_every: AskOption = None,
    set_: SetOption = None,
    compare_alone: AloneOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rehearse a scenario: waves arrive, people submit, faults strike."""
    shell = shell_of(ctx)
    check_ready(shell, out)
    from dure.rehearsal.asking import ScenarioAsking  # noqa: PLC0415 (quick help, as all below)

    asked = ScenarioAsking(
        path=scenario,
        policy=policy,
        seed=seed,
        ask_every=ask_every,
        settings=tuple(set_ or ()),
    )
    _rehearse(shell, asked, out, output, compare_alone=compare_alone)


def trace(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(metavar="DIR", help="A folder, or its file of jobs.")],
    *,
    mode: ModeOption = "federated",
    policy: Annotated[
        str, typer.Option(metavar="dure|fifo|sjf|qssf|best-effort|...", help="Who schedules.")
    ] = "dure",
    predictions: PredictionsOption = None,
    checkpoint_overhead_s: OverheadOption = 60,
    format_: FormatOption = "auto",
    ask_every: AskOption = None,
    set_: SetOption = None,
    out: OutOption = None,
    compare_alone: AloneOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Replay a recorded workload. Each VC is an operator with one cluster."""
    shell = shell_of(ctx)
    check_ready(shell, out)
    from dure.rehearsal.asking import TraceAsking, one_of  # noqa: PLC0415
    from dure.rehearsal.baseline import Mode  # noqa: PLC0415
    from dure.rehearsal.traces import Format  # noqa: PLC0415

    asked = TraceAsking(
        path=shell.folder / path,
        mode=Mode(one_of("--mode", mode, tuple(Mode))),
        policy=policy,
        predictions=_predictions(shell, predictions),
        overhead_s=checkpoint_overhead_s,
        format=Format(one_of("--format", format_, tuple(Format))),
        ask_every=ask_every,
        settings=tuple(set_ or ()),
    )
    _rehearse(shell, asked, out, output, compare_alone=compare_alone)


def compare(
    ctx: typer.Context,
    a: Annotated[Path, typer.Argument(help="A folder that a rehearsal wrote.")],
    b: Annotated[Path, typer.Argument(help="Another.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write an HTML page of both.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set two rehearsals side by side."""
    shell = shell_of(ctx)
    check_ready(shell)
    from dure.rehearsal import compare as both  # noqa: PLC0415

    found = both.compare(shell.folder / a, shell.folder / b)
    if out is not None:
        (shell.folder / out).write_text(both.html(found), encoding="utf-8")
    rows = [pair.cells() for pair in found.whole]
    verdict = "Every job had the same outcome." if found.equal else "The outcomes differ."

    def people(to: Any) -> None:
        if found.asked:
            to.print(table(("setting", "A", "B"), found.asked))
            line(to, "")
        to.print(table(both.COLUMNS, rows, right=set(both.COLUMNS[1:])))
        line(to, verdict)

    emit(shell, output, found.to_dict(), people)


def sweep(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    path: Annotated[str, typer.Argument(metavar="SCENARIO|TRACE", help="What is rehearsed.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For tables and sweep.json.")],
    *,
    seeds: Annotated[
        str | None, typer.Option(metavar="LIST", help="1..8 or 1,5,7..9; not of a trace.")
    ] = None,
    set_each: Annotated[
        list[str] | None,
        typer.Option("--set-each", metavar="KEY=V1,V2", help="Every value in turn; repeatable."),
    ] = None,
    set_: SetOption = None,
    engine: Annotated[str, typer.Option(metavar="processes|ray", help="Who plays.")] = "processes",
    address: Annotated[str, typer.Option(help="Of an existing Ray cluster.")] = "auto",
    output: OutputOption = Output.TABLE,
) -> None:
    """Rehearse over seeds and settings, on all cores. Of a trace, mode and policy are settings."""
    shell = shell_of(ctx)
    check_ready(shell, out)
    from dure.cli import rehearsed  # noqa: PLC0415
    from dure.rehearsal import sweep as sweeping  # noqa: PLC0415
    from dure.rehearsal.asking import asking, one_of  # noqa: PLC0415

    one_of("--engine", engine, ("processes", "ray"))
    asked = asking(path, shell.folder).with_settings(tuple(set_ or ()))
    seed_list = [] if seeds is None else sweeping.seeds_of(seeds)
    trials = sweeping.trials_of(asked, set_each or (), seed_list)
    play = sweeping.on_ray(address) if engine == "ray" else sweeping.on_all_cores
    with rehearsed.bar(shell, "Sweeping", "runs") as begin:
        done = dict(begin(len(trials))(play(trials)))
    found = sweeping.results(trials, done)
    sweeping.write(shell.folder / out, found)
    emit(shell, output, found, lambda to: rehearsed.show_sweep(to, found, SHOWN))


# ---- Steps ---------------------------------------------------------------------------------------


def check_ready(shell: Shell, out: Path | None = None) -> None:
    """What can be refused before any work is."""
    for library in ("numpy", "polars", "plotly"):
        if find_spec(library) is None:
            raise RefusedError(
                "no-rehearse", f"Rehearsals need {library}; pip install 'dure[rehearse]'."
            )
    if out is not None and (shell.folder / out).exists() and not (shell.folder / out).is_dir():
        raise RefusedError("bad-input", f"--out {shown(str(out))} is a file; name a folder.")


def _predictions(shell: Shell, given: str | None) -> str | None:
    from dure.rehearsal.asking import FORESIGHTS  # noqa: PLC0415

    return given if given is None or given in FORESIGHTS else str(shell.folder / given)


def _rehearse(
    shell: Shell, asked: Asking, out: Path | None, output: Output, *, compare_alone: bool
) -> None:
    from dure.cli import rehearsed  # noqa: PLC0415
    from dure.rehearsal.runs import FIGURES  # noqa: PLC0415

    with rehearsed.bar(shell, "Rehearsing", "jobs") as begin:
        ready = asked.ready()
        found = played(ready, None if out is None else shell.folder / out, begin(ready.jobs))
        if compare_alone:
            alone = asked.alone().ready()
            summary, _ = alone.play(None, begin(alone.jobs))
            found["isolated"] = {name: summary[name] for name in (*FIGURES, "per_operator")}
    rehearsed.show_bad_rows(shell, ready.bad_rows)
    if out is not None:
        from dure.rehearsal import report, runs  # noqa: PLC0415

        report.write(runs.write(shell.folder / out, found))
    emit(shell, output, found, lambda to: rehearsed.show(to, found, out))


def played(ready: Ready, folder: Path | None, passing: Passing) -> dict[str, Any]:
    """The summary; with a folder, its tables are there."""
    if folder is None:
        found, _ = ready.play(None, passing)
    else:
        from dure.rehearsal.tables import Recorder  # noqa: PLC0415

        sample = max(1, -(-(ready.jobs or 0) // JOBS_IN_TABLE_MAX))
        recorder = Recorder(folder, sample=sample, span_ms=ready.span_ms)
        found, end_ms = ready.play(recorder, passing)
        recorder.close(end_ms)
        if sample > 1:
            found["settings"]["jobs_sample"] = sample
    return found | ({"bad_rows": ready.bad_rows} if ready.bad_rows else {})
