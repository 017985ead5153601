"""Lists over the whole federation: each task once, what one may see, how shares stand."""

from __future__ import annotations

import pytest

from dure.client import ApiError, Client
from dure.engines import EngineEnd
from dure.jobs import Array, Resources
from dure.life import EndCause, State
from dure.listing import TaskLine
from nation import Nation, Site, spec, submit


def lines(client: Client, limit: int = 1_000, **query: object) -> list[TaskLine]:
    found, after = [], None
    while True:
        page = client.tasks(limit=limit, after=after, **query)  # type: ignore[arg-type]
        found += page.tasks
        if page.next is None:
            return found
        after = page.next


def test_every_task_stands_once_newest_first_however_small_the_pages(nation: Nation):
    lab = nation.lab()
    array, single = submit(lab, spec(name="a", array=Array((2, 4, 9), 2)), spec(name="b"))
    expected = [(single, 0), (array, 9), (array, 4), (array, 2)]
    for limit in (1, 2, 3, 4, 5):
        assert [(one.job, one.index) for one in lines(lab, limit)] == expected
    assert {(one.tasks, one.max_running) for one in lines(lab, job=array)} == {(3, 2)}


def test_a_task_tells_what_it_asked_for_and_where_its_last_attempt_runs(nation: Nation, site: Site):
    lab = nation.lab()
    asked = Resources(nodes=2, gpus_per_node=4)
    (job,) = submit(lab, spec(resources=asked, walltime_s=7_200))
    (waiting,) = lines(lab)
    assert (waiting.run, waiting.state) == (None, State.QUEUED)
    site.start_all()
    (running,) = lines(lab, open_only=True)
    assert (running.job, running.resources, running.walltime_s) == (job, asked, 7_200)
    assert running.run is not None
    assert (running.run.pool, len(running.run.nodes), running.run.cause) == ("nhn-b200", 2, None)
    pool = next(one for one in lab.pools() if one.pool == "nhn-b200")
    assert (pool.nodes_up, pool.nodes_idle, pool.nodes_full) == (4, 2, 0)
    (order,) = site.orders.values()
    site.end(order, EngineEnd.ERRED, 3)
    site.round()
    (ended,) = lines(lab)
    assert (ended.state, ended.exit_code) == (State.FAILED, 3)
    assert ended.run is not None
    assert ended.run.cause is EndCause.ERRED
    assert lines(lab, open_only=True) == []
    assert ended.ended_ms is not None
    assert lines(lab, since_ms=ended.ended_ms) == [ended]
    assert lines(lab, since_ms=ended.ended_ms + 1) == []


def test_one_sees_the_tasks_of_ones_own_projects_only(nation: Nation):
    lab, other = nation.lab(), nation.lab("other")
    (mine,) = submit(lab, spec())
    (theirs,) = submit(other, spec(project="other"))
    assert [one.job for one in lines(lab)] == [mine]
    assert [one.job for one in lines(nation.admin)] == [theirs, mine]
    assert lines(lab, job=theirs) == []
    assert lines(lab, submitter="nobody") == []
    with pytest.raises(ApiError, match="There is no project"):
        lines(lab, project="other")
    with pytest.raises(ApiError, match="is not a job's id"):
        lines(lab, job="12")


def test_shares_are_ones_own_and_those_above_and_siblings_stay_unknown(nation: Nation, site: Site):
    lab, _ = nation.lab(), nation.lab("other")
    submit(lab, spec(resources=Resources(gpus_per_node=2)))
    site.start_all()
    mine = {one.share: one for one in lab.shares()}
    assert set(mine) == {"national", "national.university", "national.university.lab"}
    assert mine["national.university.lab"].gpus_held == 2
    assert mine["national.university.lab"].held_ppm == 1_000_000
    everything = nation.admin.shares()
    assert {"national.university.lab", "national.university.other"} <= {
        one.share for one in everything
    }
    parents = {one.share: one.parent for one in everything}
    assert parents["national.university.lab"] == "national.university"
