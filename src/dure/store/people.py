"""Statements on people, roles and tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, insert, select, update

from dure.errors import NotFoundError, RefusedError
from dure.people import NATION, PROJECT_ROLES, Person, Principal, Role, RoleGrant, TokenScope
from dure.store.schema import people, role_grants, tokens
from dure.store.upsert import upsert
from dure.views import MemberView, PersonView, TokenView


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTokenRow:
    """A token to be stored: the hash of its secret, never the secret."""

    view: TokenView
    secret_sha256: str


def add_person(connection: Connection, person: Person, now_ms: int) -> None:
    """Enrol a person. Raises RefusedError where the id or the address is taken."""
    if connection.scalar(select(people.c.id).where(people.c.id == person.id)):
        raise RefusedError("person-exists", f"There is a person {person.id} already.", status=409)
    if person.email and connection.scalar(
        select(people.c.id).where(people.c.email == person.email)
    ):
        raise RefusedError("email-exists", f"{person.email} is enrolled already.", status=409)
    connection.execute(
        insert(people).values(id=person.id, name=person.name, email=person.email, created_ms=now_ms)
    )


def require_person(connection: Connection, person: str) -> None:
    """Raises NotFoundError where there is no such person."""
    if connection.scalar(select(people.c.id).where(people.c.id == person)) is None:
        raise NotFoundError("person", person)


def person_views(connection: Connection, only: str | None = None) -> tuple[PersonView, ...]:
    """People and their roles, by id."""
    query = select(people).order_by(people.c.id)
    if only is not None:
        query = query.where(people.c.id == only)
    return tuple(
        PersonView(
            person=Person(id=row.id, name=row.name, email=row.email),
            grants=grants_of(connection, row.id),
        )
        for row in connection.execute(query)
    )


def grants_of(connection: Connection, person: str) -> tuple[RoleGrant, ...]:
    """The roles of a person, ordered."""
    table = role_grants.c
    rows = connection.execute(
        select(table.role, table.scope)
        .where(table.person == person)
        .order_by(table.role, table.scope)
    )
    return tuple(RoleGrant(Role(row.role), row.scope) for row in rows)


def grant(connection: Connection, person: str, given: RoleGrant, now_ms: int) -> bool:
    """Give a role; False where the person had it."""
    new = connection.execute(
        upsert(connection, role_grants)
        .values(person=person, role=given.role, scope=given.scope, granted_ms=now_ms)
        .on_conflict_do_nothing()
        .returning(role_grants.c.person)
    )
    return new.one_or_none() is not None


def revoke(connection: Connection, person: str, roles: Iterable[Role], scope: str) -> bool:
    """Take roles on a scope back; False where the person had none of them."""
    table = role_grants.c
    done = connection.execute(
        delete(role_grants).where(
            table.person == person, table.scope == scope, table.role.in_(list(roles))
        )
    )
    return done.rowcount > 0


def members(connection: Connection, project: str) -> tuple[MemberView, ...]:
    """The members of a project, by person."""
    table = role_grants.c
    rows = connection.execute(
        select(table.person, table.role)
        .where(table.scope == project, table.role.in_(list(PROJECT_ROLES)))
        .order_by(table.person)
    )
    return tuple(MemberView(row.person, Role(row.role)) for row in rows)


def any_admin(connection: Connection) -> bool:
    """Whether this installation has an administrator."""
    table = role_grants.c
    found = select(table.person).where(table.role == Role.ADMIN, table.scope == NATION).limit(1)
    return connection.scalar(found) is not None


# ---- tokens --------------------------------------------------------------------------------------


def add_token(connection: Connection, token: NewTokenRow) -> None:
    """Store a token."""
    view = token.view
    connection.execute(
        insert(tokens).values(
            id=view.id,
            secret_sha256=token.secret_sha256,
            person=view.person,
            label=view.label,
            scopes=[str(scope) for scope in view.scopes],
            created_ms=view.created_ms,
            expires_ms=view.expires_ms,
        )
    )


def token_row(connection: Connection, token: str) -> Row[tuple[object, ...]] | None:
    """A token's row by its id, or None."""
    return connection.execute(select(tokens).where(tokens.c.id == token)).one_or_none()


def principal(connection: Connection, row: Row[tuple[object, ...]]) -> Principal:
    """The principal that a stored token stands for; `row` is the token's."""
    return Principal(
        person=row.person,
        token=row.id,
        expires_ms=row.expires_ms,
        grants=grants_of(connection, row.person),
        scopes=tuple(TokenScope(scope) for scope in row.scopes),
    )


def token_views(connection: Connection, person: str | None) -> tuple[TokenView, ...]:
    """Tokens of a person, or everybody's, newest first."""
    query = select(tokens).order_by(tokens.c.created_ms.desc(), tokens.c.id)
    if person is not None:
        query = query.where(tokens.c.person == person)
    return tuple(
        TokenView(
            id=row.id,
            person=row.person,
            label=row.label,
            scopes=tuple(TokenScope(scope) for scope in row.scopes),
            created_ms=row.created_ms,
            expires_ms=row.expires_ms,
            revoked_ms=row.revoked_ms,
        )
        for row in connection.execute(query)
    )


def revoke_tokens(
    connection: Connection, now_ms: int, *, token: str | None = None, person: str | None = None
) -> int:
    """Revoke one token, or all of a person's; how many were in force."""
    query = update(tokens).where(tokens.c.revoked_ms.is_(None))
    if token is not None:
        query = query.where(tokens.c.id == token)
    if person is not None:
        query = query.where(tokens.c.person == person)
    return connection.execute(query.values(revoked_ms=now_ms)).rowcount
