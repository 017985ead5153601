"""What the control plane derives from its store and keeps between cycles: the tree of shares, how
long like jobs run, what each share has used of late, how sure foreseen starts are.

Nothing here is the truth: a process that starts anew reads it from the store again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp2
from threading import Lock
from types import MappingProxyType
from typing import Final

import structlog
from sqlalchemy import Connection

from dure.allocations import Allocation, OrganisationKind
from dure.control.requests import Requests
from dure.jobs import JobSpec
from dure.scenario import Scenario, tree
from dure.scheduling.estimate import Estimate, Estimator, Like
from dure.scheduling.fairshare import START_CHARGE_MS
from dure.scheduling.foresight import Foresight
from dure.scheduling.tuning import Tuning
from dure.scheduling.world import Usage
from dure.shares import (
    NATIONAL,
    Awards,
    ShareKind,
    Shares,
    leaf_of,
    share_of_project,
    with_allocations,
)
from dure.store import projects, runs, starts
from dure.store.runs import Run, Submitted
from dure.units import INSTANT_MS_MAX, MILLI, MS_PER_S

RUNS_MAX: Final = 20_000
"""Of the past, as many runs are read at a start: weeks of a nation's, and seconds of ours."""

FORETOLD_MIN: Final = 10_000
"""With fewer estimates than that, nobody looks which of them are of jobs that have ended."""

_LOG = structlog.get_logger("dure.control")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a snapshot needs besides the present."""

    shares: Shares
    leaves: Mapping[str, str]
    """The share that each allocation's jobs run on."""
    allocations: Mapping[str, Allocation]
    """All there are."""
    usage: tuple[Usage, ...]
    estimator: Estimator
    foretold: Mapping[int, Estimate]
    """How long a task of each open job was estimated to run when it was submitted."""
    foresight: Foresight

    def leaf(self, allocation: str) -> str:
        """The share of an allocation's jobs; empty for one that has none."""
        return self.leaves.get(allocation, "")

    def in_tree(self, share: str | None) -> str | None:
        """That share, unless the tree no longer has it."""
        return share if share in self.shares.by_id else None

    def estimate(self, spec: JobSpec, submitter: str) -> Estimate:
        """How long a task of such a job would run, were it submitted now."""
        like = Like(spec.project, submitter, spec.name, spec.resources.gpus)
        return self.estimator.estimate(like, spec.walltime_s * MS_PER_S)


class Memory:
    """One for a control plane; its threads share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._tree = _Tree()
        self._history = _History()
        self._outcomes = _Outcomes()
        self.waiting = Requests()
        self.running = Requests()
        self._rests_ms = (0, 0)

    def is_due(self, now_ms: int) -> bool:
        """Whether to look ahead now; also where the clock was set back."""
        looked_ms, until_ms = self._rests_ms
        return not looked_ms <= now_ms < until_ms

    def rests(self, now_ms: int, for_ms: int) -> None:
        """Not to look ahead again for so long."""
        self._rests_ms = (now_ms, now_ms + for_ms)

    def known(
        self, connection: Connection, scenario: Scenario, tuning: Tuning, now_ms: int
    ) -> Known:
        """Catch up with the store, and say what is known now."""
        with self._lock:
            self._history.catch_up(connection, tuning.half_life_s * MS_PER_S)
            self._outcomes.catch_up(connection)
            shares, leaves = self._tree.at(connection, scenario, now_ms)
            return Known(
                shares=shares,
                leaves=leaves,
                allocations=self._tree.allocations,
                usage=self._history.usage(now_ms),
                estimator=self._history.estimator,
                foretold=MappingProxyType(self._history.foretold),
                foresight=self._outcomes.foresight,
            )


def programme_of(organisation: str, kind: OrganisationKind, tree: Shares) -> str:
    """The share below which an organisation's projects stand: an organisation that bears the id of
    an owner's share is that owner. All others are served by the national programme, by the part of
    it that is for their kind (`national.startup`) where the tree has one.
    """
    share = tree.by_id.get(organisation)
    if share is not None and share.kind is ShareKind.OWNER:
        return organisation
    part = f"{NATIONAL}.{kind}"
    return part if part in tree.by_id else NATIONAL


def shares_of_projects(
    connection: Connection, scenario: Scenario, only: tuple[str, ...]
) -> tuple[str, ...]:
    """The shares of those projects."""
    programmes = _programmes(connection, tree(scenario))
    return tuple(
        share_of_project(project, programmes[project]) for project in only if project in programmes
    )


def _programmes(connection: Connection, shares: Shares) -> dict[str, str]:
    """The share below which each project stands."""
    kinds = projects.kinds_of_projects(connection)
    organisations = projects.organisations_of_projects(connection)
    return {
        project: programme_of(organisation, kinds[project], shares)
        for project, organisation in organisations.items()
    }


class _Tree:
    """The scenario's shares, with those of all allocations that have not ended."""

    def __init__(self) -> None:
        self._scenario: Scenario | None = None
        self._count = -1
        self._holds_ms = (0, 0)
        self._found: tuple[Shares, Mapping[str, str]] = (Shares(), {})
        self.allocations: Mapping[str, Allocation] = {}

    def at(
        self, connection: Connection, scenario: Scenario, now_ms: int
    ) -> tuple[Shares, Mapping[str, str]]:
        """The tree, and each allocation's leaf. Made anew only when something has changed."""
        count = projects.count_allocations(connection)
        changed = scenario is not self._scenario or count != self._count
        if changed or not self._holds_ms[0] <= now_ms < self._holds_ms[1]:
            self._build(connection, scenario, now_ms)
            self._scenario, self._count = scenario, count
        return self._found

    def _build(self, connection: Connection, scenario: Scenario, now_ms: int) -> None:
        shares = tree(scenario)
        programmes = _programmes(connection, shares)
        priced = {model for model, _ in scenario.tariff.weights_milli}
        held_of: dict[str, list[Allocation]] = {}
        ends_ms = INSTANT_MS_MAX
        every = projects.find_allocations(connection)
        self.allocations = MappingProxyType({one.id: one for one in every})
        for one in every:
            ends_ms = min([ends_ms, *(at for at in (one.starts_ms, one.ends_ms) if at > now_ms)])
            if one.ends_ms > now_ms and (one.gpu_model is None or one.gpu_model in priced):
                held_of.setdefault(programmes[one.project], []).append(one)
        leaves: dict[str, str] = {}
        for programme, held in sorted(held_of.items()):
            awards = Awards(
                allocations=tuple(held), pools=scenario.fleet.pools, tariff=scenario.tariff
            )
            shares, short = with_allocations(shares, awards, now_ms, programme)
            leaves |= {one.id: leaf_of(one, programme) for one in held}
            for cut in short:
                _LOG.warning("guarantee-cut", allocation=cut.allocation, gpus=cut.gpus)
        self._found = (shares, MappingProxyType(leaves))
        self._holds_ms = (now_ms, ends_ms)


