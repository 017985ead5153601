"""`dure usage`, `statement`, `lending`, `audit`, `acts`, `allocation`: who used, and may, what."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from dure.allocations import Allocation, AllocationKind
from dure.cli.private import replace_private
from dure.cli.render import amount, emit, instant, line, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.cli.values import instant_ms, milli, refusing
from dure.draft import gpu_model_from_text
from dure.errors import RefusedError
from dure.text import shown
from dure.units import gpu_time_text, ucredit_from_text
from dure.views import ActPage, AllocationView, LendingStatement, Statement, UsageLine, UsagePage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dure.audit import Audit
    from dure.journal import Journal

Anchor = tuple[int, str]

_ANCHOR: Final = re.compile(r"\A([1-9][0-9]{0,17}):([0-9a-f]{64})\Z")

DateOption = Annotated[str | None, typer.Option(metavar="DATE", help="2027-01-01 say.")]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("usage")(usage)
    app.command("statement")(statement)
    app.command("lending")(lending)
    app.command("audit")(audit)
    app.command("acts")(acts)
    app.command("reverse")(reverse)
    group = typer.Typer(help="What projects hold.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_)
    group.command("show")(show)
    app.add_typer(group, name="allocation")


def usage(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    job: Annotated[str | None, typer.Option(help="Only of this job.")] = None,
    after: Annotated[str | None, typer.Option(help="Cursor of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500, help="Lines a page.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List what attempts used and what was charged, newest first."""
    shell = shell_of(ctx)
    with shell.client() as client:
        page = client.usage(project=project, job=job, after=after, limit=limit)
    emit(shell, output, page, lambda to: _show_usage(to, page))


