"""What holds in any world."""

from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dure.scheduling import Board, Planner, explain, forecast, refusal, schedule
from dure.scheduling.check import violations
from dure.scheduling.lane import ordinals
from dure.scheduling.world import Occupation
from dure.units import MS_PER_HOUR
from worlds import (
    HOUR,
    NOW,
    hours,
    occupation,
    pool,
    request,
    shared_worlds,
    shuffled,
    world,
    worlds,
)

EXAMPLES = settings(max_examples=120, deadline=None)


@EXAMPLES
@given(st.one_of(worlds(), shared_worlds()))
def test_no_plan_violates_an_invariant(given_):
    assert violations(given_, schedule(given_)) == ()


@EXAMPLES
@given(st.one_of(worlds(), shared_worlds()), st.randoms(use_true_random=False))
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


def after(given_, plan, random, serial):
    """Some seconds later: what was decided runs, some of it was dropped, something has ended, one
    more task has come, one was withdrawn and a node has changed.
    """
    now_ms = given_.now_ms + 30_000
    dropped = {one.task_id for one in plan.placements if random.random() < 0.2}
    kept = replace(plan, placements=tuple(p for p in plan.placements if p.task_id not in dropped))
    noticed = {one.attempt_id for one in plan.recalls if random.random() < 0.8}
    requests = {asked.task_id: asked for asked in given_.requests}
    started = [
        replace(
            held,
            share=requests[held.task_id].share,
            tier=requests[held.task_id].tier,
            guarantor=placed.guarantor,
            started_ms=given_.now_ms,
        )
        for held, placed in zip(
            running(given_, kept).occupations[len(given_.occupations) :],
            kept.placements,
            strict=True,
        )
    ]
    held = [
        replace(one, recalled_ms=given_.now_ms, ends_ms=now_ms + 1)
        if one.attempt_id in noticed
        else one
        for one in (*given_.occupations, *started)
        if random.random() < 0.8
    ]
    live = {one.task_id for one in held} | {one.task_id for one in kept.placements}
    queue = [one for one in given_.requests if one.task_id not in live and random.random() < 0.9]
    queue.append(request(serial, nodes=random.randint(1, 3), gpus=8, share="nhn.a"))
    return replace(
        given_,
        now_ms=now_ms,
        occupations=tuple(random.sample(held, len(held))),
        requests=tuple(random.sample(queue, len(queue))),
        pools=(
            replace(given_.pools[0], nodes=tuple(range(random.randint(0, 4)))),
            *given_.pools[1:],
        ),
    )


def figures(board):
    """What a board counts: of nodes, of promises, who waits, and what each share has used."""
    lanes = [
        (lane.pool_id, lane.up, lane.idle, lane.lent, lane.borrowing, lane.running)
        for lane in board.lanes.values()
    ]
    free = [[lane.free.of[node] for node in ordinals(lane.up)] for lane in board.lanes.values()]
    shares = sorted(board.world.shares.by_id)
    used = [board.fair.rank(share, board.world.now_ms) for share in shares if board.fair]
    return lanes, free, sorted(board.waiting), sorted(board.outside), used


@settings(EXAMPLES, max_examples=15)
@given(shared_worlds(), st.integers(0, 1_000_000))
def test_a_board_that_is_kept_up_holds_what_a_new_one_would(given_, seed):
    random, planner = Random(seed), Planner()
    plan = planner.plan(given_)
    for serial in range(500, 504):
        given_ = after(given_, plan, random, serial)
        plan = planner.plan(given_)
        assert violations(given_, plan) == ()
        again = Board(given_)
        board = planner.board
        assert board is not None
        assert board.serves(given_)
        board.update(given_)  # what was just decided is dropped again
        assert figures(board) == figures(again)
        plan = planner.plan(given_)
        assert violations(given_, plan) == ()
