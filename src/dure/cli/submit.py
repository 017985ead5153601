"""`dure submit` and `dure plan`: the same arguments; one commits, the other only says."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dure.allocations import BudgetUnit
from dure.cli import config
from dure.cli.flags import Flags, WithCommand, drafts, with_flags
from dure.cli.render import amount, clock, emit, line, progress, span, table
from dure.cli.shell import Output, Shell, shell_of
from dure.draft import Draft, requests
from dure.errors import RefusedError
from dure.jobs import JobSpec, Resources
from dure.people import PROJECT_ROLES
from dure.text import shown
from dure.units import duration
from dure.views import Accepted, PoolView, Submission

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dure.client import Client
    from dure.scheduling.world import Forecast, Option

KEY_MAX = 128
"""What the API takes: visible ASCII characters."""


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("submit", cls=WithCommand)(with_flags(submit))
    app.command("plan", cls=WithCommand)(with_flags(plan))


def submit(ctx: typer.Context, flags: Flags, command: tuple[str, ...] | None) -> None:
    """Submit a job: FILE, or flags and -- COMMAND. --gpus counts the GPUs of each node."""
    shell = shell_of(ctx)
    if flags.sbatch:
        from dure.cli import sbatch  # noqa: PLC0415 (it is made of this module's own steps)

        sbatch.submit_with_flags(shell, flags, command or ())
        return
    made = drafts(flags, command, shell)
    key = checked_key(flags.key)
    with shell.client() as client:
        made = with_project(made, client, shell)
        # Everything is checked before anything is uploaded.
        requests(made, shell.environ, [None] * len(made))
        workdirs = upload(made, client, shell)
        submission = Submission(requests(made, shell.environ, workdirs))
        accepted = submit_once(client, submission, key)
    emit(shell, flags.output, accepted, lambda to: _show_accepted(to, accepted))


def plan(ctx: typer.Context, flags: Flags, command: tuple[str, ...] | None) -> None:
    """Say where and when a job could run, at what cost, and what is excluded. Commits nothing."""
    shell = shell_of(ctx)
    if flags.sbatch:
        from dure.cli import sbatch  # noqa: PLC0415 (as above)

        sbatch.submit_with_flags(shell, replace(flags, dry_run=True), command or ())
        return
    made = drafts(flags, command, shell)
    with shell.client() as client:
        made = with_project(made, client, shell)
        asked = requests(made, shell.environ, [None] * len(made))
        planned = [Planned(one.spec.name, client.plan(one.spec)) for one in asked]
        tables = flags.output is Output.TABLE
        units = [_unit(client, one.spec) if tables else None for one in asked]
        pools = _pools(client, planned) if tables else {}

    def people(to: Console) -> None:
        for one, spec, unit in zip(planned, (one.spec for one in asked), units, strict=True):
            if len(planned) > 1:
                line(to, f"{one.name}:")
            _show_forecast(to, one.forecast, unit, shell.now_ms())
            _show_unforeseen(to, one.forecast, spec.resources, pools)

    emit(shell, flags.output, planned, people)


@dataclass(frozen=True, slots=True)
class Planned:
    """One job's forecast, as `--output json` lists them."""

    name: str
    forecast: Forecast


def _unit(client: Client, spec: JobSpec) -> BudgetUnit | None:
    """The unit in which the job would be charged; None where its allocations differ in it."""
    found = client.allocations(project=spec.project)
    units = {one.unit for one in found if spec.allocation in {None, one.allocation.id}}
    return units.pop() if len(units) == 1 else None


def _pools(client: Client, planned: Sequence[Planned]) -> dict[str, PoolView]:
    """Pools by id, asked for only where a start that is not foreseen is to be explained."""
    starts = [option.starts_ms for one in planned for option in one.forecast.options]
    return {one.pool: one for one in client.pools()} if None in starts else {}


def checked_key(given: str | None) -> str:
    """The idempotency key that was given, or a new one. Raises RefusedError."""
    if given is None:
        return str(uuid.uuid4())
    if not 1 <= len(given) <= KEY_MAX or any(not "!" <= char <= "~" for char in given):
        raise RefusedError(
            "bad-input", f"--key must be 1 to {KEY_MAX} visible ASCII characters; my-sweep-1 say."
        )
    return given


def submit_once(client: Client, submission: Submission, key: str) -> Accepted:
    """Submit; where no answer comes, say how to repeat it safely. Raises the client's errors."""
    from dure.client import UnreachableError  # noqa: PLC0415 (keeps `dure --help` quick)

    try:
        return client.submit(submission, key=key)
    except UnreachableError as error:
        raise UnreachableError(
            f"{error}; whether the job was accepted is not known, so repeat the same command "
            f"with --key {key}: it is accepted once at most."
        ) from error


def with_project(made: tuple[Draft, ...], client: Client, shell: Shell) -> tuple[Draft, ...]:
    """Drafts that name no project get the configured one, or the caller's only one."""
    if all(one.project for one in made):
        return made
    default = config.project(shell.environ) or _only_project(client)
    return tuple(one if one.project else replace(one, project=default) for one in made)


