"""What the control plane makes of what sites say, deny and leave unsaid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dure.agent.wire import Wish
from dure.engines import EngineEnd
from dure.life import EndCause, State
from dure.store import attempts
from dure.units import iso
from nation import SETTINGS, Nation, Site, spec, submit


def test_denials_count_only_while_they_last(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    order = site.orders[f"{job}.0"]
    there = site.reports[order.attempt_id]
    for again in (there, None):  # it is there after all, or the site only prepares it
        site.lose(order)
        site.round()
        site.denied.clear()
        site.reports = {} if again is None else {order.attempt_id: again}
        nation.pass_s(SETTINGS.missing_confirm_s)
        site.round()
    site.lose(order)
    site.round()
    assert lab.job(job).summary.state is State.RUNNING


def test_denials_across_a_clock_that_was_set_back_still_count(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    site.lose(site.orders[f"{job}.0"])
    site.round()
    nation.pass_s(-7_200)
    site.round()
    assert lab.job(job).summary.state is State.RUNNING
    nation.pass_s(SETTINGS.missing_confirm_s)
    site.sync()
    nation.tick()
    assert lab.job(job).tasks[0].attempts[0].cause is EndCause.LOST


@pytest.mark.parametrize("silent_after_s", [30, 3_600])
def test_a_denial_is_heard_again_though_it_is_old_news(
    nation: Nation, site: Site, silent_after_s: int
):
    patient = replace(SETTINGS, silent_after_s=silent_after_s)
    nation.service = nation.app.state.service = replace(nation.service, settings=patient)
    nation.control = replace(nation.control, settings=patient)
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    site.lose(site.orders[f"{job}.0"])
    for _ in range(int(SETTINGS.missing_confirm_s) + 1):
        site.sync()
        nation.tick()
        nation.pass_s(1)
    assert lab.job(job).tasks[0].attempts[0].cause is EndCause.LOST


@pytest.mark.parametrize("reported", [True, False])
@pytest.mark.parametrize("asked", [None, "cancel", "recall"])
def test_what_an_engine_accepted_and_forgot_comes_to_an_end(
    nation: Nation, site: Site, asked: str | None, *, reported: bool
):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.round()
    order = site.orders[f"{job}.0"]
    if reported:
        site.accept(order)
        site.round()
    if asked is not None:
        getattr(nation.admin if asked == "recall" else lab, asked)(job)
    site.lose(order)
    site.round()
    nation.pass_s(SETTINGS.missing_confirm_s)
    site.sync()
    nation.tick()

    attempt = lab.job(job).tasks[0].attempts[0]
    assert (attempt.cause, attempt.charge) == (EndCause.LOST, 0)
    assert lab.allocation("lab-hours").held == 0
    expected = State.CANCELLED if asked == "cancel" else State.QUEUED
    assert lab.job(job).summary.state is expected
    nation.assert_book_in_order()


def test_an_order_says_that_it_was_accepted_as_soon_as_that_was_heard(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.round()
    order = site.orders[f"{job}.0"]
    assert not order.accepted
    site.accept(order)
    site.sync()
    assert site.orders[f"{job}.0"].accepted
    site.reports.clear()  # its disk is emptied before the next cycle
    site.sync()
    nation.tick()
    site.sync()
    assert site.orders[f"{job}.0"].accepted


def test_an_end_that_was_told_counts_though_its_site_is_silent_since(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(60)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.sync()
    nation.pass_s(SETTINGS.silent_after_s + 1)  # no cycle came in time, and the site is off
    nation.tick()

    assert lab.job(job).summary.state is State.SUCCEEDED
    assert lab.usage().lines[0].gpu_ms == 8 * 60_000


@pytest.mark.parametrize("asked", ["cancel", "recall"])
def test_an_attempt_that_is_to_stop_keeps_its_lease_too(nation: Nation, site: Site, asked: str):
    lab = nation.lab()
    (job,) = submit(lab, spec(walltime_s=86_400))
    site.start_all()
    getattr(nation.admin, asked)(job)
    for _ in range(8):
        nation.pass_s(SETTINGS.lease_s / 7)
        site.round()
        assert site.reply is not None
        with nation.database.read() as connection:
            (attempt,) = attempts.open_attempts(connection)
        assert nation.now_ms + site.reply.lease_s * 1_000 <= attempt.lease_until_ms
    nation.pass_s(SETTINGS.silent_after_s + 1)
    nation.tick()
    assert lab.job(job).summary.state in {State.CANCELLING, State.RECALLING}


@pytest.mark.parametrize("started", [2**62, -(2**62), 10**15])
def test_plans_do_not_follow_an_impossible_start(nation: Nation, site: Site, started: int):
    lab = nation.lab()
    site.nodes = 1
    running, waiting = submit(lab, spec(name="a", walltime_s=600), spec(name="b"))
    site.round()
    order = site.orders[f"{running}.0"]
    site.run(order)
    site.reports[order.attempt_id] = replace(site.reports[order.attempt_id], started_ms=started)
    for _ in range(3):
        site.round()
    assert abs((lab.job(running).tasks[0].attempts[0].started_ms or 0) - nation.now_ms) < 60_000
    assert lab.job(waiting).summary.state is State.QUEUED
    for _ in range(4):
        nation.pass_s(250)
        site.round()
    assert site.orders[f"{running}.0"].wish is Wish.STOP
    site.end(order, EngineEnd.STOPPED)
    site.round()

    line = lab.usage(job=running).lines[0]
    assert line.dispute
    assert line.started_ms is not None
    assert line.ended_ms is not None
    assert iso(line.started_ms) <= iso(line.ended_ms)
    nation.assert_book_in_order()
