"""One control cycle: seven steps, each of which leaves the database in order.

A crash between any two of them loses nothing: the next cycle reads what was committed and goes on.
The scheduler in steps 3 and 4 is the very code that a rehearsal runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from dure.control.commit import commit, give_notice, keep_reasons
from dure.control.loans import Loans
from dure.control.memory import Memory
from dure.control.observe import Heard, Observed, observe
from dure.control.outlook import foresee
from dure.control.snapshot import Moment, snapshot
from dure.control.transition import Happened, advance, conclude
from dure.errors import Reason
from dure.faults import crash_point
from dure.life import Event, State
from dure.scenario import Scenario
from dure.scheduling import Planner
from dure.scheduling.check import violations
from dure.scheduling.check_sharing import Violation
from dure.scheduling.world import Plan
from dure.settings import Settings
from dure.store import attempts, events, jobs, sites
from dure.store.attempts import Attempt
from dure.store.database import Database
from dure.store.events import Happening
from dure.store.jobs import Task
from dure.units import MS_PER_S

BATCH: Final = 200
REASONS_BATCH: Final = 5_000
"""Most of them are as they were, and cost little."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What a cycle needs besides the time."""

    database: Database
    settings: Settings
    up_since_ms: int
    new_attempt_id: Callable[[], str]
    memory: Memory = field(default_factory=Memory)
    planner: Planner = field(default_factory=Planner)


def begin_anew(control: Control, now_ms: int) -> Control:
    """After the clock was set: nobody has been silent yet, and every lease starts again."""
    until_ms = now_ms + control.settings.lease_s * MS_PER_S
    with control.database.write() as connection:
        open_ids = [attempt.id for attempt in attempts.open_attempts(connection)]
        attempts.extend_leases(connection, open_ids, until_ms)
    return replace(control, up_since_ms=now_ms)


@dataclass(frozen=True, slots=True)
class Stuck:
    """An attempt that could not be settled, and what went wrong."""

    attempt: str
    fault: str


