"""Waves, pools and totals: what exists at an instant."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.fleet import (
    Cluster,
    EngineKind,
    Fleet,
    GpuModel,
    Operator,
    OwnerKind,
    PhaseStart,
    Pool,
    Share,
    Total,
    Wave,
    WavePhase,
    totals,
)

H100 = GpuModel("h100", "NVIDIA H100", 80)
B200 = GpuModel("b200", "NVIDIA B200", 179)


def wave(id_="first", gpus=16, **starts_ms):
    named = {phase.replace("-", "_"): phase for phase in WavePhase}
    phases = tuple(PhaseStart(WavePhase(named[name]), at) for name, at in starts_ms.items())
    return Wave(
        id=id_, gpus=gpus, assumed=True, phases=phases or (PhaseStart(WavePhase.IN_SERVICE, 0),)
    )


LIFE = wave(delivered=100, burn_in=200, accepted=300, in_service=400, draining=500, retired=600)


def pool(id_="p1", waves=(LIFE,), **changes):
    fields = {
        "cluster_id": "c1",
        "operator_id": "op",
        "gpu_model": "h100",
        "gpus_per_node": 8,
        "cpus_per_node": 112,
        "memory_gib_per_node": 2048,
        "interconnect": "infiniband-400g",
        "owner": "op",
        "owner_kind": OwnerKind.OPERATOR,
        "jurisdiction": "KR",
    }
    return Pool(id=id_, waves=tuple(waves), **{**fields, **changes})


def fleet(*pools, models=(H100, B200)):
    return Fleet(
        "v1",
        (Operator("op", "Operator", (Cluster("c1", "op", EngineKind.LOCAL, pools),)),),
        models,
    )


def test_a_phase_starts_at_its_very_instant_and_lasts_until_the_next():
    seen = [LIFE.phase_at(now) for now in (99, 100, 199, 200, 399, 400, 499, 500, 600, 10**12)]

    assert seen == [
        None,
        WavePhase.DELIVERED,
        WavePhase.DELIVERED,
        WavePhase.BURN_IN,
        WavePhase.ACCEPTED,
        WavePhase.IN_SERVICE,
        WavePhase.IN_SERVICE,
        WavePhase.DRAINING,
        WavePhase.RETIRED,
        WavePhase.RETIRED,
    ]


def test_phases_may_be_left_out():
    assert wave(delivered=1, in_service=5).phase_at(3) is WavePhase.DELIVERED


@pytest.mark.parametrize(
    ("starts", "sentence"),
    [
        ({"burn_in": 1, "delivered": 2}, "has phase delivered after burn-in; the order is"),
        ({"delivered": 2, "burn_in": 2}, "is burn-in no later than delivered"),
        ({"delivered": 3, "burn_in": 2}, "is burn-in no later than delivered"),
        ({"delivered": -1}, "delivered starts before 1970"),
    ],
)
def test_phases_out_of_order_are_refused(starts, sentence):
    with pytest.raises(ValueError, match=sentence):
        wave(**starts)


def test_a_wave_without_any_phase_is_refused():
    with pytest.raises(ValueError, match="wave first has no phase"):
        Wave(id="first", gpus=8, assumed=True, phases=())


@pytest.mark.parametrize("gpus", [0, -8, 10**9])
def test_impossible_numbers_of_gpus_are_refused(gpus):
    with pytest.raises(ValueError, match=r"gpus is .*; it must be from 1 to 10,000,000"):
        wave(gpus=gpus)


def test_a_wave_is_a_whole_number_of_nodes():
    with pytest.raises(ValueError, match="wave first has 12 GPUs, which is no whole number"):
        pool(waves=[wave(gpus=12)])


def test_shares_fit_into_the_pool_and_name_each_holder_once():
    fitting = (Share("national", 10, True, True), Share("op", 6, True, True))
    assert pool(shares=fitting).shares == fitting

    with pytest.raises(ValueError, match="promise 18 GPUs; its waves bring 16"):
        pool(shares=(*fitting, Share("other", 2, False, False)))
    with pytest.raises(ValueError, match="share holder of pool p1 op is named twice"):
        pool(shares=(fitting[1], fitting[1]))


@pytest.mark.parametrize("country", ["kr", "KOR", "K1", "KR\n", ""])
def test_a_jurisdiction_is_a_country(country):
    with pytest.raises(ValueError, match="is not a country"):
        pool(jurisdiction=country)


def test_nodes_in_service_follow_the_waves():
    two = pool(waves=[LIFE, wave("second", 24, in_service=450)])

    assert [two.nodes_in_service(now) for now in (399, 400, 450, 500, 700)] == [0, 2, 5, 3, 3]
    assert two.gpus_in(WavePhase.DRAINING, 500) == 16
    assert two.gpus_planned == 40


def test_look_ups_and_the_order_of_pools():
    made = fleet(pool("p2"), pool("p1"))

    assert [found.id for found in made.pools] == ["p1", "p2"]
    assert made.pool("p2").id == "p2"
    assert made.cluster("c1").engine is EngineKind.LOCAL
    assert made.operator("op").name == "Operator"
    for look_up in (made.pool, made.cluster, made.operator):
        with pytest.raises(KeyError):
            look_up("nowhere")


def test_a_fleet_holds_together():
    with pytest.raises(ValueError, match="pool p1 is named twice"):
        fleet(pool("p1"), pool("p1"))
    with pytest.raises(ValueError, match="gpu_model 'b200' of pool p1 is not in the fleet"):
        fleet(pool(gpu_model="b200"), models=(H100,))
    with pytest.raises(ValueError, match="pool p1 says it is of op/c2; it stands in op/c1"):
        fleet(pool(cluster_id="c2"))
    with pytest.raises(ValueError, match="cluster c1 says it is of op; it stands in operator o2"):
        Operator("o2", "Other", fleet(pool()).clusters)
    with pytest.raises(ValueError, match="in another pool, owner op is of the other kind"):
        fleet(pool("p1"), pool("p2", owner_kind=OwnerKind.GOVERNMENT))


def test_totals_count_what_stands_and_leave_out_what_is_retired_or_to_come():
    made = fleet(
        pool("p1"),
        pool(
            "p2",
            [wave("a", 24, delivered=350), wave("b", 8, delivered=9_000)],
            gpu_model="b200",
            owner="state",
            owner_kind=OwnerKind.GOVERNMENT,
        ),
    )

    at_450 = totals(made, 450)
    assert (at_450.gpus, at_450.in_service) == (40, 16)
    assert at_450.by_operator == (Total("op", 40, 16),)
    assert at_450.by_owner == (Total("op", 16, 16), Total("state", 24, 0))
    assert at_450.by_model == (Total("b200", 24, 0), Total("h100", 16, 16))
    assert at_450.by_phase == (Total("delivered", 24, 0), Total("in-service", 16, 16))
    assert totals(made, 600).by_model == (Total("b200", 24, 0),)
    assert totals(made, 0).by_owner == ()


@st.composite
def waves(draw, number):
    phases = sorted(
        draw(st.sets(st.sampled_from(list(WavePhase)), min_size=1)), key=list(WavePhase).index
    )
    times = st.sets(st.integers(0, 1000), min_size=len(phases), max_size=len(phases))
    starts = map(PhaseStart, phases, sorted(draw(times)))
    return replace(LIFE, id=f"w{number}", gpus=8 * draw(st.integers(1, 9)), phases=tuple(starts))


@given(st.data(), st.integers(-1, 1001), st.integers(0, 4))
def test_every_breakdown_sums_to_the_whole(data, now_ms, count):
    made = fleet(
        pool("p1", [data.draw(waves(n)) for n in range(count)]),
        pool("p2", [data.draw(waves(n)) for n in range(count)], gpu_model="b200"),
    )

    whole = totals(made, now_ms)

    for part in (whole.by_operator, whole.by_owner, whole.by_model, whole.by_phase):
        assert sum(total.gpus for total in part) == whole.gpus
        assert sum(total.in_service for total in part) == whole.in_service
    assert whole.in_service == sum(8 * each.nodes_in_service(now_ms) for each in made.pools)
