"""`dure outputs`: a job's output files, listed or fetched back and checked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dure.cli.jobs import JobArgument
from dure.cli.render import emit, line, progress, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.errors import RefusedError
from dure.text import SLUG

if TYPE_CHECKING:
    from dure.agent.wire import FileEntry
    from dure.client import Client
    from dure.views import TaskOutputs


def register(app: typer.Typer) -> None:
    """Enter the command."""
    app.command("outputs")(outputs)


def outputs(  # noqa: PLR0913 (a command's parameters are its options)
    ctx: typer.Context,
    job: JobArgument,
    folder: Annotated[
        Path | None, typer.Argument(help="Where to; default: JOB-outputs. Arrays: FOLDER/INDEX.")
    ] = None,
    *,
    task: Annotated[int | None, typer.Option(min=0, help="Only of this task.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Fetch nothing, list.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files with other content.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Fetch a job's output files; what is there already and right is not fetched again."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.outputs(job)
        if task is not None:
            found = tuple(one for one in found if one.index == task)
        if not listing:
            place = shell.folder / (folder or _default(job))
            _fetch(client, shell, job, found, place, overwrite=overwrite)
    rows = [
        (one.index, entry.path, f"{entry.size:,}", entry.sha256[:12])
        for one in found
        for entry in one.files.files
    ]
    columns = ("task", "path", "bytes", "sha256")
    emit(
        shell,
        output,
        found,
        lambda to: (
            to.print(table(columns, rows, right={"task", "bytes"}))
            if rows
            else line(to, f"{job} has no output files.")
        ),
    )


def _default(job: str) -> str:
    if not SLUG.match(job):
        raise RefusedError("bad-input", "Name the folder to fetch to.")
    return f"{job}-outputs"


def _content(client: Client, job: str, index: int, entry: FileEntry) -> Iterator[bytes]:
    return client.output(job, index, entry.sha256)


def _fetch(
    client: Client,
    shell: Shell,
    job: str,
    found: tuple[TaskOutputs, ...],
    folder: Path,
    *,
    overwrite: bool,
) -> None:
    from dure import workdir  # noqa: PLC0415 (only where files are fetched)

    alone = len(found) == 1 and found[0].index == 0

    def files(one: TaskOutputs) -> Iterator[tuple[str, FileEntry]]:
        for entry in one.files.files:
            yield (entry.path if alone else f"{one.index}/{entry.path}"), entry

    total = sum(entry.size for one in found for entry in one.files.files)
    written = 0
    with progress(shell, "Fetching", total) as advance:
        for one in found:
            written += workdir.fetch(
                files(one),
                partial(_content, client, job, one.index),
                folder,
                overwrite=overwrite,
                progress=advance,
            )
    if found:
        files_text = "1 file" if written == 1 else f"{written} files"
        shell.say(f"Fetched {files_text} to {folder}; all there have the promised digest.")
