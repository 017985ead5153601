"""Guarantees, lending and recall, as a plan tells them: who starts on whose GPUs, who must go."""

from dataclasses import replace

import pytest

from dure.jobs import Tier
from dure.scheduling import explain, schedule
from dure.scheduling.check import violations
from dure.scheduling.tuning import Tuning
from dure.scheduling.world import Recall, Usage
from dure.shares import Guarantee, Share, ShareKind, Shares
from dure.units import MS_PER_HOUR
from worlds import HOUR, NOW, hours, occupation, pool, request, world

LONG = 9 * MS_PER_HOUR


def tree(*, lends=True, borrows=True, limit=None, owned=16):
    """Samsung owns GPUs of the pool, the nation the other 16; each has two projects."""

    def root(id_, kind, gpus, **fields):
        promised = (Guarantee(gpus=gpus, pool="nhn-b200"),)
        return Share(id=id_, kind=kind, guarantees=promised, **fields)

    return Shares(
        (
            root("samsung", ShareKind.OWNER, owned, may_lend=lends, may_borrow=borrows),
            root("national", ShareKind.PROGRAMME, 16),
            *(
                Share(id=f"{parent}.{name}", kind=ShareKind.PROJECT, parent=parent, limit_gpus=most)
                for parent, name, most in (
                    ("samsung", "fab", None),
                    ("samsung", "chip", limit),
                    ("national", "lab", None),
                    ("national", "kaist", None),
                )
            ),
        )
    )


def decided(*requests, shares=None, **fields):
    given = world(*requests, shares=tree() if shares is None else shares, **fields)
    plan = schedule(given)
    assert violations(given, plan) == ()
    return plan


def why(plan, task_id):
    [reason] = [o.reason for o in (*plan.placements, *plan.waits) if o.task_id == task_id]
    return reason


def own(task_id, **fields):
    """Samsung's own: a long job, for which borrowers are called back at once."""
    return request(task_id, share="samsung.fab", estimate_ms=LONG, walltime_s=10 * HOUR, **fields)


def borrowing(job_id, nodes, **fields):
    """The lab's, beyond its guarantee, for an hour now."""
    values = {"share": "national.lab", "started_ms": NOW - MS_PER_HOUR, "grace_s": 40}
    return occupation(job_id, nodes, **(values | fields))


CROWDED = [
    occupation(1, [0, 1], share="national.kaist", guarantor="national", started_ms=NOW - 1),
    borrowing(2, [2, 3]),
]


def test_a_start_says_whether_it_stays_or_can_be_called_back():
    plan = decided(
        own(1, nodes=2, gpus=8),
        own(2, gpus=8, priority=40),
        request(3, share="national.lab"),
    )
    assert {p.task_id: p.guarantor for p in plan.placements} == {
        1: "samsung",
        2: None,
        3: "national",
    }
    assert why(plan, 1).sentence == (
        "2 nodes of 8 GPUs on nhn-b200 of nhn: the only pool that may run it; "
        "within the guarantee of samsung."
    )
    assert why(plan, 2).sentence.endswith("; beyond any guarantee, so it can be called back.")


def test_within_its_guarantee_an_owner_has_borrowers_called_back():
    plan = decided(own(9, nodes=2, gpus=8), occupations=CROWDED)
    assert plan.recalls == (
        Recall(
            attempt_id="a-2",
            task_id=10_002,
            job_id=2,
            pool_id="nhn-b200",
            for_task_id=9,
            for_share="samsung",
            vacates_ms=NOW + 60_000,
            reason=explain.Reason(
                explain.RECALLED,
                "samsung needs its GPUs for j-9; they must be free by 2026-11-23 14:01 UTC.",
            ),
        ),
    )
    assert why(plan, 9) == explain.Reason(
        explain.WAITING_FOR_RECALL,
        "Waits for 2 nodes of 8 GPUs; its share is promised them in nhn-b200, where 1 borrower has "
        "notice and must be out by 2026-11-23 14:01 UTC.",
    )


def test_who_needs_longer_to_leave_gets_it():
    slow = replace(CROWDED[1], grace_s=300)
    [recall] = decided(own(9, nodes=2, gpus=8), occupations=[CROWDED[0], slow]).recalls
    assert recall.vacates_ms == NOW + 300_000