@dataclass(frozen=True, slots=True)
class Settled:
    """What settling some attempts came to."""

    happened: int
    stuck: tuple[Stuck, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a cycle did, for logs and metrics."""

    now_ms: int
    happened: int
    stuck: tuple[Stuck, ...]
    placed: int
    recalled: int
    dropped: int
    """Placements and recalls that had gone stale."""
    waiting: int
    violations: tuple[Violation, ...]
    overdue: int
    unfinished: bool
    """There is more to place at once."""
    tasks: dict[State, int]


def tick(control: Control, scenario: Scenario, now_ms: int) -> Report:
    """Bring the nation one step forward."""
    database = control.database
    moment = Moment(
        now_ms=now_ms,
        up_since_ms=control.up_since_ms,
        scenario=scenario,
        settings=control.settings,
        memory=control.memory,
    )
    # 1 observe: what the sites' latest reports, and their silence, mean for each open attempt
    with database.read() as connection:
        heard = _hear(connection, moment)
        news = _news(connection, heard, moment)
    # 2 settle: ends go to the ledger, in the same transaction as the task's change of state
    happened = 0
    stuck: list[Stuck] = []
    for some in _batches(news):
        with database.write() as connection:
            settled = _settle(connection, some, heard, moment)
            happened += settled.happened
            stuck += settled.stuck
            crash_point("cycle.before-settled", when=happened > 0)
    crash_point("cycle.settled", when=happened > 0)
    # 3 order and 4 place: state in, decisions with reasons out
    with database.read() as connection:
        world = snapshot(connection, moment)
    plan = control.planner.plan(world)
    if found := violations(world, plan):  # a plan with a fault in it is not carried out at all
        plan = Plan()
        control.planner.forget()
    crash_point("cycle.planned", when=bool(plan.placements))
    # 5 commit: compare and set; what has gone stale is dropped
    placed = recalled = 0
    loans = Loans(world)
    for placements in _batches(plan.placements):
        with database.write() as connection:
            placed += commit(connection, placements, moment, loans, control.new_attempt_id)
            crash_point("cycle.before-committed", when=placed > 0)
    crash_point("cycle.committed", when=placed > 0)
    for recalls in _batches(plan.recalls):
        with database.write() as connection:
            recalled += give_notice(connection, recalls, now_ms)
            crash_point("cycle.before-recalled", when=recalled > 0)
    crash_point("cycle.recalled", when=recalled > 0)
    # 6 act: what each agent should now run is what was committed; it is told at its next sync.
    # What goes on past its time, or waits past it, is ended.
    overdue = _end_what_is_over(database, moment)
    # 7 report: why what waits does so, when it will start, and what this cycle did
    foresee(database, world, plan, moment)
    for waits in _batches(plan.waits, REASONS_BATCH):
        with database.write() as connection:
            keep_reasons(connection, waits, now_ms)
    with database.read() as connection:
        counts = jobs.state_counts(connection)
    return Report(
        now_ms=now_ms,
        happened=happened,
        stuck=tuple(stuck),
        placed=placed,
        recalled=recalled,
        dropped=len(plan.placements) + len(plan.recalls) - placed - recalled,
        waiting=len(plan.waits),
        violations=found,
        overdue=overdue,
        unfinished=plan.unfinished,
        tasks=counts,
    )


def _batches(items: Sequence[T], most: int = BATCH) -> Iterator[Sequence[T]]:
    """Pieces small enough that nobody waits long for the database's one write lock."""
    for start in range(0, len(items), most):
        yield items[start : start + most]


def _hear(connection: Connection, moment: Moment) -> dict[str, Heard]:
    return {
        site.cluster: Heard(
            received_ms=max(site.received_ms, moment.up_since_ms),
            answered_ms=site.answered_ms,
            answered=site.report.engine_answered,
            attempts={report.attempt_id: report for report in site.report.attempts},
            denied=frozenset(site.report.denied),
        )
        for site in sites.all_sites(connection)
    }


def _news(
    connection: Connection, heard: Mapping[str, Heard], moment: Moment
) -> tuple[Attempt, ...]:
    """The open attempts of which there is something to write down: few, as a rule."""
    states = jobs.live_states(connection)

    def is_new(attempt: Attempt) -> bool:
        state = states.get(attempt.task)
        if state is None:
            return False
        try:
            observed = _observed(attempt, state, heard, moment)
        except Exception:  # noqa: BLE001  whose fault it is, settling will tell
            return True
        return observed.happened is not None or bool(_facts(observed))

    return tuple(filter(is_new, attempts.open_attempts(connection)))


def _observed(
    attempt: Attempt, state: State, heard: Mapping[str, Heard], moment: Moment
) -> Observed:
    said = heard.get(attempt.cluster)
    if said is None:
        said = Heard(received_ms=moment.up_since_ms, answered_ms=0, answered=False, attempts={})
    return observe(attempt, state, said, moment.settings, moment.now_ms)


def _settle(
    connection: Connection, some: Sequence[Attempt], heard: Mapping[str, Heard], moment: Moment
) -> Settled:
    """Write down what is new of some attempts.

    One that cannot be settled, by a fault of ours, is left as it is and reported: it must not keep
    the nation's other attempts from theirs.
    """
    states = jobs.live_states(connection, [attempt.task for attempt in some])
    moved, stuck = [], []
    for attempt in some:
        if (state := states.get(attempt.task)) is None:
            continue
        try:
            with connection.begin_nested():
                observed = _observed(attempt, state, heard, moment)
                if facts := _facts(observed):
                    attempts.change(connection, attempt.id, **facts)
                if observed.happened is not None:
                    task = jobs.task(connection, attempt.task)
                    advance(connection, task, observed.happened, moment.now_ms)
                    moved.append(attempt.job)
        except OperationalError:
            raise  # the database's own trouble is everybody's
        except Exception as error:  # noqa: BLE001  whatever else it is, it is this attempt's alone
            stuck.append(Stuck(attempt.id, f"{type(error).__name__}: {error}"))
    conclude(connection, moved, moment.now_ms)
    return Settled(len(moved), tuple(stuck))


def _facts(observed: Observed) -> dict[str, object]:
    """What its site says of an attempt, where that is new: columns to set."""
    attempt = observed.attempt
    facts: dict[str, object] = {}
    if observed.started_ms != attempt.started_ms:
        facts["started_ms"] = observed.started_ms
    if observed.saved_ms != attempt.saved_ms:
        facts["saved_ms"] = observed.saved_ms
    if observed.missing_since_ms != attempt.missing_since_ms:
        facts["missing_since_ms"] = observed.missing_since_ms
    return facts


def _end_what_is_over(database: Database, moment: Moment) -> int:
    """Order what is past its walltime to stop, take back what its site does not get started, cancel
    what waits for an allocation that has ended; how many were ordered to stop.
    """
    with database.read() as connection:
        if not any(_over(connection, moment)):
            return 0
    now_ms = moment.now_ms
    with database.write() as connection:
        overdue, unstarted, expired = _over(connection, moment)
        for attempt in overdue:
            _order_to_stop(connection, attempt, now_ms)
        back = Happened(event=Event.RECALL, reason=_UNSTARTED)
        moved = [_move(connection, attempt.task, back, now_ms) for attempt in unstarted]
        for task in expired:
            text = f"cancelled: allocation {task.allocation} ended before it could start"
            happened = Happened(event=Event.CANCEL, reason=Reason("allocation-ended", text))
            moved.append(_move(connection, task.id, happened, now_ms))
        conclude(connection, moved, now_ms)
    return len(overdue)


def _over(
    connection: Connection, moment: Moment
) -> tuple[tuple[Attempt, ...], tuple[Attempt, ...], tuple[Task, ...]]:
    """Attempts past their time, attempts that no engine has accepted in time, and tasks whose
    allocation has ended.
    """
    now_ms, settings = moment.now_ms, moment.settings
    return (
        attempts.overdue(connection, now_ms, settings.overdue_margin_s * MS_PER_S),
        attempts.unstarted(connection, now_ms - settings.start_patience_s * MS_PER_S),
        jobs.expired(connection, now_ms, BATCH),
    )


_UNSTARTED: Final = Reason(
    "not-started", "its site did not get it started in time; it goes back to the queue"
)


def _move(connection: Connection, task_id: int, happened: Happened, now_ms: int) -> int:
    task = jobs.task(connection, task_id)
    advance(connection, task, happened, now_ms)
    return task.job


def _order_to_stop(connection: Connection, attempt: Attempt, now_ms: int) -> None:
    attempts.order_to_stop(connection, attempt, now_ms)
    happening = Happening(
        project=jobs.spec_of(connection, attempt.job).project,
        job=attempt.job,
        task=attempt.task,
        attempt=attempt.id,
        reason=Reason("overdue", "runs past its walltime and grace; ordered to stop"),
    )
    events.write(connection, happening, now_ms)
