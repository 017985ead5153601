"""The agent's round: observe, sync, extend, act. Everything else follows from those four.

One thread makes all decisions and all calls to the engine; fetching, uploading and pushing logs
happen in a small pool, so that no large file holds up a sync.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import structlog

from dure.agent.blackout import Blackout
from dure.agent.cache import Cache, ContentError
from dure.agent.closing import CLOSED, Closing
from dure.agent.decide import Action, Stage, Verb, actions, denied
from dure.agent.identity import Identity
from dure.agent.logs import ROUND_BYTES_MAX, LogPusher
from dure.agent.prepare import Preparer, launch_of
from dure.agent.records import Record, Records
from dure.agent.saved import saved_ms
from dure.agent.settle import Settler, fit, never_started, report_of, unsettled
from dure.agent.uplink import Uplink, UplinkError, UplinkRefusedError
from dure.agent.wire import (
    DRIFT_MAX,
    DRIFTS_MAX,
    AttemptReport,
    KeyOffer,
    Order,
    SyncReply,
    SyncRequest,
)
from dure.attestation import statement
from dure.engines import (
    Engine,
    EngineEnd,
    EngineError,
    LaunchRefusedError,
    Observation,
    Phase,
    PoolReport,
)
from dure.faults import crash_point
from dure.removal import move_away, remove_tree
from dure.text import SLUG, shown

TRIES_MAX: Final = 3
"""How often preparing, or handing files over, may fail at this site before it is given up."""

BACKOFF_MAX_S: Final = 30.0
INTERVAL_MIN_S: Final = 0.05
INTERVAL_MAX_S: Final = 60.0
_ROUNDS_MAX: Final = 8

log = structlog.get_logger("dure.agent")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What an agent works with. The clock, the pool and the dice can be a test's own."""

    cluster_id: str
    engine_name: str
    interval_s: float = 0.0
    """The site's floor under the time between two rounds."""
    engine: Engine
    uplink: Uplink
    identity: Identity
    blackouts: tuple[Blackout, ...] = ()
    root: Path
    executor: Executor
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    dice: random.Random