def test_notice_is_given_once_and_to_nobody_else_meanwhile():
    leaving = borrowing(2, [2], recalled_ms=NOW - 20_000, ends_ms=NOW + 40_000)
    fresh = borrowing(3, [3], checkpoint_ms=NOW - 1)  # would lose less, and has no notice
    plan = decided(own(9, gpus=8), occupations=[CROWDED[0], leaving, fresh])
    assert plan.recalls == ()
    assert why(plan, 9).code == explain.WAITING_FOR_RECALL
    assert "2026-11-23 14:00 UTC" in why(plan, 9).sentence


def test_who_has_hardly_begun_is_not_called_back_yet():
    young = borrowing(2, [2, 3], started_ms=NOW - 1_000)
    plan = decided(own(9, nodes=2, gpus=8), occupations=[CROWDED[0], young])
    assert plan.recalls == ()
    assert why(plan, 9).code == explain.HOLDS_RESERVATION


def test_who_runs_within_its_guarantee_is_never_called_back():
    held = [CROWDED[0], occupation(2, [2, 3], share="samsung.chip", guarantor="samsung")]
    plan = decided(own(9, gpus=8), occupations=held)
    assert plan.recalls == ()
    assert why(plan, 9).sentence.endswith(
        "samsung uses 16 of the 16 GPUs that it is promised there, so it waits for GPUs that "
        "others lend."
    )


def test_a_share_is_not_called_back_from_what_is_its_own_by_now():
    """It borrowed once; meanwhile its guarantee has room, so it stays."""
    held = [borrowing(n, [n], share="national.lab") for n in range(4)]
    plan = decided(own(9, nodes=3, gpus=8), own(10, nodes=2, gpus=8), occupations=held)
    assert len(plan.recalls) == 2
    assert {recall.for_task_id for recall in plan.recalls} == {10}


def test_a_guarantee_that_was_cut_below_its_use_starts_no_more_and_moves_nobody():
    held = [occupation(1, [0, 1], share="samsung.fab", guarantor="samsung")]
    plan = decided(own(9, gpus=8), shares=tree(owned=8), occupations=held)
    [placed] = plan.placements
    assert placed.guarantor is None


def test_what_an_owner_does_not_lend_stays_idle():
    plan = decided(
        request(1, nodes=2, gpus=8, share="national.lab"),
        request(2, gpus=8, share="national.kaist"),
        shares=tree(lends=False),
    )
    assert [p.task_id for p in plan.placements] == [2]
    assert why(plan, 1).code == explain.BEYOND_GUARANTEE


def test_who_may_not_borrow_keeps_to_its_guarantee():
    plan = decided(own(1, nodes=3, gpus=8), shares=tree(borrows=False))
    assert plan.placements == ()


@pytest.mark.parametrize(("tier", "guarantor"), [(Tier.STANDARD, "samsung"), (Tier.SPARE, None)])
def test_spare_work_never_runs_within_a_guarantee(tier, guarantor):
    [placed] = decided(request(1, share="samsung.fab", tier=tier)).placements
    assert placed.guarantor == guarantor


def test_reserved_work_does_not_borrow():
    plan = decided(request(1, nodes=3, gpus=8, share="samsung.fab", tier=Tier.RESERVED))
    assert plan.placements == ()


def test_a_shares_limit_holds_it_back():
    chip = {"share": "samsung.chip", "gpus": 8}
    held = [occupation(1, [0], share="samsung.chip", guarantor="samsung")]
    plan = decided(request(1, **chip), shares=tree(limit=12), occupations=held)
    assert why(plan, 1) == explain.Reason(
        explain.SHARE_LIMIT,
        "Waits for 8 GPUs; share samsung.chip may use 12 GPUs at a time and has 8 in use.",
    )
    plan = decided(request(1, **chip), shares=tree(limit=4))
    assert why(plan, 1).sentence == (
        "Asks for 8 GPUs; share samsung.chip may use 4 GPUs at a time."
    )


def test_lent_gpus_go_to_who_has_used_least_and_the_others_are_told():
    whole = {"nodes": 4, "gpus": 8}
    used = (Usage(share="national.lab", credit_ms=10**12, at_ms=NOW),)
    plan = decided(
        request(1, share="national.lab", **whole),
        request(2, share="national.kaist", **whole),
        usage=used,
    )
    assert [p.task_id for p in plan.placements] == [2]
    again = decided(
        request(1, share="national.lab", **whole),
        request(2, share="national.kaist", **whole),
        usage=used,
        occupations=[borrowing(7, [0], started_ms=NOW - 1)],
    )
    assert why(again, 1).code == explain.FAIR_SHARE
    assert why(again, 2).code == explain.HOLDS_RESERVATION


