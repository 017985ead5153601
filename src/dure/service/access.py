"""Who calls, and whether they may: by the token alone."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from typing import Final

from sqlalchemy import Connection

from dure.errors import NotFoundError, RefusedError
from dure.people import MAY, NATION, Action, Person, Principal, Role, RoleGrant, TokenScope
from dure.service import Service
from dure.store import acts, people, site_keys
from dure.store.acts import Deed
from dure.store.people import NewTokenRow
from dure.text import check_slug
from dure.units import INSTANT_MS_MAX, MS_PER_HOUR, iso
from dure.views import NewToken, TokenRequest, TokenView

PREFIX: Final = "dure"
AGENT_TOKEN_DAYS: Final = 366
AGENT_PREFIX: Final = "agent-"
"""Of the accounts of agents; nobody is enrolled with such an id."""
_UNAUTHENTICATED: Final = "The token is missing, unknown, expired or revoked."


def authenticate(service: Service, token: str) -> Principal:
    """The principal whose token this is.

    Raises:
        RefusedError: status 401, one sentence for every cause.
    """
    prefix, _, rest = token.partition("_")
    token_id, _, secret = rest.partition("_")
    refusal = RefusedError("unauthenticated", _UNAUTHENTICATED, status=401)
    if prefix != PREFIX or not token_id or not secret or not token.isascii():
        raise refusal
    with service.database.read() as connection:
        row = people.token_row(connection, token_id)
        stored = str(row.secret_sha256) if row is not None else ""
        if not hmac.compare_digest(stored, _hash(secret)) or row is None:
            raise refusal
        if row.revoked_ms is not None or service.now_ms() >= row.expires_ms:
            raise refusal
        return people.principal(connection, row)


def require_scope(principal: Principal, scope: TokenScope) -> None:
    """Raises RefusedError (403) where the token may not be used for that."""
    if scope not in principal.scopes:
        raise RefusedError(
            "scope-missing",
            f"This token is not for {scope}; it is for {', '.join(principal.scopes)}.",
            status=403,
        )


def require(principal: Principal, action: Action, scope: str = NATION) -> None:
    """Raises RefusedError (403): for things whose existence is no secret."""
    if not principal.may(action, scope):
        roles = ", ".join(sorted(MAY[action]))
        raise RefusedError(
            "forbidden",
            f"{principal.person} may not do this ({action}); it takes one of the roles {roles}.",
            status=403,
        )


def require_seen(principal: Principal, action: Action, scope: str, what: NotFoundError) -> None:
    """Raises `what` (404) where the principal may not: the same as if it did not exist."""
    if not principal.may(action, scope):
        raise what


def create_token(service: Service, principal: Principal, request: TokenRequest) -> NewToken:
    """Make a token for oneself with at most one's own scopes, or, as administrator, for anybody."""
    person = request.person or principal.person
    if person != principal.person:
        require_scope(principal, TokenScope.ADMIN)
        require(principal, Action.MANAGE_PEOPLE)
    elif beyond := set(request.scopes) - set(principal.scopes):
        raise RefusedError(
            "scope-missing",
            f"A token for {min(beyond)} cannot be made with one that is not for it.",
            status=403,
        )
    not_after_ms = INSTANT_MS_MAX
    if TokenScope.ADMIN not in principal.scopes:
        not_after_ms = principal.expires_ms  # a stolen token must not renew itself
    with service.database.write() as connection:
        people.require_person(connection, person)
        made = issue(connection, service, person, request, not_after_ms)
        deed = Deed(
            act="token-created",
            subject=f"token/{made.token.id}",
            sentence=f"{person} got a token for {', '.join(made.token.scopes)} "
            f"until {iso(made.token.expires_ms)}.",
        )
        acts.write(connection, principal, deed, service.now_ms())
        return made


