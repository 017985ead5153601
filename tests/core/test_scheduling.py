"""Each rule of the scheduler by a case of its own: who, where, and the reason given."""

from dataclasses import replace

import pytest

from dure.fleet import OwnerKind
from dure.scheduling import explain, schedule
from dure.scheduling.check import violations
from dure.units import MS_PER_HOUR, UCREDIT_PER_CREDIT
from worlds import (
    HOUR,
    NOW,
    capacity,
    hours,
    occupation,
    pool,
    request,
    world,
)


def decided(given):
    """The plan, checked."""
    plan = schedule(given)
    assert violations(given, plan) == ()
    return plan


def where(plan):
    return {placed.task_id: (placed.pool_id, placed.nodes) for placed in plan.placements}


def why(plan, task_id):
    for outcome in (*plan.placements, *plan.waits):
        if outcome.task_id == task_id:
            return outcome.reason
    raise AssertionError(f"task {task_id} has no outcome")


def full(pool_id="nhn-b200", nodes=4, **fields):
    return occupation(812, range(nodes), pool_id=pool_id, **fields)


WAITS = {
    "its allocation opens later": (
        world(request(), allocations=[hours(starts_ms=NOW + 60_000)]),
        explain.ALLOCATION_WINDOW,
        "Allocation alloc opens at 2026-11-23 14:01 UTC.",
    ),
    "it would outlive its allocation": (
        world(request(), allocations=[hours(ends_ms=NOW + MS_PER_HOUR - 1)]),
        explain.WALLTIME_BEYOND_WINDOW,
        "Needs 1:00:00 with its grace; allocation alloc ends before that, at 2026-11-23 14:59 UTC.",
    ),
    "what it needs is held by others": (
        world(request(gpus=8), allocations=[hours(credits_=20, held=10)]),
        explain.ALLOCATION_HELD,
        (
            "Asks for up to 16 credits; allocation alloc has 10 credits left of 20 credits; "
            "it waits for some of the 10 credits held for its other tasks."
        ),
    ),
    "its allocation can never carry it": (
        world(request(gpus=8), allocations=[hours(credits_=20, available=10, held=5)]),
        explain.ALLOCATION_TOO_SMALL,
        (
            "Asks for up to 16 credits; allocation alloc has 10 credits left of 20 credits, "
            "and 5 credits held for its other tasks."
        ),
    ),
    "its capacity is in use": (
        world(
            request(gpus=8, allocation="cap"),
            occupations=[occupation(7, [0], allocation="cap", slots=4)],
            allocations=[capacity(gpus=8)],
        ),
        explain.ALLOCATION_GPUS_IN_USE,
        "Waits for 8 GPUs; allocation cap has 8 GPUs, of which its own tasks take 4.",
    ),
    "its capacity is too small": (
        world(request(gpus=8, allocation="cap"), allocations=[capacity(gpus=4)]),
        explain.CAPACITY_TOO_SMALL,
        "Asks for 8 GPUs; allocation cap has 4 GPUs.",
    ),
    "its array is at its cap": (
        world(request(job_id=7, max_running=1), occupations=[occupation(7, [0], slots=1)]),
        explain.ARRAY_CAP,
        "Waits for another task of j-7 to end; its array runs at most 1 at a time.",
    ),
    "it is still live": (
        world(request(3), occupations=[replace(occupation(3, [0]), task_id=3)]),
        explain.ALREADY_LIVE,
        "An attempt of this task of j-3 is still live.",
    ),
    "nobody knows its allocation": (
        world(request(allocation="gone")),
        explain.UNKNOWN_ALLOCATION,
        "Project kaist-llm has no allocation gone.",
    ),
    "the allocation is another project's": (
        world(request(project="snu-bio")),
        explain.UNKNOWN_ALLOCATION,
        "Project snu-bio has no allocation alloc.",
    ),
    "the cluster is silent": (
        world(request(), pools=[pool(silent=True)]),
        explain.CLUSTER_SILENT,
        "Waits for 1 node of 1 GPU; the cluster of nhn-b200 is silent.",
    ),
    "too few nodes are up": (
        world(request(nodes=3), pools=[pool(up=[1, 3])]),
        explain.NODES_DOWN,
        "Waits for 3 nodes of 1 GPU in one pool; nhn-b200 has 2 nodes up.",
    ),
    "the head waits for an end": (
        world(
            request(nodes=2, gpus=8, models=["b200"]),
            occupations=[full(nodes=3, ends_ms=NOW + 1_200_000)],
        ),
        explain.HOLDS_RESERVATION,
        (
            "Waits for 2 nodes of 8 B200 in one pool; nhn-b200 has 1 such node free, the next at "
            "2026-11-23 14:20 UTC when j-812 ends, and keeps nodes for it from "
            "2026-11-23 14:20 UTC."
        ),
    ),
    "no pool may run it": (
        world(
            request(data_class="national-core", gpus=8),
            pools=[
                pool("sk-h200", owner=OwnerKind.OPERATOR),
                pool("nhn-h100", gpus_per_node=4),
            ],
        ),
        explain.NO_POOL_ALLOWED,
        (
            "No pool may run 1 node of 8 GPUs on data of class 'national-core': "
            "nhn-h100 has 4 GPUs a node, not 8; sk-h200 excluded by rule 'national-core'."
        ),
    ),
    "its data class was dropped from the rules": (
        world(request(data_class="forgotten")),
        explain.NO_POOL_ALLOWED,
        (
            "No pool may run 1 node of 1 GPU on data of class 'forgotten': nhn-b200 cannot be "
            "judged: no rules know data class 'forgotten'."
        ),
    ),
}


