"""`dure org` and `dure project`: who takes part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dure.allocations import Organisation, OrganisationKind, Project
from dure.cli.render import emit, line, table
from dure.cli.shell import Output, OutputOption, shell_of
from dure.cli.values import refusing
from dure.errors import NotFoundError
from dure.people import Role
from dure.views import MemberRequest, ProjectView

if TYPE_CHECKING:
    from rich.console import Console

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="Lower-case letters, digits, -.")]
PersonArgument = Annotated[str, typer.Argument(metavar="PERSON", help="Their id.")]


def register(app: typer.Typer) -> None:
    """Enter the commands."""
    org = typer.Typer(help="Organisations.", no_args_is_help=True)
    org.command("create")(create_org)
    org.command("list")(orgs)
    app.add_typer(org, name="org")
    project = typer.Typer(help="Projects and their members.", no_args_is_help=True)
    project.command("create")(create)
    project.command("list")(list_)
    project.command("show")(show)
    project.command("add-member")(add_member)
    project.command("remove-member")(remove_member)
    app.add_typer(project, name="project")


def create_org(
    ctx: typer.Context,
    organisation: IdArgument,
    name: Annotated[str, typer.Option(help="Its name.")],
    kind: Annotated[OrganisationKind, typer.Option(help="What it is.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Enrol an organisation."""
    shell = shell_of(ctx)
    with refusing():
        asked = Organisation(id=organisation, name=name, kind=kind)
    with shell.client() as client:
        made = client.create_organisation(asked)
    emit(shell, output, made, lambda to: _show_orgs(to, (made,)))


def orgs(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List organisations."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.organisations()
    emit(shell, output, found, lambda to: _show_orgs(to, found))


def create(
    ctx: typer.Context,
    project: IdArgument,
    org: Annotated[str, typer.Option(help="Its organisation's id.")],
    title: Annotated[str, typer.Option(help="What it is about.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Enrol a project."""
    shell = shell_of(ctx)
    with refusing():
        asked = Project(id=project, organisation=org, title=title)
    with shell.client() as client:
        made = client.create_project(asked)
    emit(shell, output, made, lambda to: _show_projects(to, (made,)))


def list_(ctx: typer.Context, output: OutputOption = Output.TABLE) -> None:
    """List projects."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = client.projects()
    emit(shell, output, found, lambda to: _show_projects(to, found))


def show(ctx: typer.Context, project: IdArgument, output: OutputOption = Output.TABLE) -> None:
    """Show a project and its members."""
    shell = shell_of(ctx)
    with shell.client() as client:
        found = [one for one in client.projects() if one.project.id == project]
    if not found:
        raise NotFoundError("project", project)
    emit(shell, output, found[0], lambda to: _show_project(to, found[0]))


def add_member(
    ctx: typer.Context,
    project: IdArgument,
    person: PersonArgument,
    role: Annotated[Role, typer.Option(help="pi or member.")] = Role.MEMBER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a person a member or PI of a project."""
    shell = shell_of(ctx)
    with shell.client() as client:
        changed = client.add_member(project, MemberRequest(person=person, role=role))
    emit(shell, output, changed, lambda to: _show_project(to, changed))


def remove_member(
    ctx: typer.Context,
    project: IdArgument,
    person: PersonArgument,
    output: OutputOption = Output.TABLE,
) -> None:
    """End a person's membership."""
    shell = shell_of(ctx)
    with shell.client() as client:
        client.remove_member(project, person)
    answer = {"project": project, "removed": person}
    emit(shell, output, answer, lambda to: line(to, f"{person} is no longer in {project}."))


def _show_orgs(to: Console, found: tuple[Organisation, ...]) -> None:
    to.print(table(("org", "name", "kind"), [(one.id, one.name, one.kind) for one in found]))


def _show_projects(to: Console, found: tuple[ProjectView, ...]) -> None:
    rows = [
        (one.project.id, one.project.title, one.organisation.name, len(one.members))
        for one in found
    ]
    to.print(table(("project", "title", "organisation", "members"), rows, right={"members"}))


def _show_project(to: Console, view: ProjectView) -> None:
    line(to, f"{view.project.id}: {view.project.title}, of {view.organisation.name}")
    to.print(table(("member", "role"), [(one.person, one.role) for one in view.members]))
