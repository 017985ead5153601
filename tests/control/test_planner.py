"""The control loop keeps its board between cycles: its plans are those of a board made anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from dure.agent.wire import Wish
from dure.allocations import Organisation, OrganisationKind, Project
from dure.client import Client
from dure.control import cycle
from dure.control.loop import ControlLoop
from dure.engines import EngineEnd
from dure.jobs import Resources
from dure.life import State
from dure.scheduling import Planner, schedule
from dure.scheduling.world import Plan, World
from nation import KOREA, Nation, Site, spec, submit

NODE = Resources(gpus_per_node=8, gpu_models=("b200",))
PAIR = Resources(nodes=2, gpus_per_node=8, gpu_models=("b200",))
RIPE_S = 601
"""A borrower that has run for so long may be called back."""


class Compared(Planner):
    """Holds each plan against that of a board made anew, and lets something happen after one."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = 0
        self.then: Callable[[], object] | None = None

    def plan(self, world: World) -> Plan:
        before = self.board
        plan = super().plan(world)
        assert _parts(plan) == _parts(schedule(world))
        self.kept += before is not None and before is self.board
        if self.then is not None and (plan.recalls or plan.placements):
            happens, self.then = self.then, None
            happens()
        return plan


def _parts(plan: Plan) -> list[list[object]]:
    parts = (plan.placements, plan.recalls, plan.reservations, plan.waits)
    return [sorted(part, key=lambda one: one.task_id) for part in parts]  # type: ignore[attr-defined]


@pytest.fixture
def planner(nation: Nation) -> Compared:
    planner = Compared()
    nation.control = replace(nation.control, planner=planner)
    return planner


@pytest.fixture
def samsung(nation: Nation) -> Site:
    return Site(nation, cluster="samsung-factory", pool="samsung-b200", nodes=2)


@pytest.fixture
def fab(nation: Nation) -> Client:
    company = Organisation(id="samsung", name="Samsung", kind=OrganisationKind.COMPANY)
    nation.admin.create_organisation(company)
    nation.admin.create_project(Project(id="fab", organisation="samsung", title="fab"))
    nation.hours("fab")
    return nation.member("fab", "fab-member")


def rounds(nation: Nation, site: Site, count: int) -> None:
    for _ in range(count):
        nation.pass_s(5)
        site.start_all()


def test_a_board_is_kept_while_jobs_come_and_go(nation: Nation, site: Site, planner: Compared):
    lab = nation.lab()
    jobs = submit(lab, *(spec(name=f"job-{n}", resources=NODE) for n in range(6)))
    rounds(nation, site, 2)
    for job in jobs[:4]:
        nation.pass_s(60)
        site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
        site.round()
    other = nation.lab("other")  # a new tree of shares: the board is built anew, once
    submit(other, spec(project="other", resources=NODE))
    rounds(nation, site, 3)
    before = planner.board
    for job in jobs[4:]:
        site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    rounds(nation, site, 3)  # nobody of the first project is left, and the board is kept
    submit(lab, spec(name="again", resources=NODE))
    rounds(nation, site, 2)
    assert planner.board is before
    assert planner.kept >= 20


@pytest.mark.parametrize("step", ["commit", "foresee"])
def test_what_a_broken_cycle_had_planned_is_planned_again(
    nation: Nation, site: Site, planner: Compared, monkeypatch: pytest.MonkeyPatch, step: str
):
    lab = nation.lab()
    submit(lab, spec(resources=PAIR))
    site.start_all()
    (job,) = submit(lab, spec(name="next", resources=PAIR))

    def breaks(*_: object) -> None:
        raise RuntimeError("power cut")

    site.sync()
    with monkeypatch.context() as patch:
        patch.setattr(cycle, step, breaks)
        with pytest.raises(RuntimeError, match="power cut"):
            nation.tick()
    nation.pass_s(1)
    site.start_all()
    assert lab.job(job).summary.state is State.RUNNING
    assert len(lab.job(job).tasks[0].attempts) == 1
    assert planner.board is not None
    nation.assert_book_in_order()


def test_the_loop_begins_anew_after_a_cycle_that_broke(
    nation: Nation, planner: Compared, monkeypatch: pytest.MonkeyPatch
):
    nation.tick()
    reports = []
    loop: ControlLoop

    def after(report: object, _took_s: float) -> None:
        reports.append((report is None, planner.board is None))
        loop._stopping.set()
        loop.wake()

    loop = ControlLoop(nation.control, lambda: KOREA, lambda: nation.now_ms, after)
    with monkeypatch.context() as patch:
        patch.setattr(cycle, "foresee", None)
        loop.run()
    assert reports == [(True, True)]


def test_what_was_cancelled_before_its_commit_leaves_its_nodes(
    nation: Nation, site: Site, planner: Compared
):
    lab = nation.lab()
    (gone,) = submit(lab, spec(resources=replace(PAIR, nodes=4)))
    planner.then = partial(lab.cancel, gone)
    site.sync()
    assert nation.tick().dropped == 1
    (job,) = submit(lab, spec(name="next", resources=replace(PAIR, nodes=4)))
    rounds(nation, site, 2)
    assert lab.job(job).summary.state is State.RUNNING


