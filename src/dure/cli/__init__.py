"""The command line: verbs over the public API, and what of Dure works without one.

Each module holds the commands of one noun and offers them in `register`; `_NOUNS` is the one place
where a new one is entered. `run` turns every failure into one sentence and an exit code: 0 done,
1 it could not be done (no answer, a fault), 2 it was refused or not understood.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import typer

from dure.cli.shell import Shell

_NOUNS: Final = (
    "dure.cli.federation",
    "dure.cli.submit",
    "dure.cli.sbatch",
    "dure.cli.jobs",
    "dure.cli.slurm",
    "dure.cli.outputs",
    "dure.cli.accounts",
    "dure.cli.fleet",
    "dure.cli.people",
    "dure.cli.projects",
    "dure.cli.agent",
    "dure.cli.rehearse",
)
"""Modules with a `register(app)`, in the order in which `dure --help` lists their commands."""


def application() -> typer.Typer:
    """The whole command tree."""
    app = typer.Typer(
        name="dure",
        help="One front door and one account book for a nation's GPUs.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    for noun in _NOUNS:
        import_module(noun).register(app)
    return app


def run(argv: Sequence[str], shell: Shell) -> int:
    """Run one command. Returns the exit code; nothing is raised."""
    from dure.cli.failure import exit_code  # noqa: PLC0415 (only what fails needs it)

    command = typer.main.get_command(application())
    try:
        code = command.main(list(argv), prog_name="dure", standalone_mode=False, obj=shell)
        shell.stdout.flush()  # a pipe that broke is noticed here, not at the interpreter's end
    except BaseException as error:  # noqa: BLE001 (nobody is shown a traceback)
        return exit_code(error, argv, shell)
    return code if isinstance(code, int) else 0


def main() -> NoReturn:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:], Shell.of_process()))
