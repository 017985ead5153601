"""`dure jobs`, `show`, `why`, `logs`, `cancel`, `recall`: jobs that were submitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dure.cli.render import amount, clock, emit, instant, line, plain, span, table, terminal_text
from dure.cli.shell import Output, OutputOption, shell_of
from dure.life import LIVE, State
from dure.units import duration, gpu_time_text
from dure.views import JobPage, JobSummary, JobView, Start, TaskView, Why

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TASKS_SHOWN: Final = 20
"""Tasks that `show` lists without --all; JSON has them all."""

PAGE: Final = 500
"""Jobs that `jobs --all` asks for at a time."""

_TROUBLED: Final = (State.FAILED, State.TIMED_OUT, State.UNKNOWN)

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id, j-812 say.")]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    for name, command in (
        ("jobs", jobs),
        ("show", show),
        ("why", why),
        ("logs", logs),
        ("cancel", cancel),
        ("recall", recall),
    ):
        app.command(name)(command)


def jobs(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE, help="Jobs a page.")] = 50,
    *,
    all_: Annotated[bool, typer.Option("--all", help="All pages, not one.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List jobs, newest first: where they run, or why they wait and about when they start.

    Elapsed is from acceptance to the end, or to now; `show` has the instants.
    """
    shell = shell_of(ctx)
    with shell.client() as client:
        ask = partial(client.jobs, project=project, state=state, limit=PAGE if all_ else limit)
        page = ask(after=after)
        found = list(page.jobs)
        while all_ and page.next:
            page = ask(after=page.next)
            found += page.jobs
    page = JobPage(tuple(found), page.next)
    emit(shell, output, page, lambda to: _show_page(to, page, shell.now_ms()))


