"""What agents ask, and what everybody may know of the fleet."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from dure.agent.wire import FileEntry, Manifest
from dure.control.snapshot import world as snapshot_world
from dure.errors import NotFoundError, RefusedError
from dure.fleet import FleetTotals, totals
from dure.jobs import NODES_MAX
from dure.people import Action, Principal
from dure.service import Service
from dure.service.access import require_seen
from dure.store import attempts, files, jobs, secrets
from dure.store.attempts import Attempt
from dure.units import INT64_MAX
from dure.views import PoolView, Upload

LOG_PIECE_BYTES_MAX: Final = 256 * 1024
_NOTES_WITHIN_PATIENCE: Final = 3
_LATE: Final = "late-return"


# ---- an attempt's files, secrets and logs --------------------------------------------------------


def own_attempt(
    connection: Connection, principal: Principal, attempt_id: str, *, is_open: bool = False
) -> Attempt:
    """An attempt of the agent's own cluster; otherwise there is none (404)."""
    found = attempts.find(connection, attempt_id)
    missing = NotFoundError("attempt", attempt_id)
    if found is None or (is_open and found.closed_ms is not None):
        raise missing
    require_seen(principal, Action.SYNC, found.cluster, missing)
    return found


def secrets_of(service: Service, principal: Principal, attempt_id: str) -> dict[str, str]:
    """The secrets of an open attempt's job."""
    with service.database.read() as connection:
        attempt = own_attempt(connection, principal, attempt_id, is_open=True)
        return secrets.read(connection, service.vault, attempt.job)


def _starts_from(connection: Connection, principal: Principal, attempt_id: str) -> set[str]:
    """The digests of the manifests that an open attempt starts from."""
    attempt = own_attempt(connection, principal, attempt_id, is_open=True)
    task = jobs.task(connection, attempt.task)
    return {digest for digest in (task.spec.workdir, task.checkpoint) if digest is not None}


def attempt_manifest(
    service: Service, principal: Principal, attempt_id: str, sha256: str
) -> Manifest:
    """A manifest that an open attempt starts from."""
    with service.database.read() as connection:
        named = sha256 in _starts_from(connection, principal, attempt_id)
        found = files.find_manifest(connection, sha256) if named else None
    if found is None:
        raise NotFoundError("manifest", sha256)
    return found


def attempt_file(service: Service, principal: Principal, attempt_id: str, sha256: str) -> Path:
    """Where a content is that an open attempt starts from.

    Knowing a digest is not enough (I12: the file may be of a class that must not go there).
    """
    with service.database.read() as connection:
        digests = _starts_from(connection, principal, attempt_id)
        trees = [files.find_manifest(connection, digest) for digest in digests]
    named = any(f.sha256 == sha256 for tree in trees if tree for f in tree.files)
    if not named or not service.blobs.has(sha256):
        raise NotFoundError("file", sha256)
    return service.blobs.path(sha256)


def register_files(
    service: Service, principal: Principal, attempt_id: str, manifest: Manifest
) -> Upload:
    """Keep a manifest of an open attempt's files, once its project has all of their contents."""
    with service.database.write() as connection:
        attempt = own_attempt(connection, principal, attempt_id, is_open=True)
        project = jobs.spec_of(connection, attempt.job).project
        missing = files.missing(connection, project, (f.sha256 for f in manifest.files))
        if not missing:
            files.keep_manifest(connection, manifest)
        return Upload(sha256=files.digest(manifest), missing=missing)


def project_of_attempt(service: Service, principal: Principal, attempt_id: str) -> str:
    """The project whose files an agent is bringing."""
    with service.database.read() as connection:
        attempt = own_attempt(connection, principal, attempt_id, is_open=True)
        return jobs.spec_of(connection, attempt.job).project


def append_log(
    service: Service, principal: Principal, attempt_id: str, rank: int, offset: int, data: bytes
) -> int:
    """Take a piece of a node's log; the size of the whole afterwards."""
    if not (0 <= rank < NODES_MAX and 0 <= offset <= INT64_MAX):
        raise RefusedError("bad-input", f"rank {rank} or offset {offset} is out of range.")
    with service.database.read() as connection:
        attempt = own_attempt(connection, principal, attempt_id)
    if rank >= len(attempt.nodes):
        raise NotFoundError("rank", f"{rank} of {attempt_id}")
    return service.logs.append(attempt.id, rank, offset, data)


# ---- uploads of members --------------------------------------------------------------------------


def register_workdir(
    service: Service, principal: Principal, project: str, manifest: Manifest
) -> Upload:
    """Keep a manifest; the answer names the contents that the project has still to bring."""
    require_seen(principal, Action.SUBMIT, project, NotFoundError("project", project))
    with service.database.write() as connection:
        name = files.keep_manifest(connection, manifest)
        return Upload(
            sha256=name,
            missing=files.missing(connection, project, (f.sha256 for f in manifest.files)),
        )


def note_blob(service: Service, project: str, entry: FileEntry) -> None:
    """Note that a project has brought a content."""
    with service.database.write() as connection:
        files.add_blob(connection, project, entry.sha256, entry.size)


# ---- fleet ---------------------------------------------------------------------------------------


def fleet(service: Service, at_ms: int | None) -> FleetTotals:
    """The plan's totals at an instant; now, if none is named."""
    with service.database.read() as connection:
        plan = service.scenario(connection).fleet
    return totals(plan, service.now_ms() if at_ms is None else at_ms)


def pools(service: Service) -> tuple[PoolView, ...]:
    """Pools as planned and as their sites report them now."""
    with service.database.read() as connection:
        moment = service.moment(connection)
        now = snapshot_world(connection, moment, moment.known(connection))
    planned = {
        pool.id: pool.nodes_in_service(now.now_ms) * pool.gpus_per_node
        for pool in moment.scenario.fleet.pools
    }
    used: Counter[str] = Counter()
    taken: Counter[tuple[str, int]] = Counter()
    for occupation in now.occupations:
        used[occupation.pool_id] += occupation.gpus
        for node in occupation.nodes:
            taken[occupation.pool_id, node] += occupation.slots_per_node
    return tuple(
        PoolView(
            pool=state.pool.id,
            operator=state.pool.operator_id,
            cluster=state.pool.cluster_id,
            gpu_model=state.pool.gpu_model,
            gpus_per_node=state.pool.gpus_per_node,
            gpus_in_service=planned[state.pool.id],
            nodes_up=len(state.nodes),
            gpus_up=len(state.nodes) * state.pool.gpus_per_node,
            gpus_used=used[state.pool.id],
            silent=state.silent,
            nodes_idle=sum(not taken[state.pool.id, node] for node in state.nodes),
            nodes_full=sum(
                taken[state.pool.id, node] >= state.pool.gpus_per_node for node in state.nodes
            ),
        )
        for state in now.pools
    )
