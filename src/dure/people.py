"""Who may do what. Everything that is asked of Dure is an action on a scope, by a principal.

A principal holds roles, each for a scope: the nation, one operator, one project or one cluster. A
token narrows its principal to some scopes of use. The table `MAY` is the whole policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from dure.text import EMAIL, check_name, check_slug, shown

NATION: Final = "*"
"""The scope of roles that are not for one operator, project or cluster."""


class Role(StrEnum):
    """What somebody is."""

    ADMIN = "admin"  # runs this installation
    OFFICER = "officer"  # of the programme office
    AUDITOR = "auditor"
    OPERATOR_ADMIN = "operator-admin"  # of one operator
    PI = "pi"  # of one project
    MEMBER = "member"  # of one project
    AGENT = "agent"  # of one cluster


NATIONAL_ROLES: Final = frozenset({Role.ADMIN, Role.OFFICER, Role.AUDITOR})
PROJECT_ROLES: Final = frozenset({Role.PI, Role.MEMBER})


class TokenScope(StrEnum):
    """What a token may be used for, within what its owner may do."""

    READ = "read"
    SUBMIT = "submit"  # jobs: submit, cancel, upload
    ADMIN = "admin"  # people, projects, allocations, tokens
    AGENT = "agent"


class Action(StrEnum):
    """What can be asked."""

    SYNC = "sync"
    SUBMIT = "submit"
    CANCEL_ANY = "cancel-any"
    RECALL = "recall"
    READ_JOBS = "read-jobs"
    READ_DATA = "read-data"  # logs, outputs: what the work itself says
    READ_PROJECT = "read-project"
    MANAGE_MEMBERS = "manage-members"
    AWARD = "award"
    MANAGE_PROJECTS = "manage-projects"
    MANAGE_PEOPLE = "manage-people"
    MANAGE_AGENTS = "manage-agents"
    READ_LEDGER = "read-ledger"
    READ_OPERATOR = "read-operator"
    REHEARSE = "rehearse"  # what runs and waits everywhere, as a rehearsal begins with it


_OFFICE = frozenset({Role.ADMIN, Role.OFFICER})
_OVERSIGHT = _OFFICE | {Role.AUDITOR}

MAY: Final = MappingProxyType(
    {
        Action.SYNC: frozenset({Role.AGENT}),
        Action.SUBMIT: PROJECT_ROLES,
        Action.CANCEL_ANY: frozenset({Role.ADMIN, Role.PI}),
        Action.RECALL: _OFFICE,
        Action.READ_JOBS: PROJECT_ROLES | _OVERSIGHT,
        Action.READ_DATA: PROJECT_ROLES,
        Action.READ_PROJECT: PROJECT_ROLES | _OVERSIGHT,
        Action.MANAGE_MEMBERS: _OFFICE | {Role.PI},
        Action.AWARD: _OFFICE,
        Action.MANAGE_PROJECTS: _OFFICE,
        Action.MANAGE_PEOPLE: frozenset({Role.ADMIN}),
        Action.MANAGE_AGENTS: frozenset({Role.ADMIN, Role.OPERATOR_ADMIN}),
        Action.READ_LEDGER: _OVERSIGHT,
        Action.READ_OPERATOR: _OVERSIGHT | {Role.OPERATOR_ADMIN},
        Action.REHEARSE: _OFFICE,
    }
)


@dataclass(frozen=True, slots=True)
class RoleGrant:
    """A role and the scope it is held for."""

    role: Role
    scope: str = NATION

    def __post_init__(self) -> None:
        if (self.role in NATIONAL_ROLES) != (self.scope == NATION):
            raise ValueError(
                f"scope {shown(self.scope)} does not fit the role {self.role}; national roles "
                f"have the scope {NATION}, others one operator, project or cluster"
            )
        if self.scope != NATION:
            check_slug("scope", self.scope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with tokens: a human being, or the account of an agent."""

    id: str
    name: str
    email: str | None = None

    def __post_init__(self) -> None:
        check_slug("person id", self.id)
        check_name("person name", self.name)
        if self.email is not None and not EMAIL.match(self.email):
            raise ValueError(f"email {shown(self.email)} is not an address such as kim@example.kr")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who calls: told by the token alone."""

    person: str
    token: str
    expires_ms: int
    grants: tuple[RoleGrant, ...]
    scopes: tuple[TokenScope, ...]

    def may(self, action: Action, scope: str = NATION) -> bool:
        """Whether one of its roles allows the action on that scope."""
        roles = MAY[action]
        return any(grant.role in roles and grant.scope in {NATION, scope} for grant in self.grants)

    def scopes_of(self, action: Action) -> frozenset[str]:
        """The scopes on which it may do it; NATION among them means all."""
        return frozenset(grant.scope for grant in self.grants if grant.role in MAY[action])
