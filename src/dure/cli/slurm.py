"""`dure squeue`, `scancel`, `sacct`, `sinfo`, `sshare`: the federation in Slurm's words.

Partitions are pools, clusters are operators' clusters, accounts are projects. Times are in UTC.
Sources: squeue(1), scancel(1), sacct(1), sinfo(1), sshare(1), of Slurm 22.05.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import typer

from dure.cli import slurm_fleet
from dure.cli.render import emit
from dure.cli.sbatch import WithWords
from dure.cli.shell import Output, Shell, shell_of
from dure.cli.slurm_layout import (
    Column,
    by_letters,
    by_names,
    in_columns,
    lines,
    parsable,
    underlined,
)
from dure.cli.slurm_tasks import (
    SACCT,
    SQUEUE_LETTERS,
    SQUEUE_NAMES,
    STATES,
    Shown,
    as_json,
    shown,
)
from dure.cli.slurm_words import Asked, asked, chosen, instant, job_ids, no_more, table
from dure.errors import RefusedError
from dure.life import TERMINAL, State
from dure.listing import RunLine, TaskLine
from dure.text import shown as quoted

if TYPE_CHECKING:
    from dure.client import Client

SQUEUE_FORMAT: Final = "%.18i %.9P %.8j %.8u %.2t %.10M %.6D %R"
SQUEUE_LONG: Final = "%.18i %.9P %.8j %.8u %.8T %.10M %.9l %.6D %R"
SQUEUE_START: Final = "%.18i %.9P %.8j %.8u %.2t %.19S %.6D %R"
SACCT_FORMAT: Final = "jobid,jobname,partition,account,alloccpus,state,exitcode"
SACCT_BRIEF: Final = "jobid,state,exitcode"

ENDED_SHOWN_MS: Final = 300_000
"""How long squeue knows of what has ended. Source: slurm.conf(5), MinJobAge."""

_SQUEUE: Final = table(
    "account/A clusters/M format/o Format/O jobs/j name/n partition/p qos/q states/t user/u sort/S",
    "all/a array/r json long/l me noheader/h start federation noconvert priority/P",
)
_SACCT: Final = table(
    "accounts/A clusters/M delimiter endtime/E format/o jobs/j name partition/r qos/q starttime/S "
    "state/s user/u uid units",
    "allclusters/L allocations/X allusers/a brief/b duplicates/D federation json noconvert "
    "noheader/n parsable/p parsable2/P truncate/T",
)
_SCANCEL: Final = table(
    "account/A jobname/n name partition/p qos/q signal/s state/t user/u clusters/M",
    "batch/b ctld full/f hurry/H me quiet/Q verbose/v",
)
_ENDING: Final = frozenset({"TERM", "SIGTERM", "15", "KILL", "SIGKILL", "9"})


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    for command in (squeue, scancel, sacct):
        app.command(command.__name__, cls=WithWords)(command)
    slurm_fleet.register(app)


def squeue(ctx: typer.Context) -> None:
    """List tasks that wait or run anywhere in the federation, as squeue does.

    Options of squeue: -u, --me, -j, -t, -n, -p (a pool), -A (a project), -q (a tier), -M (a cluster
    or operator), -r, -l, --start, -o, -O, -h, --json. Times are in UTC.
    """
    shell, found = shell_of(ctx), asked(ctx, _SQUEUE)
    no_more(found)
    columns, after = _queue_columns(found)
    states = _states(found.listed("states"))
    with shell.client() as client:
        tasks = [task for task in _queue(found, states, client, shell) if _wanted(task, found)]
    if states is None:
        tasks = [task for task in tasks if task.state not in TERMINAL or "jobs" in found]
    else:
        tasks = [task for task in tasks if task.state in states]
    if "start" in found:
        tasks = [task for task in tasks if task.state in {State.WAITING, State.QUEUED}]
    rows = shown(tasks, shell.now_ms(), each="array" in found)
    if "json" in found:
        emit(shell, Output.JSON, {"jobs": [as_json(row) for row in rows]}, lambda _: None)
        return
    _write(shell, lines(columns, rows, after), headless="noheader" in found)


def sacct(ctx: typer.Context) -> None:
    """List what ran since midnight, or since --starttime, and how it ended, as sacct does.

    Options of sacct: -j, -u, -a, -S, -E, -s, -A (a project), -r (a pool), -M (a cluster or
    operator), -q (a tier), --name, -o, -b, -n, -p, -P, --delimiter, -D (earlier attempts too),
    --json. Times are in UTC. A task is one line: of steps nothing is kept.
    """
    shell, found = shell_of(ctx), asked(ctx, _SACCT)
    no_more(found)
    columns = _account_columns(found)
    states = _states(found.listed("state"))
    now_ms = shell.now_ms()
    until_ms = instant(found.value("endtime"), now_ms, None)
    with shell.client() as client:
        tasks = [
            task
            for task in _account(found, client, shell)
            if _wanted(task, found)
            and (states is None or task.state in states)
            and (until_ms is None or task.accepted_ms <= until_ms)
        ]
        rows = shown(tasks, now_ms, each="duplicates" in found)
        if "duplicates" in found:
            rows = [past for row in rows for past in _attempts(row, client)]
    if "json" in found:
        emit(shell, Output.JSON, {"jobs": [as_json(row) for row in rows]}, lambda _: None)
    elif "parsable" in found or "parsable2" in found:
        delimiter = found.value("delimiter") or "|"
        text = parsable(columns, rows, delimiter, at_end="parsable" in found)
        _write(shell, text, headless="noheader" in found)
    else:
        text = lines(columns, rows) if "noheader" in found else underlined(columns, rows)
        _write(shell, text, headless="noheader" in found)


def scancel(ctx: typer.Context) -> None:
    """Cancel jobs, or tasks of arrays, as scancel does: scancel 12 13_4, scancel --me -t PENDING.

    Options of scancel: -u, --me, -n, -t, -p, -A, -q, -M, -Q. What runs is given notice and its
    grace; other signals than TERM and KILL cannot be sent.
    """
    from dure.client import ApiError  # noqa: PLC0415 (keeps `dure --help` quick)

    shell, found = shell_of(ctx), asked(ctx, _SCANCEL)
    number = found.value("signal")
    if number is not None and number.upper() not in _ENDING:
        raise RefusedError(
            "bad-input", f"signal {quoted(number)} cannot be sent to a job; TERM ends it."
        )
    named = job_ids(found.rest)
    failed: ApiError | None = None
    with shell.client() as client:
        if not named:
            named = _to_cancel(found, client, shell)
        for job, index in named:
            try:
                client.cancel(job, task=index)
            except ApiError as error:
                failed = failed or error
    if failed is not None:
        raise failed


# ---- which tasks ---------------------------------------------------------------------------------


def _queue(
    found: Asked, states: frozenset[State] | None, client: Client, shell: Shell
) -> Iterator[TaskLine]:
    """The tasks that squeue begins with: those named, or what has not ended long ago."""
    if (jobs := found.listed("jobs")) is not None:
        yield from _named(jobs, client)
        return
    ended = states is not None and bool(states & set(TERMINAL))
    since_ms = shell.now_ms() - ENDED_SHOWN_MS if ended else None
    ask = partial(client.tasks, open_only=not ended, since_ms=since_ms)
    yield from _pages(partial(ask, submitter=_one_user(found, client)))


def _account(found: Asked, client: Client, shell: Shell) -> Iterator[TaskLine]:
    if (jobs := found.listed("jobs")) is not None:
        yield from _named(jobs, client)
        return
    now_ms = shell.now_ms()
    since_ms = instant(found.value("starttime"), now_ms, instant("midnight", now_ms, None))
    mine = None if {"allusers", "user", "uid", "accounts"} & set(found.given) else _me(client)
    yield from _pages(
        partial(client.tasks, since_ms=since_ms, submitter=mine or _one_user(found, client))
    )


def _named(jobs: Iterable[str], client: Client) -> Iterator[TaskLine]:
    for job, index in sorted(job_ids(jobs), key=lambda one: -int(one[0].removeprefix("j-"))):
        for task in _pages(partial(client.tasks, job=job)):
            if index is None or task.index == index:
                yield task


def _pages(ask: partial[Any]) -> Iterator[TaskLine]:
    after = None
    while True:
        page = ask(after=after, limit=1_000)
        yield from page.tasks
        if page.next is None:
            return
        after = page.next


def _one_user(found: Asked, client: Client) -> str | None:
    """The user whose tasks alone are asked for, where it is one."""
    if "me" in found:
        return _me(client)
    users = found.listed("user") or found.listed("uid")
    return users[0] if users is not None and len(users) == 1 else None


def _me(client: Client) -> str:
    return client.whoami().person


def _wanted(task: TaskLine, found: Asked) -> bool:
    """Whether a task passes the filters that both squeue and sacct have."""
    run = task.run
    pools = (run.pool,) if run else task.resources.pools
    clusters = (run.cluster, run.operator) if run else ()
    return (
        chosen((task.submitter,), found.listed("user") or found.listed("uid"))
        and chosen((task.name,), found.listed("name") or found.listed("jobname"))
        and chosen((task.project,), found.listed("account") or found.listed("accounts"))
        and chosen((task.tier,), found.listed("qos"))
        and chosen(pools, found.listed("partition"))
        and (found.value("clusters") in {None, "all"} or chosen(clusters, found.listed("clusters")))
    )


def _states(names: tuple[str, ...] | None) -> frozenset[State] | None:
    """States by their names or letters; None where none were named, all for `all`."""
    if names is None:
        return None
    if [name.lower() for name in names] == ["all"]:
        return frozenset(State)
    found: set[State] = set()
    for name in names:
        meant = {state for state, both in STATES.items() if name.upper() in both}
        if name.upper() in {"NF", "NODE_FAIL", "BF", "BOOT_FAIL"}:
            meant = {State.FAILED}
        if not meant:
            known = ", ".join(sorted({whole for _, whole in STATES.values()}))
            raise RefusedError("bad-input", f"state {quoted(name)} is none; known are {known}.")
        found |= meant
    return frozenset(found)


def _to_cancel(found: Asked, client: Client, shell: Shell) -> list[tuple[str, int | None]]:
    filters = {"user", "me", "name", "jobname", "state", "partition", "account", "qos", "clusters"}
    if not filters & set(found.given):
        raise RefusedError("usage", "No job is named; write scancel 12, or --me.")
    states = _states(found.listed("state"))
    mine = found if "user" in found else Asked({**found.given, "me": None}, ())
    tasks = [
        task
        for task in _queue(mine, None, client, shell)
        if _wanted(task, found) and (states is None or task.state in states)
    ]
    return [(task.job, task.index) for task in tasks]


def _attempts(row: Shown, client: Client) -> Iterator[Shown]:
    """A task's earlier attempts, and then itself. Source: sacct(1), option --duplicates."""
    task = row.task
    if task.run is None or task.run.number == 1:
        yield row
        return
    views = [one for one in client.job(task.job).tasks if one.index == task.index]
    for one in views[0].attempts[:-1] if views else ():  # a view has the first 1,000 tasks
        run = RunLine(
            number=one.number,
            operator=one.operator,
            cluster=one.cluster,
            pool=one.pool,
            gpu_model=one.gpu_model,
            nodes=one.nodes,
            started_ms=one.started_ms,
            ended_ms=one.ended_ms,
            cause=one.cause,
            gpu_ms=one.gpu_ms,
        )
        before = replace(task, run=run, exit_code=one.exit_code)
        yield replace(row, task=before, past=True)
    yield row


# ---- what people see -----------------------------------------------------------------------------


def _queue_columns(found: Asked) -> tuple[Sequence[Column[Shown]], str]:
    try:
        if (names := found.value("Format")) is not None:
            return by_names(names, SQUEUE_NAMES), ""
        usual = SQUEUE_LONG if "long" in found else SQUEUE_FORMAT
        usual = SQUEUE_START if "start" in found else usual
        return by_letters(found.value("format") or usual, SQUEUE_LETTERS)
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None


def _account_columns(found: Asked) -> Sequence[Column[Shown]]:
    usual = SACCT_BRIEF if "brief" in found else SACCT_FORMAT
    try:
        return in_columns(found.value("format") or usual, SACCT)
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None


def _write(shell: Shell, text: Iterator[str], *, headless: bool) -> None:
    """Lines to standard output, without the heading where it is not wanted."""
    if headless:
        next(text)
    shell.stdout.writelines(f"{one}\n" for one in text)
