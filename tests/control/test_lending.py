"""Borrowers are called back with notice, resume elsewhere, and what was lent is written down."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from sqlalchemy.exc import IntegrityError

from dure.agent.wire import FileEntry, Manifest, Order, Wish
from dure.allocations import Organisation, OrganisationKind, Project
from dure.client import Client
from dure.control.memory import Memory
from dure.control.snapshot import snapshot
from dure.engines import EngineEnd
from dure.errors import Reason
from dure.jobs import Checkpoint, Resources
from dure.lending import Lent
from dure.life import EndCause, State
from dure.people import Role, RoleGrant
from dure.scheduling import Planner
from dure.scheduling.fairshare import START_CHARGE_MS
from dure.scheduling.world import Plan, World
from nation import NOON, Nation, Site, spec, submit

SENTENCE = "samsung needs its GPUs for j-2; they must be free by 2026-11-23 12:11 UTC."
BORROWER = {
    "name": "borrower",
    "checkpoint": Checkpoint(dir="ckpt"),
    "resources": Resources(nodes=2, gpus_per_node=8, gpu_models=("b200",)),
}
OWNER = {"name": "own", "project": "fab", "resources": Resources(nodes=2, gpus_per_node=8)}

RIPE_S = 601
"""A borrower that has run for so long may be called back."""


@pytest.fixture
def samsung(nation: Nation) -> Site:
    """Samsung's cluster with two nodes of eight B200: all of them its own guarantee."""
    return Site(nation, cluster="samsung-factory", pool="samsung-b200", nodes=2)


@pytest.fixture
def fab(nation: Nation) -> Client:
    """A project of Samsung's own, which its organisation's id tells."""
    company = Organisation(id="samsung", name="Samsung", kind=OrganisationKind.COMPANY)
    nation.admin.create_organisation(company)
    nation.admin.create_project(Project(id="fab", organisation="samsung", title="fab"))
    nation.hours("fab")
    return nation.member("fab", "fab-member")


class Interrupted(Planner):
    """Something happens between a plan that calls somebody back and its commit."""

    def __init__(self, happens: Callable[[], None]) -> None:
        super().__init__()
        self._happens = happens

    def plan(self, world: World) -> Plan:
        made = super().plan(world)
        if made.recalls:
            self._happens()
        return made


def bring(site: Site, order: Order, content: bytes) -> str:
    sha = hashlib.sha256(content).hexdigest()
    site.register(order, Manifest((FileEntry("step", len(content), sha),)))
    path = f"/v1/agent/attempts/{order.attempt_id}/blobs/{sha}"
    assert site.http.put(path, content=content).status_code == 204
    return site.register(order, Manifest((FileEntry("step", len(content), sha),))).sha256


def stop_with_checkpoint(site: Site, order: Order) -> str:
    digest = bring(site, order, b"step 41")
    site.end(order, EngineEnd.STOPPED)
    site.reports[order.attempt_id] = replace(site.reports[order.attempt_id], checkpoint=digest)
    return digest


def test_a_borrower_leaves_with_notice_resumes_elsewhere_and_pays_no_retry(
    nation: Nation, samsung: Site, fab: Client
):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    (own,) = submit(fab, spec(**OWNER))
    samsung.round()
    order = samsung.orders[f"{job}.0"]
    assert order.wish is Wish.STOP
    assert lab.job(job).summary.state is State.RECALLING
    assert [e.reason for e in lab.why(job).events if e.state is State.RECALLING] == [
        Reason("recalled", SENTENCE)
    ]

    nation.pass_s(20)
    digest = stop_with_checkpoint(samsung, order)
    samsung.start_all()
    elsewhere = Site(nation)  # NHN's four nodes of the same model
    elsewhere.start_all()

    again = elsewhere.orders[f"{job}.0"]
    assert (again.checkpoint, again.attempt_number) == (digest, 2)
    assert [a.cause for a in lab.job(job).tasks[0].attempts] == [EndCause.RECALLED, None]
    assert samsung.orders[f"{own}.0"].nodes == (0, 1)
    assert lab.allocation("lab-hours").spent == 0
    nation.assert_book_in_order()


def test_a_recall_is_given_once_and_counts_once(nation: Nation, samsung: Site, fab: Client):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    submit(fab, spec(**OWNER))
    reports = []
    for _ in range(3):
        nation.pass_s(1)
        samsung.sync()
        reports.append(nation.tick())

    assert [report.recalled for report in reports] == [1, 0, 0]
    assert [report.dropped for report in reports] == [0, 0, 0]
    assert sum(event.reason.code == "recalled" for event in lab.why(job).events) == 1
    (held,) = (one for one in world_of(nation).occupations if one.task_id == 1)
    assert (held.recalls, held.recalled_ms) == (1, int(NOON) + (RIPE_S + 1) * 1_000)
    assert held.ends_ms == held.recalled_ms + (30 + 10) * 1_000  # its grace, and the engine's slack


def world_of(nation: Nation) -> World:
    with nation.database.read() as connection:
        return snapshot(connection, nation.service.moment(connection))


@pytest.mark.parametrize("gone", ["borrower", "beneficiary"])
def test_a_stale_recall_is_dropped(nation: Nation, samsung: Site, fab: Client, gone: str):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    (own,) = submit(fab, spec(**OWNER))
    cancel = partial(lab.cancel, job) if gone == "borrower" else partial(fab.cancel, own)
    nation.control = replace(nation.control, planner=Interrupted(cancel))
    samsung.sync()
    report = nation.tick()
    assert (report.recalled, report.dropped) == (0, 1)
    expected = State.CANCELLING if gone == "borrower" else State.RUNNING
    assert lab.job(job).summary.state is expected


