"""What the programme office does: enrol organisations, projects and people, and award."""

from __future__ import annotations

from sqlalchemy import Connection

from dure import ledger
from dure.allocations import Allocation, Organisation, Project
from dure.errors import NotFoundError, RefusedError
from dure.people import NATION, NATIONAL_ROLES, PROJECT_ROLES, Action, Person, Principal, RoleGrant
from dure.service import Service
from dure.service.access import AGENT_PREFIX, require, require_seen
from dure.service.jobs import visible_projects
from dure.store import acts, people, projects
from dure.store import ledger as ledger_store
from dure.store.acts import Deed
from dure.text import shown
from dure.views import AllocationView, MemberRequest, PersonView, ProjectView


def create_organisation(
    service: Service, principal: Principal, organisation: Organisation
) -> Organisation:
    """Enrol an organisation."""
    require(principal, Action.MANAGE_PROJECTS)
    with service.database.write() as connection:
        projects.add_organisation(connection, organisation)
        deed = Deed(
            act="organisation-created",
            subject=f"organisation/{organisation.id}",
            sentence=f"The {organisation.kind} {organisation.id} was enrolled.",
        )
        acts.write(connection, principal, deed, service.now_ms())
    return organisation


def organisations(service: Service) -> tuple[Organisation, ...]:
    """All organisations: who takes part is public among users."""
    with service.database.read() as connection:
        return projects.all_organisations(connection)


def create_project(service: Service, principal: Principal, project: Project) -> ProjectView:
    """Enrol a project."""
    require(principal, Action.MANAGE_PROJECTS)
    with service.database.write() as connection:
        projects.add_project(connection, project)
        deed = Deed(
            act="project-created",
            subject=f"project/{project.id}",
            sentence=f"The project {project.id} of {project.organisation} was enrolled.",
        )
        acts.write(connection, principal, deed, service.now_ms())
        return projects.project_views(connection, [project.id])[0]


def all_projects(service: Service, principal: Principal) -> tuple[ProjectView, ...]:
    """The projects that the principal may see."""
    with service.database.read() as connection:
        return projects.project_views(connection, visible_projects(principal, Action.READ_PROJECT))


def add_member(
    service: Service, principal: Principal, project: str, member: MemberRequest
) -> ProjectView:
    """Make a person a member or PI, in place of what they were in the project."""
    require_seen(principal, Action.MANAGE_MEMBERS, project, NotFoundError("project", project))
    if member.role not in PROJECT_ROLES:
        raise RefusedError(
            "bad-role", f"role is {member.role}; in a project it must be pi or member.", status=422
        )
    _refuse_oneself(principal, member.person, project)
    with service.database.write() as connection:
        found = projects.project_views(connection, [project])
        if not found:
            raise NotFoundError("project", project)
        people.require_person(connection, member.person)
        until_now = [one.role for one in found[0].members if one.person == member.person]
        if until_now == [member.role]:
            return found[0]
        people.revoke(connection, member.person, PROJECT_ROLES, project)
        granted = RoleGrant(member.role, project)
        people.grant(connection, member.person, granted, service.now_ms())
        before = f", {' and '.join(until_now)} until now," if until_now else ""
        deed = Deed(
            act="member-added",
            subject=f"project/{project}",
            sentence=f"{member.person}{before} became {member.role} of {project}.",
        )
        acts.write(connection, principal, deed, service.now_ms())
        return projects.project_views(connection, [project])[0]


def _refuse_oneself(principal: Principal, person: str, project: str) -> None:
    """Nobody who oversees projects joins one by themselves, and then reads its data."""
    if person == principal.person and not principal.may(Action.SUBMIT, project):
        raise RefusedError(
            "not-oneself",
            f"{person} cannot make themselves a member of {project}; "
            "a PI of it, or another officer or administrator, can.",
            status=403,
        )


def remove_member(service: Service, principal: Principal, project: str, person: str) -> None:
    """End a membership."""
    require_seen(principal, Action.MANAGE_MEMBERS, project, NotFoundError("project", project))
    with service.database.write() as connection:
        if not people.revoke(connection, person, PROJECT_ROLES, project):
            raise NotFoundError("member", person)
        deed = Deed(
            act="member-removed",
            subject=f"project/{project}",
            sentence=f"{person} was removed from {project}.",
        )
        acts.write(connection, principal, deed, service.now_ms())


def create_person(service: Service, principal: Principal, person: Person) -> PersonView:
    """Enrol a person."""
    require(principal, Action.MANAGE_PROJECTS)
    if person.id.startswith(AGENT_PREFIX):
        raise RefusedError(
            "reserved-id", f"Ids such as {person.id} are for agents; choose another.", status=422
        )
    with service.database.write() as connection:
        people.add_person(connection, person, service.now_ms())
        deed = Deed(
            act="person-created",
            subject=f"person/{person.id}",
            sentence=f"{person.id} was enrolled.",
        )
        acts.write(connection, principal, deed, service.now_ms())
        return people.person_views(connection, person.id)[0]