def test_what_the_ledger_refuses_waits_and_says_so(nation: Nation, site: Site, planner: Compared):
    lab = nation.lab(credit=30)
    (job,) = submit(lab, spec(resources=NODE))
    planner.then = partial(_spend, nation, lab)
    site.sync()
    report = nation.tick()
    assert (report.placed, report.dropped) == (0, 1)
    rounds(nation, site, 2)
    assert lab.job(job).summary.state is State.QUEUED
    assert lab.why(job).tasks[0].reason.code == "allocation-held"


def _spend(nation: Nation, lab: Client) -> None:
    """Another process of the control plane was quicker: it has started something else."""
    other = replace(nation.control, planner=Planner())
    (job,) = submit(lab, spec(name="quicker", resources=NODE, priority=90))
    held = cycle.tick(other, KOREA, nation.now_ms)
    assert held.placed >= 1
    assert lab.job(job).summary.state is State.INTENDED


def test_a_recall_that_was_dropped_is_made_anew(
    nation: Nation, samsung: Site, fab: Client, planner: Compared
):
    lab = nation.lab()
    (borrower,) = submit(lab, spec(resources=PAIR))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    (own,) = submit(fab, spec(project="fab", resources=PAIR))
    planner.then = partial(fab.cancel, own)
    samsung.sync()
    report = nation.tick()
    assert (report.recalled, report.dropped) == (0, 1)
    rounds(nation, samsung, 2)
    assert lab.job(borrower).summary.state is State.RUNNING

    (own,) = submit(fab, spec(project="fab", resources=PAIR))
    samsung.round()
    assert lab.job(borrower).summary.state is State.RECALLING
    samsung.end(samsung.orders[f"{borrower}.0"], EngineEnd.STOPPED)
    samsung.start_all()
    assert fab.job(own).summary.state is State.RUNNING


def test_a_pool_goes_down_and_comes_back(nation: Nation, site: Site, planner: Compared):
    lab = nation.lab()
    first, second = submit(lab, *(spec(name=f"job-{n}", resources=PAIR) for n in range(2)))
    site.start_all()
    (waits,) = submit(lab, spec(name="waits", resources=PAIR))
    rounds(nation, site, 1)
    site.down = {0, 1, 2, 3}
    site.end(site.orders[f"{first}.0"], EngineEnd.NODE_FAILED)
    rounds(nation, site, 2)
    nation.pass_s(60)  # and then its site is silent
    nation.tick()
    assert lab.job(waits).summary.state is State.QUEUED
    site.down = set()
    rounds(nation, site, 3)
    live = {lab.job(job).summary.state for job in (first, second, waits)}
    assert live == {State.RUNNING, State.QUEUED}
    wanted = [order for order in site.orders.values() if order.wish is Wish.RUN]
    assert sum(len(order.nodes) for order in wanted) == 4


def test_a_plan_holds_so_many_starts_and_the_next_goes_on_in_turn(nation: Nation, site: Site):
    nation.control = replace(nation.control, planner=Planner(at_once=2))
    lab = nation.lab()
    jobs = submit(lab, *(spec(name=f"job-{n}", resources=NODE) for n in range(5)))
    site.sync()

    reports = [nation.tick(), nation.tick(), nation.tick()]

    assert [report.placed for report in reports] == [2, 2, 0]
    assert [report.unfinished for report in reports] == [True, True, False]
    assert [lab.job(job).summary.state for job in jobs] == [State.INTENDED] * 4 + [State.QUEUED]
    assert lab.why(jobs[4]).tasks[0].reason.code == "holds-reservation"
    nation.assert_book_in_order()


def test_who_has_its_turn_in_the_next_cycle_is_told_so(nation: Nation, site: Site):
    nation.control = replace(nation.control, planner=Planner(at_once=1))
    lab = nation.lab()
    _, second = submit(lab, *(spec(name=f"job-{n}", resources=NODE) for n in range(2)))
    site.sync()
    nation.tick()

    reason = lab.why(second).tasks[0].reason
    assert (reason.code, "1 task before it starts now" in reason.sentence) == ("next-cycle", True)


def test_the_loop_goes_on_at_once_with_what_a_cycle_left(nation: Nation, site: Site):
    control = replace(nation.control, planner=Planner(at_once=2))
    lab = nation.lab()
    submit(lab, *(spec(name=f"job-{n}", resources=NODE) for n in range(4)))
    site.sync()
    settings = replace(control.settings, cycle_s=60)
    placed = []
    loop: ControlLoop

    def after(report: cycle.Report | None, _took_s: float) -> None:
        assert report is not None
        placed.append(report.placed)
        if not report.unfinished:
            loop._stopping.set()

    loop = ControlLoop(
        replace(control, settings=settings), lambda: KOREA, lambda: nation.now_ms, after
    )
    loop.run()
    assert placed == [2, 2, 0]
