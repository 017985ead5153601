"""The linter finds what is wrong with a plan: each case spoils a good plan in one way."""

from dataclasses import replace
from functools import partial

import pytest

from dure.errors import Reason
from dure.fleet import OwnerKind
from dure.scheduling import schedule
from dure.scheduling.check import violations
from dure.scheduling.world import Plan, Wait
from dure.units import MS_PER_HOUR
from worlds import HOUR, NOW, capacity, hours, occupation, pool, request, world

asked = partial(request, waiting_since_ms=1)  # past the bound on waits: age decides

WORLD = world(
    asked(1, nodes=2, gpus=8, data_class="national-core"),
    asked(2, gpus=4, models=["h200"]),
    asked(3, nodes=4, gpus=8, models=["b200"]),
    asked(4, gpus=8, allocation="cap"),
    asked(5, gpus=1, job_id=50, max_running=1),
    asked(6, gpus=1, job_id=50, max_running=1, order=(50, 1)),
    pools=[
        pool(nodes=5, up=[0, 1, 2, 3]),
        pool("sk-h200", owner=OwnerKind.OPERATOR),
        pool("kakao-b200", silent=True),
    ],
    occupations=[occupation(812, [3], slots=6)],
    allocations=[hours(), capacity(gpus=8)],
)
PLAN = schedule(WORLD)


def spoil(task_id, **fields):
    """The plan with one placement changed."""
    return replace(
        PLAN,
        placements=tuple(
            replace(placed, **fields) if placed.task_id == task_id else placed
            for placed in PLAN.placements
        ),
    )


def reserve(**fields):
    return replace(PLAN, reservations=(replace(PLAN.reservations[0], **fields),))


def placed(task_id):
    return next(one for one in PLAN.placements if one.task_id == task_id)


NO = Reason("x", "x")

SPOILT = {
    "a node that does not exist": (spoil(2, nodes=(77,)), {"nodes"}),
    "a node that is down": (spoil(1, nodes=(1, 4)), {"nodes"}),
    "a node too few": (spoil(1, nodes=(0,)), {"gang"}),
    "a node twice": (spoil(1, nodes=(0, 0)), {"gang", "oversubscribed"}),
    "a node that is taken": (spoil(1, nodes=(1, 3)), {"oversubscribed"}),
    "two tasks on a node": (
        spoil(4, nodes=(0,)),
        {"oversubscribed"},
    ),
    "too few slots": (spoil(4, slots_per_node=7), {"slots"}),
    "a silent pool": (spoil(1, pool_id="kakao-b200"), {"nodes"}),
    "a pool that a rule forbids": (spoil(1, pool_id="sk-h200", nodes=(2, 3)), {"rule", "hold"}),
    "another GPU model": (
        spoil(2, pool_id="nhn-b200", nodes=(2,)),
        {"gpu-model", "hold", "oversubscribed"},
    ),
    "a pool outside the allocation": (spoil(4, pool_id="sk-h200", nodes=(2,)), {"allocation"}),
    "no such pool": (spoil(2, pool_id="gone"), {"unknown"}),
    "a hold too small": (spoil(1, hold=placed(1).hold - 1), {"hold"}),
    "a hold too large": (spoil(4, hold=placed(4).hold + 1), {"hold"}),
    "a wrong GPU time": (spoil(2, hold_gpu_ms=1), {"hold"}),
    "a task of another job": (spoil(2, job_id=9), {"unknown"}),
    "a placement lost": (replace(PLAN, placements=PLAN.placements[1:]), {"outcomes"}),
    "a wait lost": (replace(PLAN, waits=()), {"outcomes", "reservation"}),
    "placed and waiting": (
        replace(PLAN, waits=(*PLAN.waits, Wait(task_id=1, job_id=1, reason=NO))),
        {"outcomes"},
    ),
    "placed twice": (
        replace(PLAN, placements=(*PLAN.placements, replace(placed(5), nodes=(3,)))),
        {"outcomes", "array-cap"},
    ),
    "a task that nobody asked for": (
        replace(PLAN, waits=(*PLAN.waits, Wait(task_id=99, job_id=9, reason=NO))),
        {"unknown"},
    ),
    "beyond the array's cap": (
        replace(
            PLAN,
            placements=(*PLAN.placements, replace(placed(5), task_id=6)),
            waits=tuple(wait for wait in PLAN.waits if wait.task_id != 6),
        ),
        {"array-cap"},
    ),
    "a reservation before its nodes are free": (
        reserve(starts_ms=NOW + MS_PER_HOUR - 1),
        {"delayed"},
    ),
    "a reservation in the past": (reserve(starts_ms=NOW - 1), {"delayed", "reservation"}),
    "a reservation of a node too few": (reserve(nodes=(0, 1, 2)), {"gang"}),
    "a reservation on a node that is down": (reserve(nodes=(0, 1, 2, 4)), {"nodes"}),
    "a reservation of too few slots": (reserve(slots_per_node=7), {"slots"}),
    "a reservation on the wrong GPUs": (reserve(pool_id="sk-h200"), {"gpu-model"}),
    "a reservation for one who starts": (
        reserve(task_id=4, nodes=(0,)),
        {"reservation"},
    ),
    "two reservations on a pool": (
        replace(PLAN, reservations=PLAN.reservations * 2),
        {"reservation"},
    ),
}


