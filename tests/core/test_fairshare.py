"""Fair share: exact in any order, halved by time, level by level, safe from bursts and slices."""

from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.scheduling.fairshare import FairShare
from dure.shares import Share, ShareKind, Shares

HOUR_MS = 3_600_000
HALF_LIFE_MS = 24 * HOUR_MS
GPU_MILLI = 1_000


def node(id_, weight_milli=1_000):
    parent = id_.rpartition(".")[0] or None
    kind = ShareKind.PROJECT if parent else ShareKind.OWNER
    return Share(id=id_, kind=kind, parent=parent, weight_milli=weight_milli)


TREE = Shares(
    tuple(map(node, ["nhn", "nhn.a", "nhn.b", "kakao", "kakao.c", "kakao.d"])),
)
LEAVES = ["nhn.a", "nhn.b", "kakao.c", "kakao.d"]

instants = st.integers(0, 30 * HALF_LIFE_MS)
charges = st.lists(st.tuples(st.sampled_from(LEAVES), st.integers(1, 10**12), instants), max_size=8)
spans = st.lists(
    st.tuples(st.sampled_from(LEAVES), st.integers(1, 10**6), instants, instants), max_size=8
)


def flat(**weights_milli):
    return Shares(tuple(node(id_, weight_milli) for id_, weight_milli in weights_milli.items()))


def fair(tree=TREE, **dials):
    return FairShare(tree, HALF_LIFE_MS, **dials)


def order(usage, leaves, now_ms):
    return sorted(leaves, key=lambda leaf: usage.rank(leaf, now_ms))


def standings(usage, now_ms):
    return [(usage.rank(leaf, now_ms), usage.explain(leaf, now_ms)) for leaf in LEAVES]


@given(charges, spans, st.randoms(use_true_random=False))
def test_in_whatever_order_it_learns_of_the_past_the_result_is_the_same(charged, ran, random):
    calls = [("charge", *charge) for charge in charged]
    for leaf, rate_milli, one_ms, other_ms in ran:
        calls.append(("starts", leaf, rate_milli, min(one_ms, other_ms)))
        calls.append(("ends", leaf, rate_milli, max(one_ms, other_ms)))
    usage, shuffled = fair(), fair()
    for call, *about in calls:
        getattr(usage, call)(*about)
    for call, *about in random.sample(calls, len(calls)):
        getattr(shuffled, call)(*about)
    later_ms = 31 * HALF_LIFE_MS
    assert standings(usage, later_ms) == standings(shuffled, later_ms)


@given(charges, spans)
def test_what_is_undone_was_never_there(charged, ran):
    usage, untouched = fair(), fair()
    for charge in charged:
        usage.charge(*charge)
        untouched.charge(*charge)
    for leaf, rate_milli, *between in ran:
        usage.starts(leaf, rate_milli, min(between))
        usage.ends(leaf, rate_milli, max(between))
        usage.undo(leaf, rate_milli, min(between), max(between))
    assert standings(usage, 30 * HALF_LIFE_MS) == standings(untouched, 30 * HALF_LIFE_MS)


@given(charges, st.sampled_from(LEAVES), st.integers(1, 10**12), instants)
def test_usage_never_makes_a_share_more_deserving(charged, leaf, credit_ms, at_ms):
    now_ms = 31 * HALF_LIFE_MS
    usage = fair()
    for charge in charged:
        usage.charge(*charge)
    before = {each: usage.rank(each, now_ms) for each in LEAVES}
    usage.charge(leaf, credit_ms, at_ms)
    assert usage.rank(leaf, now_ms) >= before[leaf]
    outsiders = [each for each in LEAVES if each.split(".")[0] != leaf.split(".")[0]]
    assert all(usage.rank(each, now_ms) == before[each] for each in outsiders)


