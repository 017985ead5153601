"""The way of a job through the control plane, with a scripted site and a clock held by the test."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from dure.agent.wire import AttemptReport, FileEntry, Manifest, Order, Wish
from dure.allocations import Allocation, AllocationKind
from dure.client import ApiError
from dure.control.cycle import tick
from dure.control.loop import ControlLoop
from dure.engines import EngineEnd, Phase
from dure.jobs import Array, Checkpoint, Dependency, DependencyKind, Resources
from dure.journal import JournalKind
from dure.life import PLATFORM_RETRIES, EndCause, State
from dure.units import MS_PER_HOUR
from nation import DAY_MS, KOREA, NOON, SETTINGS, Nation, Site, spec, submission, submit


def test_a_job_runs_and_is_charged_for_its_gpu_time(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    held = lab.allocation("lab-hours")
    nation.pass_s(1_800)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.round()

    view = lab.job(job)
    after = lab.allocation("lab-hours")
    assert view.summary.state is State.SUCCEEDED
    assert held.held > 0
    # 8 B200 for half an hour at 2.7 credits an hour each
    assert (after.held, after.spent) == (0, 10_800_000)
    assert after.available == after.limit - after.spent
    assert view.gpu_ms == 8 * 1_800_000
    nation.assert_book_in_order()


def test_the_users_failure_is_charged_and_the_platforms_is_not(nation: Nation, site: Site):
    lab = nation.lab()
    mine, ours = submit(lab, spec(name="mine"), spec(name="ours"))
    site.start_all()
    nation.pass_s(600)
    site.end(site.orders[f"{mine}.0"], EngineEnd.ERRED, 3)
    site.end(site.orders[f"{ours}.0"], EngineEnd.NODE_FAILED)
    site.round()

    lines = {line.job: line for line in lab.usage().lines}
    assert lines[mine].charge > 0
    assert (lines[ours].charge, lines[ours].absorbed) == (0, True)
    assert lines[ours].gpu_ms == lines[mine].gpu_ms == 8 * 600_000
    assert lab.job(mine).summary.state is State.FAILED
    assert lab.job(mine).tasks[0].exit_code == 3
    assert lab.job(ours).summary.state is State.QUEUED
    nation.assert_book_in_order()


def _bring(site: Site, order: Order, content: bytes) -> str:
    """Bring a tree of one file; its digest."""
    sha = hashlib.sha256(content).hexdigest()
    path = f"/v1/agent/attempts/{order.attempt_id}/blobs/{sha}"
    assert site.http.put(path, content=content).status_code == 204
    upload = site.register(order, Manifest((FileEntry("step", len(content), sha),)))
    assert upload.missing == ()
    return upload.sha256


def test_after_a_node_failure_it_starts_again_from_its_checkpoint(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(checkpoint=Checkpoint(dir="ckpt")))
    site.start_all()
    first = site.orders[f"{job}.0"]
    checkpoint = _bring(site, first, b"step 41")
    site.end(first, EngineEnd.NODE_FAILED)
    site.reports[first.attempt_id] = replace(site.reports[first.attempt_id], checkpoint=checkpoint)
    site.round()
    nation.pass_s(2)
    site.round()

    second = site.orders[f"{job}.0"]
    assert second.attempt_id != first.attempt_id
    assert second.attempt_number == 2
    assert second.checkpoint_dir == "ckpt"
    assert second.checkpoint == checkpoint


def test_platform_faults_are_retried_only_so_often(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    for _ in range(PLATFORM_RETRIES + 1):
        nation.pass_s(400)
        site.start_all()
        site.end(site.orders[f"{job}.0"], EngineEnd.NODE_FAILED)
        site.round()

    assert lab.job(job).summary.state is State.FAILED
    assert lab.allocation("lab-hours").spent == 0
    nation.assert_book_in_order()


def test_retries_are_for_the_users_own_failures(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(retries=1))
    for _ in range(2):
        site.start_all()
        site.end(site.orders[f"{job}.0"], EngineEnd.ERRED, 1)
        site.round()

    view = lab.job(job)
    assert view.summary.state is State.FAILED
    assert [a.cause for a in view.tasks[0].attempts] == [EndCause.ERRED, EndCause.ERRED]


def test_cancelling_a_running_job_stops_it_and_charges_what_it_used(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(600)
    lab.cancel(job)
    site.round()
    order = site.orders[f"{job}.0"]
    assert order.wish is Wish.STOP
    site.end(order, EngineEnd.STOPPED)
    site.round()

    assert lab.job(job).summary.state is State.CANCELLED
    assert lab.allocation("lab-hours").spent == 8 * 2_700_000 // 6
    assert lab.cancel(job).state is State.CANCELLED


def test_cancelling_between_a_report_and_its_cycle_loses_neither(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.round()
    site.run(site.orders[f"{job}.0"])
    site.sync()
    lab.cancel(job)
    nation.tick()
    assert lab.job(job).summary.state is State.CANCELLING
    site.end(site.orders[f"{job}.0"], EngineEnd.STOPPED)
    site.round()

    assert lab.job(job).summary.state is State.CANCELLED


def test_a_recalled_job_goes_back_to_the_queue_uncharged(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(600)
    nation.admin.recall(job)
    site.round()
    assert site.orders[f"{job}.0"].wish is Wish.STOP
    site.end(site.orders[f"{job}.0"], EngineEnd.STOPPED)
    site.sync()
    nation.tick()

    assert lab.job(job).summary.state is State.INTENDED
    assert lab.allocation("lab-hours").spent == 0
    with pytest.raises(ApiError, match="programme office"):
        lab.recall(job)


def test_an_array_runs_no_more_at_a_time_than_it_asked(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(array=Array(tuple(range(5)), max_running=2), resources=Resources()))
    seen = 0
    while lab.job(job).summary.state is not State.SUCCEEDED:
        site.start_all()
        running = [o for o in site.orders.values() if o.wish is Wish.RUN]
        assert 1 <= len(running) <= 2
        seen += 1
        site.end(running[0], EngineEnd.COMPLETED, 0)
        site.round()

    assert seen == 5
    assert lab.job(job).counts == {State.SUCCEEDED: 5}


def test_afterok_waits_and_afterany_takes_any_end(nation: Nation, site: Site):
    lab = nation.lab()
    ok = Dependency(DependencyKind.AFTEROK, "first")
    any_ = Dependency(DependencyKind.AFTERANY, "first")
    then, always, last, first = submit(
        lab,
        spec(name="then", dependencies=(ok,)),
        spec(name="always", dependencies=(any_,)),
        spec(name="last", dependencies=(Dependency(DependencyKind.AFTEROK, "then"),)),
        spec(name="first"),
    )
    site.start_all()
    assert {job: lab.job(job).summary.state for job in (then, always, last)} == {
        then: State.WAITING,
        always: State.WAITING,
        last: State.WAITING,
    }
    site.end(site.orders[f"{first}.0"], EngineEnd.ERRED, 1)
    site.round()

    assert lab.job(then).summary.state is State.CANCELLED
    assert lab.job(last).summary.state is State.CANCELLED
    assert lab.job(always).summary.state is State.INTENDED
    assert "after" in lab.why(then).tasks[0].reason.sentence


def test_a_dependency_that_has_ended_already_counts(nation: Nation, site: Site):
    lab = nation.lab()
    (first,) = submit(lab, spec())
    site.start_all()
    site.end(site.orders[f"{first}.0"], EngineEnd.COMPLETED, 0)
    site.round()
    (then,) = submit(
        lab, spec(name="then", dependencies=(Dependency(DependencyKind.AFTEROK, first),))
    )

    assert lab.job(then).summary.state is State.QUEUED


def test_a_silent_site_keeps_its_attempts_until_their_lease_ends(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(SETTINGS.silent_after_s + 1)
    nation.tick()
    assert lab.job(job).summary.state is State.UNKNOWN
    assert lab.allocation("lab-hours").held > 0

    nation.pass_s(SETTINGS.lease_s + SETTINGS.lease_margin_s - SETTINGS.silent_after_s - 2)
    nation.tick()
    assert lab.job(job).summary.state is State.UNKNOWN

    nation.pass_s(2)
    nation.tick()
    attempt = lab.job(job).tasks[0].attempts[0]
    assert lab.job(job).summary.state is State.QUEUED
    assert (attempt.cause, attempt.charge) == (EndCause.LOST, 0)
    assert lab.allocation("lab-hours").held == 0
    nation.assert_book_in_order()


def test_a_site_that_comes_back_in_time_goes_on_as_if_nothing_had_been(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(SETTINGS.silent_after_s + 1)
    nation.tick()
    site.round()

    assert lab.job(job).summary.state is State.RUNNING
    assert len(lab.job(job).tasks[0].attempts) == 1


def test_an_attempt_that_its_engine_denies_twice_is_lost_but_not_before(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    site.lose(site.orders[f"{job}.0"])
    site.round()
    assert lab.job(job).summary.state is State.RUNNING
    nation.pass_s(SETTINGS.missing_confirm_s - 1)
    site.round()
    assert lab.job(job).summary.state is State.RUNNING
    nation.pass_s(1)
    site.sync()
    nation.tick()

    assert lab.job(job).tasks[0].attempts[0].cause is EndCause.LOST


def test_an_engine_that_did_not_answer_denies_nothing(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    site.reports.clear()
    site.answers = False
    for _ in range(5):
        nation.pass_s(SETTINGS.missing_confirm_s + 1)
        site.round()
    assert lab.job(job).summary.state is State.RUNNING

    site.answers = True
    site.lose(site.orders[f"{job}.0"])
    site.round()
    assert lab.job(job).summary.state is State.RUNNING
    site.answers = False  # not to be heard in between takes nothing back
    nation.pass_s(SETTINGS.missing_confirm_s)
    site.round()
    assert lab.job(job).summary.state is State.RUNNING
    site.answers = True
    site.sync()
    nation.tick()
    assert lab.job(job).tasks[0].attempts[0].cause is EndCause.LOST


def test_an_attempt_not_yet_accepted_is_not_missing(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    for _ in range(5):
        nation.pass_s(20)
        site.round()

    assert lab.job(job).summary.state is State.INTENDED
    assert len(lab.job(job).tasks[0].attempts) == 1


@pytest.mark.parametrize(
    ("started", "ended"),
    [(0, 10**15), (10**15, 0), (-(10**15), 0), (3_600_000, 0), (0, -1), (-(10**18), 10**18)],
)
def test_a_lying_site_is_disputed_and_never_paid_beyond_the_hold(
    nation: Nation, site: Site, started: int, ended: int
):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    held = lab.allocation("lab-hours").held
    order = site.orders[f"{job}.0"]
    nation.pass_s(60)
    site.reports[order.attempt_id] = AttemptReport(
        attempt_id=order.attempt_id,
        engine_id="e",
        phase=Phase.ENDED,
        started_ms=int(NOON) + started,
        ended_ms=int(NOON) + ended,
        end=EngineEnd.COMPLETED,
        exit_code=0,
    )
    site.round()

    line = lab.usage().lines[0]
    assert line.dispute
    assert 0 <= line.charge <= held
    assert lab.allocation("lab-hours").held == 0
    nation.assert_book_in_order()


def test_what_a_site_does_not_know_of_us_is_left_alone(nation: Nation, site: Site):
    site.reports["a-stranger"] = AttemptReport(
        attempt_id="a-stranger", engine_id="e", phase=Phase.RUNNING, started_ms=0
    )

    assert site.sync().strangers == ("a-stranger",)


def test_a_job_that_its_engine_will_not_end_is_ordered_to_stop(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(walltime_s=600))
    site.start_all()
    for _ in range(4):
        nation.pass_s(250)
        site.round()
    assert site.orders[f"{job}.0"].wish is Wish.STOP
    site.end(site.orders[f"{job}.0"], EngineEnd.STOPPED)
    site.round()

    assert lab.job(job).summary.state is State.TIMED_OUT
    nation.assert_book_in_order()


def test_nodes_that_are_down_take_nothing(nation: Nation, site: Site):
    lab = nation.lab()
    site.down = {0, 1, 2}
    jobs = submit(lab, spec(name="a"), spec(name="b"))
    site.round()

    assert [order.nodes for order in site.orders.values()] == [(3,)]
    states = sorted(lab.job(job).summary.state for job in jobs)
    assert states == [State.INTENDED, State.QUEUED]


def test_a_site_with_fewer_gpus_than_planned_gets_no_more_than_it_has(nation: Nation, site: Site):
    lab = nation.lab()
    site.nodes, site.gpus = 1, 2
    small = Resources(gpus_per_node=1, gpu_models=("b200",))
    submit(lab, *(spec(name=f"n{i}", resources=small) for i in range(4)))
    site.round()

    assert len(site.orders) == 2


def test_a_capacity_allocation_bounds_gpus_at_a_time_and_is_metered_in_gpu_time(
    nation: Nation, site: Site
):
    nation.project("lab")
    nation.admin.award(
        Allocation(
            id="lab-capacity",
            project="lab",
            kind=AllocationKind.CAPACITY,
            starts_ms=nation.now_ms,
            ends_ms=nation.now_ms + 10 * DAY_MS,
            gpus=16,
            gpu_model="b200",
        )
    )
    lab = nation.member("lab", "lab-member")
    jobs = submit(lab, *(spec(name=f"n{i}") for i in range(3)))
    site.start_all()
    assert len(site.orders) == 2
    nation.pass_s(3_600)
    for order in list(site.orders.values()):
        site.end(order, EngineEnd.COMPLETED, 0)
    site.round()

    view = lab.allocation("lab-capacity")
    assert view.spent == 16 * MS_PER_HOUR
    assert lab.job(jobs[2]).summary.state is State.INTENDED
    nation.assert_book_in_order()


def test_secrets_reach_the_site_and_are_gone_when_the_job_ends(nation: Nation, site: Site):
    lab = nation.lab()
    accepted = lab.submit(submission(spec(), secrets={"HF_TOKEN": "s3cret-value"}), key="k")
    job = accepted.jobs[0].id
    site.start_all()
    order = site.orders[f"{job}.0"]
    path = f"/v1/agent/attempts/{order.attempt_id}/secrets"
    assert site.http.get(path).json() == {"HF_TOKEN": "s3cret-value"}
    assert b"s3cret-value" not in b"".join(
        path.read_bytes() for path in nation.folder.glob("dure.sqlite*")
    )
    site.end(order, EngineEnd.COMPLETED, 0)
    site.round()

    assert site.http.get(path).status_code == 404
    assert "s3cret-value" not in repr(lab.job(job)) + repr(lab.why(job))
    with nation.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM secrets").scalar() == 0


def test_a_refund_gives_the_charge_back_and_makes_the_usage_the_platforms(
    nation: Nation, site: Site
):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(600)
    site.end(site.orders[f"{job}.0"], EngineEnd.ERRED, 1)
    site.round()
    settle = next(j for j in nation.admin.all_journals() if j.kind == JournalKind.SETTLE)
    nation.admin.reverse(settle.seq, "the operator's disks were slow")

    line = lab.usage(job=job).lines[0]
    assert (line.charge, line.absorbed, line.refund) == (0, True, "the operator's disks were slow")
    assert lab.allocation("lab-hours").spent == 0
    assert lab.statement(project="lab").lines[0].absorbed_gpu_ms == line.gpu_ms
    with pytest.raises(ApiError, match="reversed already"):
        nation.admin.reverse(settle.seq, "again")
    with pytest.raises(ApiError, match="may not do this"):
        lab.reverse(settle.seq, "mine")
    with pytest.raises(ApiError, match="nothing to give back"):
        nation.admin.reverse(settle.seq - 1, "a hold")
    nation.assert_book_in_order()


def test_an_attempt_that_cannot_be_settled_does_not_stop_the_others(nation: Nation, site: Site):
    lab = nation.lab()
    broken, good = submit(lab, spec(name="broken"), spec(name="good"))
    site.start_all()
    with nation.database.write() as connection:
        connection.exec_driver_sql(f"UPDATE attempts SET hold_gpu_ms = -1 WHERE job = {broken[2:]}")
    for order in list(site.orders.values()):
        site.end(order, EngineEnd.COMPLETED, 0)
    site.sync()
    report = tick(nation.control, KOREA, nation.now_ms)

    assert len(report.stuck) == 1
    assert lab.job(good).summary.state is State.SUCCEEDED
    assert lab.job(broken).summary.state is State.RUNNING


def test_a_node_that_lacks_a_gpu_delays_what_needs_it_whole_and_nothing_else(
    nation: Nation, site: Site
):
    lab = nation.lab()
    site.nodes, site.gpus = 1, 7
    whole, small = submit(
        lab, spec(name="whole"), spec(name="small", resources=Resources(gpu_models=("b200",)))
    )
    site.start_all()

    assert lab.job(small).summary.state is State.RUNNING
    assert lab.job(whole).summary.state is State.QUEUED
    assert lab.why(whole).tasks[0].reason


def test_a_capped_array_does_not_hide_other_projects_jobs(nation: Nation, site: Site):
    lab = nation.lab()
    many = Array(tuple(range(6_000)), max_running=1)
    small = Resources(gpu_models=("b200",))
    submit(lab, spec(array=many, resources=small, priority=100))
    other = nation.lab("other")
    (job,) = submit(other, spec(project="other", resources=small))
    site.start_all()

    assert other.job(job).summary.state is State.RUNNING


def test_what_waits_when_its_allocation_ends_is_cancelled_and_says_so(nation: Nation, site: Site):
    nation.project("lab")
    nation.hours("lab", days=10)
    lab = nation.member("lab", "lab-member")
    site.nodes = 0
    then = Dependency(DependencyKind.AFTEROK, "first")
    first, last = submit(lab, spec(name="first"), spec(name="last", dependencies=(then,)))
    nation.pass_s(11 * DAY_MS / 1_000)
    site.round()

    assert lab.job(first).summary.state is State.CANCELLED
    assert lab.job(last).summary.state is State.CANCELLED
    assert "ended before it could start" in lab.why(first).tasks[0].reason.sentence


def test_an_engine_that_does_not_answer_is_given_nothing_new(nation: Nation, site: Site):
    lab = nation.lab()
    site.sync()
    site.answers = False
    nation.pass_s(SETTINGS.silent_after_s + 1)
    (job,) = submit(lab, spec())
    site.round()

    assert lab.job(job).summary.state is State.QUEUED


def test_what_a_site_never_gets_started_is_taken_back(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.round()
    stuck = site.orders[f"{job}.0"]
    for _ in range(4):
        nation.pass_s(SETTINGS.start_patience_s / 3)
        site.round()
    assert site.orders[f"{job}.0"].wish is Wish.STOP
    site.end(stuck, EngineEnd.STOPPED)
    site.round()

    again = site.orders[f"{job}.0"]
    assert again.attempt_id != stuck.attempt_id
    assert lab.allocation("lab-hours").spent == 0


def test_a_clock_that_is_set_forward_loses_no_attempt(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(walltime_s=100_000))
    site.start_all()
    loop = ControlLoop(nation.control, lambda: KOREA, lambda: nation.now_ms, lambda *_: None)
    assert loop._cycle()
    nation.pass_s(30 * 86_400)
    assert loop._cycle()

    assert lab.job(job).summary.state is State.RUNNING
    assert len(lab.job(job).tasks[0].attempts) == 1


def test_a_clock_that_is_set_back_settles_what_ends(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(-3_600)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.round()

    assert lab.job(job).summary.state is State.SUCCEEDED
    nation.assert_book_in_order()


def test_a_recalled_attempt_that_errs_spends_no_retry(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec(retries=1))
    site.start_all()
    nation.admin.recall(job)
    site.end(site.orders[f"{job}.0"], EngineEnd.ERRED, 143)
    site.round()
    site.start_all()
    site.end(site.orders[f"{job}.0"], EngineEnd.ERRED, 1)
    site.round()

    assert lab.job(job).summary.state is not State.FAILED


def test_a_job_cancelled_as_it_is_accepted_leaves_no_secrets(nation: Nation, site: Site):
    lab = nation.lab()
    (first,) = submit(lab, spec())
    lab.cancel(first)
    after = Dependency(DependencyKind.AFTEROK, first)
    lab.submit(submission(spec(dependencies=(after,)), secrets={"T": "x"}), key="late")

    with nation.database.read() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM secrets").scalar() == 0


def test_a_free_job_runs_on_an_allocation_with_next_to_nothing(nation: Nation, site: Site):
    nation.project("lab")
    nation.admin.award(
        Allocation(
            id="free",
            project="lab",
            kind=AllocationKind.HOURS,
            starts_ms=nation.now_ms,
            ends_ms=nation.now_ms + DAY_MS,
            credit_ucredit=1,
            subsidy_milli=1_000,
        )
    )
    lab = nation.member("lab", "lab-member")
    jobs = submit(lab, spec(name="a"), spec(name="b"))
    site.start_all()

    assert [lab.job(job).summary.state for job in jobs] == [State.RUNNING, State.QUEUED]
    assert lab.why(jobs[1]).tasks[0].reason.code == "allocation-held"


def test_the_loop_outlives_any_number_of_failed_cycles(nation: Nation):
    reports: list[object] = []
    broken = ControlLoop(
        nation.control,
        lambda: 1 // 0,
        lambda: nation.now_ms,
        lambda report, _: reports.append(report),
    )

    assert [broken._cycle() for _ in range(3)] == [False, False, False]
    assert reports == [None, None, None]
