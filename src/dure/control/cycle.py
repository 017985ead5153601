"""One control cycle: seven steps, each of which leaves the database in order.

A crash between any two of them loses nothing: the next cycle reads what was committed and goes on.
The scheduler in steps 3 and 4 is the very code that a rehearsal runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from dure.agent.wire import Wish
from dure.control.commit import Committed, commit
from dure.control.observe import Heard, Observed, observe
from dure.control.snapshot import Moment, snapshot
from dure.control.transition import advance
from dure.errors import Reason
from dure.faults import crash_point
from dure.life import State
from dure.scenario import Scenario
from dure.scheduling import schedule
from dure.scheduling.check import Violation, violations
from dure.scheduling.world import Plan
from dure.settings import Settings
from dure.store import attempts, events, jobs, sites
from dure.store.database import Database
from dure.store.events import Happening
from dure.units import MS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What a cycle needs besides the time."""

    database: Database
    settings: Settings
    up_since_ms: int
    new_attempt_id: Callable[[], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a cycle did, for logs and metrics."""

    now_ms: int
    happened: int
    committed: Committed
    waiting: int
    violations: tuple[Violation, ...]
    overdue: int
    tasks: dict[State, int]


def tick(control: Control, scenario: Scenario, now_ms: int) -> Report:
    """Bring the nation one step forward."""
    moment = Moment(
        now_ms=now_ms,
        up_since_ms=control.up_since_ms,
        scenario=scenario,
        settings=control.settings,
    )
    with control.database.write() as connection:
        # 1 observe: what the sites' latest reports, and their silence, mean for each open attempt
        news = _observe(connection, moment)
        # 2 settle: ends go to the ledger, in the same transaction as the task's change of state
        happened = sum(_settle(connection, observed, now_ms) for observed in news)
        crash_point("cycle.before-settled", when=happened > 0)
    crash_point("cycle.settled", when=happened > 0)
    # 3 order and 4 place: state in, decisions with reasons out
    with control.database.read() as connection:
        world = snapshot(connection, moment)
    plan = schedule(world)
    found = violations(world, plan)
    crash_point("cycle.planned", when=bool(plan.placements))
    # 5 commit: compare and set; a plan with a fault in it is not carried out at all
    with control.database.write() as connection:
        committed = commit(connection, Plan() if found else plan, moment, control.new_attempt_id)
        crash_point("cycle.before-committed", when=committed.placed > 0)
    crash_point("cycle.committed", when=committed.placed > 0)
    # 6 act: what each agent should now run is what was committed; it is told at its next sync.
    # What runs on past its walltime and grace is ordered to stop.
    with control.database.write() as connection:
        overdue = _stop_overdue(connection, moment)
    # 7 report
    with control.database.read() as connection:
        counts = jobs.state_counts(connection)
    return Report(
        now_ms=now_ms,
        happened=happened,
        committed=committed,
        waiting=len(plan.waits),
        violations=found,
        overdue=overdue,
        tasks=counts,
    )


def _observe(connection: Connection, moment: Moment) -> list[Observed]:
    heard = {
        site.cluster: Heard(
            received_ms=max(site.received_ms, moment.up_since_ms),
            answered_ms=site.answered_ms,
            attempts={report.attempt_id: report for report in site.report.attempts},
        )
        for site in sites.all_sites(connection)
    }
    states = jobs.live_states(connection)
    never = Heard(received_ms=moment.up_since_ms, answered_ms=0, attempts={})
    return [
        observe(
            attempt,
            states[attempt.task],
            heard.get(attempt.cluster, never),
            moment.settings,
            moment.now_ms,
        )
        for attempt in attempts.open_attempts(connection)
    ]


def _settle(connection: Connection, observed: Observed, now_ms: int) -> bool:
    """Write down what is new of an attempt; whether anything happened to it."""
    attempt, report = observed.attempt, observed.report
    if report is not None and _facts_differ(observed):
        attempts.change(
            connection,
            attempt.id,
            engine_id=report.engine_id,
            started_ms=report.started_ms if attempt.started_ms is None else attempt.started_ms,
        )
    if observed.missing_since_ms != attempt.missing_since_ms:
        attempts.change(connection, attempt.id, missing_since_ms=observed.missing_since_ms)
    if observed.happened is None:
        return False
    advance(connection, jobs.task(connection, attempt.task), observed.happened, now_ms)
    return True


def _facts_differ(observed: Observed) -> bool:
    report, attempt = observed.report, observed.attempt
    assert report is not None
    started = report.started_ms is not None and attempt.started_ms is None
    return started or attempt.engine_id != report.engine_id


def _stop_overdue(connection: Connection, moment: Moment) -> int:
    margin_ms = moment.settings.overdue_margin_s * MS_PER_S
    stopped = 0
    for attempt in attempts.open_attempts(connection):
        if attempt.wish is Wish.STOP or attempt.started_ms is None:
            continue
        if moment.now_ms - attempt.started_ms <= attempt.occupied_ms + margin_ms:
            continue
        attempts.change(connection, attempt.id, wish=Wish.STOP)
        happening = Happening(
            project=jobs.spec_of(connection, attempt.job).project,
            job=attempt.job,
            task=attempt.task,
            attempt=attempt.id,
            reason=Reason("overdue", "runs past its walltime and grace; ordered to stop"),
        )
        events.write(connection, happening, moment.now_ms)
        stopped += 1
    return stopped