def test_the_plan_to_be_spoilt_is_good_and_uses_everything():
    assert violations(WORLD, PLAN) == ()
    assert {one.task_id for one in PLAN.placements} == {1, 2, 4, 5}
    assert {one.task_id for one in PLAN.waits} == {3, 6}
    assert [one.task_id for one in PLAN.reservations] == [3]


@pytest.mark.parametrize(("plan", "codes"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_plan_is_caught(plan, codes):
    assert {violation.code for violation in violations(WORLD, plan)} == codes


def holding(**fields):
    """The world with its allocation changed after the plan was made."""
    return replace(WORLD, allocations=(hours(**fields), capacity(gpus=8)))


CHANGED = {
    "the balance is spent": (holding(available=1), {"budget"}),
    "the window closes": (holding(ends_ms=NOW + MS_PER_HOUR - 1), {"window"}),
    "the window has not opened": (holding(starts_ms=NOW + 1), {"window"}),
    "the allocation is gone": (
        replace(WORLD, allocations=(capacity(gpus=8),)),
        {"allocation"},
    ),
    "the subsidy changed": (holding(subsidy_milli=500), {"hold"}),
    "the capacity shrank": (
        replace(WORLD, allocations=(hours(), capacity(gpus=7))),
        {"capacity"},
    ),
    "the capacity is in use": (
        replace(
            WORLD,
            occupations=(
                *WORLD.occupations,
                occupation(5, [3], slots=1, pool_id="sk-h200", allocation="cap"),
            ),
        ),
        {"capacity"},
    ),
    "a task went live": (
        replace(
            WORLD,
            occupations=(
                *WORLD.occupations,
                replace(occupation(70, [9], pool_id="sk-h200"), task_id=1),
            ),
        ),
        {"live"},
    ),
    "a node went down": (
        replace(WORLD, pools=(pool(nodes=5, up=[1, 2, 3]), *WORLD.pools[1:])),
        {"nodes"},
    ),
    "a job outlives the head's reservation": (
        replace(
            WORLD,
            occupations=(occupation(812, [3], slots=6, ends_ms=NOW + 9 * MS_PER_HOUR),),
        ),
        {"delayed"},
    ),
    "the rules forget the data class": (
        replace(WORLD, rules=replace(WORLD.rules, data_classes=WORLD.rules.data_classes[1:])),
        {"rule"},
    ),
    "the tariff lost an operator": (
        replace(WORLD, tariff=replace(WORLD.tariff, operator_prices_milli=())),
        {"hold"},
    ),
}


@pytest.mark.parametrize(("changed", "codes"), CHANGED.values(), ids=CHANGED.keys())
def test_a_plan_that_went_stale_is_caught(changed, codes):
    assert {violation.code for violation in violations(changed, PLAN)} == codes


def test_a_backfill_that_delays_the_head_is_caught():
    given = world(
        asked(1, nodes=4, gpus=8),
        asked(2, walltime_s=9 * HOUR),
        occupations=[occupation(812, [0, 1, 2])],
    )
    plan = schedule(given)
    alone = schedule(replace(given, requests=given.requests[1:]))
    spoilt = Plan(
        placements=(replace(alone.placements[0], nodes=(3,)),),
        reservations=plan.reservations,
        waits=plan.waits[:1],
    )
    assert {violation.code for violation in violations(given, spoilt)} == {"delayed"}