class Agent:
    """Brings one cluster from what is to what should be."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._records = Records(site.root / "records")
        self._cache = Cache(site.root / "cache")
        self._logs = LogPusher(site.uplink)
        self._preparer = Preparer(site.uplink, self._cache)
        self._settler = Settler(site.uplink, self._logs)
        self._work = site.root / "work"
        self._trash = site.root / "trash"
        self._tidy = False
        self._seen: dict[str, Observation] = {}
        self._pools: tuple[PoolReport, ...] = ()
        self._answered = False
        self._reply: SyncReply | None = None
        self._lease_until_ms = 0
        self._failed_syncs = 0
        self._enrolled = False
        self._preparing: dict[str, Future[dict[str, str]]] = {}
        self._ready: dict[str, dict[str, str]] = {}
        self._settling: dict[str, Future[AttemptReport]] = {}
        self._pushing: dict[str, Future[None]] = {}
        self._tries: dict[str, int] = {}
        self._resting: set[str] = set()
        self._strangers: set[str] = set()
        self._refused: set[str] = set()
        self._drift: set[str] = set()
        self._closing = Closing(site.blackouts)
        self._wake = threading.Event()

    def run(self, stopping: threading.Event) -> None:
        """Goes round until told to stop. What runs on the engine goes on."""
        while not stopping.is_set():
            try:
                delay_s = self.tick()
            except Exception:  # an agent that stops leaves its jobs without a lease
                log.exception("round-failed")
                delay_s = self._backoff_s()
            until_s = time.monotonic() + delay_s
            while (left_s := until_s - time.monotonic()) > 0 and not stopping.is_set():
                if self._wake.wait(left_s):
                    self._wake.clear()
                    self._act_guarded()

    def wake(self) -> None:
        """Ends the wait between two rounds, from any thread or signal handler."""
        self._wake.set()

    def tick(self) -> float:
        """One round. Returns the seconds until the next."""
        self._resting.clear()
        self._observe()
        self._send_away()
        self._harvest()
        sent_ms = self._site.now_ms()
        try:
            self._enrol()
            reply = self._site.uplink.sync(self._request())
        except (UplinkError, UplinkRefusedError) as error:
            self._failed_syncs += 1
            log.warning("sync-failed", error=str(error), in_a_row=self._failed_syncs)
            return self._backoff_s()
        self._failed_syncs = 0
        self._reply = self._vetted(reply)
        self._lease_until_ms = sent_ms + reply.lease_s * 1_000
        self._extend(self._reply)
        self.act()
        self._push_logs()
        asked_s = min(max(reply.interval_s, INTERVAL_MIN_S), INTERVAL_MAX_S)
        return max(asked_s, self._site.interval_s)

    def _enrol(self) -> None:
        """Names the key, once in the life of this process: the control plane may be another."""
        if not self._enrolled:
            key = self._site.identity.public_key
            self._site.uplink.enrol(KeyOffer(cluster_id=self._site.cluster_id, public_key=key))
            self._enrolled = True

    def act(self) -> None:
        """Does what follows from the last sync, while its lease lasts and the engine answers."""
        for _ in range(_ROUNDS_MAX):
            self._harvest()
            if self._reply is None or not self._answered:
                return
            if self._site.now_ms() >= self._lease_until_ms:
                return
            todo = actions(self._reply, tuple(self._seen.values()), self._known())
            changed = [self._carry_out(action) for action in todo]
            if not any(changed):
                return

    def _act_guarded(self) -> None:
        try:
            self.act()
        except Exception:
            log.exception("round-failed")

    def _backoff_s(self) -> float:
        """Doubles with each failure up to a bound, less a random part so that sites spread out."""
        interval_s = self._reply.interval_s if self._reply else 1.0
        bound_s = min(BACKOFF_MAX_S, self._reply.lease_s / 4) if self._reply else BACKOFF_MAX_S
        full_s = min(bound_s, max(interval_s, INTERVAL_MIN_S) * 2.0 ** min(self._failed_syncs, 16))
        return max(full_s * self._site.dice.uniform(0.5, 1.0), self._site.interval_s)

    def _observe(self) -> None:
        try:
            self._seen = {o.attempt_id: o for o in self._site.engine.observe()}
            self._pools = self._closing.offered(self._site.engine.capacity(), self._site.now_ms())
            self._answered = True
        except (EngineError, OSError) as error:
            self._answered = False
            log.warning("engine-silent", error=str(error))
            return
        self._say_drift()
        self._tidy_up()
        for record in self._records:
            attempt_id = record.order.attempt_id
            if record.stage is Stage.SUBMITTING and attempt_id in self._seen:
                with self._one_attempt("note", attempt_id):
                    self._records.put(replace(record, stage=Stage.SUBMITTED))

    def _send_away(self) -> None:
        """What runs in a pool that its owner has closed has notice, control plane or none."""
        for attempt_id, seen in self._seen.items():
            record = self._records.get(attempt_id)
            if record is None or seen.phase is Phase.ENDED:
                continue
            if self._closing.must_go(attempt_id, record.order.pool_id):
                with self._one_attempt("stop", attempt_id):
                    self._site.engine.stop(attempt_id)
                    self._closing.told(attempt_id)

    def _say_drift(self) -> None:
        """Each drift once, for as long as it lasts."""
        found = set(self._site.engine.drift())
        for sentence in sorted(found - self._drift):
            log.warning("drift", sentence=sentence)
        self._drift = found

    def _tidy_up(self) -> None:
        """Once the engine has first answered, removes what an earlier agent was preparing, and the
        folders of attempts that it had forgotten when it was killed.
        """
        if self._tidy:
            return
        self._tidy = True
        kept = {record.order.attempt_id for record in self._records} | self._seen.keys()
        for folder in (self._trash, self._work):
            with self._one_attempt("tidy", folder.name):
                folder.mkdir(mode=0o700, exist_ok=True)
                for left in sorted(folder.iterdir()):
                    if folder == self._trash:
                        self._site.executor.submit(remove_tree, left)
                    elif left.name not in kept:
                        self._discard(left)

    def _discard(self, folder: Path) -> None:
        """Puts a folder out of the way, and has it removed while the rounds go on."""
        self._trash.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._site.executor.submit(remove_tree, move_away(folder, self._trash))

    def _request(self) -> SyncRequest:
        reports = {id_: self._report(seen) for id_, seen in self._seen.items()}
        for record in self._records:
            if record.report is not None:
                reports[record.order.attempt_id] = record.report
        orders = self._reply.orders if self._reply is not None else ()
        return SyncRequest(
            cluster_id=self._site.cluster_id,
            engine=self._site.engine_name,
            engine_answered=self._answered,
            pools=self._pools,
            attempts=tuple(self._signed(reports[id_]) for id_ in sorted(reports)),
            denied=denied(orders, reports.keys(), self._known()) if self._answered else (),
            drift=tuple(fit(one, DRIFT_MAX) for one in sorted(self._drift)[:DRIFTS_MAX]),
        )

    def _signed(self, report: AttemptReport) -> AttemptReport:
        """An end is signed, as what was used is metered by it."""
        if report.phase is not Phase.ENDED:
            return report
        said = statement(self._site.cluster_id, report)
        return replace(report, signature=self._site.identity.sign(said))

    def _report(self, seen: Observation) -> AttemptReport:
        if seen.phase is Phase.ENDED and self._order(seen.attempt_id) is not None:
            return unsettled(seen)
        return self._with_checkpoint(report_of(seen))

    def _with_checkpoint(self, report: AttemptReport) -> AttemptReport:
        """A report of what runs, with when it last wrote its checkpoint."""
        record = self._records.get(report.attempt_id)
        inside = None if record is None else record.order.checkpoint_dir
        if report.phase is not Phase.RUNNING or report.started_ms is None or inside is None:
            return report
        written_ms = saved_ms(self._work / report.attempt_id, inside, report.started_ms)
        return replace(report, saved_ms=written_ms)

    def _order(self, attempt_id: str) -> Order | None:
        record = self._records.get(attempt_id)
        if record is not None:
            return record.order
        orders = self._reply.orders if self._reply is not None else ()
        return next((order for order in orders if order.attempt_id == attempt_id), None)

    def _known(self) -> dict[str, Stage]:
        known = dict.fromkeys(self._preparing, Stage.PREPARING)
        known |= dict.fromkeys(self._ready, Stage.READY)
        known |= {record.order.attempt_id: record.stage for record in self._records}
        return known | dict.fromkeys(self._settling, Stage.SETTLING)

    def _vetted(self, reply: SyncReply) -> SyncReply:
        """Without the orders whose ids cannot be the names of files here."""
        for order in reply.orders:
            if not SLUG.match(order.attempt_id) and order.attempt_id not in self._refused:
                self._refused.add(order.attempt_id)
                log.error("order-refused", attempt_id=shown(order.attempt_id))
        return replace(reply, orders=tuple(o for o in reply.orders if SLUG.match(o.attempt_id)))

    def _extend(self, reply: SyncReply) -> None:
        for order in reply.orders:
            seen = self._seen.get(order.attempt_id)
            if seen is not None and seen.phase is not Phase.ENDED:
                with self._one_attempt("extend", order.attempt_id):
                    self._site.engine.extend(order.attempt_id, self._lease_until_ms)

    def _carry_out(self, action: Action) -> bool:
        """Returns whether it changed what is known, so that more may follow from it."""
        attempt_id, order = action.attempt_id, action.order
        try:
            match action.verb:
                case Verb.PREPARE if order is not None:
                    return self._start_preparing(order)
                case Verb.SUBMIT if order is not None:
                    return self._submit(order)
                case Verb.END_UNSTARTED if order is not None:
                    return self._end_unstarted(order)
                case Verb.SETTLE:
                    return self._start_settling(attempt_id)
                case Verb.FORGET:
                    return self._forget(attempt_id)
                case Verb.STOP:
                    with self._one_attempt("stop", attempt_id):
                        self._site.engine.stop(attempt_id)
                case _:
                    self._leave(attempt_id)
        except OSError as error:  # one attempt's trouble is not the others'
            log.warning("action-failed", verb=action.verb, attempt_id=attempt_id, error=str(error))
        return False

    @contextlib.contextmanager
    def _one_attempt(self, what: str, attempt_id: str) -> Iterator[None]:
        """One attempt's trouble, a broken folder say, is not the others'."""
        try:
            yield
        except (EngineError, OSError) as error:
            log.warning("attempt-trouble", verb=what, attempt_id=attempt_id, error=str(error))

    def _start_preparing(self, order: Order) -> bool:
        attempt_id = order.attempt_id
        if attempt_id in self._resting:
            return False
        if self._records.get(attempt_id) is None:
            work = self._site.executor.submit(
                self._preparer.prepare, order, self._work / attempt_id
            )
        else:
            work = self._site.executor.submit(self._preparer.secrets, order)
        work.add_done_callback(lambda _: self.wake())
        self._preparing[attempt_id] = work
        return True

    def _submit(self, order: Order) -> bool:
        """Writes down that the engine is being asked, then asks it."""
        attempt_id = order.attempt_id
        if attempt_id in self._resting or attempt_id in self._preparing:
            return False
        if self._closing.holds(order.pool_id):
            self._finish_unstarted(order, EngineEnd.STOPPED, CLOSED)
            return True
        secrets = self._ready.get(attempt_id)
        if secrets is None:  # the agent was restarted in between; secrets are never written down
            return self._start_preparing(order)
        folder = self._work / attempt_id
        self._records.put(Record(order=order, stage=Stage.SUBMITTING))
        crash_point("agent.before-submit")
        try:
            self._site.engine.submit(launch_of(order, secrets, folder), folder)
        except LaunchRefusedError as error:
            self._finish_unstarted(order, EngineEnd.START_FAILED, str(error))
            return True
        except EngineError as error:  # unknown: asked again when the engine says it has it not
            log.warning("engine-trouble", verb="submit", attempt_id=attempt_id, error=str(error))
            self._resting.add(attempt_id)
            return False
        crash_point("agent.after-submit")
        self._records.put(Record(order=order, stage=Stage.SUBMITTED))
        del self._ready[attempt_id]
        with self._one_attempt("extend", attempt_id):
            self._site.engine.extend(attempt_id, self._lease_until_ms)
        log.info("submitted", attempt_id=attempt_id, job_id=order.job_id, nodes=order.nodes)
        return True

    def _end_unstarted(self, order: Order) -> bool:
        if not self._give_up_preparing(order.attempt_id):
            return False
        self._finish_unstarted(order, EngineEnd.STOPPED, "stopped before it started")
        return True

    def _finish_unstarted(self, order: Order, end: EngineEnd, detail: str) -> None:
        self._ready.pop(order.attempt_id, None)
        report = never_started(order.attempt_id, end, detail, self._site.now_ms())
        self._records.put(Record(order=order, stage=Stage.FINISHED, report=report))
        log.info("not-started", attempt_id=order.attempt_id, end=end, detail=detail)

    def _give_up_preparing(self, attempt_id: str) -> bool:
        """False while a thread is still at it."""
        work = self._preparing.get(attempt_id)
        if work is not None and not work.cancel():
            return False
        self._preparing.pop(attempt_id, None)
        return True

    def _start_settling(self, attempt_id: str) -> bool:
        if attempt_id in self._resting or attempt_id in self._pushing:
            return False
        order = self._order(attempt_id)
        assert order is not None, "only what was ordered is settled"
        if self._records.get(attempt_id) is None:
            self._records.put(Record(order=order, stage=Stage.SUBMITTED))
        work = self._site.executor.submit(
            self._settler.settle,
            self._seen[attempt_id],
            order,
            self._work / attempt_id,
            self._log_paths(order),
        )
        work.add_done_callback(lambda _: self.wake())
        self._settling[attempt_id] = work
        return True

    def _forget(self, attempt_id: str) -> bool:
        if attempt_id in self._settling or not self._give_up_preparing(attempt_id):
            return False
        try:
            self._site.engine.forget(attempt_id)
        except EngineError as error:
            log.warning("engine-trouble", verb="forget", attempt_id=attempt_id, error=str(error))
            return False
        self._discard(self._work / attempt_id)
        self._records.remove(attempt_id)
        self._logs.forget(attempt_id)
        self._seen.pop(attempt_id, None)
        self._ready.pop(attempt_id, None)
        self._tries.pop(attempt_id, None)
        return True

    def _leave(self, attempt_id: str) -> None:
        if attempt_id not in self._strangers:
            self._strangers.add(attempt_id)
            log.warning("stranger", attempt_id=attempt_id)

    def _harvest(self) -> None:
        """Takes in what the pool has done."""
        for attempt_id, prepared in _done(self._preparing):
            try:
                self._ready[attempt_id] = prepared.result()
            except (UplinkError, UplinkRefusedError, ContentError, OSError) as error:
                with self._one_attempt("prepare", attempt_id):
                    self._preparing_failed(attempt_id, error)
        if not self._preparing:
            self._cache.trim()
        for attempt_id, settled in _done(self._settling):
            try:
                self._settled(attempt_id, settled.result())
            except (UplinkError, OSError) as error:
                with self._one_attempt("settle", attempt_id):
                    self._settling_failed(attempt_id, error)
        for attempt_id, pushed in _done(self._pushing):
            try:
                pushed.result()
            except (UplinkError, UplinkRefusedError, OSError) as error:
                log.warning("log-push-failed", attempt_id=attempt_id, error=str(error))

    def _try_again(self, attempt_id: str, what: str, error: Exception) -> bool:
        """Rests until the next round. False when the site's own failures have been too many."""
        log.warning(what, attempt_id=attempt_id, error=str(error))
        self._resting.add(attempt_id)
        if isinstance(error, UplinkError):
            return True
        self._tries[attempt_id] = self._tries.get(attempt_id, 0) + 1
        return self._tries[attempt_id] < TRIES_MAX

    def _preparing_failed(self, attempt_id: str, error: Exception) -> None:
        order = self._order(attempt_id)
        again = self._try_again(attempt_id, "preparing-failed", error)
        if order is not None and not again and self._records.get(attempt_id) is None:
            self._finish_unstarted(order, EngineEnd.START_FAILED, f"cannot be prepared: {error}")

    def _settling_failed(self, attempt_id: str, error: Exception) -> None:
        again = self._try_again(attempt_id, "settling-failed", error)
        seen = self._seen.get(attempt_id)
        if seen is not None and not again:
            detail = f"{seen.detail}; files were not collected: {error}".removeprefix("; ")
            self._settled(attempt_id, report_of(seen, detail=detail))

    def _settled(self, attempt_id: str, report: AttemptReport) -> None:
        record = self._records.get(attempt_id)
        assert record is not None, "settling starts with a record"
        report = self._closing.explained(report)
        crash_point("agent.before-finish")
        self._records.put(Record(order=record.order, stage=Stage.FINISHED, report=report))
        log.info("ended", attempt_id=attempt_id, end=report.end, exit_code=report.exit_code)

    def _push_logs(self) -> None:
        """Starts a push for every live attempt whose logs have grown and that has none going."""
        for attempt_id, seen in self._seen.items():
            record = self._records.get(attempt_id)
            if record is None or seen.phase is Phase.ENDED or attempt_id in self._pushing:
                continue
            paths = self._log_paths(record.order)
            with self._one_attempt("push", attempt_id):
                if any(self._logs.behind(attempt_id, r, p) for r, p in enumerate(paths)):
                    work = self._site.executor.submit(self._push_all, attempt_id, paths)
                    work.add_done_callback(lambda _: self.wake())
                    self._pushing[attempt_id] = work

    def _push_all(self, attempt_id: str, paths: tuple[Path, ...]) -> None:
        for rank, path in enumerate(paths):
            self._logs.push(attempt_id, rank, path, ROUND_BYTES_MAX)

    def _log_paths(self, order: Order) -> tuple[Path, ...]:
        ranks = range(len(order.nodes))
        return tuple(self._site.engine.log_path(order.attempt_id, rank) for rank in ranks)


def _done(work: dict[str, Future[T]]) -> list[tuple[str, Future[T]]]:
    """Takes the finished ones out."""
    done = [(attempt_id, future) for attempt_id, future in work.items() if future.done()]
    for attempt_id, _ in done:
        del work[attempt_id]
    return done