@pytest.mark.parametrize(("given", "code", "sentence"), WAITS.values(), ids=WAITS.keys())
def test_it_waits_and_says_why(given, code, sentence):
    plan = decided(given)
    assert [wait.reason for wait in plan.waits] == [explain.Reason(code, sentence)]
    assert plan.placements == ()


ALLOWED = {
    "a pin to others": (
        request(pools=["sk-h200", "kakao-b200"]),
        hours(),
        "is not sk-h200 or kakao-b200, where the job is pinned",
    ),
    "another GPU model": (request(models=["h200"]), hours(), "has B200, not H200"),
    "two other GPU models": (
        request(models=["h200", "gb300"]),
        hours(),
        "has B200, not H200 or GB300",
    ),
    "an allocation of another model": (
        request(),
        hours(gpu_model="h200"),
        "has B200; allocation alloc is for H200",
    ),
    "an allocation of another pool": (
        request(allocation="cap"),
        capacity(pool="kakao-b200"),
        "is not pool kakao-b200, which allocation cap is for",
    ),
    "more GPUs than a node has": (request(gpus=16), hours(), "has 8 GPUs a node, not 16"),
    "more CPUs than a node has": (request(cpus=65), hours(), "has 64 CPUs a node, not 65"),
    "more memory than a node has": (
        request(memory=1_025),
        hours(),
        "has 1,024 GiB a node, not 1,025",
    ),
    "more nodes than it will ever have": (
        request(nodes=5),
        hours(),
        "has at most 4 nodes while allocation alloc lasts, not 5",
    ),
}


@pytest.mark.parametrize(("asked", "allocation", "clause"), ALLOWED.values(), ids=ALLOWED.keys())
def test_a_pool_that_cannot_run_it_is_named_with_its_cause(asked, allocation, clause):
    reason = why(decided(world(asked, allocations=[allocation])), 1)
    assert reason.code == explain.NO_POOL_ALLOWED
    assert reason.sentence.endswith(f": nhn-b200 {clause}.")


def test_an_operator_without_a_price_is_left_out():
    reason = why(decided(world(request(), pools=[pool("samsung-b200")])), 1)
    assert "samsung-b200 has no price: tariff t1 has no operator 'samsung'" in reason.sentence


def test_a_pool_that_grows_in_time_is_waited_for_and_one_that_grows_too_late_is_not():
    growing = pool(in_service_ms=NOW + 5 * MS_PER_HOUR, up=[])
    ends_soon = hours(ends_ms=NOW + 4 * MS_PER_HOUR)
    assert why(decided(world(request(), pools=[growing])), 1).code == explain.NODES_DOWN
    too_late = decided(world(request(), pools=[growing], allocations=[ends_soon]))
    assert why(too_late, 1).code == explain.NO_POOL_ALLOWED


