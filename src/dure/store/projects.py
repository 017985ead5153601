"""Statements on organisations, projects and allocations."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Connection, func, insert, select

from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.errors import NotFoundError, RefusedError
from dure.store import ledger, people
from dure.store.schema import allocations, organisations, projects
from dure.views import AllocationView, ProjectView


def add_organisation(connection: Connection, organisation: Organisation) -> None:
    """Enrol an organisation. Raises RefusedError where the id is taken."""
    if connection.scalar(select(organisations.c.id).where(organisations.c.id == organisation.id)):
        raise RefusedError(
            "organisation-exists",
            f"There is an organisation {organisation.id} already.",
            status=409,
        )
    connection.execute(
        insert(organisations).values(
            id=organisation.id, name=organisation.name, kind=organisation.kind
        )
    )


def all_organisations(connection: Connection) -> tuple[Organisation, ...]:
    """All organisations, by id."""
    rows = connection.execute(select(organisations).order_by(organisations.c.id))
    return tuple(
        Organisation(id=row.id, name=row.name, kind=OrganisationKind(row.kind)) for row in rows
    )


def add_project(connection: Connection, project: Project) -> None:
    """Enrol a project. Raises RefusedError where the id is taken or the organisation unknown."""
    if connection.scalar(select(projects.c.id).where(projects.c.id == project.id)):
        raise RefusedError(
            "project-exists", f"There is a project {project.id} already.", status=409
        )
    known = select(organisations.c.id).where(organisations.c.id == project.organisation)
    if connection.scalar(known) is None:
        raise NotFoundError("organisation", project.organisation)
    connection.execute(
        insert(projects).values(
            id=project.id, organisation=project.organisation, title=project.title
        )
    )


def project_views(
    connection: Connection, only: Collection[str] | None = None
) -> tuple[ProjectView, ...]:
    """Projects with their members, by id; all of them, or those named."""
    joined = select(
        projects, organisations.c.name.label("organisation_name"), organisations.c.kind
    ).join_from(projects, organisations)
    if only is not None:
        joined = joined.where(projects.c.id.in_(sorted(only)))
    return tuple(
        ProjectView(
            project=Project(id=row.id, organisation=row.organisation, title=row.title),
            organisation=Organisation(
                id=row.organisation, name=row.organisation_name, kind=OrganisationKind(row.kind)
            ),
            members=people.members(connection, row.id),
        )
        for row in connection.execute(joined.order_by(projects.c.id))
    )


def add_allocation(connection: Connection, allocation: Allocation) -> None:
    """Store an allocation. Raises RefusedError where the id is taken or the project unknown."""
    if connection.scalar(select(allocations.c.id).where(allocations.c.id == allocation.id)):
        raise RefusedError(
            "allocation-exists", f"There is an allocation {allocation.id} already.", status=409
        )
    if connection.scalar(select(projects.c.id).where(projects.c.id == allocation.project)) is None:
        raise NotFoundError("project", allocation.project)
    connection.execute(
        insert(allocations).values(
            id=allocation.id,
            project=allocation.project,
            kind=allocation.kind,
            starts_ms=allocation.starts_ms,
            ends_ms=allocation.ends_ms,
            credit_ucredit=allocation.credit_ucredit,
            gpus=allocation.gpus,
            gpu_model=allocation.gpu_model,
            pool=allocation.pool,
            subsidy_milli=allocation.subsidy_milli,
        )
    )


def find_allocations(
    connection: Connection,
    *,
    ids: Collection[str] | None = None,
    of_projects: Collection[str] | None = None,
) -> tuple[Allocation, ...]:
    """Allocations, by id; all, or those named, or those of some projects."""
    query = select(allocations).order_by(allocations.c.id)
    if ids is not None:
        query = query.where(allocations.c.id.in_(sorted(ids)))
    if of_projects is not None:
        query = query.where(allocations.c.project.in_(sorted(of_projects)))
    return tuple(
        Allocation(
            id=row.id,
            project=row.project,
            kind=AllocationKind(row.kind),
            starts_ms=row.starts_ms,
            ends_ms=row.ends_ms,
            credit_ucredit=row.credit_ucredit,
            gpus=row.gpus,
            gpu_model=row.gpu_model,
            pool=row.pool,
            subsidy_milli=row.subsidy_milli,
        )
        for row in connection.execute(query)
    )


def count_allocations(connection: Connection) -> int:
    """How many allocations there are. They are never changed nor removed, so that an equal count
    means that nothing is new.
    """
    return int(connection.execute(select(func.count()).select_from(allocations)).scalar_one())


def organisations_of_projects(connection: Connection) -> dict[str, str]:
    """Whose each project is: organisation by project."""
    rows = connection.execute(select(projects.c.id, projects.c.organisation))
    return {row.id: row.organisation for row in rows}


def kinds_of_projects(connection: Connection) -> dict[str, OrganisationKind]:
    """Of which kind the organisation of each project is."""
    rows = connection.execute(
        select(projects.c.id, organisations.c.kind).join_from(projects, organisations)
    )
    return {row.id: OrganisationKind(row.kind) for row in rows}


def allocation_view(connection: Connection, allocation: Allocation) -> AllocationView:
    """An allocation with its balance from the ledger's accounts."""
    balance = ledger.balance(connection, allocation.id, allocation.unit)
    return AllocationView(
        allocation=allocation,
        unit=allocation.unit,
        limit=balance.limit,
        held=balance.held,
        spent=balance.spent,
        available=balance.available,
    )
