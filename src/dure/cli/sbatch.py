"""`dure sbatch`, and `dure submit --sbatch`: a batch script as it is, and what becomes of it."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperCommand

from dure.cli import config, submit
from dure.cli.flags import Flags, draft_of
from dure.cli.render import amount, emit, line, table
from dure.cli.shell import Output, Shell, shell_of
from dure.draft import requests
from dure.errors import RefusedError
from dure.people import PROJECT_ROLES
from dure.sbatch import options, precedence, script
from dure.sbatch.options import Given, Option, Takes
from dure.sbatch.places import Known, Tables
from dure.sbatch.report import Report
from dure.sbatch.translate import Submitted, Translation, translate
from dure.text import TEXT_MAX, shown
from dure.views import JobSummary, Submission

if TYPE_CHECKING:
    from rich.console import Console

    from dure.client import Client
    from dure.draft import Draft
    from dure.sbatch.precedence import Chosen
    from dure.scheduling.world import Forecast

WORDS: Final = "dure.sbatch.words"
"""Where the words of the command line are kept, in the context's `meta`."""

COMMAND_LINE: Final = "command line"
_OURS: Final[Mapping[str, Option]] = {
    name: Option(name, "", Takes.NOTHING) for name in ("dry-run", "json", "anyway")
} | {"key": Option("key")}
_TABLES: Final = ("partition", "account", "qos", "gpu")


class WithWords(TyperCommand):
    """A command that reads its words itself, as Slurm's commands do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep all words but a call for help."""
        if args[:1] == ["--help"]:
            return super().parse_args(ctx, args)
        ctx.meta[WORDS] = tuple(args)
        return super().parse_args(ctx, [])


def register(app: typer.Typer) -> None:
    """Enter the command."""
    app.command("sbatch", cls=WithWords)(sbatch)