@pytest.mark.parametrize(
    ("asked", "slots"),
    [
        (request(gpus=2), 2),
        (request(gpus=1, cpus=8), 1),
        (request(gpus=1, cpus=9), 2),
        (request(gpus=2, cpus=64), 8),
        (request(gpus=1, memory=1), 1),
        (request(gpus=3, cpus=16, memory=513), 5),
    ],
)
def test_it_takes_and_pays_the_largest_share_of_gpus_cpus_and_memory(asked, slots):
    [placed] = decided(world(asked)).placements
    assert placed.slots_per_node == slots
    assert placed.hold_gpu_ms == slots * MS_PER_HOUR
    assert placed.hold == slots * 2 * UCREDIT_PER_CREDIT  # a B200 weighs 2


def test_a_capacity_allocation_holds_gpu_ms():
    given = world(request(gpus=8, allocation="cap"), allocations=[capacity(gpus=8)])
    [placed] = decided(given).placements
    assert placed.hold == placed.hold_gpu_ms == 8 * MS_PER_HOUR


def test_a_subsidy_lowers_the_hold():
    [placed] = decided(world(request(), allocations=[hours(subsidy_milli=900)])).placements
    assert placed.hold == UCREDIT_PER_CREDIT // 5


def test_among_tasks_alike_priority_comes_before_age():
    given = world(
        request(1, gpus=8, priority=50),
        request(2, gpus=8, priority=90),
        request(3, gpus=8, priority=50),
        pools=[pool(nodes=2)],
    )
    assert where(decided(given)) == {2: ("nhn-b200", (0,)), 1: ("nhn-b200", (1,))}


def test_between_projects_a_low_priority_makes_way_and_a_high_one_gains_nothing():
    given = world(
        request(1, gpus=8, priority=40),
        request(2, gpus=7, priority=50),
        request(3, gpus=6, priority=90, walltime_s=2 * HOUR),
        pools=[pool(nodes=1)],
    )
    assert where(decided(given)).keys() == {2}


def test_the_shortest_goes_first_until_somebody_has_waited_past_the_bound():
    long_ = request(1, gpus=8, walltime_s=9 * HOUR)
    given = world(long_, request(2, gpus=8), pools=[pool(nodes=1)])
    assert where(decided(given)).keys() == {2}
    patient = replace(long_, waiting_since_ms=NOW - given.tuning.wait_bound_s * 1_000)
    given = world(patient, request(2, gpus=8), pools=[pool(nodes=1)])
    assert where(decided(given)).keys() == {1}


@pytest.mark.parametrize(
    ("pools", "occupations", "chosen", "because"),
    [
        (["nhn-b200"], [], "nhn-b200", "the only pool that may run it"),
        (["nhn-b200", "kakao-b200"], [full()], "kakao-b200", "the only one of 2 allowed pools"),
        (["nhn-b200", "nhn-h100", "sk-h200"], [], "nhn-h100", "cheapest of 3 with room now"),
        (
            ["kakao-b200", "nhn-b200"],
            [occupation(7, [2], slots=6)],
            "nhn-b200",
            "tightest fit of 2 with room now, of 2 allowed pools",
        ),
        (["nhn-b200", "kakao-b200"], [], "kakao-b200", "first by name of 2 with room now"),
    ],
)
def test_the_pool_is_chosen_by_cost_then_fit_then_name(pools, occupations, chosen, because):
    plan = decided(world(request(gpus=2), pools=map(pool, pools), occupations=occupations))
    assert where(plan)[1][0] == chosen
    assert because in why(plan, 1).sentence
    assert why(plan, 1).code == explain.PLACED


def test_a_job_pinned_to_a_pool_starts_there_though_another_is_cheaper():
    pools = [pool("nhn-b200"), pool("nhn-h100")]
    plan = decided(world(request(pools=["nhn-b200"]), pools=pools))
    assert where(plan)[1][0] == "nhn-b200"


def test_a_placement_names_the_pools_that_a_rule_excluded():
    given = world(
        request(data_class="national-core"),
        pools=[
            pool(),
            pool("sk-h200", owner=OwnerKind.OPERATOR),
            pool("sk-b200", owner=OwnerKind.OPERATOR),
        ],
    )
    assert why(decided(given), 1).sentence == (
        "1 node of 1 GPU on nhn-b200 of nhn: the only pool that may run it; "
        "sk-b200 and sk-h200 excluded by rule 'national-core'."
    )


