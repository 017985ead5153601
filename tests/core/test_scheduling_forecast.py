"""What `dure plan` answers, and what submission refuses with."""

from dataclasses import replace

import pytest

from dure.fleet import OwnerKind
from dure.scheduling import explain, forecast, refusal
from dure.units import MS_PER_HOUR, UCREDIT_PER_CREDIT
from worlds import DAY_MS, HOUR, NOW, capacity, hours, occupation, pool, request, world

SK = pool("sk-h200", owner=OwnerKind.OPERATOR)

REFUSED = {
    "more GPUs a node than any pool has": (
        world(pools=[pool(), SK]),
        request(gpus=16),
        explain.NO_SUCH_GPUS,
        "Asks for 16 GPUs a node; the largest nodes, in nhn-b200, have 8.",
    ),
    "a GPU model that nobody has": (
        world(pools=[pool(), SK]),
        request(models=["gb300"]),
        explain.NO_SUCH_GPUS,
        "Asks for GB300; the pools have B200 and H200.",
    ),
    "a nation without pools": (
        world(pools=[]),
        request(),
        explain.NO_SUCH_GPUS,
        "Asks for GPUs; the pools have none at all.",
    ),
    "more CPUs a node than any pool has": (
        world(),
        request(cpus=65),
        explain.NO_SUCH_NODE,
        "Asks for 65 CPUs a node; the most that one has is 64.",
    ),
    "more memory a node than any pool has": (
        world(),
        request(memory=2_000),
        explain.NO_SUCH_NODE,
        "Asks for 2,000 GiB a node; the most that one has is 1,024.",
    ),
    "data that may go to no pool with such GPUs": (
        world(pools=[pool(), SK]),
        request(models=["h200"], data_class="national-core"),
        explain.NO_POOL_ALLOWED,
        (
            "No pool may run 1 node of 1 H200 on data of class 'national-core': "
            "nhn-b200 has B200, not H200; sk-h200 excluded by rule 'national-core'."
        ),
    ),
    "data of no known class": (
        world(),
        request(data_class="nuclear"),
        "unknown-data-class",
        "There is no data class 'nuclear'; known are public, national-core.",
    ),
    "more nodes than an allowed pool will have": (
        world(pools=[pool(), SK]),
        request(nodes=5, data_class="national-core"),
        explain.TOO_LARGE,
        (
            "Asks for 5 nodes of 1 GPU; nhn-b200 has at most 4 nodes while allocation alloc lasts, "
            "not 5; sk-h200 excluded by rule 'national-core'."
        ),
    ),
    "more credits than are left": (
        world(allocations=[hours("kaist-llm-1", credits_=200, available=100)]),
        request(nodes=4, gpus=8, walltime_s=8 * HOUR - 10, allocation="kaist-llm-1"),
        explain.ALLOCATION_TOO_SMALL,
        "Asks for up to 512 credits; allocation kaist-llm-1 has 100 credits left of 200 credits.",
    ),
    "more GPU-hours than a capacity allocation has left": (
        world(allocations=[replace(capacity(gpus=8), available=MS_PER_HOUR)]),
        request(gpus=8, allocation="cap"),
        explain.ALLOCATION_TOO_SMALL,
        ("Asks for up to 8.0000 GPU-h; allocation cap has 1.0000 GPU-h left of 5,952.0000 GPU-h."),
    ),
    "more GPUs than a capacity allocation has": (
        world(allocations=[capacity(gpus=16)]),
        request(nodes=3, gpus=8, allocation="cap"),
        explain.CAPACITY_TOO_SMALL,
        "Asks for 24 GPUs; allocation cap has 16 GPUs.",
    ),
    "a walltime beyond the window": (
        world(allocations=[hours(starts_ms=NOW + DAY_MS, ends_ms=NOW + DAY_MS + 60_000)]),
        request(),
        explain.WALLTIME_BEYOND_WINDOW,
        "Needs 1:00:00 with its grace; allocation alloc ends before that, at 2026-11-24 14:01 UTC.",
    ),
    "an allocation that the project does not have": (
        world(),
        request(allocation="gone"),
        explain.UNKNOWN_ALLOCATION,
        "Project kaist-llm has no allocation gone.",
    ),
}


@pytest.mark.parametrize(
    ("given", "asked", "code", "sentence"), REFUSED.values(), ids=REFUSED.keys()
)
def test_what_could_never_run_is_refused(given, asked, code, sentence):
    no = refusal(given, asked)
    assert no == explain.Reason(code, sentence)
    answer = forecast(given, asked)
    assert answer.refusal == no
    assert all(option.starts_ms is None for option in answer.options)


