"""Statements on the keys with which sites sign what was used; none is ever removed."""

from __future__ import annotations

from collections import defaultdict

from sqlalchemy import Connection, insert, select, update

from dure.attestation import fault
from dure.audit import FINDINGS_MAX, Finding
from dure.store.schema import attempts, site_keys
from dure.units import INSTANT_MS_MAX


def enrolled(connection: Connection, cluster: str) -> str | None:
    """The key that a cluster signs with now, in base64; None where none is enrolled."""
    return connection.scalar(
        select(site_keys.c.public_key).where(
            site_keys.c.cluster == cluster, site_keys.c.retired_ms.is_(None)
        )
    )


def all_enrolled(connection: Connection) -> dict[str, str]:
    """The key that each cluster signs with now, of those that have one."""
    of = site_keys.c
    rows = connection.execute(select(of.cluster, of.public_key).where(of.retired_ms.is_(None)))
    return {row.cluster: row.public_key for row in rows}


def was_enrolled(connection: Connection, cluster: str, public_key: str) -> bool:
    """Whether a cluster has ever enrolled this key."""
    of = site_keys.c
    query = select(of.cluster).where(of.cluster == cluster, of.public_key == public_key)
    return connection.scalar(query) is not None


def enrol(connection: Connection, cluster: str, public_key: str, now_ms: int) -> None:
    """A cluster signs with this key from now on."""
    connection.execute(
        insert(site_keys).values(cluster=cluster, public_key=public_key, enrolled_ms=now_ms)
    )


def retire(connection: Connection, cluster: str, now_ms: int) -> None:
    """Its next agent enrols a key of its own; what was signed stays signed."""
    connection.execute(
        update(site_keys)
        .where(site_keys.c.cluster == cluster, site_keys.c.retired_ms.is_(None))
        .values(retired_ms=now_ms)
    )


def audit(connection: Connection) -> tuple[Finding, ...]:
    """Hold what was metered of each attempt against what its site has signed of it.

    Nothing signed is a finding only where use was metered after a key had been enrolled.
    """
    keys: defaultdict[str, list[str]] = defaultdict(list)
    since_ms: dict[str, int] = {}
    for row in connection.execute(select(site_keys).order_by(site_keys.c.enrolled_ms)):
        keys[row.cluster].append(row.public_key)
        since_ms.setdefault(row.cluster, row.enrolled_ms)
    closed = attempts.c.closed_ms.is_not(None)
    of = attempts.c
    columns = (of.id, of.cluster, of.nodes, of.slots_per_node, of.gpu_ms, of.attestation)
    query = select(*columns, of.intended_ms, of.ended_ms).where(closed).order_by(of.id)
    found: list[Finding] = []
    for row in connection.execute(query):
        attempt = (row.id, row.cluster, len(row.nodes) * row.slots_per_node, row.gpu_ms or 0)
        if row.attestation is not None:
            if wrong := fault(row.attestation, attempt, keys[row.cluster]):
                found.append(
                    Finding("attestation", 0, f"The attestation of attempt {row.id} {wrong}.")
                )
        elif row.ended_ms is not None and row.intended_ms >= since_ms.get(
            row.cluster, INSTANT_MS_MAX
        ):
            found.append(
                Finding("not-attested", 0, f"Nobody has signed what attempt {row.id} has used.")
            )
    return tuple(found[:FINDINGS_MAX])