def sbatch(ctx: typer.Context) -> None:
    """Submit a Slurm batch script as it is: dure sbatch [OPTIONS] SCRIPT [ARGUMENTS].

    Options are those of sbatch, on the command line, in SBATCH_* variables or in the script's
    #SBATCH lines, in this order of precedence. Before anything is submitted, a report on standard
    error says of each whether it is kept, translated, pins the job to one site, or cannot be kept.

    Besides: --dry-run only reports; --json writes report and job as JSON; --anyway submits though
    something that matters cannot be kept; --key is an idempotency key. And, in #DURE lines too:
    --project, --allocation, --pool, --gpu-model, --data-class, --outputs, --checkpoint-dir,
    --workdir, --no-workdir, --retries.
    """
    shell = shell_of(ctx)
    try:
        given, rest = options.read(
            ctx.meta.get(WORDS, ()), COMMAND_LINE, {**options.OPTIONS, **_OURS}
        )
        read = _script(given, rest, shell)
    except ValueError as error:
        raise RefusedError("bad-sbatch", f"{error}.") from None
    flags = {one.option for one in given if one.option in _OURS}
    how = How(
        dry_run="dry-run" in flags,
        anyway="anyway" in flags,
        output=Output.JSON if "json" in flags else Output.TABLE,
        key=next((one.value for one in reversed(given) if one.option == "key"), None),
    )
    run(shell, read, tuple(one for one in given if one.option not in _OURS), how)


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A script that was read, the name it has if it names none, and its arguments."""

    script: script.Script
    name: str
    args: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How to go on once a script is translated. `over` goes over the draft."""

    dry_run: bool = False
    anyway: bool = False
    output: Output = Output.TABLE
    key: str | None = None
    over: Draft | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What `--json` writes: the report, and the job or, without one, where it could run."""

    summary: str
    report: Report
    job: JobSummary | None = None
    forecast: Forecast | None = None


def run(shell: Shell, read: Read, given: Sequence[Given], how: How) -> None:
    """Report on a script, and submit it unless that is all that is wanted.

    Raises:
        RefusedError: it cannot be a job, or would not be the job that its directives ask for.
    """
    environment = options.of_environment(shell.environ)
    chosen = precedence.choose(read.script.given, environment, given)
    flags = chosen.given
    dry_run = how.dry_run or "test-only" in flags
    key = submit.checked_key(how.key)
    with shell.client() as client:
        made = _translated(read, chosen, client, shell)
        draft = made.draft if how.over is None else how.over.over(made.draft)
        drafts = submit.with_project((draft,), client, shell)
        asked = requests(drafts, shell.environ, [None])
        if dry_run:
            forecast = client.plan(asked[0].spec)
            outcome = Outcome(summary=made.report.summary, report=made.report, forecast=forecast)
            emit(
                shell,
                how.output,
                outcome,
                lambda to: _show_dry(to, outcome, client, shell.now_ms()),
            )
            return
        if how.output is Output.TABLE and "quiet" not in flags:
            emit_report(shell, made.report)
        _check_stops(made.report, anyway=how.anyway)
        workdirs = submit.upload(drafts, client, shell)
        submission = Submission(requests(drafts, shell.environ, workdirs))
        (job,) = submit.submit_once(client, submission, key).jobs
        outcome = Outcome(summary=made.report.summary, report=made.report, job=job)
        number = job.id.removeprefix("j-")
        said = number if "parsable" in flags else f"Submitted batch job {number}"
        emit(shell, how.output, outcome, lambda to: line(to, said))
        shell.stdout.flush()
        if "wait" in flags:
            raise typer.Exit(_wait(client, job.id))


def submit_with_flags(shell: Shell, flags: Flags, args: Sequence[str]) -> None:
    """`dure submit --sbatch FILE`: flags go over the script, as sbatch's own command line does.

    Raises:
        RefusedError: as `run`.
    """
    over = draft_of(flags, None, shell)
    if flags.file is None:
        raise RefusedError("bad-input", "--sbatch needs a batch script; name its file.")
    try:
        read = read_file(flags.file, args, shell)
    except ValueError as error:
        raise RefusedError("bad-sbatch", f"{error}.") from None
    how = How(
        dry_run=flags.dry_run, anyway=flags.anyway, output=flags.output, key=flags.key, over=over
    )
    run(shell, read, tuple(_said(flags, over)), how)


def _said(flags: Flags, over: Draft) -> Iterator[Given]:
    """The flags that the script's nodes must know of, as sbatch would have them."""
    told = {
        "job-name": flags.name,
        "project": flags.project,
        "allocation": flags.allocation,
        "nodes": flags.nodes,
        "gpus-per-node": flags.gpus,
        "gpu-model": ",".join(flags.gpu_model or ()) or None,
        "pool": ",".join(flags.pool or ()) or None,
        "mincpus": over.cpus_per_node,
        "mem": None if over.memory_gib_per_node is None else f"{over.memory_gib_per_node}G",
        "time": None
        if over.walltime_s is None
        else "{}:{:02}".format(*divmod(over.walltime_s, 60)),
        "workdir": flags.workdir,
        "array": flags.array,
        "checkpoint-dir": flags.checkpoint_dir,
        "outputs": flags.outputs,
        "data-class": flags.data_class,
        "retries": flags.retries,
    }
    for option, value in told.items():
        if value is not None:
            yield Given(option=option, value=str(value), where=COMMAND_LINE)


def read_file(name: str, args: Sequence[str], shell: Shell) -> Read:
    """A script in a file, or on standard input where it is called `-`.

    Raises:
        ValueError: it cannot be read, or is no batch script.
    """
    if name == "-":
        text = shell.stdin.read(TEXT_MAX)
        return Read(script=script.read(text), name="sbatch", args=tuple(args))
    file = shell.folder / name
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            text = opened.read(TEXT_MAX)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise ValueError(f"batch script {shown(name)} cannot be read: {why}") from None
    return Read(script=script.read(text), name=file.name, args=tuple(args))


def _script(given: Sequence[Given], rest: Sequence[str], shell: Shell) -> Read:
    command = next((one.value for one in given if one.option == "wrap"), None)
    if command is None:
        return read_file(*((rest[0], rest[1:]) if rest else ("-", ())), shell)
    if rest:
        raise ValueError(f"{shown(rest[0])} is one too many; --wrap is the script")
    return Read(script=script.read(script.wrapped(command)), name="wrap", args=())


