"""The tree of capacity: what it may promise, and what it is worth at an instant."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure import scenario, shares
from dure.allocations import Allocation, AllocationKind
from dure.fleet import OwnerKind, PhaseStart, Pool, Wave, WavePhase
from dure.metering import Tariff
from dure.shares import Cell, Guarantee, Share, ShareKind, Shares, Shortfall
from dure.shares.steps import Steps
from dure.units import MS_PER_HOUR, UCREDIT_PER_CREDIT, instant_from_iso

EXAMPLES = settings(max_examples=150, deadline=None)
TARIFF = Tariff(
    version="v1",
    weights_milli=(("b200", 2_700), ("h100", 1_000)),
    tiers_milli=(("standard", 1_000),),
    operator_prices_milli=(),
)


def wave(id_, gpus, starts_ms, ends_ms=None):
    phases = [PhaseStart(WavePhase.IN_SERVICE, starts_ms)]
    if ends_ms is not None:
        phases.append(PhaseStart(WavePhase.RETIRED, ends_ms))
    return Wave(id=id_, gpus=gpus, assumed=True, phases=tuple(phases))


def pool(id_, *waves, gpu_model="b200", gpus_per_node=8):
    return Pool(
        id=id_,
        cluster_id="c",
        operator_id="o",
        gpu_model=gpu_model,
        gpus_per_node=gpus_per_node,
        cpus_per_node=8,
        memory_gib_per_node=64,
        interconnect="ib",
        owner="o",
        owner_kind=OwnerKind.OPERATOR,
        jurisdiction="KR",
        waves=waves or (wave("w", 80, 0),),
    )


def share(id_, *guarantees, parent=None, **more):
    kind = ShareKind.PROGRAMME if parent is None else ShareKind.PROJECT
    return Share(id=id_, kind=kind, parent=parent, guarantees=guarantees, **more)


def of_pool(gpus, name="p", **window):
    return Guarantee(gpus=gpus, pool=name, **window)


def of_model(gpus, name="b200", **window):
    return Guarantee(gpus=gpus, gpu_model=name, **window)


def carved(tree, pools, at_ms=0):
    return {(cell.share, cell.pool): cell.gpus for cell in shares.cells(tree, pools, at_ms)}


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: of_pool(0), "gpus is 0; a guarantee is of 1 to 10,000,000 GPUs"),
        (lambda: Guarantee(gpus=1), "pool is None and gpu_model None; a guarantee names exactly"),
        (lambda: Guarantee(gpus=1, pool="p", gpu_model="m"), "names exactly one of them"),
        (lambda: of_pool(1, starts_ms=5, ends_ms=5), "window ends after it starts"),
        (lambda: of_pool(1, starts_ms=-1), "starts_ms is -1"),
        (lambda: share("A b"), "share id 'A b' is not an id; use up to 8 parts"),
        (lambda: share("a..b"), "share id 'a..b' is not an id"),
        (lambda: share("a", weight_milli=0), "weight_milli of share a is 0; it must be at least 1"),
        (lambda: share("a", limit_gpus=0), "limit_gpus of share a is 0; it must be at least 1"),
        (lambda: Shares((share("a"), share("a"))), "share a is named twice"),
        (lambda: Shares((share("a", parent="b"),)), "parent of share a is 'b', which is no share"),
        (
            lambda: Shares((share("a", parent="b"), share("b", parent="a"))),
            r"share a is its own ancestor \(a below b below a\)",
        ),
        (
            lambda: Shares((share("n", of_pool(8)), share("n.a", of_pool(9), parent="n"))),
            "the shares below n are promised 9 GPUs of pool p from 1970-.*, where n has 8",
        ),
        (
            lambda: Shares((share("n", of_model(8)), share("n.a", of_pool(1), parent="n"))),
            "promised 1 GPUs of pool p .* where n has 0",
        ),
        (
            lambda: Shares((share("n", of_pool(8)), share("n.a", of_model(9), parent="n"))),
            "promised 9 GPUs of any pool .* where n has 8",
        ),
        (
            lambda: Shares(
                (
                    share("n", of_pool(8, ends_ms=1_000)),
                    share("n.a", of_pool(4, ends_ms=2_000), parent="n"),
                )
            ),
            "the shares below n are promised 4 GPUs .* where n has 0",
        ),
    ],
)
def test_a_tree_that_makes_no_sense_is_refused_in_one_sentence(build, sentence):
    with pytest.raises(ValueError, match=sentence):
        build()


@pytest.mark.parametrize(
    ("guarantees", "sentence"),
    [
        ([of_pool(81)], "promise 81 GPUs of pool p, where at most 80 are ever in service"),
        ([of_pool(1, "q")], "share s0 is promised 1 GPUs of pool q, which is not in the fleet"),
        ([of_model(1, "x")], "of model x, which is not in the fleet; known are b200"),
        ([of_pool(80), of_model(1)], "promise 81 GPUs of model b200, where at most 80"),
        (
            [of_pool(60, ends_ms=50)],
            "60 GPUs of pool p until 1970-01-01T00:00:00Z, where at most 40 are ever in service",
        ),
    ],
)
def test_shares_that_promise_more_than_will_exist_are_refused(guarantees, sentence):
    growing = pool("p", wave("w1", 40, 0), wave("w2", 40, 100))
    tree = Shares(tuple(share(f"s{i}", one) for i, one in enumerate(guarantees)))
    with pytest.raises(ValueError, match=sentence):
        shares.check_against(tree, [growing])


def test_children_may_name_a_model_where_their_parent_has_pools_of_it():
    pools = [pool("p"), pool("q"), pool("h", gpu_model="h100")]
    parent = share("n", of_pool(40, "p"), of_pool(40, "q"), of_pool(40, "h"))
    fits = Shares((parent, share("n.a", of_model(80), parent="n")))
    shares.check_against(fits, pools)

    too_many = Shares((parent, share("n.a", of_model(81), parent="n")))
    with pytest.raises(ValueError, match=r"promised 81 GPUs of model b200 .* where n has 80"):
        shares.check_against(too_many, pools)


# ---- cells ---------------------------------------------------------------------------------------


def test_a_parents_cell_is_what_its_children_leave():
    tree = Shares((share("n", of_pool(40)), share("n.a", of_pool(16), parent="n"), share("o")))
    assert carved(tree, [pool("p")]) == {("n", "p"): 24, ("n.a", "p"): 16}


def test_guarantees_on_waves_to_come_are_cut_in_proportion_in_whole_nodes():
    tree = Shares((share("a", of_pool(60)), share("b", of_pool(20))))
    growing = pool("p", wave("w1", 24, 0), wave("w2", 56, 100))

    assert carved(tree, [growing], 0) == {("a", "p"): 16, ("b", "p"): 8}
    assert carved(tree, [growing], 100) == {("a", "p"): 60, ("b", "p"): 20}
    assert shares.changes_ms(tree, [growing]) == (100,)


def test_a_guarantee_is_whole_while_there_is_room_for_it():
    tree = Shares((share("a", of_pool(30)),))
    assert carved(tree, [pool("p", wave("w1", 32, 0), wave("w2", 48, 100))]) == {("a", "p"): 30}


def test_a_guarantee_of_a_model_is_spread_over_what_is_left_of_its_pools():
    pools = [pool("p"), pool("q", wave("w", 160, 0)), pool("h", gpu_model="h100")]
    tree = Shares((share("a", of_model(96)), share("b", of_pool(40, "p"))))
    # 40 left of p and 160 of q: 19.2 and 76.8, in whole nodes 16 and 80.
    assert carved(tree, pools) == {("a", "p"): 16, ("a", "q"): 80, ("b", "p"): 40}


def test_a_window_opens_and_closes():
    tree = Shares((share("n", of_pool(80)), share("n.a", of_pool(8, starts_ms=10, ends_ms=20))))
    tree = Shares((tree.shares[0], replace(tree.shares[1], parent="n")))
    assert [carved(tree, [pool("p")], at).get(("n.a", "p")) for at in (9, 10, 19, 20)] == [
        None,
        8,
        8,
        None,
    ]
    assert shares.changes_ms(tree, [pool("p")]) == (10, 20)


def test_koreas_shares_cover_all_that_is_promised_and_no_more():
    fleet = scenario.load(scenario.find("korea")).fleet
    tree = shares.shares_of(fleet)
    shares.check_against(tree, fleet.pools)

    assert tree.by_id["national"].kind is ShareKind.PROGRAMME
    assert tree.by_id["samsung"].kind is ShareKind.OWNER
    assert not tree.by_id["universities"].may_lend
    end = shares.cells(tree, fleet.pools, instant_from_iso("2030-12-31"))
    assert sum(cell.gpus for cell in end) == 300_000
    now = carved(tree, fleet.pools, instant_from_iso("2026-11-23"))
    assert now["samsung", "samsung-b200"] == 4_000
    assert ("national", "naicc-b200") not in now


def test_a_path_leads_to_the_root():
    tree = Shares((share("n"), share("n.a", parent="n"), share("n.a.b", parent="n.a")))
    assert shares.path(tree, "n.a.b") == ("n.a.b", "n.a", "n")
    with pytest.raises(KeyError, match=r"no share n\.x in this tree"):
        shares.path(tree, "n.x")


POOLS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 12), st.integers(0, 30)), min_size=1, max_size=3),
        st.sampled_from(("b200", "h100")),
        st.sampled_from((4, 8)),
    ),
    min_size=1,
    max_size=4,
).map(
    lambda rows: tuple(
        pool(
            f"p{index}",
            *(
                wave(f"w{number}", (nodes + 1) * node, starts_ms)
                for number, (nodes, starts_ms) in enumerate(waves)
            ),
            gpu_model=model,
            gpus_per_node=node,
        )
        for index, (waves, model, node) in enumerate(rows)
    )
)
GUARANTEES = st.lists(
    st.builds(
        lambda gpus, what, starts_ms, long_ms: Guarantee(
            gpus=gpus, **what, starts_ms=starts_ms, ends_ms=starts_ms + long_ms
        ),
        st.integers(1, 120),
        st.one_of(
            st.sampled_from(("b200", "h100")).map(lambda model: {"gpu_model": model}),
            st.integers(0, 3).map(lambda index: {"pool": f"p{index}"}),
        ),
        st.integers(0, 20),
        st.integers(1, 30),
    ),
    max_size=3,
).map(tuple)


@st.composite
def trees(draw):
    """A tree of three levels; guarantees that a parent cannot cover are left out."""
    kept = []
    for id_, parent in (
        ("a", None),
        ("b", None),
        ("a.a", "a"),
        ("a.b", "a"),
        ("b.a", "b"),
        ("a.a.a", "a.a"),
    ):
        drawn = share(id_, *draw(GUARANTEES), parent=parent)
        try:
            Shares((*kept, drawn))
        except ValueError:
            drawn = replace(drawn, guarantees=())
        kept.append(drawn)
    return Shares(tuple(kept))


@EXAMPLES
@given(trees(), POOLS, st.integers(0, 60))
def test_cells_are_disjoint_within_what_is_in_service_and_within_what_is_promised(
    tree, pools, at_ms
):
    found = shares.cells(tree, pools, at_ms)

    assert len({(cell.pool, cell.share) for cell in found}) == len(found)
    assert list(found) == sorted(found)
    assert all(cell.gpus > 0 for cell in found)
    for one in pools:
        here = sum(cell.gpus for cell in found if cell.pool == one.id)
        assert here <= one.gpus_in(WavePhase.IN_SERVICE, at_ms)
    for root in tree.children[None]:
        below = sum(c.gpus for c in found if shares.path(tree, c.share)[-1] == root.id)
        assert below <= sum(
            one.gpus for one in root.guarantees if one.starts_ms <= at_ms < one.ends_ms
        )


@EXAMPLES
@given(trees(), POOLS, st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_order_in_which_a_tree_and_its_pools_are_listed_decides_nothing(
    tree, pools, at_ms, random
):
    mixed = Shares(tuple(random.sample(tree.shares, len(tree.shares))))
    assert shares.cells(mixed, random.sample(pools, len(pools)), at_ms) == shares.cells(
        tree, pools, at_ms
    )


@EXAMPLES
@given(trees(), POOLS)
def test_between_two_changes_no_cell_changes(tree, pools):
    changes = (0, *shares.changes_ms(tree, pools), 100)
    for start, end in pairwise(changes):
        assert shares.cells(tree, pools, start) == shares.cells(tree, pools, max(start, end - 1))


@EXAMPLES
@given(
    st.lists(
        st.tuples(st.integers(-5, 5), st.integers(0, 20), st.integers(1, 20)).map(
            lambda row: (row[0], row[1], row[1] + row[2])
        ),
        max_size=8,
    ),
    st.integers(0, 30),
    st.integers(1, 20),
)
def test_steps_are_the_sum_of_what_was_added(rows, starts_ms, long_ms):
    steps = Steps()
    for amount, start, end in rows:
        steps.add(amount, start, end)
    window = [
        sum(amount for amount, start, end in rows if start <= at < end)
        for at in range(starts_ms, starts_ms + long_ms)
    ]
    assert steps.least(starts_ms, starts_ms + long_ms) == min(window)
    assert steps.most(starts_ms, starts_ms + long_ms) == max(window)


# ---- awards --------------------------------------------------------------------------------------


def capacity(id_, gpus, project="p1", starts_ms=0, ends_ms=1_000, in_pool=None):
    return Allocation(
        id=id_,
        project=project,
        kind=AllocationKind.CAPACITY,
        starts_ms=starts_ms,
        ends_ms=ends_ms,
        gpus=gpus,
        gpu_model="b200",
        pool=in_pool,
    )


def awarded(*allocations, now_ms=0, promised=64):
    tree = Shares((share("national", of_pool(promised)),))
    awards = shares.Awards(allocations=allocations, pools=(pool("p"),), tariff=TARIFF)
    return shares.with_allocations(tree, awards, now_ms)


def test_an_award_becomes_a_project_with_its_allocation_below_it():
    one = capacity("a1", 16)
    tree, short = awarded(one, capacity("a2", 8, project="p2", in_pool="p"))

    assert short == ()
    assert shares.path(tree, shares.leaf_of(one)) == (
        "national.p1.a1",
        "national.p1",
        "national",
    )
    assert shares.cells(tree, [pool("p")], 0) == (
        Cell("p", "national", 40),
        Cell("p", "national.p1.a1", 16),
        Cell("p", "national.p2.a2", 8),
    )


def test_a_programme_that_awarded_more_than_it_has_covers_the_first_and_says_who_is_short():
    tree, short = awarded(
        capacity("late", 40, starts_ms=10), capacity("early", 40), capacity("other", 8, ends_ms=5)
    )
    assert short == (Shortfall("late", 40, 24),)
    assert {cell.share: cell.gpus for cell in shares.cells(tree, [pool("p")], 20)} == {
        "national.p1.early": 40,
        "national.p1.late": 24,
    }


def test_an_award_in_a_pool_that_the_programme_is_not_promised_is_not_covered():
    tree, short = awarded(capacity("a", 8, in_pool="q"))
    assert short == (Shortfall("a", 8, 0),)
    assert "national.p1.a" in tree.by_id


def test_a_project_weighs_what_it_may_use_now_in_h100():
    hour_credit = Allocation(
        id="h",
        project="p2",
        kind=AllocationKind.HOURS,
        starts_ms=0,
        ends_ms=10 * MS_PER_HOUR,
        credit_ucredit=40 * UCREDIT_PER_CREDIT,
    )
    later = capacity("soon", 8, project="p3", starts_ms=500)
    ended = capacity("gone", 8, project="p4", ends_ms=1)
    tree, _ = awarded(capacity("a", 10), hour_credit, later, ended, now_ms=1)

    weights = {one.id: one.weight_milli for one in tree.shares if one.kind is ShareKind.PROJECT}
    assert weights == {"national.p1": 27_000, "national.p2": 4_000, "national.p3": 1}
    assert shares.leaf_of(hour_credit) == "national.p2"


def test_a_tree_without_the_programme_gets_it_with_nothing_promised():
    awards = shares.Awards(allocations=(capacity("a", 8),), pools=(pool("p"),), tariff=TARIFF)
    tree, short = shares.with_allocations(Shares(), awards, 0)
    assert tree.by_id["national"].guarantees == ()
    assert short == (Shortfall("a", 8, 0),)


@EXAMPLES
@given(
    st.lists(
        st.tuples(
            st.integers(1, 60),
            st.integers(0, 20),
            st.integers(1, 20),
            st.sampled_from((None, "p")),
            st.sampled_from(("p1", "p2")),
        ),
        max_size=8,
    ),
    st.integers(0, 40),
)
def test_any_awards_make_a_tree_that_its_programme_covers(rows, at_ms):
    allocations = tuple(
        capacity(f"a{index}", gpus, project, start, start + long, in_pool)
        for index, (gpus, start, long, in_pool, project) in enumerate(rows)
    )
    tree, short = awarded(*allocations)
    shares.check_against(tree, [pool("p")])

    missing = {one.allocation: one.asked_gpus - one.gpus for one in short}
    found = {cell.share: cell.gpus for cell in shares.cells(tree, [pool("p")], at_ms)}
    for one in allocations:
        if one.starts_ms <= at_ms < one.ends_ms:
            assert found.get(shares.leaf_of(one), 0) == one.gpus - missing.get(one.id, 0)
