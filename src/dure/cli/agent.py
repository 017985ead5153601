"""`dure agent`: the agents that operators run next to their clusters."""

from __future__ import annotations

from typing import Annotated

import typer

from dure.cli.people import show_new_token
from dure.cli.shell import Output, OutputOption, shell_of


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    group = typer.Typer(help="Site agents.", no_args_is_help=True)
    group.command("enrol")(enrol)
    app.add_typer(group, name="agent")


def enrol(
    ctx: typer.Context,
    cluster: Annotated[str, typer.Argument(metavar="CLUSTER", help="Its id in the fleet.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token for a cluster's agent; the one before it is revoked."""
    shell = shell_of(ctx)
    with shell.client() as client:
        made = client.enrol_agent(cluster)
    show_new_token(shell, output, made)
