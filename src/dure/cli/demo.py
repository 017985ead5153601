"""`dure demo`: the demo as a command, and what it prints at the end."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.render import amount, console, line, plain, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.errors import RefusedError
from dure.fleet import EngineKind
from dure.life import EndCause
from dure.units import MS_PER_S, gpu_time_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dure.demo.checks import Check
    from dure.demo.outcome import Outcome
    from dure.federation import Federation, Played
    from dure.views import AttemptView, JobView

SCENARIO = "korea"
WORK = Path(__file__).parents[1] / "demo" / "work"


def demo(
    ctx: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="DIR", help="Keep everything here; default: nowhere."),
    ] = None,
    *,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the federation running until Ctrl-C.")
    ] = False,
    engines: Annotated[
        str,
        typer.Option(
            "--engines",
            metavar="KINDS",
            help="Of slurm, ray, local, by commas: real clusters of these kinds play some sites.",
        ),
    ] = "local",
    output: OutputOption = Output.TABLE,
) -> None:
    """Run a federation on this machine, real work on it, and check every claim. Takes a minute."""
    from dure.demo import clusters  # noqa: PLC0415 (keeps `dure --help` quick)

    shell = shell_of(ctx)
    _check_ready(data)
    kinds = clusters.read_kinds(engines)
    clusters.check_installed(kinds)
    progress = console(shell.stdout if output is Output.TABLE else shell.stderr)
    with _interruptible(), ExitStack() as stack:
        if data is None:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dure-demo-")))
        federation, checked = _run(stack, shell, progress, (data.absolute(), kinds))
        if output is Output.JSON:
            from pydantic_core import to_json  # noqa: PLC0415 (only where something is shown)

            print(to_json(checked, indent=2).decode(), file=shell.stdout, flush=True)
        else:
            _report(progress, checked)
        if keep:
            _keep(shell, progress, federation)
    if not checked.ok:
        raise typer.Exit(1)


def _check_ready(data: Path | None) -> None:
    if find_spec("sklearn") is None:
        raise RefusedError(
            "no-scikit-learn",
            "The demo's jobs train on scikit-learn's digits; install it with "
            "pip install 'dure[demo]'.",
        )
    if data is not None and data.exists() and (not data.is_dir() or any(data.iterdir())):
        raise RefusedError(
            "not-empty", f"{data} is in use; the demo starts anew, so name a folder to make."
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """What `--output json` prints: all that was seen, and every claim with its verdict."""

    ok: bool
    wall_s: float
    """From the start of the first process to the last check."""
    checks: tuple[Check, ...]
    outcome: Outcome


def _run(
    stack: ExitStack, shell: Shell, progress: Console, made_of: tuple[Path, Sequence[EngineKind]]
) -> tuple[Federation, Checked]:
    """The demo itself. The federation goes on until the stack closes."""
    from dure import scenario as scenarios  # noqa: PLC0415 (as all below: quick help)
    from dure.demo import checks, clusters, screen, story  # noqa: PLC0415
    from dure.federation import LOCAL_SETTINGS, Federation, free_port, play  # noqa: PLC0415

    began_s = time.monotonic()
    data, kinds = made_of
    loaded = scenarios.load(scenarios.find(SCENARIO))
    with screen.screen(progress) as shown:
        played = clusters.cast(kinds, play(loaded, shell.now_ms(), gpus=False))
        if real := [site for site in played if site.engine is not EngineKind.LOCAL]:
            who = ", ".join(f"{site.operator} ({site.engine})" for site in real)
            shown.say(f"Starting real clusters for {who}")
        federation = Federation(
            data=data,
            scenario=loaded,
            port=free_port(),
            played=played,
            say=shell.say,
            settings=clusters.SETTINGS if real else LOCAL_SETTINGS,
            real=stack.enter_context(clusters.staged(played)),
        )
        stack.callback(story.end_all, federation)
        shown.say(f"Starting a control plane and {len(federation.played)} operators' agents")
        stack.enter_context(federation)
        for site in federation.played:
            shown.say(_slots(site))
        with story.begun(federation, shown, shell.now_ms()) as told:
            outcome = story.perform(told)
    found = checks.check_all(outcome)
    return federation, Checked(
        ok=all(check.ok for check in found),
        wall_s=time.monotonic() - began_s,
        checks=found,
        outcome=outcome,
    )


def _slots(site: Played) -> str:
    each = max(1, round(site.stands_for / site.slots))
    slots = "slots" if site.engine is EngineKind.LOCAL else f"slots of {site.engine.title()}"
    return (
        f"{site.operator}: {site.slots} {slots} play {site.stands_for:,} {site.gpu_model.upper()}; "
        f"a slot stands for {each:,} GPUs"
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the demo in order; later ones do not disturb that."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def stop(*_: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _keep(shell: Shell, to: Console, federation: Federation) -> None:
    """Leave the federation running until Ctrl-C."""
    from dure.demo.cast import STARTUP  # noqa: PLC0415 (keeps `dure --help` quick)

    line(to, "")
    tokens = federation.data / "tokens"
    line(to, f"The federation goes on until Ctrl-C. Its API is at {federation.url}; tokens are in")
    for file in (federation.token_file, *sorted(tokens.iterdir())):
        line(to, f"  {file}")
    line(to, "Look around as the startup's PI, in another terminal:")
    line(to, f"  dure login {federation.url} < {tokens / STARTUP.pi.id}")
    line(to, f"  dure submit {WORK / 'sweep' / 'job.yaml'}")
    line(to, "  dure jobs")
    with suppress(KeyboardInterrupt):
        federation.keep(lambda: False)
    shell.say("Stopping ...")


# ---- what people see -----------------------------------------------------------------------------


def _report(to: Console, checked: Checked) -> None:
    outcome = checked.outcome
    _heading(to, "Jobs")
    rows = [row for job in outcome.jobs for row in _rows(outcome, job)]
    if outcome.refusal is not None:
        rows.append(("too-much", "-", "-", "-", "-", "-", "refused"))
    columns = ("job", "ran on", "GPUs", "max wait", "GPU-time", "charged", "result")
    to.print(table(columns, rows, right={"GPUs", "max wait", "GPU-time", "charged"}))
    _heading(to, "Why there")
    for job in outcome.jobs:
        for sentence in dict.fromkeys(_reasons(job)):
            _paragraph(to, f"{job.summary.name}: {sentence}")
    _show_trained(to, outcome)
    _show_lending(to, outcome)
    _show_noes(to, outcome)
    _heading(to, "Allocations")
    to.print(_allocations(outcome))
    _show_audit(to, outcome)
    _heading(to, "Checks")
    for check in checked.checks:
        _paragraph(to, f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.seen}", 6)
    failed = sum(not check.ok for check in checked.checks)
    verdict = f"{failed} of {len(checked.checks)} checks failed" if failed else "Every check holds"
    line(to, "")
    line(to, f"{verdict}, after {checked.wall_s:.0f} s.")
    _heading(to, "Next")
    _next(to)


def _heading(to: Console, text: str) -> None:
    to.print()
    to.print(text, style="bold")


def _paragraph(to: Console, text: str, indent: int = 2) -> None:
    """Wrapped to the width, its further lines indented."""
    for part in wrap(plain(text), to.width, subsequent_indent=" " * indent):
        line(to, part)


def _reasons(job: JobView) -> Iterable[str]:
    return (attempt.placed.sentence for task in job.tasks for attempt in task.attempts)


def _rows(outcome: Outcome, job: JobView) -> Iterator[Sequence[object]]:
    """A line for each attempt; an array's attempts in one pool make one line."""
    runs = [(n, run) for task in job.tasks for n, run in enumerate(task.attempts, 1)]
    groups: dict[object, list[AttemptView]] = {}
    for number, run in runs:
        groups.setdefault((number, run.operator, run.pool), []).append(run)
    waits_ms = dict(_waits_ms(job))
    for group in groups.values():
        gpus = job.spec.resources.gpus
        waited = [waits_ms[run.id] for run in group if run.id in waits_ms]
        charge = sum(run.charge or 0 for run in group)
        ours = group[0].cause in {EndCause.NODE_FAILED, EndCause.RECALLED, EndCause.LOST}
        yield (
            job.summary.name,
            f"{group[0].operator}/{group[0].pool}",
            gpus if len(group) == 1 else f"{len(group)} x {gpus}",
            f"{max(waited) / MS_PER_S:.1f} s" if waited else "-",
            f"{sum(run.gpu_ms or 0 for run in group) / MS_PER_S:.1f} s",
            "absorbed" if ours and not charge else amount(charge, job.unit),
            _result(outcome, job, group[-1]),
        )