def _only_project(client: Client) -> str:
    grants = client.whoami().grants
    mine = sorted({grant.scope for grant in grants if grant.role in PROJECT_ROLES})
    if len(mine) == 1:
        return mine[0]
    which = f"you are in {', '.join(mine)}" if mine else "you are a member of none"
    raise RefusedError("bad-input", f"Say which project it is for with --project; {which}.")


def upload(made: Sequence[Draft], client: Client, shell: Shell) -> list[str | None]:
    """The digests of the drafts' folders, each folder read once and uploaded to its project."""
    from dure import workdir  # noqa: PLC0415 (only where there is a folder)

    trees: dict[Path, workdir.Tree] = {}
    digests: dict[tuple[str, Path], str] = {}
    found: list[str | None] = []
    for one in made:
        if one.workdir is None:
            found.append(None)
            continue
        folder, project = _home(one.workdir), one.project or ""
        tree = trees.setdefault(folder, trees.get(folder) or workdir.collect(folder))
        if (project, folder) not in digests:
            size = sum(entry.size for entry in tree.manifest.files)
            with progress(shell, "Uploading", size) as advance:
                digests[project, folder] = workdir.upload(client, project, tree, advance)
        found.append(digests[project, folder])
    return found


def _home(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError:
        raise RefusedError(
            "bad-workdir", f"workdir {shown(str(folder))} is in no known home."
        ) from None


def _show_accepted(to: Console, accepted: Accepted) -> None:
    rows = [(job.id, job.name, job.project, job.state, job.tasks) for job in accepted.jobs]
    to.print(table(("job", "name", "project", "state", "tasks"), rows, right={"tasks"}))
    if accepted.repeated:
        line(to, "This key was used before; these are the jobs it stands for.")


def _show_forecast(to: Console, forecast: Forecast, unit: BudgetUnit | None, now_ms: int) -> None:
    if forecast.refusal:
        line(to, f"It would be refused: {forecast.refusal.sentence}")
    if forecast.options:
        to.print(_options(forecast.options, unit, now_ms))
    if forecast.exclusions:
        line(to, "Excluded:")
        rows_out = [
            (one.operator_id, one.pool_id, one.reason.sentence) for one in forecast.exclusions
        ]
        to.print(table(("operator", "pool", "why"), rows_out))


def _options(options: Sequence[Option], unit: BudgetUnit | None, now_ms: int) -> Table:
    """Where it may run, the soonest first. Ranges of the start only where one has to wait."""
    ranges = [
        (
            _range(option.likely_from_ms, option.likely_until_ms, now_ms),
            _range(option.surely_from_ms, option.surely_until_ms, now_ms),
        )
        for option in options
    ]
    waits = any(likely or surely for likely, surely in ranges)
    rows = [
        (
            option.operator_id,
            option.pool_id,
            option.gpu_model,
            start_text(option.starts_ms, now_ms),
            *(both if waits else ()),
            amount(option.hold, unit) if unit else f"{option.hold:,}",
        )
        for option, both in zip(options, ranges, strict=True)
    ]
    shown_ranges = ("one in two", "nine in ten") if waits else ()
    columns = ("operator", "pool", "GPU model", "start", *shown_ranges, "cost at most")
    return table(columns, rows, right={"cost at most"})


def _show_unforeseen(
    to: Console, forecast: Forecast, asked: Resources, pools: Mapping[str, PoolView]
) -> None:
    """Why no start is foreseen, as far as pools tell; a refusal says it for all of them."""
    if forecast.refusal:
        return
    by_why: dict[str, list[str]] = {}
    for option in forecast.options:
        pool = pools.get(option.pool_id)
        if option.starts_ms is None and pool and (why := _unforeseen(pool, asked)):
            by_why.setdefault(why, []).append(option.pool_id)
    for why, ids in by_why.items():
        line(to, f"Not foreseen, as {why}: {', '.join(ids)}.")


def _unforeseen(pool: PoolView, asked: Resources) -> str | None:
    if pool.silent:
        return "its site is silent"
    if not pool.gpus_in_service:
        return "none of its GPUs is in service yet"
    if not pool.nodes_up:
        return "no site reports it"
    if pool.nodes_up < asked.nodes:
        return f"fewer than {asked.nodes:,} of its nodes are up"
    return None


def start_text(starts_ms: int | None, now_ms: int) -> str:
    """When it starts: `now`, an instant, or that none is foreseen."""
    if starts_ms is None:
        return "not foreseen"
    if starts_ms <= now_ms:
        return "now"
    return f"{clock(starts_ms, now_ms)} (in {duration((starts_ms - now_ms) / 1_000)})"


def _range(from_ms: int | None, until_ms: int | None, now_ms: int) -> str | None:
    """The range in which it starts; none where no start is foreseen, or it starts now."""
    if from_ms is None or until_ms is None or until_ms <= now_ms:
        return None
    return span(from_ms, until_ms, now_ms)
