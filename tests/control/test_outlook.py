"""What waits is told when it will start; what then comes true makes the next estimate surer."""

from __future__ import annotations

import pytest
from sqlalchemy import select

from dure.client import Client
from dure.control.memory import Memory
from dure.control.outlook import HEADS_MAX, heads_of
from dure.engines import EngineEnd
from dure.errors import Reason
from dure.jobs import Array, Resources, Tier
from dure.life import State
from dure.scheduling.foresight import WINDOW, StartEstimate
from dure.scheduling.world import Plan, Request, Wait
from dure.store import starts
from dure.store.schema import start_estimates, start_outcomes
from dure.store.starts import Foreseen
from dure.units import MS_PER_S
from nation import KOREA, SETTINGS, Nation, Site, spec, submit

HOUR_MS = 3_600 * MS_PER_S


@pytest.fixture
def lab(nation: Nation) -> Client:
    return nation.lab()


@pytest.fixture
def site(nation: Nation) -> Site:
    """One node of eight GPUs: whoever comes second waits."""
    return Site(nation, nodes=1)


def foresight_of(nation: Nation, memory: Memory):
    with nation.database.read() as connection:
        return memory.known(connection, KOREA, SETTINGS.tuning, nation.now_ms).foresight


def kept(nation: Nation, table) -> int:
    with nation.database.read() as connection:
        return len(connection.execute(select(table)).all())


def two_jobs(lab: Client, site: Site) -> tuple[str, str]:
    (first,) = submit(lab, spec(name="first"))
    site.start_all()
    (second,) = submit(lab, spec(name="second"))
    site.round()
    return first, second


def test_what_waits_says_when_it_will_start_and_what_runs_says_where(lab, site, nation):
    first, second = two_jobs(lab, site)
    running, waiting = lab.job(first).summary, lab.job(second).summary
    assert running.pools == ("nhn-b200",)
    assert running.start is None
    assert waiting.pools == ()
    assert waiting.reason == lab.why(second).tasks[0].reason
    said = waiting.start
    assert said is not None
    assert said.at_ms == nation.now_ms
    assert (
        nation.now_ms
        <= said.surely_from_ms
        <= said.likely_from_ms
        <= said.expected_ms
        <= said.likely_until_ms
        <= said.surely_until_ms
    )
    # it starts when the first, which may run for an hour, is expected to end
    assert said.surely_from_ms < nation.now_ms + HOUR_MS < said.surely_until_ms
    assert lab.why(second).tasks[0].start == said
    assert {job.id: job.start for job in lab.jobs().jobs} == {first: None, second: said}


def test_a_look_ahead_waits_its_turn(lab, site, nation):
    _, second = two_jobs(lab, site)
    before = lab.job(second).summary.start
    nation.pass_s(SETTINGS.foresee_every_s - 1)
    site.round()
    assert lab.job(second).summary.start == before
    nation.pass_s(1)
    site.round()
    again = lab.job(second).summary.start
    assert again is not None
    assert again.at_ms == nation.now_ms


def test_a_start_that_comes_teaches_how_sure_the_next_is(lab, site, nation):
    first, second = two_jobs(lab, site)
    before = foresight_of(nation, Memory()).estimate(0, HOUR_MS)
    nation.pass_s(600)
    site.end(site.orders[f"{first}.0"], EngineEnd.COMPLETED, 0)
    site.start_all()
    assert lab.job(second).summary.state is State.RUNNING
    assert lab.job(second).summary.start is None
    assert kept(nation, start_outcomes) == 1
    assert kept(nation, start_estimates) == 0
    after = foresight_of(nation, Memory()).estimate(0, HOUR_MS)
    assert after != before
    # the control plane's own memory, and one that begins anew, know the same
    assert foresight_of(nation, nation.control.memory).estimate(0, HOUR_MS) == after


def test_the_first_estimate_is_held_against_the_truth(lab, site, nation):
    two_jobs(lab, site)
    foreseen = Foreseen(nation.now_ms, StartEstimate(*[nation.now_ms] * 5))
    nation.pass_s(60)
    with nation.database.write() as connection:
        task = connection.execute(select(start_estimates.c.task)).scalar_one()
        starts.keep(connection, {task: foreseen}, nation.now_ms)
        starts.came_true(connection, task, nation.now_ms)
        ((foreseen_wait_ms, wait_ms),), _ = starts.outcomes(connection, 0)
    assert wait_ms == 60 * MS_PER_S
    assert foreseen_wait_ms > 0


def test_only_the_latest_outcomes_are_kept(lab, site, nation):
    two_jobs(lab, site)
    foreseen = Foreseen(nation.now_ms, StartEstimate(*[nation.now_ms] * 5))
    with nation.database.write() as connection:
        task = connection.execute(select(start_estimates.c.task)).scalar_one()
        for _ in range(WINDOW + 3):
            starts.keep(connection, {task: foreseen}, nation.now_ms)
            starts.came_true(connection, task, nation.now_ms)
        pairs, last = starts.outcomes(connection, 0)
    assert len(pairs) == WINDOW
    assert last == WINDOW + 3


def test_an_array_is_estimated_by_its_first_waiting_task(lab, site, nation):
    two_jobs(lab, site)
    (array,) = submit(lab, spec(name="sweep", array=Array(indices=(0, 1, 2))))
    nation.pass_s(SETTINGS.foresee_every_s)
    site.round()
    tasks = lab.why(array).tasks
    assert [task.start is not None for task in tasks] == [True, False, False]
    assert lab.job(array).summary.start == tasks[0].start


def test_a_cancelled_job_has_no_start(lab, site):
    _, second = two_jobs(lab, site)
    lab.cancel(second)
    assert lab.job(second).summary.start is None
    assert lab.why(second).tasks[0].start is None


def test_a_plan_gives_ranges(lab, site, nation):
    two_jobs(lab, site)
    option = next(one for one in lab.plan(spec()).options if one.pool_id == "nhn-b200")
    assert option.starts_ms is not None
    assert option.surely_from_ms is not None
    assert option.surely_until_ms is not None
    assert nation.now_ms <= option.surely_from_ms <= option.starts_ms <= option.surely_until_ms


def test_heads_are_of_as_many_jobs_as_may_be():
    requests = tuple(
        Request(
            task_id=3 * job + task,
            job_id=job,
            order=(job, task),
            project="lab",
            allocation="lab-hours",
            resources=Resources(),
            walltime_s=60,
            grace_s=10,
            priority=0,
            data_class="public",
            tier=Tier.STANDARD,
        )
        for job in range(HEADS_MAX + 5)
        for task in range(3)
    )
    no = Reason("gpus-busy", "waits")
    waits = tuple(Wait(task_id=one.task_id, job_id=one.job_id, reason=no) for one in requests[1:])
    heads = heads_of(requests, Plan(waits=waits))
    assert heads == (1, *(3 * job for job in range(1, HEADS_MAX)))