def everybody(service: Service, principal: Principal) -> tuple[PersonView, ...]:
    """All people and their roles."""
    require(principal, Action.MANAGE_PEOPLE)
    with service.database.read() as connection:
        return people.person_views(connection)


def grant_role(
    service: Service, principal: Principal, person: str, granted: RoleGrant
) -> PersonView:
    """Give a person a role; one for an operator, project or cluster only if there is such."""
    require(principal, Action.MANAGE_PEOPLE)
    if granted.role in PROJECT_ROLES:
        _refuse_oneself(principal, person, granted.scope)
    with service.database.write() as connection:
        people.require_person(connection, person)
        _check_scope(service, connection, granted)
        if people.grant(connection, person, granted, service.now_ms()):
            deed = Deed(
                act="role-granted",
                subject=f"person/{person}",
                sentence=f"{person} became {granted.role} of {_whole(granted)}.",
            )
            acts.write(connection, principal, deed, service.now_ms())
        return people.person_views(connection, person)[0]


def _whole(granted: RoleGrant) -> str:
    return "the nation" if granted.scope == NATION else granted.scope


def _check_scope(service: Service, connection: Connection, granted: RoleGrant) -> None:
    if granted.role in NATIONAL_ROLES:
        return
    fleet = service.scenario(connection).fleet
    if granted.role in PROJECT_ROLES:
        known = {p.project.id for p in projects.project_views(connection, [granted.scope])}
    else:
        known = {o.id for o in fleet.operators} | {c.id for c in fleet.clusters}
    if granted.scope not in known:
        raise NotFoundError(f"scope for the role {granted.role}:", granted.scope)


def revoke_role(service: Service, principal: Principal, person: str, granted: RoleGrant) -> None:
    """Take a role back; the last administrator keeps theirs."""
    require(principal, Action.MANAGE_PEOPLE)
    with service.database.write() as connection:
        if not people.revoke(connection, person, [granted.role], granted.scope):
            raise NotFoundError("role", f"{granted.role} of {shown(person)}")
        if not people.any_admin(connection):
            raise RefusedError(
                "last-administrator",
                f"{person} is the only administrator; make another one first.",
                status=409,
            )
        deed = Deed(
            act="role-revoked",
            subject=f"person/{person}",
            sentence=f"{person} is no longer {granted.role} of {_whole(granted)}.",
        )
        acts.write(connection, principal, deed, service.now_ms())


# ---- allocations ---------------------------------------------------------------------------------


def award(service: Service, principal: Principal, allocation: Allocation) -> AllocationView:
    """Make an allocation: its row and its grant in the ledger, in one transaction."""
    require(principal, Action.AWARD)
    with service.database.write() as connection:
        _check_pool(service, connection, allocation)
        projects.add_allocation(connection, allocation)
        granted = ledger.grant(allocation.id, allocation.unit, allocation.limit)
        posted = ledger_store.post(connection, granted, service.now_ms())
        deed = Deed(
            act="allocation-awarded",
            subject=f"allocation/{allocation.id}",
            sentence=f"{allocation.project} was awarded {allocation.id} by journal {posted.seq}.",
        )
        acts.write(connection, principal, deed, service.now_ms())
        return projects.allocation_view(connection, allocation)


def _check_pool(service: Service, connection: Connection, allocation: Allocation) -> None:
    fleet = service.scenario(connection).fleet
    models = {pool.gpu_model for pool in fleet.pools}
    if allocation.gpu_model is not None and allocation.gpu_model not in models:
        raise RefusedError(
            "no-such-gpus",
            f"gpu_model is {shown(allocation.gpu_model)}; the fleet has "
            f"{', '.join(sorted(models))}.",
            status=422,
        )
    if allocation.pool is not None:
        fitting = {p.id for p in fleet.pools if p.gpu_model == allocation.gpu_model}
        if allocation.pool not in fitting:
            raise RefusedError(
                "no-such-pool",
                f"pool is {shown(allocation.pool)}; the pools of {allocation.gpu_model} are "
                f"{', '.join(sorted(fitting))}.",
                status=422,
            )


def allocations(
    service: Service, principal: Principal, project: str | None
) -> tuple[AllocationView, ...]:
    """The allocations that the principal may see, with their balances."""
    of_projects = visible_projects(principal, Action.READ_PROJECT)
    if project is not None:
        missing = NotFoundError("project", project)
        require_seen(principal, Action.READ_PROJECT, project, missing)
        of_projects = (project,)
    with service.database.read() as connection:
        return tuple(
            projects.allocation_view(connection, allocation)
            for allocation in projects.find_allocations(connection, of_projects=of_projects)
        )


def allocation(service: Service, principal: Principal, allocation_id: str) -> AllocationView:
    """One allocation and its balance."""
    missing = NotFoundError("allocation", allocation_id)
    with service.database.read() as connection:
        for found in projects.find_allocations(connection, ids=[allocation_id]):
            require_seen(principal, Action.READ_PROJECT, found.project, missing)
            return projects.allocation_view(connection, found)
    raise missing
