"""Statements on the loaded scenario and on what the sites last reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from pydantic import ValidationError
from sqlalchemy import Connection, Row, bindparam, func, insert, select, update

from dure import codec, scenario
from dure.agent.wire import SyncRequest
from dure.scenario import Scenario
from dure.store.schema import scenarios, sites
from dure.store.upsert import upsert


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The last sync of a cluster's agent. `answered_ms`: the last in which its engine answered."""

    cluster: str
    received_ms: int
    answered_ms: int
    report: SyncRequest


def load_scenario(connection: Connection, loaded: Scenario, now_ms: int) -> int:
    """Make a scenario the present one, as a new version unless it already is; its version."""
    document = scenario.to_json(loaded)
    row = connection.execute(
        select(scenarios.c.version, scenarios.c.document)
        .order_by(scenarios.c.version.desc())
        .limit(1)
    ).one_or_none()
    if row is not None and row.document == document:
        return int(row.version)
    version = int(row.version) + 1 if row else 1
    connection.execute(
        insert(scenarios).values(version=version, loaded_ms=now_ms, document=document)
    )
    return version


def scenario_version(connection: Connection) -> int:
    """The version of the present scenario; 0 where none was ever loaded."""
    return connection.scalar(select(func.max(scenarios.c.version))) or 0


def read_scenario(connection: Connection, version: int) -> Scenario:
    """A scenario by its version."""
    document = connection.scalar(select(scenarios.c.document).where(scenarios.c.version == version))
    assert document is not None
    return scenario.from_json(document)


def store_report(connection: Connection, report: SyncRequest, now_ms: int) -> None:
    """Keep a cluster's latest sync in place of the one before."""
    values = {
        "cluster": report.cluster_id,
        "received_ms": now_ms,
        "answered_ms": now_ms if report.engine_answered else 0,
        "report": codec.encode_text(report),
    }
    changes = values if report.engine_answered else {
        name: value for name, value in values.items() if name != "answered_ms"
    }  # fmt: skip
    connection.execute(
        upsert(connection, sites)
        .values(values)
        .on_conflict_do_update(index_elements=["cluster"], set_=changes)
    )


@dataclass(frozen=True, slots=True)
class Heard:
    """A cluster that was heard at `before_ms`, and has said the same again since."""

    cluster: str
    before_ms: int
    again_ms: int
    answered: bool


def hear_again(connection: Connection, heard: Sequence[Heard]) -> None:
    """Note when sites were heard that had nothing new, but for those that said more meanwhile."""
    of = sites.c
    again_ms = bindparam("again_ms", type_=of.received_ms.type)
    same = (of.cluster == bindparam("of_cluster"), of.received_ms == bindparam("before_ms"))
    heard_only = update(sites).where(*same).values(received_ms=again_ms)
    for answered, told in ((True, heard_only.values(answered_ms=again_ms)), (False, heard_only)):
        rows = [
            {"of_cluster": one.cluster, "before_ms": one.before_ms, "again_ms": one.again_ms}
            for one in heard
            if one.answered is answered
        ]
        if rows:
            connection.execute(told, rows)


@lru_cache(maxsize=1_000)
def _report(document: str) -> SyncRequest:
    """A site repeats itself while nothing happens, so that most reports were decoded before."""
    return codec.read(SyncRequest, document)


def _site(row: Row[tuple[object, ...]]) -> Site | None:
    """None for a report that an earlier version wrote in another form: as if it was never heard."""
    try:
        report = _report(row.report)
    except ValidationError:
        return None
    return Site(
        cluster=row.cluster,
        received_ms=row.received_ms,
        answered_ms=row.answered_ms,
        report=report,
    )


def all_sites(connection: Connection) -> tuple[Site, ...]:
    """Every site that ever reported, by cluster."""
    rows = connection.execute(select(sites).order_by(sites.c.cluster))
    return tuple(site for row in rows if (site := _site(row)) is not None)


def find(connection: Connection, cluster: str) -> Site | None:
    """What a cluster's site last reported, or None."""
    row = connection.execute(select(sites).where(sites.c.cluster == cluster)).one_or_none()
    return None if row is None else _site(row)