def show(
    ctx: typer.Context,
    job: JobArgument,
    *,
    all_: Annotated[bool, typer.Option("--all", help=f"All its tasks, not {TASKS_SHOWN}.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a job: its state, where its attempts ran and why there, what it used."""
    shell = shell_of(ctx)
    with shell.client() as client:
        view = client.job(job)
    most = len(view.tasks) if all_ else TASKS_SHOWN
    emit(shell, output, view, lambda to: _show_job(to, view, most, shell.now_ms()))


def why(ctx: typer.Context, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Say why a job is where it is, and then all that happened to it."""
    shell = shell_of(ctx)
    with shell.client() as client:
        answer = client.why(job)
    emit(shell, output, answer, lambda to: _show_why(to, answer, shell.now_ms()))


def logs(
    ctx: typer.Context,
    job: JobArgument,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    task: Annotated[int, typer.Option(min=0, help="Index in the array.")] = 0,
    rank: Annotated[int, typer.Option(min=0, help="Which of its nodes.")] = 0,
    output: OutputOption = Output.TABLE,
) -> None:
    """Write what a task has written; as JSON, one chunk a line."""
    shell = shell_of(ctx)
    attempt = 1
    with shell.client() as client:
        read = client.follow_logs if follow else client.logs
        for chunk in read(job, task=task, rank=rank):
            if output is Output.JSON:
                from pydantic_core import to_json  # noqa: PLC0415 (keeps `dure --help` quick)

                shell.stdout.write(to_json(chunk).decode() + "\n")
            else:
                if chunk.attempt_number != attempt:
                    attempt = chunk.attempt_number
                    shell.say(f"-- attempt {attempt} --")
                on_terminal = shell.stdout.isatty()
                text = terminal_text(chunk.text) if on_terminal else chunk.text
                shell.stdout.write(text)
            shell.stdout.flush()


def cancel(ctx: typer.Context, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Cancel what of a job has not ended."""
    shell = shell_of(ctx)
    with shell.client() as client:
        summary = client.cancel(job)
    emit(shell, output, summary, lambda to: line(to, f"{summary.id} is {summary.state}."))


def recall(ctx: typer.Context, job: JobArgument, output: OutputOption = Output.TABLE) -> None:
    """Call a job's GPUs back: notice, grace, back to the queue (programme office)."""
    shell = shell_of(ctx)
    with shell.client() as client:
        summary = client.recall(job)
    emit(shell, output, summary, lambda to: line(to, f"{summary.id} is {summary.state}."))


# ---- what people see -----------------------------------------------------------------------------


def _show_page(to: Console, page: JobPage, now_ms: int) -> None:
    rows = [
        (
            job.id,
            job.name,
            job.project,
            job.submitter,
            job.state,
            f"{job.tasks:,}",
            _ran(job.accepted_ms, job.ended_ms, now_ms),
            ", ".join(job.pools) or None,
            job.reason.code if job.reason else None,
            _about(job.start, now_ms),
        )
        for job in page.jobs
    ]
    columns = (
        "job", "name", "project", "by", "state", "tasks", "elapsed", "where", "reason", "start",
    )  # fmt: skip
    to.print(table(columns, rows, right={"tasks", "elapsed"}))
    if page.next:
        line(to, f"More: --after {page.next}, or --all")


def _show_job(to: Console, view: JobView, most: int, now_ms: int) -> None:
    job = view.summary
    to.print(_facts(view, now_ms))
    tasks = _shown(view.tasks, most)
    rows = [row for task in tasks for row in _rows(task, now_ms)]
    if any(task.attempts for task in tasks):
        line(to, "")
        columns = ("task", "attempt", "where", "state", "started", "ran", "exit")
        to.print(table(columns, rows, right={"task", "attempt", "ran", "exit"}))
        last = next(task.attempts[-1] for task in reversed(tasks) if task.attempts)
        line(to, f"Why there: {last.placed.sentence}")
        if last.cause is None and last.lenders:
            names = ", ".join(f"{lent.lender} ({lent.gpus:,} GPUs)" for lent in last.lenders)
            line(to, f"On loan from {names}: it can be called back, with notice.")
        if last.detail:
            line(to, f"Its end: {last.detail}")
        if last.dispute:
            line(to, f"In dispute: {last.dispute}")
    reasons = [task.reason.sentence for task in tasks if task.reason]
    if reasons:
        line(to, f"Last reason: {reasons[-1]}")
    if len(tasks) < len(view.tasks):
        line(
            to,
            f"Shown are {len(tasks)} of {job.tasks:,} tasks, failed, then live ones first; "
            f"--all shows {'all' if len(view.tasks) == job.tasks else f'{len(view.tasks):,}'}.",
        )
    elif len(tasks) < job.tasks:
        line(to, f"Shown are the first {len(tasks):,} of {job.tasks:,} tasks.")


def _shown(tasks: Sequence[TaskView], most: int) -> Sequence[TaskView]:
    """At most so many: what one looks for in a long array before the rest; by index."""

    def rank(task: TaskView) -> tuple[bool, bool, int]:
        return task.state not in _TROUBLED, task.state not in LIVE, task.index

    return sorted(sorted(tasks, key=rank)[:most], key=lambda task: task.index)


def _rows(task: TaskView, now_ms: int) -> Iterator[Sequence[object]]:
    if not task.attempts:
        yield task.index, None, None, task.state, None, None, None
    for attempt in task.attempts:
        yield (
            task.index,
            attempt.number,
            f"{attempt.operator}/{attempt.pool}",
            attempt.cause or task.state,
            instant(attempt.started_ms),
            _ran(attempt.started_ms, attempt.ended_ms, now_ms),
            attempt.exit_code,
        )


def _facts(view: JobView, now_ms: int) -> Table:
    job, spec = view.summary, view.spec
    asked = spec.resources
    models = f" of {', '.join(asked.gpu_models)}" if asked.gpu_models else ""
    size = f"{asked.nodes} x {asked.gpus_per_node} GPUs{models}"
    counts = ", ".join(f"{count:,} {state}" for state, count in view.counts.items())
    facts = [
        ("job", f"{job.id} {job.name}"),
        ("state", job.state),
        *([("tasks", f"{job.tasks:,}: {counts}")] if job.tasks > 1 else []),
        ("project", f"{job.project}, paid by {job.allocation}, submitted by {job.submitter}"),
        (
            "asked",
            f"{size} for {duration(spec.walltime_s)}, {spec.tier}, data {spec.data_class}",
        ),
        ("accepted", instant(job.accepted_ms)),
        ("ended", instant(job.ended_ms)),
        *([("start", _starts(job.start, now_ms))] if job.start else []),
        ("waited", _waited(job, view.tasks, now_ms)),
        ("used", f"{gpu_time_text(view.gpu_ms)}, charged {amount(view.charge, view.unit)}"),
    ]
    made = table(("", ""), facts)
    made.show_header = False
    return made


def _waited(job: JobSummary, tasks: Sequence[TaskView], now_ms: int) -> str:
    """From acceptance to the first start; while nothing started, until now or the end."""
    starts = [a.started_ms for task in tasks for a in task.attempts if a.started_ms is not None]
    until_ms = min(starts, default=job.ended_ms or now_ms)
    return duration(max(0, until_ms - job.accepted_ms) / 1_000)


def _ran(started_ms: int | None, ended_ms: int | None, now_ms: int) -> str:
    if started_ms is None:
        return "-"
    return duration(max(0, (ended_ms or now_ms) - started_ms) / 1_000)


def _about(start: Start | None, now_ms: int) -> str | None:
    """About when it starts; what should have started by now is about to."""
    if start is None:
        return None
    return clock(start.expected_ms, now_ms) if start.expected_ms > now_ms else "soon"


def _starts(start: Start, now_ms: int) -> str:
    """When it starts, and how sure that is."""
    about = _about(start, now_ms)
    likely = span(start.likely_from_ms, start.likely_until_ms, now_ms)
    surely = span(start.surely_from_ms, start.surely_until_ms, now_ms)
    return (
        f"starts {about if about == 'soon' else f'about {about}'} "
        f"(one in two: {likely}; nine in ten: {surely})"
    )


def _show_why(to: Console, answer: Why, now_ms: int) -> None:
    line(to, f"{answer.job} is {answer.state}.")
    said: dict[str, list[int]] = {}
    for task in answer.tasks:
        if task.reason:
            said.setdefault(task.reason.sentence, []).append(task.index)
    for sentence, indices in said.items():
        who = f"Task {indices[0]}" if len(indices) == 1 else f"{len(indices)} tasks"
        line(to, sentence if len(answer.tasks) == 1 else f"{who}: {sentence}")
    for task in answer.tasks:
        if task.start:
            who = "It" if len(answer.tasks) == 1 else f"Task {task.index}"
            line(to, f"{who} {_starts(task.start, now_ms)}.")
    if answer.events:
        line(to, "")
        rows = [
            (
                instant(event.at_ms),
                "" if event.task_index is None else event.task_index,
                plain(event.state or ""),
                event.reason.sentence,
            )
            for event in answer.events
        ]
        to.print(table(("at", "task", "state", "what happened"), rows, right={"task"}))