def test_a_gang_never_spans_pools():
    plan = decided(world(request(nodes=6), pools=[pool(), pool("kakao-b200")]))
    assert plan.placements == ()


def test_tasks_of_a_capped_array_start_up_to_the_cap():
    tasks = [request(id_, job_id=7, max_running=2) for id_ in (1, 2, 3)]
    plan = decided(world(*tasks))
    assert where(plan).keys() == {1, 2}
    assert why(plan, 3).code == explain.ARRAY_CAP


def test_one_pass_spends_a_balance_once():
    given = world(request(1), request(2), request(3), allocations=[hours(credits_=4)])
    plan = decided(given)
    assert where(plan).keys() == {1, 2}
    assert why(plan, 3).code == explain.ALLOCATION_HELD


def test_one_pass_uses_a_capacity_allocations_gpus_once():
    tasks = [request(id_, gpus=4, allocation="cap") for id_ in (1, 2, 3)]
    plan = decided(world(*tasks, allocations=[capacity(gpus=8)]))
    assert where(plan).keys() == {1, 2}
    assert why(plan, 3).code == explain.ALLOCATION_GPUS_IN_USE


class TestBackfill:
    """Three of four nodes are busy for 2 hours; the head needs two whole ones."""

    BUSY = full(nodes=3, ends_ms=NOW + 2 * MS_PER_HOUR)
    HEAD = request(1, nodes=2, gpus=8, estimate_ms=1)  # the shortest goes first

    def plan(self, *others, occupations=()):
        return decided(world(self.HEAD, *others, occupations=[self.BUSY, *occupations]))

    def test_the_head_keeps_exact_nodes_from_its_shadow_time(self):
        [reservation] = self.plan().reservations
        assert reservation.starts_ms == NOW + 2 * MS_PER_HOUR
        assert reservation.nodes == (0, 1)  # those that come free last; node 3 stays open

    def test_free_nodes_are_kept_only_where_the_head_needs_them(self):
        all_four = replace(self.HEAD, resources=replace(self.HEAD.resources, nodes=4))
        given = world(all_four, request(2, walltime_s=5 * HOUR), occupations=[self.BUSY])
        plan = decided(given)
        assert plan.reservations[0].nodes == (0, 1, 2, 3)
        assert why(plan, 2).code == explain.BEHIND_RESERVATION
        assert why(plan, 2).sentence == (
            "Waits for 1 node of 1 GPU; nhn-b200 has no such nodes free, 1 more and what comes "
            "free next kept for j-1, which starts by 2026-11-23 16:00 UTC."
        )

    def test_a_job_that_ends_in_time_uses_kept_nodes(self):
        all_four = replace(self.HEAD, resources=replace(self.HEAD.resources, nodes=4))
        short = request(2, walltime_s=2 * HOUR - 10)
        plan = decided(world(all_four, short, occupations=[self.BUSY]))
        assert where(plan) == {2: ("nhn-b200", (3,))}
        assert why(plan, 2).code == explain.PLACED_BACKFILL
        assert "ends before j-1 needs the nodes kept for it" in why(plan, 2).sentence
        longer = replace(short, walltime_s=2 * HOUR)
        assert decided(world(all_four, longer, occupations=[self.BUSY])).placements == ()

    def test_a_long_job_takes_nodes_that_are_not_kept(self):
        plan = self.plan(request(2, walltime_s=50 * HOUR))
        assert where(plan) == {2: ("nhn-b200", (3,))}
        assert why(plan, 2).sentence.endswith("on other nodes than those kept for j-1.")

    def test_a_gang_may_mix_open_and_kept_nodes(self):
        three = replace(self.HEAD, resources=replace(self.HEAD.resources, nodes=3))
        busy = full(nodes=1, ends_ms=NOW + 2 * MS_PER_HOUR)
        half = occupation(5, [1, 2, 3], slots=4, ends_ms=NOW + 3 * MS_PER_HOUR)
        pair = request(2, nodes=3, gpus=4)
        plan = decided(world(three, pair, occupations=[busy, half]))
        assert where(plan) == {2: ("nhn-b200", (1, 2, 3))}

    def test_a_pool_keeps_nodes_for_one_head_and_others_wait_behind(self):
        plan = self.plan(request(2, nodes=3, gpus=8), request(3, nodes=4, gpus=8))
        assert [reservation.task_id for reservation in plan.reservations] == [1]
        assert why(plan, 2).code == explain.WAITING_FOR_NODES
        assert "kept for j-1, which starts by 2026-11-23 16:00 UTC" in why(plan, 2).sentence

    def test_alike_tasks_behind_the_head_are_told_the_same(self):
        plan = self.plan(replace(self.HEAD, task_id=2, order=(1, 1)), request(3, nodes=2, gpus=8))
        assert why(plan, 2) == why(plan, 3)
        assert why(plan, 2).code == explain.WAITING_FOR_NODES

    def test_each_pool_keeps_nodes_for_a_head_of_its_own(self):
        given = world(
            request(1, gpus=8),
            request(2, nodes=2, gpus=8),
            pools=[pool(), pool("kakao-b200")],
            occupations=[full(), full("kakao-b200", ends_ms=NOW + 5_000, attempt_id="a-2")],
        )
        plan = decided(given)
        assert [(r.task_id, r.pool_id) for r in plan.reservations] == [
            (1, "kakao-b200"),
            (2, "nhn-b200"),
        ]

    def test_the_heads_hold_is_set_aside_from_its_own_projects_later_jobs(self):
        given = world(
            self.HEAD,
            request(2),
            occupations=[self.BUSY],
            allocations=[hours(credits_=33)],
        )
        assert why(decided(given), 2).code == explain.ALLOCATION_HELD

    def test_an_attempt_past_its_end_is_due_at_once(self):
        late = full(ends_ms=NOW - 5_000)
        [reservation] = decided(world(self.HEAD, occupations=[late])).reservations
        assert reservation.starts_ms == NOW + 1

    def test_nodes_that_are_down_are_no_part_of_it(self):
        given = world(self.HEAD, pools=[pool(up=[0, 3])], occupations=[full()])
        [reservation] = decided(given).reservations
        assert reservation.nodes == (0, 3)

    def test_what_starts_in_this_pass_ends_in_its_reckoning(self):
        given = world(
            request(1, gpus=8, nodes=3, estimate_ms=1),
            request(2, gpus=8, nodes=2, walltime_s=HOUR),
        )
        plan = decided(given)
        assert plan.reservations[0].starts_ms == NOW + MS_PER_HOUR
        assert "the next at 2026-11-23 15:00 UTC when j-1 ends" in why(plan, 2).sentence


