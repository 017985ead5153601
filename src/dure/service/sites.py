"""What agents ask, and what everybody may know of the fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from dure.agent.wire import FileEntry, KeyOffer, Manifest, Order, SyncReply, SyncRequest
from dure.attestation import is_public_key, is_signed
from dure.control.snapshot import world as snapshot_world
from dure.engines import Phase
from dure.errors import NotFoundError, Reason, RefusedError
from dure.faults import crash_point
from dure.fleet import FleetTotals, totals
from dure.jobs import NODES_MAX, Notice
from dure.people import Action, Principal
from dure.service import Service
from dure.service.access import require_seen
from dure.settings import Settings
from dure.store import acts, attempts, events, files, jobs, secrets, site_keys, sites
from dure.store.acts import Deed
from dure.store.attempts import Attempt
from dure.store.events import Happening
from dure.store.jobs import Task
from dure.text import shown
from dure.units import INT64_MAX, MS_PER_S
from dure.views import PoolView, Upload

LOG_PIECE_BYTES_MAX: Final = 256 * 1024
_NOTES_WITHIN_PATIENCE: Final = 3
_LATE: Final = "late-return"


def sync(service: Service, principal: Principal, report: SyncRequest) -> SyncReply:
    """Take a site's present in, and answer with what should be. Idempotent.

    A site that has nothing new costs no write: that it is still there is noted a few times within
    the patience that we have with it, and leases are renewed when a tenth of them is over. What its
    engine denies is news each time: it is believed when it is said again.
    """
    cluster = report.cluster_id
    require_seen(principal, Action.SYNC, cluster, NotFoundError("cluster", cluster))
    call = _Call(report, service.now_ms(), service.settings)
    with service.database.read() as connection:
        _require_signed(connection, report)
        open_attempts = attempts.open_attempts(connection, cluster)
        if _is_old_news(connection, call, open_attempts):
            return _reply(connection, call, open_attempts)
    with service.database.write() as connection:
        sites.store_report(connection, report, call.now_ms)
        open_attempts = attempts.open_attempts(connection, cluster)
        _note_late_returns(connection, call, open_attempts)
        attempts.note_accepted(connection, _newly_accepted(report, open_attempts))
        until_ms = call.now_ms + service.settings.lease_s * MS_PER_S
        attempts.extend_leases(connection, [a.id for a in open_attempts], until_ms)
        open_attempts = attempts.open_attempts(connection, cluster)
        reply = _reply(connection, call, open_attempts)
        crash_point("sync.before-commit", when=bool(report.attempts))
    service.wake()
    return reply


def enrol_key(service: Service, principal: Principal, offer: KeyOffer) -> None:
    """A cluster's agent names the key that it signs with, once. Idempotent.

    Raises:
        RefusedError: it is no such key, or the cluster has another.
    """
    cluster = offer.cluster_id
    require_seen(principal, Action.SYNC, cluster, NotFoundError("cluster", cluster))
    if not is_public_key(offer.public_key):
        sentence = f"public_key {shown(offer.public_key)} is not 32 bytes of Ed25519 in base64."
        raise RefusedError("bad-input", sentence)
    with service.database.write() as connection:
        known = site_keys.enrolled(connection, cluster)
        if known == offer.public_key:
            return
        if known is not None or site_keys.was_enrolled(connection, cluster, offer.public_key):
            raise RefusedError(
                "other-key",
                f"{cluster} has enrolled another key; whoever administers it runs "
                f"`dure agent enrol {cluster}` for a new token, with which a new key may come.",
                status=409,
            )
        now_ms = service.now_ms()
        site_keys.enrol(connection, cluster, offer.public_key, now_ms)
        sentence = f"The agent of {cluster} signs with the key {offer.public_key} from now on."
        deed = Deed(act="site-key-enrolled", subject=f"cluster/{cluster}", sentence=sentence)
        acts.write(connection, principal, deed, now_ms)


def _require_signed(connection: Connection, report: SyncRequest) -> None:
    """Once a cluster has a key, every end that it reports is signed with it."""
    ended = [said for said in report.attempts if said.phase is Phase.ENDED]
    key = site_keys.enrolled(connection, report.cluster_id) if ended else None
    for said in ended:
        if key is not None and not is_signed(report.cluster_id, said, key):
            raise RefusedError(
                "not-signed",
                f"The end of attempt {shown(said.attempt_id)} is not signed with the key that "
                f"{report.cluster_id} has enrolled.",
                status=403,
            )


def _note_late_returns(
    connection: Connection, call: _Call, open_attempts: tuple[Attempt, ...]
) -> None:
    """A site is back with attempts that were given up in its silence: each is said once, in its
    job's events. Its agent stops them, as another may run in their place; nothing is charged.
    """
    open_ids = {attempt.id for attempt in open_attempts}
    suspect = [a for a in running_of(call.report) if a not in open_ids]
    for late in attempts.closed_of(connection, suspect, call.report.cluster_id) if suspect else ():
        if not events.has(connection, late.attempt, _LATE):
            text = (
                f"{call.report.cluster_id} is back and still runs attempt {late.attempt}, which "
                "was given up; its agent stops it, and what it runs now is not charged"
            )
            happening = Happening(
                project=late.project, job=late.job, task=late.task, attempt=late.attempt,
                reason=Reason(_LATE, text),
            )  # fmt: skip
            events.write(connection, happening, call.now_ms)


def running_of(report: SyncRequest) -> tuple[str, ...]:
    """The attempts that a site reports and that have not ended, by id."""
    return tuple(
        sorted(said.attempt_id for said in report.attempts if said.phase is not Phase.ENDED)
    )


def strangers_of(report: SyncRequest, known: Mapping[str, tuple[str, bool]]) -> tuple[str, ...]:
    """The attempts that a site reports and that are none of its cluster's, by id; `known` is
    `attempts.known` of all that it reports.
    """
    named = sorted({said.attempt_id for said in report.attempts})
    return tuple(a for a in named if a not in known or known[a][0] != report.cluster_id)


@dataclass(frozen=True, slots=True)
class _Call:
    """What a site said, when, and how patient we are."""

    report: SyncRequest
    now_ms: int
    settings: Settings


def _is_old_news(connection: Connection, call: _Call, open_attempts: tuple[Attempt, ...]) -> bool:
    heard = sites.find(connection, call.report.cluster_id)
    patience_ms = call.settings.silent_after_s * MS_PER_S / _NOTES_WITHIN_PATIENCE
    if (
        heard is None
        or heard.report != call.report
        or call.report.denied
        or call.now_ms - heard.received_ms >= patience_ms
    ):
        return False
    renew_ms = call.settings.lease_s * MS_PER_S * 9 // 10
    return all(a.lease_until_ms - call.now_ms > renew_ms for a in open_attempts)


def _newly_accepted(report: SyncRequest, open_attempts: tuple[Attempt, ...]) -> dict[str, str]:
    """Written down at once: should the site lose its disk now, it must not run them again."""
    known = {a.id: a.engine_id for a in open_attempts}
    return {
        said.attempt_id: said.engine_id
        for said in report.attempts
        if said.engine_id and known.get(said.attempt_id, said.engine_id) != said.engine_id
    }


def _reply(connection: Connection, call: _Call, open_attempts: tuple[Attempt, ...]) -> SyncReply:
    """What should be. No attempt is promised more of its lease than is written down; the site
    counts from when it sent its sync, which is no later than `now_ms`, so its count ends first.
    """
    named = sorted({a.attempt_id for a in call.report.attempts})
    known = attempts.known(connection, named)
    cluster = call.report.cluster_id
    leases = [a.lease_until_ms - call.now_ms for a in open_attempts]
    full_ms = call.settings.lease_s * MS_PER_S
    found = jobs.tasks_by_id(connection, [a.task for a in open_attempts])
    tasks = {task.id: task for task in found}
    return SyncReply(
        orders=tuple(_order(attempt, tasks[attempt.task]) for attempt in open_attempts),
        closed=tuple(a for a in named if a in known and known[a] == (cluster, True)),
        strangers=strangers_of(call.report, known),
        lease_s=max(0, min([full_ms, *leases]) // MS_PER_S),
        interval_s=call.settings.sync_interval_s,
    )


def _order(attempt: Attempt, task: Task) -> Order:
    spec = task.spec
    return Order(
        attempt_id=attempt.id,
        wish=attempt.wish,
        accepted=attempt.engine_id is not None,
        job_id=jobs.job_name(attempt.job),
        job_name=spec.name,
        task_index=task.index,
        attempt_number=attempt.number,
        project=spec.project,
        pool_id=attempt.pool,
        nodes=attempt.nodes,
        gpus_per_node=attempt.slots_per_node,
        walltime_s=spec.walltime_s,
        notice=spec.checkpoint.signal if spec.checkpoint else Notice.TERM,
        grace_s=spec.grace_s,
        command=spec.command,
        script=spec.script,
        env=spec.env or {},
        workdir=spec.workdir,
        checkpoint_dir=spec.checkpoint.dir if spec.checkpoint else None,
        checkpoint=task.checkpoint,
        outputs_dir=spec.outputs,
    )


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
