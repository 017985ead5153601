"""Statements on manifests and on who has brought which contents."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

from sqlalchemy import Connection, select

from dure import codec
from dure.agent.wire import Manifest
from dure.store.schema import manifests, project_blobs
from dure.store.upsert import upsert

_CHUNK = 500


def digest(manifest: Manifest) -> str:
    """The SHA-256 of a manifest's canonical JSON: its name."""
    return sha256(codec.encode(manifest)).hexdigest()


def keep_manifest(connection: Connection, manifest: Manifest) -> str:
    """Store a manifest under its digest. Idempotent."""
    name = digest(manifest)
    connection.execute(
        upsert(connection, manifests)
        .values(sha256=name, document=codec.encode_text(manifest))
        .on_conflict_do_nothing()
    )
    return name


def find_manifest(connection: Connection, name: str) -> Manifest | None:
    """A manifest by its digest, or None."""
    document = connection.scalar(select(manifests.c.document).where(manifests.c.sha256 == name))
    return None if document is None else codec.read(Manifest, document)


def find_brought(connection: Connection, project: str, name: str) -> Manifest | None:
    """A manifest by its digest, if the project has brought all of its contents; or None."""
    manifest = find_manifest(connection, name)
    if manifest is None or missing(connection, project, (f.sha256 for f in manifest.files)):
        return None
    return manifest


def add_blob(connection: Connection, project: str, sha256_: str, size: int) -> None:
    """Note that a project has brought a content. Idempotent."""
    connection.execute(
        upsert(connection, project_blobs)
        .values(project=project, sha256=sha256_, size=size)
        .on_conflict_do_nothing()
    )


def missing(connection: Connection, project: str, wanted: Iterable[str]) -> tuple[str, ...]:
    """Of those contents, the ones that the project has not itself brought, ordered."""
    lacking = sorted(set(wanted))
    had: set[str] = set()
    for start in range(0, len(lacking), _CHUNK):
        part = lacking[start : start + _CHUNK]
        had.update(
            connection.scalars(
                select(project_blobs.c.sha256).where(
                    project_blobs.c.project == project, project_blobs.c.sha256.in_(part)
                )
            )
        )
    return tuple(name for name in lacking if name not in had)