def _waits_ms(job: JobView) -> Iterator[tuple[str, int]]:
    """By attempt: how long its task had waited, since it was accepted or its last attempt ended."""
    for task in job.tasks:
        since_ms = job.summary.accepted_ms
        for run in task.attempts:
            if run.started_ms is not None:
                yield run.id, run.started_ms - since_ms
            since_ms = run.ended_ms or since_ms


def _result(outcome: Outcome, job: JobView, last: AttemptView) -> str:
    if last.cause is None:
        return "has not ended"
    if last.cause is EndCause.NODE_FAILED:
        return "node killed"
    if last.cause is EndCause.RECALLED:
        return "called back"
    if last.cause is EndCause.LOST:
        return "site lost"
    if last.cause is EndCause.ERRED:
        return f"exit code {last.exit_code}"
    if job.summary.name == "sweep" and outcome.sweep:
        return f"best {max(point.accuracy for point in outcome.sweep):.4f}"
    if job.summary.name == "gang" and outcome.gang and outcome.gang.accuracy is not None:
        return f"accuracy {outcome.gang.accuracy:.4f}"
    return last.cause.value


def _show_trained(to: Console, outcome: Outcome) -> None:
    """What came out of the trainings."""
    _heading(to, "Trained")
    if outcome.sweep:
        best = max(outcome.sweep, key=lambda point: point.accuracy)
        _paragraph(
            to,
            f"sweep: the best of {len(outcome.sweep)} models is right on {best.accuracy:.2%} of "
            f"images that it has not seen (C = {best.c:g}, gamma = {best.gamma:g}).",
        )
    gang = outcome.gang
    if gang is None or gang.broken is None or gang.accuracy is None or gang.loss is None:
        return
    _paragraph(
        to,
        f"gang: node {gang.broken.node} was killed after epoch {gang.broken.epoch_seen}; it "
        f"resumed from epoch {gang.resumed_from_epoch} and is right on {gang.accuracy:.2%} of "
        f"images that it has not seen (loss {gang.loss:.4f}).",
    )


