"""What a site says of its present, and what it is answered: `sync`, and the key that it signs with.

While nothing happens a site says the same again and is answered the same, so that is what is made
cheap: what was last heard and answered is kept, and used for as long as the database says that
nothing of it has changed. Any number of processes may answer; each keeps its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import Connection

from dure import codec
from dure.agent.wire import KeyOffer, Order, SyncReply, SyncRequest
from dure.attestation import is_public_key, is_signed
from dure.engines import Phase
from dure.errors import NotFoundError, Reason, RefusedError
from dure.faults import crash_point
from dure.jobs import Notice
from dure.people import Action, Principal
from dure.service import Service, Told
from dure.service.access import require_seen
from dure.settings import Settings
from dure.store import acts, attempts, events, jobs, site_keys, sites
from dure.store.acts import Deed
from dure.store.attempts import Attempt
from dure.store.events import Happening
from dure.store.jobs import Task
from dure.store.sites import Heard
from dure.text import shown
from dure.units import MS_PER_S

_NOTES_WITHIN_PATIENCE: Final = 3
_RENEW_WITH_LEFT: Final = 0.9
"""Of a lease: leases are written down anew when a tenth of them is over."""
_LATE: Final = "late-return"


def decoded(service: Service, principal: Principal, body: bytes) -> SyncRequest:
    """A sync's body; the one before is remembered for each agent. Raises RefusedError."""
    before = service.heard.get(principal.token)
    if before is not None and before[0] == body:
        return before[1]
    report = codec.decode(SyncRequest, body)
    service.heard[principal.token] = (body, report)
    return report


def sync_json(service: Service, principal: Principal, report: SyncRequest) -> bytes:
    """What `sync` answers, as JSON; orders that were encoded before are not encoded again."""
    reply = sync(service, principal, report)
    told = service.told.get(report.cluster_id)
    if told is None or told.reply.orders is not reply.orders:
        return codec.encode(reply)
    return codec.encode(replace(reply, orders=())).replace(b"[]", told.orders_json, 1)


def sync(service: Service, principal: Principal, report: SyncRequest) -> SyncReply:
    """Take a site's present in, and answer with what should be. Idempotent.

    A site that has nothing new costs no write: that it is still there is noted a few times within
    the patience that we have with it, and leases are renewed when a tenth of them is over. What its
    engine denies is news each time: it is believed when it is said again.
    """
    cluster = report.cluster_id
    require_seen(principal, Action.SYNC, cluster, NotFoundError("cluster", cluster))
    call = _Call(report, service.now_ms(), service.settings)
    told = service.told.get(cluster)
    repeats = told is not None and told.report == report and not report.denied
    if repeats and told is not None and (again := _again(service, call, told)) is not None:
        return again
    with service.database.read() as connection:
        _require_signed(connection, report)
    with service.database.write() as connection:
        sites.store_report(connection, report, call.now_ms)
        open_attempts = attempts.open_attempts(connection, cluster)
        _note_late_returns(connection, call, open_attempts)
        accepted = _newly_accepted(report, open_attempts)
        attempts.note_accepted(connection, accepted)
        due = [one.id for one in open_attempts if call.is_due(one.lease_until_ms)]
        attempts.extend_leases(connection, due, call.now_ms + call.lease_ms)
        if accepted or due:
            open_attempts = attempts.open_attempts(connection, cluster)
        reply = _reply(connection, call, open_attempts)
        wishes = attempts.standing(connection, cluster).wishes
        crash_point("sync.before-commit", when=bool(report.attempts))
    service.told[cluster] = Told(
        report=report,
        received_ms=call.now_ms,
        wishes=wishes,
        reply=reply,
        orders_json=codec.encode(reply.orders),
    )
    if accepted or not repeats:
        service.wake()
    return reply


@dataclass(frozen=True, slots=True)
class _Call:
    """What a site said, when, and how patient we are."""

    report: SyncRequest
    now_ms: int
    settings: Settings

    @property
    def lease_ms(self) -> int:
        """How long an attempt may go on unseen, at most."""
        return self.settings.lease_s * MS_PER_S

    def is_due(self, lease_until_ms: int) -> bool:
        """Whether a lease is to be written down anew."""
        return lease_until_ms - self.now_ms <= self.lease_ms * _RENEW_WITH_LEFT

    def lease_s(self, leases_until_ms: Iterable[int]) -> int:
        """What may be promised: no more than is written down. The site counts from when it sent
        its sync, which is no later than `now_ms`, so its count ends first.
        """
        left_ms = (until_ms - self.now_ms for until_ms in leases_until_ms)
        return max(0, min([self.lease_ms, *left_ms]) // MS_PER_S)


def _again(service: Service, call: _Call, told: Told) -> SyncReply | None:
    """The answer of before, where all stands as it did."""
    cluster = call.report.cluster_id
    with service.database.read() as connection:
        standing = attempts.standing(connection, cluster)
    if standing.received_ms != told.received_ms:  # another process was told more
        return None
    if standing.wishes != told.wishes or call.is_due(standing.lease_until_ms):
        return None
    told.again_ms = call.now_ms
    patience_ms = call.settings.silent_after_s * MS_PER_S / _NOTES_WITHIN_PATIENCE
    if call.now_ms - told.received_ms >= patience_ms:
        _note_all(service)
    return replace(told.reply, lease_s=call.lease_s([standing.lease_until_ms]))


def _note_all(service: Service) -> None:
    """Write down when every site that had nothing new was heard last: in one transaction, for each
    is a wait for the disk. Nobody waits for another who is at it.
    """
    if not service.noting.acquire(blocking=False):
        return
    try:
        noted = [
            (told, Heard(cluster, told.received_ms, told.again_ms, told.report.engine_answered))
            for cluster, told in tuple(service.told.items())
            if told.again_ms > told.received_ms
        ]
        with service.database.write() as connection:
            sites.hear_again(connection, [heard for _, heard in noted])
        for told, heard in noted:
            told.received_ms = heard.again_ms
    finally:
        service.noting.release()


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


def _newly_accepted(report: SyncRequest, open_attempts: tuple[Attempt, ...]) -> dict[str, str]:
    """Written down at once: should the site lose its disk now, it must not run them again."""
    known = {a.id: a.engine_id for a in open_attempts}
    return {
        said.attempt_id: said.engine_id
        for said in report.attempts
        if said.engine_id and known.get(said.attempt_id, said.engine_id) != said.engine_id
    }


def _reply(connection: Connection, call: _Call, open_attempts: tuple[Attempt, ...]) -> SyncReply:
    """What should be."""
    named = sorted({a.attempt_id for a in call.report.attempts})
    known = attempts.known(connection, named)
    cluster = call.report.cluster_id
    found = jobs.tasks_by_id(connection, [a.task for a in open_attempts])
    tasks = {task.id: task for task in found}
    return SyncReply(
        orders=tuple(_order(attempt, tasks[attempt.task]) for attempt in open_attempts),
        closed=tuple(a for a in named if a in known and known[a] == (cluster, True)),
        strangers=strangers_of(call.report, known),
        lease_s=call.lease_s(attempt.lease_until_ms for attempt in open_attempts),
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
