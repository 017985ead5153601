"""`dure login`, `whoami`, `person` and `token`: who calls, and who may."""

from __future__ import annotations

import getpass
import os
import stat
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from dure.cli import config
from dure.cli.render import emit, instant, line, table
from dure.cli.shell import Output, OutputOption, Shell, shell_of
from dure.cli.values import refusing
from dure.errors import RefusedError
from dure.people import NATION, Person, Role, RoleGrant, TokenScope
from dure.text import check_slug
from dure.views import NewToken, PersonView, TokenRequest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PersonArgument = Annotated[str, typer.Argument(metavar="PERSON", help="Their id.")]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    app.command("login")(login)
    app.command("whoami")(whoami)
    person = typer.Typer(help="People and their roles.", no_args_is_help=True)
    person.command("create")(create)
    person.command("list")(list_)
    person.command("grant")(grant)
    person.command("revoke-role")(revoke_role)
    app.add_typer(person, name="person")
    token = typer.Typer(help="API tokens.", no_args_is_help=True)
    token.command("create")(create_token)
    token.command("list")(tokens)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")


def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="Of the control plane, https://dure.example.kr.")],
    project: Annotated[str | None, typer.Option(help="To submit for by default.")] = None,
) -> None:
    """Ask for a token (or read it from standard input), try it, and remember it."""
    from dure.client import Client  # noqa: PLC0415 (keeps `dure --help` quick)

    shell = shell_of(ctx)
    config.check_url(url)
    if project is not None:
        with refusing():
            check_slug("project", project)
    token = _token(shell)
    with Client(url, token, transport=shell.transport) as client:
        me = client.whoami()
    wanted = config.Config(url=url, token=token, project=project)
    file = config.save(shell.environ, wanted)
    shell.say(f"You are {me.person} at {url}; {file} remembers it.")


def _token(shell: Shell) -> str:
    if shell.stdin.isatty():
        token = getpass.getpass("Token: ").strip()
    else:
        token = shell.stdin.readline(1_000).strip()
    if not token:
        raise RefusedError("bad-input", "No token was given; ask an administrator for one.")
    config.check_token(token)
    return token


def whoami(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """Say who the token says you are."""
    shell = shell_of(ctx)
    with shell.client() as client:
        me = client.whoami()

    def people(to: Console) -> None:
        line(to, f"{me.person}; this token may {', '.join(me.scopes)}")
        to.print(_grants(me.grants))

    emit(shell, output, me, people)


def create(
    ctx: typer.Context,
    person: PersonArgument,
    name: Annotated[str, typer.Option(help="Their name.")],
    email: Annotated[str | None, typer.Option(help="Their address.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Enrol a person."""
    shell = shell_of(ctx)
    with refusing():
        asked = Person(id=person, name=name, email=email)
    with shell.client() as client:
        made = client.create_person(asked)
    emit(shell, output, made, lambda to: to.print(_people((made,))))


def list_(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List everybody."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.people()
    emit(shell, output, found, lambda to: to.print(_people(found)))


RoleArgument = Annotated[Role, typer.Argument(metavar="ROLE", help=", ".join(Role))]
ScopeOption = Annotated[
    str, typer.Option("--for", help="The project, operator or cluster; none for the nation.")
]


def grant(
    ctx: typer.Context,
    person: PersonArgument,
    role: RoleArgument,
    scope: ScopeOption = NATION,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give a person a role."""
    shell = shell_of(ctx)
    with refusing():
        given = RoleGrant(role, scope)
    with shell.client() as client:
        made = client.grant_role(person, given)
    emit(shell, output, made, lambda to: to.print(_people((made,))))


def revoke_role(
    ctx: typer.Context,
    person: PersonArgument,
    role: RoleArgument,
    scope: ScopeOption = NATION,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take a role back."""
    shell = shell_of(ctx)
    with refusing():
        taken = RoleGrant(role, scope)
    with shell.client() as client:
        client.revoke_role(person, taken)
    answer = {"person": person, "revoked": taken}
    emit(shell, output, answer, lambda to: line(to, f"{person} is no longer {role}."))


def create_token(
    ctx: typer.Context,
    label: Annotated[str, typer.Option(help="What it is for, laptop say.")],
    person: Annotated[str | None, typer.Option(help="Whose; default: yours.")] = None,
    scope: Annotated[
        list[TokenScope] | None, typer.Option(help="Repeatable; default: read and submit.")
    ] = None,
    days: Annotated[int, typer.Option(help="How long it lives.")] = 90,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token. Its secret alone goes to standard output, this once: > kim.token."""
    shell = shell_of(ctx)
    with refusing():
        scopes = tuple(scope) if scope else (TokenScope.READ, TokenScope.SUBMIT)
        asked = TokenRequest(label=label, person=person, scopes=scopes, days=days)
    with shell.client() as client:
        made = client.create_token(asked)
    show_new_token(shell, output, made)


def show_new_token(shell: Shell, output: Output, made: NewToken) -> None:
    """The secret alone on stdout, so that it can be piped; what it is on stderr."""
    if output is Output.TABLE:
        until = instant(made.token.expires_ms)
        shell.say(f"Token {made.token.id} of {made.token.person}, until {until}; shown this once:")
    emit(shell, output, made, lambda to: line(to, made.secret))
    if _others_read(shell.stdout):
        shell.say("Others can read the file that this was written to: chmod 600 it.")


def _others_read(stream: TextIO) -> bool:
    """Whether the stream is a file that not only its owner may read."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):  # no file of the system's
        return False
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def tokens(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List tokens, without their secrets."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.tokens()
    rows = [
        (
            one.id,
            one.person,
            one.label,
            ",".join(one.scopes),
            f"revoked {instant(one.revoked_ms)}" if one.revoked_ms else instant(one.expires_ms),
        )
        for one in found
    ]
    columns = ("token", "person", "label", "scopes", "until")
    emit(shell, output, found, lambda to: to.print(table(columns, rows)))


def revoke(
    ctx: typer.Context,
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, not its secret.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Revoke a token at once."""
    shell = shell_of(ctx)
    with shell.client() as client:
        client.revoke_token(token)
    emit(shell, output, {"revoked": token}, lambda to: line(to, f"Token {token} is revoked."))


def _grants(grants: tuple[RoleGrant, ...]) -> Table:
    return table(("role", "for"), [(one.role, _scope(one)) for one in grants])


def _people(found: tuple[PersonView, ...]) -> Table:
    rows = [
        (
            one.person.id,
            one.person.name,
            one.person.email,
            ", ".join(f"{given.role} ({_scope(given)})" for given in one.grants),
        )
        for one in found
    ]
    return table(("person", "name", "email", "roles"), rows)


def _scope(given: RoleGrant) -> str:
    return "nation" if given.scope == NATION else given.scope