def _show_lending(to: Console, outcome: Outcome) -> None:
    """Who lent to whom, and what the borrower was told."""
    if outcome.books is None or not outcome.books.lending:
        return
    _heading(to, "Lent")
    for lent in outcome.books.lending:
        what = f"{gpu_time_text(lent.gpu_ms)} of {lent.pool}"
        line(to, f"  {lent.lender} to {lent.borrower}: {what}")
    if outcome.loan is not None and outcome.loan.notice is not None:
        _paragraph(to, f"The borrower's notice: {outcome.loan.notice.reason.sentence}")


def _show_noes(to: Console, outcome: Outcome) -> None:
    """Who may not run national core data, what was refused, what failed."""
    if outcome.plan is not None:
        _heading(to, "What `plan` said of the national core data")
        ruled = [one for one in outcome.plan.exclusions if one.reason.code == "excluded-by-rule"]
        names = ", ".join(f"{one.operator_id}/{one.pool_id}" for one in ruled)
        _paragraph(to, f"Excluded: {names}.")
        for one in ruled[:1]:
            _paragraph(to, f"The rule, for one of them: {one.reason.sentence}")
    if outcome.refusal is not None:
        _heading(to, "Refused")
        _paragraph(to, outcome.refusal.sentence)
    _heading(to, "Last lines of the failing job's log")
    for text in outcome.failing_log:
        line(to, f"  {text}")


def _allocations(outcome: Outcome) -> Table:
    views = outcome.books.allocations if outcome.books is not None else ()
    rows = [
        (
            one.allocation.id,
            amount(one.limit, one.unit),
            amount(one.held, one.unit),
            amount(one.spent, one.unit),
            amount(one.available, one.unit),
        )
        for one in views
    ]
    columns = ("allocation", "limit", "held", "spent", "available")
    return table(columns, rows, right={"limit", "held", "spent", "available"})


def _show_audit(to: Console, outcome: Outcome) -> None:
    if outcome.books is None:
        return
    audit = outcome.books.audit
    _heading(to, "Ledger, added up again from its journals")
    for total in audit.totals:
        line(to, f"  {total.unit}: debits {total.debits:,}, credits {total.credits:,}")
    intact = "intact" if audit.intact else f"{len(audit.findings)} findings"
    line(to, f"  {audit.journals} journals, chain {intact}, {len(audit.open_holds)} holds open")
    line(to, f"  chain head {audit.head_seq}:{audit.chain_head}")


def _next(to: Console) -> None:
    for command, what in (
        ("dure demo --engines slurm,ray,local", "the same on real clusters, made here"),
        ("dure demo --keep", "the same, left running, with tokens to look around with"),
        ("dure up", "a federation of your own; dure-data/admin.token lets you in:"),
        ("dure login http://127.0.0.1:8470 < dure-data/admin.token", ""),
        ("dure submit --gpus 2 --nodes 2 --time 1:00:00 -- python train.py", ""),
        ("dure plan, jobs, why, logs -f, usage", "as a member of a project that holds GPUs"),
    ):
        line(to, f"  {command:38}{what}".rstrip())
    line(to, f"  The demo's job files are in {WORK}; docs/ tells the journey of a job.")