@given(charges, st.integers(1, 10**12), instants)
def test_what_one_owner_uses_changes_no_order_among_the_projects_of_any(charged, credit_ms, at_ms):
    now_ms = 31 * HALF_LIFE_MS
    usage = fair()
    for charge in charged:
        usage.charge(*charge)
    pairs = (["nhn.a", "nhn.b"], ["kakao.c", "kakao.d"])
    before = [order(usage, pair, now_ms) for pair in pairs]
    usage.charge("nhn", credit_ms, at_ms)
    assert [order(usage, pair, now_ms) for pair in pairs] == before


def test_owners_are_compared_before_their_projects():
    usage = fair()
    usage.charge("nhn.a", 10 * HOUR_MS, 0)
    usage.charge("kakao.c", HOUR_MS, 0)
    assert order(usage, LEAVES, 0) == ["kakao.d", "kakao.c", "nhn.b", "nhn.a"]


@pytest.mark.parametrize("half_lives", [1, 3])
def test_each_half_life_halves_what_was_used(half_lives):
    usage = fair(flat(old=1_000, new=1_000))
    usage.charge("old", 2**half_lives * HOUR_MS, 0)
    usage.charge("new", HOUR_MS, half_lives * HALF_LIFE_MS)
    now_ms = half_lives * HALF_LIFE_MS
    assert usage.rank("old", now_ms) == usage.rank("new", now_ms)
    assert [usage.explain(share, now_ms)[0].used_ppm for share in ("old", "new")] == [500_000] * 2


def test_what_runs_counts_as_if_it_were_charged_at_each_moment():
    running, charged = (fair(flat(it=1_000, ref=1_000), start_charge_ms=0) for _ in range(2))
    for usage in (running, charged):
        usage.charge("ref", 10 * HOUR_MS, 0)
    running.starts("it", 8 * GPU_MILLI, 0)
    for minute in range(10 * 60):
        charged.charge("it", 8 * 60_000, minute * 60_000 + 30_000)
    now_ms = 10 * HOUR_MS
    used = [usage.explain("it", now_ms)[0].used_ppm for usage in (running, charged)]
    assert isclose(*used, rel_tol=1e-4)
    running.ends("it", 8 * GPU_MILLI, now_ms)
    assert running.explain("it", now_ms)[0].used_ppm == used[0]


def test_a_key_that_is_kept_stands_until_its_path_is_touched_or_runs():
    usage = fair()
    usage.charge("nhn.a", HOUR_MS, 0)
    usage.starts("kakao.c", GPU_MILLI, 0)
    kept = {leaf: usage.rank(leaf, 0) for leaf in ("nhn.a", "kakao.c")}
    usage.charge("kakao.d", HOUR_MS, HOUR_MS)
    assert usage.rank("nhn.a", 9 * HALF_LIFE_MS) == kept["nhn.a"]
    assert usage.rank("kakao.c", 9 * HALF_LIFE_MS) > kept["kakao.c"]


def test_twice_the_weight_may_use_twice_as_much():
    usage = fair(flat(big=2_000, small=1_000))
    usage.charge("big", 2 * HOUR_MS, 0)
    usage.charge("small", HOUR_MS, 0)
    assert usage.rank("big", 0) == usage.rank("small", 0)
    assert [one.entitled_ppm for one in usage.explain("big", 0)] == [666_666]


def test_a_small_difference_does_not_flip_the_order():
    usage = fair(flat(one=1_000, other=1_000))
    usage.charge("one", 100 * HOUR_MS, 0)
    usage.charge("other", 101 * HOUR_MS, 0)
    assert usage.rank("one", 0) == usage.rank("other", 0)


@pytest.mark.parametrize("burst", [2, 4])
def test_a_share_that_was_away_holds_at_most_its_burst_before_its_turn_is_over(burst):
    usage = fair(flat(steady=1_000, away=1_000), burst=burst, start_charge_ms=0)
    usage.starts("steady", 100 * GPU_MILLI, 0)
    now_ms = 20 * HALF_LIFE_MS
    held = 0
    while usage.rank("away", now_ms) <= usage.rank("steady", now_ms):
        usage.starts("away", GPU_MILLI, now_ms)
        held += 1
    assert 100 * burst <= held <= 2**0.5 * 100 * burst + 1


