"""`dure backup` and `dure restore`: a control plane's folder and database, on its own machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.render import emit, instant, line
from dure.cli.shell import Output, OutputOption, shell_of
from dure.errors import RefusedError

if TYPE_CHECKING:
    from rich.console import Console

    from dure.store.backup import Backup

DataOption = Annotated[
    Path, typer.Option("--data", help="The control plane's data folder.", metavar="DIR")
]


def backup(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="The folder to make.", metavar="FOLDER")],
    data: DataOption,
    files: Annotated[  # noqa: FBT002  an option of the command line
        bool, typer.Option("--files/--no-files", help="Contents, logs and key too.")
    ] = True,
    output: OutputOption = Output.TABLE,
) -> None:
    """Copy the database, of either kind, and its files into a folder; it may run meanwhile."""
    from dure.store import backup as backups  # noqa: PLC0415 (keeps `dure --help` quick)
    from dure.store.where import existing  # noqa: PLC0415

    shell = shell_of(ctx)
    at = shell.folder / data
    with existing(at) as database:
        made = backups.make(database, at, shell.folder / folder, shell.now_ms(), files=files)
    emit(shell, output, made, lambda to: _show(to, made, f"{made.folder} holds"))


def restore(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="A backup.", metavar="FOLDER")],
    data: DataOption,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fill an empty database, of either kind, and a new data folder from a backup, and audit it."""
    from dure.server import occupied  # noqa: PLC0415 (keeps `dure --help` quick)
    from dure.store import backup as backups  # noqa: PLC0415
    from dure.store.where import DATABASE, opened, settings_of  # noqa: PLC0415

    shell = shell_of(ctx)
    source, at = shell.folder / folder, shell.folder / data
    if (at / DATABASE).exists():
        raise RefusedError("data-not-empty", f"{at} has a database in it; name a new data folder.")
    with occupied(at, alone=True):
        try:
            with opened(at, settings_of(at)) as database:
                made = backups.restore(database, at, source)
        except BaseException:
            for half in at.glob(f"{DATABASE}*"):
                half.unlink()
            raise
    emit(shell, output, made, lambda to: _show(to, made, f"{made.database} is"))


def _show(to: Console, made: Backup, what: str) -> None:
    line(to, f"{what} what was there at {instant(made.at_ms)} (schema {made.schema}).")
    if not made.files:
        line(to, "Contents, logs and the key are not in it.")
    if made.anchor:
        line(to, f"Keep elsewhere, for dure audit --anchor: {made.anchor}")