def issue(
    connection: Connection,
    service: Service,
    person: str,
    request: TokenRequest,
    not_after_ms: int = INSTANT_MS_MAX,
) -> NewToken:
    """Make and store a token; only the hash of its secret is kept."""
    now_ms = service.now_ms()
    secret = secrets.token_urlsafe(32).replace("_", "-")
    view = TokenView(
        id=service.new_id(),
        person=person,
        label=request.label,
        scopes=request.scopes,
        created_ms=now_ms,
        expires_ms=min(not_after_ms, now_ms + request.days * 24 * MS_PER_HOUR),
        revoked_ms=None,
    )
    people.add_token(connection, NewTokenRow(view=view, secret_sha256=_hash(secret)))
    return NewToken(token=view, secret=f"{PREFIX}_{view.id}_{secret}")


def revoke_token(service: Service, principal: Principal, token: str) -> None:
    """Revoke one's own token, or, as administrator, anybody's. Idempotent."""
    with service.database.write() as connection:
        row = people.token_row(connection, token)
        mine = row is not None and row.person == principal.person
        if row is None or not (mine or principal.may(Action.MANAGE_PEOPLE)):
            raise NotFoundError("token", token)
        if not mine:
            require_scope(principal, TokenScope.ADMIN)
        if people.revoke_tokens(connection, service.now_ms(), token=token):
            deed = Deed(
                act="token-revoked",
                subject=f"token/{token}",
                sentence=f"A token of {row.person} was revoked.",
            )
            acts.write(connection, principal, deed, service.now_ms())


def tokens(service: Service, principal: Principal) -> tuple[TokenView, ...]:
    """One's own tokens; an administrator sees all."""
    everybody = principal.may(Action.MANAGE_PEOPLE)
    with service.database.read() as connection:
        return people.token_views(connection, None if everybody else principal.person)


def enrol_agent(service: Service, principal: Principal, cluster: str) -> NewToken:
    """Make the token of a cluster's agent; one made before is revoked."""
    with service.database.write() as connection:
        fleet = service.scenario(connection).fleet
        known = {c.id: c.operator_id for c in fleet.clusters}
        if cluster not in known or not principal.may(Action.MANAGE_AGENTS, known[cluster]):
            raise NotFoundError("cluster", cluster)
        person = AGENT_PREFIX + cluster
        check_slug("person id of the agent", person)
        now_ms = service.now_ms()
        if not people.person_views(connection, person):
            account = Person(id=person, name=f"Agent of {cluster}"[:63])
            people.add_person(connection, account, now_ms)
        people.grant(connection, person, RoleGrant(Role.AGENT, cluster), now_ms)
        revoked = people.revoke_tokens(connection, now_ms, person=person)
        site_keys.retire(connection, cluster, now_ms)
        request = TokenRequest(label="agent", scopes=(TokenScope.AGENT,), days=AGENT_TOKEN_DAYS)
        made = issue(connection, service, person, request)
        deed = Deed(
            act="agent-enrolled",
            subject=f"cluster/{cluster}",
            sentence=f"{person} got the token {made.token.id} as agent of {cluster} "
            f"until {iso(made.token.expires_ms)}; earlier tokens revoked: {revoked}.",
        )
        acts.write(connection, principal, deed, now_ms)
        return made


def first_administrator(service: Service, keep: Callable[[str], None]) -> None:
    """At the very first start: an administrator and their token; ever after, nothing.

    `keep` puts the token where it can be found before anything is committed, so that a crash in
    between leaves no administrator without one.
    """
    with service.database.write() as connection:
        if people.any_admin(connection):
            return
        now_ms = service.now_ms()
        people.add_person(connection, Person(id="admin", name="Administrator"), now_ms)
        people.grant(connection, "admin", RoleGrant(Role.ADMIN), now_ms)
        scopes = (TokenScope.READ, TokenScope.SUBMIT, TokenScope.ADMIN)
        request = TokenRequest(label="first", scopes=scopes, days=366)
        made = issue(connection, service, "admin", request)
        deed = Deed(
            act="first-administrator",
            subject="person/admin",
            sentence="admin became admin of the nation at the start, since there was none.",
        )
        row = people.token_row(connection, made.token.id)
        assert row is not None, "it was issued just now"
        acts.write(connection, people.principal(connection, row), deed, now_ms)
        keep(made.secret)


def _hash(secret: str) -> str:
    """SHA-256 is enough for 256 random bits; slow hashes are for what people choose."""
    return hashlib.sha256(secret.encode()).hexdigest()