def test_a_task_keeps_its_age_over_a_recall(nation: Nation, samsung: Site, fab: Client):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    submit(fab, spec(**OWNER))
    samsung.round()
    samsung.end(samsung.orders[f"{job}.0"], EngineEnd.STOPPED)
    samsung.start_all()

    (waiting,) = world_of(nation).requests
    assert (waiting.waiting_since_ms, waiting.recalls) == (int(NOON), 1)


def test_what_was_lent_is_written_down_once_the_attempt_has_closed(
    nation: Nation, samsung: Site, fab: Client
):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(RIPE_S)
    (own,) = submit(fab, spec(**OWNER))
    samsung.round()
    assert nation.admin.lending().lines == ()
    (view,) = lab.job(job).tasks[0].attempts
    assert (view.guarantor, view.lenders) == (None, (Lent("samsung", 16),))
    nation.pass_s(20)
    samsung.end(samsung.orders[f"{job}.0"], EngineEnd.STOPPED)
    samsung.start_all()
    nation.pass_s(60)
    samsung.end(samsung.orders[f"{own}.0"], EngineEnd.COMPLETED, 0)
    samsung.round()

    assert fab.job(own).tasks[0].attempts[0].guarantor == "samsung"
    (line,) = nation.admin.lending().lines
    assert (line.lender, line.borrower, line.pool) == (
        "samsung",
        "national.university.lab",
        "samsung-b200",
    )
    assert (line.attempts, line.gpu_ms) == (1, 16 * (RIPE_S + 20) * 1_000)
    assert lab.lending().lines == (line,)
    assert fab.lending().lines == ()  # its owner's share lent, not its own
    assert nation.lab("other").lending().lines == ()
    nation.person("samsung-admin")
    nation.admin.grant_role("samsung-admin", RoleGrant(Role.OPERATOR_ADMIN, "samsung"))
    operator = nation.client(nation.token("samsung-admin"))
    assert operator.lending(operator="samsung").lines == (line,)
    assert nation.admin.lending(operator="sk").lines == ()
    assert nation.admin.lending(until_ms=int(NOON)).lines == ()


def test_the_record_of_lending_is_only_added_to(nation: Nation, samsung: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    nation.pass_s(60)
    samsung.end(samsung.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    samsung.round()
    assert len(nation.admin.lending().lines) == 1
    for statement in (
        "UPDATE lending SET gpu_ms = 1",
        "DELETE FROM lending",
        "INSERT INTO lending SELECT * FROM lending WHERE true ON CONFLICT DO NOTHING",
    ):
        with (
            pytest.raises(IntegrityError, match="only added to"),
            nation.database.write() as connection,
        ):
            connection.exec_driver_sql(statement)


def test_the_world_tells_the_scheduler_whose_guarantee_and_how_long(
    nation: Nation, samsung: Site, fab: Client
):
    short = {"walltime_s": 7_200, "resources": Resources(gpus_per_node=8)}
    for _ in range(3):
        (job,) = submit(fab, spec(name="own-1", project="fab", **short))
        samsung.start_all()
        nation.pass_s(300)
        samsung.end(samsung.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
        samsung.round()
    submit(fab, spec(name="own-2", project="fab", **short))
    (request,) = world_of(nation).requests
    assert request.share == "samsung.fab"
    assert request.estimate_ms is not None
    assert 150_000 < request.estimate_ms < 600_000  # by its like, not by its walltime
    samsung.start_all()

    world = world_of(nation)
    (held,) = world.occupations
    assert (held.share, held.guarantor) == ("samsung.fab", "samsung")
    assert held.expected_ms is not None
    assert held.started_ms < held.expected_ms < held.ends_ms
    (used,) = world.usage
    assert used.share == "samsung.fab"
    each_ms = 300_000 + START_CHARGE_MS
    assert used.credit_ms == pytest.approx(3 * 8 * each_ms * 2.7, rel=0.01)
    nation.service = replace(nation.service, memory=Memory())  # as after a restart
    assert world_of(nation) == world


def test_the_world_tells_the_scheduler_when_a_checkpoint_was_last_written(
    nation: Nation, samsung: Site
):
    lab = nation.lab()
    (job,) = submit(lab, spec(**BORROWER))
    samsung.start_all()
    assert [held.checkpoint_ms for held in world_of(nation).occupations] == [None]
    nation.pass_s(60)
    samsung.saves(samsung.orders[f"{job}.0"])
    samsung.round()
    nation.pass_s(30)
    samsung.run(samsung.orders[f"{job}.0"])  # a report without it takes nothing back
    samsung.round()
    (held,) = world_of(nation).occupations
    assert held.checkpoint_ms == int(NOON) + 60_000


def test_a_site_with_fewer_nodes_than_planned_can_be_promised_no_more(
    nation: Nation, samsung: Site
):
    samsung.sync()
    (state,) = (one for one in world_of(nation).pools if one.pool.id == "samsung-b200")
    assert state.pool.nodes_in_service(nation.now_ms) == 2
    samsung.down.add(1)  # a node that is down is there all the same
    samsung.sync()
    (state,) = (one for one in world_of(nation).pools if one.pool.id == "samsung-b200")
    assert (state.nodes, state.pool.nodes_in_service(nation.now_ms)) == ((0,), 2)
    (view,) = (one for one in nation.admin.pools() if one.pool == "samsung-b200")
    assert view.gpus_in_service == 4_000  # as planned