def statement(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(help="Of this project.")] = None,
    operator: Annotated[str | None, typer.Option(help="Of this operator.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="DATE", help="Since.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Until before.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Sum up a window for a project, an operator or, with neither, the nation."""
    shell = shell_of(ctx)
    from_ms, until_ms = instant_ms("from", from_), instant_ms("until", until)
    with shell.client() as client:
        sums = client.statement(
            project=project, operator=operator, from_ms=from_ms, until_ms=until_ms
        )
    emit(shell, output, sums, lambda to: _show_statement(to, sums))


def lending(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(help="Lent or borrowed by this project.")] = None,
    operator: Annotated[str | None, typer.Option(help="Lent or borrowed by this operator.")] = None,
    from_: Annotated[str | None, typer.Option("--from", metavar="DATE", help="Since.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Until before.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Sum up which shares lent GPUs to which others, as owners settle it with each other."""
    shell = shell_of(ctx)
    from_ms, until_ms = instant_ms("from", from_), instant_ms("until", until)
    with shell.client() as client:
        sums = client.lending(
            project=project, operator=operator, from_ms=from_ms, until_ms=until_ms
        )
    emit(shell, output, sums, lambda to: _show_lending(to, sums))


def reverse(
    ctx: typer.Context,
    journal: Annotated[int, typer.Argument(min=1, help="Its number; `dure usage` names it.")],
    reason: Annotated[str, typer.Option(help="Why; it is kept in the book.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a charge back, or take an award back, by a journal of its own (programme office)."""
    shell = shell_of(ctx)
    with shell.client() as client:
        made = client.reverse(journal, reason)
    emit(shell, output, made, lambda to: line(to, f"Journal {made.seq} reverses {journal}."))


def audit(
    ctx: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(help="Read the database of a data folder, offline.", metavar="DIR"),
    ] = None,
    file: Annotated[Path | None, typer.Option(help="Read an export: one journal a line.")] = None,
    anchor: Annotated[
        str | None,
        typer.Option(help="A journal that the book must still hold.", metavar="SEQ:HASH"),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="Keep all journals in FILE, for --file.", metavar="FILE")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Recompute the whole account book from its journals. Exit code 1 when anything is wrong."""
    shell = shell_of(ctx)
    if sum(one is not None for one in (data, file, export)) > 1:
        raise RefusedError(
            "bad-input", "--data, --file and --export exclude each other; name one book."
        )
    known = _anchor(anchor)
    if data is not None:
        found = _audit_database(shell.folder / data, known)
    elif file is not None:
        found = _audit_export(shell.folder / file, known)
    else:
        found = _audit_online(shell, known, export)
    emit(shell, output, {"intact": found.intact, "audit": found}, lambda to: _show_audit(to, found))
    if not found.intact:
        raise typer.Exit(1)


def _anchor(text: str | None) -> Anchor | None:
    if text is None:
        return None
    if not (match := _ANCHOR.match(text)):
        raise RefusedError(
            "bad-input",
            f"--anchor {shown(text)} is no anchor; write a journal's number, a colon, its hash.",
        )
    return int(match[1]), match[2]


def _audit_online(shell: Shell, anchor: Anchor | None, export: Path | None) -> Audit:
    """Audit what the API gives and, where asked, keep it: also where something is wrong with it."""
    from dure.audit import Auditor  # noqa: PLC0415 (keeps `dure --help` quick)
    from dure.journal import to_json  # noqa: PLC0415

    auditor = Auditor(anchor)

    def lines(journals: Iterator[Journal]) -> Iterator[str]:
        for journal in journals:
            auditor.add(journal)
            yield f"{to_json(journal)}\n"

    with shell.client() as client:
        if export is not None:
            replace_private(shell.folder / export, lines(client.all_journals()))
        else:
            for journal in client.all_journals():
                auditor.add(journal)
    found = auditor.result()
    if export is not None:
        shell.say(
            f"{export} holds the book up to journal {found.head_seq:,}; only you can read it."
        )
    return found


def _audit_database(data: Path, anchor: Anchor | None) -> Audit:
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415 (heavy, and only here)

    from dure.store import ledger, site_keys  # noqa: PLC0415
    from dure.store.where import existing  # noqa: PLC0415

    with existing(data) as database:
        try:
            with database.read() as connection:
                book = ledger.audit(connection, anchor)
                return replace(book, findings=(*book.findings, *site_keys.audit(connection)))
        except SQLAlchemyError:
            raise RefusedError(
                "bad-input", f"{database.name} is not a database of Dure's."
            ) from None


def _audit_export(path: Path, anchor: Anchor | None) -> Audit:
    from dure import audit as auditing  # noqa: PLC0415 (keeps `dure --help` quick)

    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            return auditing.audit_lines(lines, anchor)
    except OSError as error:
        raise RefusedError("bad-input", f"{path} cannot be read: {error.strerror}.") from None


def acts(
    ctx: typer.Context,
    after: Annotated[int | None, typer.Option(min=1, help="Cursor of the page before.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="Acts a page.")] = 100,
    output: OutputOption = Output.TABLE,
) -> None:
    """List who did what with a right that others lack, newest first (office and auditors)."""
    shell = shell_of(ctx)
    with shell.client() as client:
        page = client.acts(after=after, limit=limit)
    emit(shell, output, page, lambda to: _show_acts(to, page))


def create(  # noqa: PLR0913, PLR0917 (a command's parameters are its options)
    ctx: typer.Context,
    allocation: Annotated[str, typer.Argument(metavar="ID", help="Its id to be.")],
    project: Annotated[str, typer.Option(help="Whose it is.")],
    from_: Annotated[str, typer.Option("--from", metavar="DATE", help="First day.")],
    until: Annotated[str, typer.Option(metavar="DATE", help="The day after the last.")],
    credits_: Annotated[
        str | None, typer.Option("--credits", help="For hours: H100-hours, 1500 say.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="For capacity: how many GPUs.")] = None,
    gpu_model: Annotated[str | None, typer.Option(help="For capacity: of which model.")] = None,
    pool: Annotated[str | None, typer.Option(help="For capacity: in which pool.")] = None,
    subsidy: Annotated[str, typer.Option(help="Share the programme pays, 0 to 1.")] = "0",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make an allocation: of hours (--credits) or of capacity (--gpus, --gpu-model)."""
    shell = shell_of(ctx)
    if (credits_ is None) == (gpus is None):
        raise RefusedError("bad-input", "Give either --credits or --gpus, not both, not neither.")
    with refusing():
        asked = Allocation(
            id=allocation,
            project=project,
            kind=AllocationKind.CAPACITY if credits_ is None else AllocationKind.HOURS,
            starts_ms=instant_ms("from", from_) or 0,
            ends_ms=instant_ms("until", until) or 0,
            credit_ucredit=None if credits_ is None else ucredit_from_text(credits_),
            gpus=gpus,
            gpu_model=None if gpu_model is None else gpu_model_from_text(gpu_model),
            pool=pool,
            subsidy_milli=milli("subsidy", subsidy),
        )
    with shell.client() as client:
        made = client.award(asked)
    emit(shell, output, made, lambda to: to.print(_allocations((made,))))


def list_(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(help="Only of this project.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List allocations and what is left of them."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.allocations(project=project)
    emit(shell, output, found, lambda to: to.print(_allocations(found)))


def show(
    ctx: typer.Context,
    allocation: Annotated[str, typer.Argument(metavar="ID")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show an allocation: its window, limit, and what is held, spent and left."""
    shell = shell_of(ctx)
    with shell.client() as client:
        view = client.allocation(allocation)
    emit(shell, output, view, lambda to: _show_allocation(to, view))


# ---- what people see -----------------------------------------------------------------------------


def _allocations(found: tuple[AllocationView, ...]) -> Table:
    rows = [
        (
            one.allocation.id,
            one.allocation.project,
            one.allocation.kind,
            instant(one.allocation.ends_ms)[:10],
            amount(one.held, one.unit),
            amount(one.available, one.unit),
        )
        for one in found
    ]
    columns = ("allocation", "project", "kind", "until", "held", "left")
    return table(columns, rows, right={"held", "left"})


def _show_allocation(to: Console, view: AllocationView) -> None:
    one = view.allocation
    line(to, f"{one.id} of {one.project}, {one.kind}, {one.window}")
    if one.gpus is not None:
        line(to, f"{one.gpus:,} GPUs of {one.gpu_model} in {one.pool or 'any pool'}")
    rows = [
        (name, amount(value, view.unit))
        for name, value in (
            ("limit", view.limit),
            ("held", view.held),
            ("spent", view.spent),
            ("left", view.available),
        )
    ]
    to.print(table(("", "amount"), rows, right={"amount"}))


def _show_usage(to: Console, page: UsagePage) -> None:
    rows = [
        (
            one.job,
            one.task_index,
            f"{one.operator}/{one.gpu_model}",
            instant(one.ended_ms),
            one.cause,
            gpu_time_text(one.gpu_ms),
            _charge(one),
            one.journal,
        )
        for one in page.lines
    ]
    columns = ("job", "task", "where", "ended", "cause", "GPU time", "charge", "journal")
    to.print(table(columns, rows, right={"task", "GPU time", "charge", "journal"}))
    if page.next:
        line(to, f"More: --after {page.next}")


def _charge(one: UsageLine) -> str:
    if one.absorbed:
        return "absorbed"
    return "given back" if one.refund else amount(one.charge, one.unit)


def _show_statement(to: Console, sums: Statement) -> None:
    line(to, f"From {instant(sums.from_ms)} until {instant(sums.until_ms)}")
    rows = [
        (
            one.project,
            one.allocation,
            f"{one.operator}/{one.gpu_model}",
            one.attempts,
            gpu_time_text(one.gpu_ms),
            gpu_time_text(one.absorbed_gpu_ms),
            amount(one.charge, one.unit),
        )
        for one in sums.lines
    ]
    columns = ("project", "allocation", "where", "runs", "GPU time", "absorbed", "charge")
    to.print(table(columns, rows, right={"runs", "GPU time", "absorbed", "charge"}))
    if disputed := sum(one.disputed for one in sums.lines):
        line(to, f"{disputed} of these attempts are in dispute.")


def _show_lending(to: Console, sums: LendingStatement) -> None:
    line(to, f"From {instant(sums.from_ms)} until {instant(sums.until_ms)}")
    rows = [
        (
            one.lender,
            one.borrower,
            f"{one.pool}/{one.gpu_model}",
            one.attempts,
            gpu_time_text(one.gpu_ms),
        )
        for one in sums.lines
    ]
    columns = ("lender", "borrower", "where", "runs", "GPU time")
    to.print(table(columns, rows, right={"runs", "GPU time"}))


def _show_acts(to: Console, page: ActPage) -> None:
    rows = [(one.seq, instant(one.at_ms), one.person, one.token, one.sentence) for one in page.acts]
    to.print(table(("act", "when", "person", "with token", "what"), rows, right={"act"}))
    if page.next:
        line(to, f"More: --after {page.next}")


def _show_audit(to: Console, found: Audit) -> None:
    rows = [
        (
            one.unit,
            f"{one.debits:,}",
            f"{one.credits:,}",
            "yes" if one.debits == one.credits else "NO",
        )
        for one in found.totals
    ]
    columns = ("unit", "debits", "credits", "equal")
    to.print(table(columns, rows, right={"debits", "credits"}))
    line(to, f"{found.journals:,} journals, {len(found.open_holds):,} holds open")
    line(to, f"Chain head: {found.head_seq}:{found.chain_head}")
    for one in found.findings:
        line(to, f"{one.code}: {one.sentence}")
    line(to, "The book is intact." if found.intact else f"{len(found.findings)} findings.")