def _translated(read: Read, chosen: Chosen, client: Client, shell: Shell) -> Translation:
    submitted = Submitted(
        name=read.name,
        folder=shell.folder,
        args=read.args,
        user=shell.environ.get("USER", "user"),
        host=os.uname().nodename,
    )
    try:
        return translate(read.script, chosen, submitted, _known(chosen, client, shell))
    except ValueError as error:
        raise RefusedError("bad-sbatch", f"{error}.") from None


def _known(chosen: Chosen, client: Client, shell: Shell) -> Known:
    grants = client.whoami().grants
    named = "account" in chosen.given
    return Known(
        pools=client.pools(),
        projects=tuple(sorted({one.scope for one in grants if one.role in PROJECT_ROLES})),
        allocations=tuple(one.allocation.id for one in client.allocations()) if named else (),
        tables=tables(shell.environ),
    )


def tables(environ: Mapping[str, str]) -> Tables:
    """The user's `sbatch.toml`, beside the configuration; one that is not there says nothing.

    Raises:
        RefusedError: `not-configured`: it is there and cannot be used.
    """
    file = config.path(environ).with_name("sbatch.toml")
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tables()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not TOML: {error}"
        raise RefusedError("not-configured", f"{file} cannot be read: {why}.") from None
    read: dict[str, dict[str, tuple[str, ...]]] = {}
    for name, rows in data.items():
        if name not in _TABLES or not isinstance(rows, dict):
            raise RefusedError(
                "not-configured", f"{file} has {shown(name)}; it holds tables {', '.join(_TABLES)}."
            )
        read[name] = {key: _texts(value, f"{file} {name}.{key}") for key, value in rows.items()}
    return Tables(**read)


def _texts(value: object, where: str) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(isinstance(one, str) for one in listed):
        raise RefusedError("not-configured", f"{where} must be a text or a list of texts.")
    return tuple(listed)


def _check_stops(report: Report, *, anyway: bool) -> None:
    if anyway or not report.stops:
        return
    what = "; ".join(f"{one.said}: {one.note}" for one in report.stops)
    raise RefusedError(
        "cannot-be-kept",
        f"Nothing was submitted, since the job would not be what the script asks for ({what}); "
        "--anyway submits it without.",
    )


def _wait(client: Client, job: str) -> int:
    """Until the job has ended; the highest exit code of its tasks."""
    for _ in client.follow_events(job):
        pass
    tasks = client.job(job).tasks
    return max((1 if task.exit_code is None else task.exit_code for task in tasks), default=1)


# ---- what people see -----------------------------------------------------------------------------


def emit_report(shell: Shell, report: Report) -> None:
    """The report, for people, beside the answer."""
    from dure.cli.render import console  # noqa: PLC0415 (only where it is shown)

    _show_report(console(shell.stderr), report)


def _show_report(to: Console, report: Report) -> None:
    rows = [(one.where, one.said, one.verdict, one.note) for one in report.lines]
    to.print(table(("where", "what", "becomes", "note"), rows))
    line(to, f"{report.summary}.")


def _show_dry(to: Console, outcome: Outcome, client: Client, now_ms: int) -> None:
    _show_report(to, outcome.report)
    forecast = outcome.forecast
    assert forecast is not None
    if forecast.refusal:
        line(to, f"It would be refused: {forecast.refusal.sentence}")
    elif forecast.options:
        best = forecast.options[0]
        units = {one.unit for one in client.allocations()}
        cost = f"; at most {amount(best.hold, units.pop())}" if len(units) == 1 else ""
        when = submit.start_text(best.starts_ms, now_ms)
        where = f"{best.pool_id} of {best.operator_id}"
        line(to, f"Nothing was submitted. Soonest start: {when}, in {where}{cost}.")
    for stop in outcome.report.stops:
        line(to, f"{stop.said} keeps it from being submitted, unless --anyway is given.")