def test_a_short_job_borrows_rather_than_have_somebody_called_back():
    short = request(9, share="samsung.fab", gpus=8)
    pools = [pool(), pool("kakao-b200")]
    plan = decided(short, pools=pools, occupations=CROWDED)
    assert plan.recalls == ()
    assert [(p.pool_id, p.guarantor) for p in plan.placements] == [("kakao-b200", None)]


SPOILT = {
    "of nobody": {"attempt_id": "a-77"},
    "of another task": {"task_id": 5},
    "for nobody": {"for_task_id": 77},
    "for another's share": {"for_share": "national"},
    "too soon": {"vacates_ms": NOW + 1},
    "of who stays": {"attempt_id": "a-1", "task_id": 10_001, "job_id": 1},
}


@pytest.mark.parametrize("fields", SPOILT.values(), ids=SPOILT.keys())
def test_the_linter_finds_a_wrong_recall(fields):
    given = world(own(9, nodes=2, gpus=8), shares=tree(), occupations=CROWDED)
    plan = schedule(given)
    spoilt = replace(plan, recalls=(replace(plan.recalls[0], **fields),))
    assert {violation.code for violation in violations(given, spoilt)} == {"recall"}
    twice = replace(plan, recalls=plan.recalls * 2)
    assert {violation.code for violation in violations(given, twice)} == {"recall"}


def test_the_linter_finds_a_recall_that_comes_too_early_or_again():
    given = world(own(9, nodes=2, gpus=8), shares=tree(), occupations=CROWDED)
    plan = schedule(given)
    for held in (
        borrowing(2, [2, 3], started_ms=NOW - 1_000),
        borrowing(2, [2, 3], recalled_ms=NOW - 1),
    ):
        later = replace(given, occupations=(CROWDED[0], held))
        assert {violation.code for violation in violations(later, plan)} == {"recall"}


def test_the_linter_finds_what_breaks_a_guarantee():
    given = world(own(1, nodes=2, gpus=8), own(2, gpus=8, priority=40), shares=tree())
    plan = schedule(given)

    def told(shares=given.shares, **fields):
        changed = tuple(
            replace(one, **fields) if one.task_id == 2 else one for one in plan.placements
        )
        found = violations(replace(given, shares=shares), replace(plan, placements=changed))
        return {violation.code for violation in found}

    assert told() == set()
    assert told(guarantor="samsung") == {"guarantee"}
    assert told(guarantor="national") == {"guarantee"}
    assert told(shares=tree(borrows=False)) == {"borrow"}
    withheld = tree(lends=False)
    lab = world(request(1, nodes=4, gpus=8, share="national.lab"), shares=tree())
    found = violations(replace(lab, shares=withheld), schedule(lab))
    assert {violation.code for violation in found} == {"withheld"}


def test_nobody_is_called_back_again_within_the_minimum_runtime_of_its_tuning():
    eager = Tuning(min_runtime_s=0)
    young = borrowing(2, [2, 3], started_ms=NOW - 1_000)
    plan = decided(own(9, nodes=2, gpus=8), occupations=[CROWDED[0], young], tuning=eager)
    assert [recall.attempt_id for recall in plan.recalls] == ["a-2"]


def test_without_money_nobody_is_called_back_for_it():
    plan = decided(own(9, nodes=2, gpus=8), occupations=CROWDED, allocations=[hours(credits_=1)])
    assert plan.recalls == ()
    assert why(plan, 9).code == explain.ALLOCATION_TOO_SMALL


@pytest.mark.parametrize("pools", [["nhn-b200", "nhn-h100"], ["nhn-h100", "nhn-b200"]])
def test_of_what_its_share_is_promised_a_task_takes_the_cheapest(pools):
    promised = tuple(Guarantee(gpus=8, pool=name) for name in pools)
    lab = Share(id="samsung", kind=ShareKind.OWNER, guarantees=promised)
    plan = decided(
        request(1, share="samsung", gpus=8, walltime_s=10 * HOUR),
        shares=Shares((lab,)),
        pools=[pool(name) for name in pools],
    )
    assert [placement.pool_id for placement in plan.placements] == ["nhn-h100"]