def test_work_cut_into_pieces_is_dearer():
    usage = fair(flat(whole=1_000, pieces=1_000))
    usage.starts("whole", GPU_MILLI, 0)
    usage.ends("whole", GPU_MILLI, HOUR_MS)
    for minute in range(60):
        usage.starts("pieces", GPU_MILLI, minute * 60_000)
        usage.ends("pieces", GPU_MILLI, (minute + 1) * 60_000)
    assert usage.rank("pieces", HOUR_MS) > usage.rank("whole", HOUR_MS)


def served_last_day(weights_milli, gpus, days, away=None):
    """GPU-hours of each share on the last day, when jobs take an hour and every share always wants
    more of so many GPUs; but the one away wants nothing before the last day.
    """
    usage = fair(flat(**weights_milli))
    last_day_ms = (days - 1) * 24 * HOUR_MS
    got = dict.fromkeys(weights_milli, 0)
    for now_ms in range(0, days * 24 * HOUR_MS, HOUR_MS):
        wanting = [share for share in weights_milli if share != away or now_ms >= last_day_ms]
        chosen = []
        for _ in range(gpus):
            chosen.append(order(usage, wanting, now_ms)[0])
            usage.starts(chosen[-1], GPU_MILLI, now_ms)
            got[chosen[-1]] += now_ms >= last_day_ms
        for share in chosen:
            usage.ends(share, GPU_MILLI, now_ms + HOUR_MS)
    return got


def test_in_the_long_run_each_gets_what_its_weight_says_within_a_step():
    got = served_last_day({"a": 1_000, "b": 2_000, "c": 5_000}, gpus=16, days=6)
    for share, weight in (("a", 1), ("b", 2), ("c", 5)):
        assert 2**-0.5 <= got[share] / (16 * 24) / (weight / 8) <= 2**0.5


def test_who_comes_back_after_long_gets_ahead_but_starves_nobody():
    got = served_last_day(dict.fromkeys("abcd", 1_000), gpus=12, days=6, away="d")
    mean = (got["a"] + got["b"] + got["c"]) / 3
    assert mean < got["d"] <= 2**0.5 * 2 * mean
    assert min(got.values()) > mean / 2


@given(charges, spans)
def test_usage_moves_to_a_new_tree_and_stays_above_what_is_gone(charged, ran):
    fewer = Shares(tuple(share for share in TREE.shares if share.id != "kakao.d"))
    now_ms = 31 * HALF_LIFE_MS
    usage, expected = fair(), fair(fewer)
    for leaf, credit_ms, at_ms in charged:
        usage.charge(leaf, credit_ms, at_ms)
        expected.charge("kakao" if leaf == "kakao.d" else leaf, credit_ms, at_ms)
    for leaf, rate_milli, at_ms, _ in ran:
        usage.starts(leaf, rate_milli, at_ms)
        expected.starts("kakao" if leaf == "kakao.d" else leaf, rate_milli, at_ms)
    moved = usage.moved(fewer)
    for leaf in ("nhn.a", "nhn.b", "kakao.c"):
        assert moved.rank(leaf, now_ms) == expected.rank(leaf, now_ms)
        assert moved.explain(leaf, now_ms) == expected.explain(leaf, now_ms)


def test_nonsense_dials_and_unknown_shares_are_refused():
    with pytest.raises(ValueError, match="half_life_ms is 0"):
        FairShare(TREE, 0)
    with pytest.raises(ValueError, match="burst is 1"):
        fair(burst=1)
    with pytest.raises(KeyError):
        fair().charge("nobody", 1, 0)
