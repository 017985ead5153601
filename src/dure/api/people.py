"""Routes of people, tokens, organisations, projects and their members."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from dure.allocations import Organisation, Project
from dure.api.requests import Administrator, JsonBody, Reader
from dure.codec import decode, encode
from dure.people import NATION, Person, Role, RoleGrant
from dure.service import access, awards
from dure.views import (
    MemberRequest,
    NewToken,
    PersonView,
    ProjectView,
    TokenRequest,
    TokenView,
    Whoami,
)

router = APIRouter(prefix="/v1", tags=["people"])


@router.get("/whoami")
def whoami(caller: Reader) -> Whoami:
    """Who the token says the caller is."""
    who = caller.principal
    return Whoami(person=who.person, grants=who.grants, scopes=who.scopes)


@router.get("/organisations")
def organisations(caller: Reader) -> tuple[Organisation, ...]:
    """All organisations."""
    return awards.organisations(caller.service)


@router.post("/organisations", status_code=201)
def create_organisation(
    caller: Administrator, body: Annotated[Organisation, Depends(JsonBody(Organisation))]
) -> Organisation:
    """Enrol an organisation."""
    return awards.create_organisation(caller.service, caller.principal, body)


@router.get("/projects")
def projects(caller: Reader) -> tuple[ProjectView, ...]:
    """Projects that the caller may see."""
    return awards.all_projects(caller.service, caller.principal)


@router.post("/projects", status_code=201)
def create_project(
    caller: Administrator, body: Annotated[Project, Depends(JsonBody(Project))]
) -> ProjectView:
    """Enrol a project."""
    return awards.create_project(caller.service, caller.principal, body)


@router.post("/projects/{project}/members", status_code=201)
def add_member(
    caller: Administrator,
    project: str,
    body: Annotated[MemberRequest, Depends(JsonBody(MemberRequest))],
) -> ProjectView:
    """Make a person a member or PI of a project."""
    return awards.add_member(caller.service, caller.principal, project, body)


@router.delete("/projects/{project}/members/{person}", status_code=204)
def remove_member(caller: Administrator, project: str, person: str) -> Response:
    """End a membership."""
    awards.remove_member(caller.service, caller.principal, project, person)
    return Response(status_code=204)


@router.get("/people")
def people(caller: Administrator) -> tuple[PersonView, ...]:
    """Everybody and their roles."""
    return awards.everybody(caller.service, caller.principal)


@router.post("/people", status_code=201)
def create_person(
    caller: Administrator, body: Annotated[Person, Depends(JsonBody(Person))]
) -> PersonView:
    """Enrol a person."""
    return awards.create_person(caller.service, caller.principal, body)


@router.post("/people/{person}/roles", status_code=201)
def grant_role(
    caller: Administrator, person: str, body: Annotated[RoleGrant, Depends(JsonBody(RoleGrant))]
) -> PersonView:
    """Give a person a role."""
    return awards.grant_role(caller.service, caller.principal, person, body)


@router.delete("/people/{person}/roles", status_code=204)
def revoke_role(caller: Administrator, person: str, role: Role, scope: str = NATION) -> Response:
    """Take a role back."""
    granted = decode(RoleGrant, encode({"role": role, "scope": scope}), what="role")
    awards.revoke_role(caller.service, caller.principal, person, granted)
    return Response(status_code=204)


@router.get("/tokens")
def tokens(caller: Reader) -> tuple[TokenView, ...]:
    """The caller's tokens; an administrator sees all."""
    return access.tokens(caller.service, caller.principal)


@router.post("/tokens", status_code=201)
def create_token(
    caller: Reader, body: Annotated[TokenRequest, Depends(JsonBody(TokenRequest))]
) -> NewToken:
    """Make a token; its secret is shown this once."""
    return access.create_token(caller.service, caller.principal, body)


@router.delete("/tokens/{token}", status_code=204)
def revoke_token(caller: Reader, token: str) -> Response:
    """Revoke a token at once."""
    access.revoke_token(caller.service, caller.principal, token)
    return Response(status_code=204)


@router.post("/agents/{cluster}", status_code=201)
def enrol_agent(caller: Administrator, cluster: str) -> NewToken:
    """Make the token of a cluster's agent; an earlier one is revoked."""
    return access.enrol_agent(caller.service, caller.principal, cluster)
