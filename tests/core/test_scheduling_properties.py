"""What holds in any world."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from dure.scheduling import explain, forecast, refusal, schedule
from dure.scheduling.check import violations
from dure.scheduling.world import Occupation
from dure.units import MS_PER_HOUR
from worlds import HOUR, NOW, hours, occupation, pool, request, shuffled, world, worlds

EXAMPLES = settings(max_examples=120, deadline=None)


@EXAMPLES
@given(worlds())
def test_no_plan_violates_an_invariant(given_):
    assert violations(given_, schedule(given_)) == ()


@EXAMPLES
@given(worlds(), st.randoms(use_true_random=False))
def test_the_order_in_which_a_world_lists_its_parts_decides_nothing(given_, random):
    def permute(things):
        return tuple(random.sample(things, len(things)))

    assert schedule(shuffled(given_, permute)) == schedule(given_)


@EXAMPLES
@given(worlds())
def test_who_comes_last_changes_nothing_for_those_ahead(given_):
    last = request(999, priority=0, walltime_s=3 * HOUR)
    plan, without = schedule(replace(given_, requests=(*given_.requests, last))), schedule(given_)
    assert [one for one in plan.placements if one.task_id != 999] == list(without.placements)
    assert [one for one in plan.reservations if one.task_id != 999] == list(without.reservations)


def running(given_, plan):
    """The world once the plan's placements run, each to its limit."""
    requests = {asked.task_id: asked for asked in given_.requests}
    started = tuple(
        Occupation(
            attempt_id=f"started-{placed.task_id}",
            task_id=placed.task_id,
            job_id=placed.job_id,
            pool_id=placed.pool_id,
            nodes=placed.nodes,
            slots_per_node=placed.slots_per_node,
            gpus=0,
            allocation=requests[placed.task_id].allocation,
            ends_ms=given_.now_ms + requests[placed.task_id].occupied_ms,
        )
        for placed in plan.placements
    )
    return replace(given_, occupations=given_.occupations + started, requests=())


@EXAMPLES
@given(worlds())
def test_no_backfilled_job_delays_a_head(given_):
    """At its reserved time, whatever was started beside it, the head of the queue starts."""
    plan = schedule(given_)
    later = running(given_, plan)
    requests = {asked.task_id: asked for asked in given_.requests}
    for reservation in plan.reservations:
        head = requests[reservation.task_id]
        at_ms = reservation.starts_ms
        then = replace(
            later,
            now_ms=at_ms,
            occupations=tuple(held for held in later.occupations if held.ends_ms > at_ms),
            # Only nodes are promised: neither its allocation's window nor its array's cap.
            requests=(replace(head, allocation="alloc", max_running=None),),
            pools=tuple(p for p in later.pools if p.pool.id == reservation.pool_id),
        )
        [outcome] = (*schedule(then).placements, *schedule(then).waits)
        assert outcome.reason.code == explain.PLACED


@EXAMPLES
@given(worlds())
def test_a_pass_is_complete(given_):
    """Once its plan runs, a second pass at the same instant starts nothing more."""
    plan = schedule(given_)
    waiting = {wait.task_id for wait in plan.waits}
    spent = {state.allocation.id: 0 for state in given_.allocations}
    requests = {asked.task_id: asked for asked in given_.requests}
    for placed in plan.placements:
        spent[requests[placed.task_id].allocation] += placed.hold
    again = replace(
        running(given_, plan),
        requests=tuple(asked for asked in given_.requests if asked.task_id in waiting),
        allocations=tuple(
            replace(
                state,
                available=state.available - spent[state.allocation.id],
                held=state.held + spent[state.allocation.id],
            )
            for state in given_.allocations
        ),
    )
    assert schedule(again).placements == ()


@EXAMPLES
@given(worlds())
def test_a_forecast_is_what_then_happens(given_):
    """Asked about one more request at the end of the queue, it names the pool that takes it."""
    asked = request(999, gpus=2, priority=0, allocation="alloc", walltime_s=2 * HOUR)
    answer = forecast(given_, asked)
    plan = schedule(replace(given_, requests=(*given_.requests, asked)))
    placed = [one.pool_id for one in plan.placements if one.task_id == 999]
    now = [one for one in answer.options if one.starts_ms == given_.now_ms]
    assert set(placed) <= {option.pool_id for option in now}
    assert refusal(given_, asked) == answer.refusal
    assert len(answer.options) + len(answer.exclusions) == len(given_.pools)


@EXAMPLES
@given(st.integers(1, 8), st.integers(1, 4), st.integers(0, 4), st.integers(0, 4))
def test_more_free_nodes_never_make_a_single_request_wait(gpus, nodes, busy, fewer):
    def starts(taken):
        occupations = [occupation(9, range(taken), ends_ms=NOW + MS_PER_HOUR)] if taken else []
        asked = request(nodes=nodes, gpus=gpus)
        return bool(schedule(world(asked, occupations=occupations)).placements)

    assert starts(busy) <= starts(min(busy, fewer))


def test_a_queue_of_one_shape_starts_in_its_order():
    """Run to the end, tasks alike start in the order of the queue, none before one ahead of it."""
    given_ = world(
        *(request(n, gpus=8) for n in range(1, 12)),
        pools=[pool(nodes=2)],
        allocations=[hours()],
    )
    started = []
    while given_.requests:
        plan = schedule(given_)
        assert violations(given_, plan) == ()
        started += [placed.task_id for placed in plan.placements]
        waiting = {wait.task_id for wait in plan.waits}
        then = running(given_, plan)
        ends_ms = min(held.ends_ms for held in then.occupations)
        given_ = replace(
            then,
            now_ms=ends_ms,
            occupations=tuple(held for held in then.occupations if held.ends_ms > ends_ms),
            requests=tuple(a for a in given_.requests if a.task_id in waiting),
        )
    assert started == list(range(1, 12))
