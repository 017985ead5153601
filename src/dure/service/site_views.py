"""What is known of operators' sites, and what is wrong there."""

from __future__ import annotations

from sqlalchemy import Connection

from dure.fleet import Cluster
from dure.people import NATION, Action, Principal
from dure.service import Service
from dure.service.syncing import running_of, strangers_of
from dure.store import attempts, site_keys, sites
from dure.store.sites import Site
from dure.units import MS_PER_S
from dure.views import SiteView


def visible(service: Service, principal: Principal) -> tuple[SiteView, ...]:
    """The sites whose operators the caller oversees or administers, by cluster."""
    scopes = principal.scopes_of(Action.READ_OPERATOR)
    found = all_sites(service)
    return tuple(one for one in found if NATION in scopes or one.operator in scopes)


def all_sites(service: Service) -> tuple[SiteView, ...]:
    """Every site of the fleet, by cluster."""
    with service.database.read() as connection:
        clusters = service.scenario(connection).fleet.clusters
        heard = {site.cluster: site for site in sites.all_sites(connection)}
        keys = site_keys.all_enrolled(connection)
        return tuple(
            _view(connection, service, cluster, heard.get(cluster.id), keys.get(cluster.id))
            for cluster in sorted(clusters, key=lambda one: one.id)
        )


def _view(
    connection: Connection, service: Service, cluster: Cluster, site: Site | None, key: str | None
) -> SiteView:
    if site is None:
        return SiteView(
            cluster=cluster.id, operator=cluster.operator_id, engine=cluster.engine,
            received_ms=None, silent=True, engine_answered=False, attempts=0, public_key=key,
            drift=(), strangers=(), late=(),
        )  # fmt: skip
    report = site.report
    known = attempts.known(connection, [said.attempt_id for said in report.attempts])
    silent_ms = service.settings.silent_after_s * MS_PER_S
    return SiteView(
        cluster=cluster.id,
        operator=cluster.operator_id,
        engine=report.engine,
        received_ms=site.received_ms,
        silent=service.now_ms() - site.received_ms > silent_ms,
        engine_answered=report.engine_answered,
        attempts=len(report.attempts),
        public_key=key,
        drift=report.drift,
        strangers=strangers_of(report, known),
        late=tuple(id_ for id_ in running_of(report) if known.get(id_) == (cluster.id, True)),
    )
