"""Faults of a rehearsal: in order of time, alike for one seed, at the rate that was asked for."""

from itertools import islice, pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from dure import scenario
from dure.fleet import OwnerKind, PhaseStart, Pool, Wave, WavePhase
from dure.rehearsal.faults import (
    NodeFailures,
    NodesDown,
    NodesUp,
    RecallFactor,
    SiteBack,
    SiteOutage,
    SiteSilent,
    SlowRecall,
    Span,
    happenings,
)
from dure.units import MS_PER_HOUR, instant_from_iso

DAY = 24 * MS_PER_HOUR
YEAR = Span(starts_ms=0, ends_ms=365 * DAY, seed=7)
BREAK = NodeFailures(id="nodes", per_node_year=2.0, repair_s=24 * 3_600)


def pool(id_, *waves):
    return Pool(
        id=id_,
        cluster_id=f"c-{id_}",
        operator_id="o",
        gpu_model="h100",
        gpus_per_node=8,
        cpus_per_node=8,
        memory_gib_per_node=64,
        interconnect="ib",
        owner="o",
        owner_kind=OwnerKind.OPERATOR,
        jurisdiction="KR",
        waves=tuple(
            Wave(
                id=f"w{number}",
                gpus=nodes * 8,
                assumed=True,
                phases=(PhaseStart(WavePhase.IN_SERVICE, starts_ms),),
            )
            for number, (nodes, starts_ms) in enumerate(waves)
        ),
    )


def test_nodes_fail_as_often_as_was_asked():
    downs = [
        one for one in happenings([BREAK], [pool("p", (1_000, 0))], YEAR) if type(one) is NodesDown
    ]
    # 2,000 expected; a node that is down cannot fail, which takes 2/365 of it.
    assert 1_850 < len(downs) < 2_130


def test_nodes_fail_only_once_their_wave_is_in_service():
    half = YEAR.ends_ms // 2
    found = list(happenings([BREAK], [pool("p", (100, 0), (900, half))], YEAR))
    early = [one for one in found if type(one) is NodesDown and one.at_ms < half]
    late = [one for one in found if type(one) is NodesDown and one.at_ms >= half]

    assert {node for one in early for node in one.nodes} <= set(range(100))
    assert 7 < len(late) / len(early) < 14


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 40),
    st.floats(0.1, 300),
    st.integers(1, 30 * 24 * 3_600),
)
def test_what_is_down_comes_up_once_and_fails_only_when_up(seed, nodes, per_year, repair_s):
    span = Span(starts_ms=0, ends_ms=30 * DAY, seed=seed)
    fault = NodeFailures(id="f", per_node_year=per_year, repair_s=repair_s)
    found = list(happenings([fault], [pool("p", (nodes, 0)), pool("q", (nodes, DAY))], span))

    assert found == list(
        happenings([fault], [pool("q", (nodes, DAY)), pool("p", (nodes, 0))], span)
    )
    assert all(a.at_ms <= b.at_ms for a, b in pairwise(found))
    assert all(0 <= one.at_ms < span.ends_ms for one in found)
    down = {}
    for one in found:
        for node in one.nodes:
            if type(one) is NodesDown:
                assert (one.pool, node) not in down
                down[one.pool, node] = one.at_ms
            else:
                assert type(one) is NodesUp
                assert one.at_ms == down.pop((one.pool, node)) + repair_s * 1_000
    assert all(at_ms + repair_s * 1_000 >= span.ends_ms for at_ms in down.values())


def test_another_seed_breaks_other_nodes_and_another_pool_none_of_this_one():
    def of(pools, seed):
        span = Span(starts_ms=0, ends_ms=365 * DAY, seed=seed)
        return [one for one in happenings([BREAK], pools, span) if one.pool == "p"]

    p = pool("p", (20, 0))
    assert of([p], 1) == of([p, pool("q", (50, 0))], 1)
    assert of([p], 1) != of([p], 2)


def test_outages_that_overlap_are_one_and_recalls_take_the_slowest_factor():
    faults = [
        SiteOutage(id="a", cluster="c", starts_ms=10, ends_ms=30),
        SiteOutage(id="b", cluster="c", starts_ms=20, ends_ms=40),
        SiteOutage(id="c", cluster="d", starts_ms=-5, ends_ms=5),
        SiteOutage(id="d", cluster="d", starts_ms=90, ends_ms=200),
        SiteOutage(id="e", cluster="d", starts_ms=100, ends_ms=200),
        SlowRecall(id="f", cluster="c", factor=3.0, starts_ms=0, ends_ms=50),
        SlowRecall(id="g", cluster="c", factor=5.0, starts_ms=20, ends_ms=30),
    ]
    span = Span(starts_ms=0, ends_ms=100, seed=1)
    assert list(happenings(faults, [pool("p", (1, 0))], span)) == [
        SiteSilent(0, "d"),
        RecallFactor(0, "c", 3.0),
        SiteBack(5, "d"),
        SiteSilent(10, "c"),
        RecallFactor(20, "c", 5.0),
        RecallFactor(30, "c", 3.0),
        SiteBack(40, "c"),
        RecallFactor(50, "c", 1.0),
        SiteSilent(90, "d"),
    ]


def test_faults_are_drawn_only_as_they_are_asked_for():
    fleet = scenario.load(scenario.find("korea")).fleet
    centuries = Span(
        starts_ms=instant_from_iso("2026-11-01"), ends_ms=instant_from_iso("9000-01-01"), seed=1
    )
    first = list(islice(happenings([BREAK], fleet.pools, centuries), 1_000))
    assert first[-1].at_ms < instant_from_iso("2026-12-01")
