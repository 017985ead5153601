"""`dure fleet` (the plan, offline) and `dure pools` (what stands and is used now)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.render import emit, instant, line, table
from dure.cli.shell import Output, OutputOption, shell_of
from dure.cli.values import instant_ms

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dure.fleet import FleetTotals
    from dure.views import PoolView, SiteView

_KEY_CHARS = 8
"""Enough of a public key to tell it from others; `--output json` has all of it."""


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("fleet")(fleet)
    app.command("pools")(pools)
    app.command("sites")(sites)


def fleet(
    ctx: typer.Context,
    at: Annotated[str | None, typer.Option(help="Date; default: today.", metavar="DATE")] = None,
    scenario: Annotated[str, typer.Option(help="A name or a TOML file.")] = "korea",
    output: OutputOption = Output.TABLE,
) -> None:
    """Add up a scenario's GPUs by operator, owner, model and phase. Needs no server."""
    from dure import fleet as plan  # noqa: PLC0415 (keeps `dure --help` quick, as does the next)
    from dure import scenario as scenarios  # noqa: PLC0415

    shell = shell_of(ctx)
    at_ms = instant_ms("at", at)
    loaded = scenarios.load(scenarios.find(scenario))
    totals = plan.totals(loaded.fleet, shell.now_ms() if at_ms is None else at_ms)
    emit(shell, output, totals, lambda to: _show_totals(to, totals))


def pools(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List pools as planned and as their sites report them now."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.pools()
    emit(shell, output, found, lambda to: to.print(_pools(found)))


def sites(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List operators' sites: when each was heard, and what is wrong there."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.sites()
    emit(shell, output, found, lambda to: _show_sites(to, found))


def _show_sites(to: Console, found: tuple[SiteView, ...]) -> None:
    rows = [
        (
            one.operator,
            one.cluster,
            one.engine,
            "never" if one.received_ms is None else instant(one.received_ms),
            f"{one.attempts:,}",
            f"{one.public_key[:_KEY_CHARS]}..." if one.public_key else "none",
            "well" if one.is_well else _trouble(one),
        )
        for one in found
    ]
    heads = ("operator", "cluster", "engine", "heard", "attempts", "signs with", "state")
    to.print(table(heads, rows, right={"attempts"}))
    for one in found:
        for sentence in one.drift:
            line(to, f"{one.cluster}: {sentence}")
        for attempt in one.strangers:
            line(to, f"{one.cluster}: {attempt} is not this federation's; it is left alone.")
        for attempt in one.late:
            line(to, f"{one.cluster}: {attempt} was given up and still runs; it is being stopped.")


def _trouble(site: SiteView) -> str:
    if site.received_ms is None:
        return "never heard"
    if site.silent:
        return "silent"
    if not site.engine_answered:
        return "its engine does not answer"
    counts = (("drift", site.drift), ("strangers", site.strangers), ("late", site.late))
    return ", ".join(f"{name} {len(what)}" for name, what in counts if what)


def _show_totals(to: Console, totals: FleetTotals) -> None:
    line(
        to,
        f"{totals.gpus:,} GPUs on {instant(totals.at_ms)}, {totals.in_service:,} in service.",
    )
    for name, breakdown in (
        ("operator", totals.by_operator),
        ("owner", totals.by_owner),
        ("model", totals.by_model),
        ("phase", totals.by_phase),
    ):
        rows = [(one.id, f"{one.gpus:,}", f"{one.in_service:,}") for one in breakdown]
        line(to, "")
        to.print(table((name, "GPUs", "in service"), rows, right={"GPUs", "in service"}))


def _pools(found: tuple[PoolView, ...]) -> Table:
    rows = [
        (
            one.operator,
            one.pool,
            one.gpu_model,
            f"{one.gpus_in_service:,}",
            f"{one.gpus_up:,}",
            f"{one.gpus_used:,}",
            "silent" if one.silent else "",
        )
        for one in found
    ]
    columns = ("operator", "pool", "GPU model", "in service", "up", "used", "")
    return table(columns, rows, right={"in service", "up", "used"})