def test_sentences_do_not_move_with_the_clock():
    given = world(
        request(1, nodes=2, gpus=8),
        request(2, nodes=3, gpus=8),
        request(3, allocation="late"),
        occupations=[full()],
        allocations=[hours(), hours("late", starts_ms=NOW + MS_PER_HOUR)],
    )
    a_while_later = replace(given, now_ms=NOW + 61_234)
    assert schedule(a_while_later).waits == schedule(given).waits


def test_a_long_list_of_pools_is_cut_short():
    many = [pool(f"nhn-b200-{n}", gpu_model="b200") for n in range(9)]
    busy = [full(f"nhn-b200-{n}", attempt_id=f"a-{n}") for n in range(9)]
    sentence = why(decided(world(request(), pools=many, occupations=busy)), 1).sentence
    assert sentence.endswith("; 3 more pools without room.")


def test_a_nation_of_300_000_gpus():
    pools = [pool(f"nhn-b200-{n}", nodes=7_500, gpu_model="b200") for n in range(5)]
    busy = [
        occupation(n, range(7_400), pool_id=f"nhn-b200-{n}", ends_ms=NOW + n * MS_PER_HOUR)
        for n in range(5)
    ]
    tasks = [
        *(request(n, nodes=200 + n, gpus=8) for n in range(1, 8)),
        *(request(n, gpus=1, job_id=99, order=(99, n)) for n in range(100, 1_100)),
    ]
    plan = decided(world(*tasks, pools=pools, occupations=busy))
    assert len(plan.reservations) == 5
    assert len(plan.placements) == 1_000