class _History:
    """What was submitted and what ended, in the order in which it did: each job's run time is
    estimated from what was known when it was submitted.
    """

    def __init__(self) -> None:
        self.estimator = Estimator()
        self.foretold: dict[int, Estimate] = {}
        self._foretold_max = FORETOLD_MIN
        self._half_life_ms = 1
        self._used: dict[str, tuple[float, int]] = {}
        self._seq = 0
        self._job = 0

    def catch_up(self, connection: Connection, half_life_ms: int) -> None:
        """Take in what was submitted and what has ended since."""
        self._half_life_ms = half_life_ms
        ended, self._seq = runs.recent_runs(connection, self._seq, RUNS_MAX)
        new = {run.of.job: run.of for run in ended if run.of.job not in self.foretold}
        for one in runs.submitted_since(connection, self._job):
            new[one.job] = one
            self._job = one.job
        submissions = sorted((one.at_ms, one.job, one) for one in new.values())
        waiting = iter([*submissions, None])
        upcoming = next(waiting)
        for run in ended:
            while upcoming is not None and upcoming[0] < run.closed_ms:
                self._foretell(upcoming[2])
                upcoming = next(waiting)
            self._learn(run)
        while upcoming is not None:
            self._foretell(upcoming[2])
            upcoming = next(waiting)
        for run in ended:
            if run.is_last:
                self.foretold.pop(run.of.job, None)
        self._forget(connection)

    def _foretell(self, submitted: Submitted) -> None:
        self.foretold[submitted.job] = self.estimator.estimate(
            _like(submitted), submitted.walltime_ms
        )

    def _learn(self, run: Run) -> None:
        if run.whole:
            foretold = self.foretold.get(run.of.job)
            self.estimator.observe(_like(run.of), run.ran_ms, foretold)
        self._charge(run)

    def _forget(self, connection: Connection) -> None:
        """Jobs that were cancelled before they ran tell nothing of their end: now and then they are
        looked for.
        """
        if len(self.foretold) > self._foretold_max:
            for job in self.foretold.keys() - runs.open_jobs(connection):
                del self.foretold[job]
            self._foretold_max = max(FORETOLD_MIN, 2 * len(self.foretold))

    def _charge(self, run: Run) -> None:
        """As fair share charges it: a start besides the time."""
        if run.used_ms:
            credit_ms = run.rate_milli * (run.used_ms + START_CHARGE_MS) / MILLI
            self._used[run.share] = (
                self._decayed(run.share, run.closed_ms) + credit_ms,
                run.closed_ms,
            )

    def _decayed(self, share: str, now_ms: int) -> float:
        used, at_ms = self._used.get(share, (0.0, now_ms))
        halvings = max(0, now_ms - at_ms) / self._half_life_ms
        return used * exp2(-halvings)

    def usage(self, now_ms: int) -> tuple[Usage, ...]:
        """What each share's ended attempts used; what still runs is for who sees it run."""
        return tuple(
            Usage(share=share, credit_ms=credit_ms, at_ms=now_ms)
            for share in sorted(self._used)
            if (credit_ms := round(self._decayed(share, now_ms))) and share
        )


class _Outcomes:
    """What became of foreseen starts, in the order in which they came true."""

    def __init__(self) -> None:
        self.foresight = Foresight()
        self._seq = 0

    def catch_up(self, connection: Connection) -> None:
        """Take in what has started since."""
        found, self._seq = starts.outcomes(connection, self._seq)
        for foreseen_wait_ms, wait_ms in found:
            self.foresight.learn(foreseen_wait_ms, wait_ms)


def _like(submitted: Submitted) -> Like:
    return Like(submitted.project, submitted.user, submitted.name, submitted.gpus)