COULD = {
    "its budget is held, not spent": (
        world(allocations=[hours(credits_=16, held=10)]),
        request(gpus=8),
    ),
    "its capacity is in use": (
        world(occupations=[occupation(1, [0], allocation="cap")], allocations=[capacity(gpus=8)]),
        request(gpus=8, allocation="cap"),
    ),
    "its window opens later": (world(allocations=[hours(starts_ms=NOW + DAY_MS)]), request()),
    "the only cluster is silent": (world(pools=[pool(silent=True)]), request(nodes=4)),
    "a later wave brings its nodes": (
        world(pools=[pool(up=[], in_service_ms=NOW + DAY_MS)]),
        request(nodes=4),
    ),
    "one of its pools is cheap enough": (
        world(pools=[pool(), pool("nhn-h100")], allocations=[hours(credits_=9)]),
        request(gpus=8),
    ),
}


@pytest.mark.parametrize(("given", "asked"), COULD.values(), ids=COULD.keys())
def test_what_could_run_later_is_not_refused(given, asked):
    assert refusal(given, asked) is None


def starts(given, asked):
    return {option.pool_id: option.starts_ms for option in forecast(given, asked).options}


def test_options_stand_soonest_first_with_the_most_they_cost():
    given = world(
        pools=[pool(), pool("kakao-b200"), pool("nhn-h100"), pool("sk-b200", silent=True), SK],
        occupations=[
            occupation(1, range(4), pool_id="nhn-h100", ends_ms=NOW + 2 * MS_PER_HOUR),
            occupation(2, range(4), pool_id="kakao-b200", ends_ms=NOW + MS_PER_HOUR),
        ],
    )
    answer = forecast(given, request(data_class="national-core"))
    assert [(o.pool_id, o.starts_ms, o.hold // UCREDIT_PER_CREDIT) for o in answer.options] == [
        ("nhn-b200", NOW, 2),
        ("kakao-b200", NOW + MS_PER_HOUR, 2),
        ("nhn-h100", NOW + 2 * MS_PER_HOUR, 1),
        ("sk-b200", None, 2),
    ]
    [excluded] = answer.exclusions
    assert (excluded.pool_id, excluded.operator_id) == ("sk-h200", "sk")
    assert excluded.reason.code == "excluded-by-rule"


def test_it_starts_behind_those_ahead_and_not_behind_those_after_it():
    busy = [occupation(1, range(4))]
    ahead = request(1, nodes=4, gpus=8, walltime_s=2 * HOUR - 10)
    after = request(9, nodes=4, gpus=8, priority=30)
    given = world(ahead, after, occupations=busy)
    assert starts(given, request(5, nodes=4, priority=40)) == {"nhn-b200": NOW + 3 * MS_PER_HOUR}
    urgent = request(5, nodes=4)  # and the shorter one
    assert starts(given, urgent) == {"nhn-b200": NOW + MS_PER_HOUR}


def test_it_may_start_before_a_blocked_head_that_it_does_not_delay():
    given = world(
        request(1, nodes=4, gpus=8), occupations=[occupation(1, [0], ends_ms=NOW + DAY_MS)]
    )
    assert starts(given, request(5)) == {"nhn-b200": NOW}
    long_ = request(5, walltime_s=40 * HOUR)
    assert starts(given, long_) == {"nhn-b200": NOW + DAY_MS + MS_PER_HOUR}


def test_it_waits_for_its_window_and_its_own_capacity():
    opens = world(allocations=[hours(starts_ms=NOW + 90_000)])
    assert starts(opens, request()) == {"nhn-b200": NOW + 90_000}
    used = occupation(1, [0], slots=8, allocation="cap")
    in_use = world(occupations=[used], allocations=[capacity(gpus=8)])
    assert starts(in_use, request(gpus=8, allocation="cap")) == {"nhn-b200": NOW + MS_PER_HOUR}


def test_those_who_can_never_start_keep_nobody_back():
    stuck = [
        request(1, nodes=4, gpus=8, allocation="none"),
        request(2, nodes=4, data_class="forgotten"),
        request(3, nodes=9),
    ]
    given = world(*stuck, occupations=[occupation(1, range(4))])
    assert starts(given, request(5, nodes=4)) == {"nhn-b200": NOW + MS_PER_HOUR}


def test_no_start_is_foreseen_where_the_nodes_are_not_up():
    assert starts(world(pools=[pool(up=[0])]), request(nodes=2)) == {"nhn-b200": None}


def test_a_forecast_for_a_task_in_the_queue_leaves_itself_out():
    asked = request(1, nodes=4)
    given = world(asked, occupations=[occupation(1, [0])])
    assert starts(given, asked) == {"nhn-b200": NOW + MS_PER_HOUR}


def test_with_many_ends_to_come_it_is_late_by_a_few_of_them_at_most():
    busy = [
        occupation(n, [n], ends_ms=NOW + n * 60_000, attempt_id=f"a-{n:04}")
        for n in range(1, 1_000)
    ]
    given = world(request(1, nodes=500, gpus=8), pools=[pool(nodes=1_000)], occupations=busy)
    for hours_, minute in ((1, 399), (50, 559)):  # ahead of the head; then when the head has ended
        asked = request(5, nodes=400, gpus=8, walltime_s=hours_ * HOUR - 10)
        [start] = starts(given, asked).values()
        assert minute <= (start - NOW) // 60_000 <= minute + 15
