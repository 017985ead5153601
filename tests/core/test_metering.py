from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.metering import (
    SKEW_MS,
    Factors,
    Metered,
    Season,
    Tariff,
    Usage,
    assess,
    charge_ucredit,
    factors,
)
from dure.units import INT64_MAX, MS_PER_HOUR, UCREDIT_PER_CREDIT

H100 = Factors(tariff_version="2026-1", weight_milli=1000)
TARIFF = Tariff(
    version="2026-1",
    weights_milli=(("h100", 1000), ("b200", 2250)),
    tiers_milli=(("reserved", 1500), ("standard", 1000), ("spare", 400)),
    seasons=(Season(id="winter", starts_ms=1_000, ends_ms=2_000, factor_milli=1200),),
    operator_prices_milli=(("nhn", 1000), ("kakao", 950)),
)

milli = st.integers(0, 1_000_000)
some_factors = st.builds(
    Factors,
    tariff_version=st.just("1"),
    weight_milli=st.integers(1, 1_000_000),
    tier_milli=milli,
    season_milli=milli,
    operator_price_milli=milli,
    subsidy_milli=st.integers(0, 1000),
)
some_gpu_ms = st.integers(0, 10**4)  # small, so that no factors make it too dear to book


def test_one_gpu_hour_of_weight_one_is_one_credit():
    assert charge_ucredit(MS_PER_HOUR, H100) == UCREDIT_PER_CREDIT


def test_every_factor_multiplies_the_charge():
    priced_by = factors(TARIFF, "b200", "reserved", "kakao", at_ms=1_500, subsidy_milli=250)

    assert priced_by == Factors(
        tariff_version="2026-1",
        weight_milli=2250,
        tier_milli=1500,
        season_milli=1200,
        operator_price_milli=950,
        subsidy_milli=250,
    )
    expected = Fraction("2.25") * Fraction("1.5") * Fraction("1.2") * Fraction("0.95") * 3 / 4
    assert charge_ucredit(MS_PER_HOUR, priced_by) == round(expected * UCREDIT_PER_CREDIT)


def test_a_subsidy_of_everything_is_free():
    assert charge_ucredit(10**15, replace(H100, subsidy_milli=1000)) == 0


@pytest.mark.parametrize(("gpu_ms", "charge"), [(9, 2), (27, 8), (1, 0), (2, 1), (45, 12)])
def test_a_charge_is_rounded_half_to_even_once(gpu_ms, charge):
    # 1 gpu_ms = 5/18 ucredit, so 9 gpu_ms = 2.5 and 27 gpu_ms = 7.5
    assert charge_ucredit(gpu_ms, H100) == charge


@pytest.mark.parametrize(
    ("at_ms", "season_milli"), [(999, 1000), (1_000, 1200), (1_999, 1200), (2_000, 1000)]
)
def test_a_season_is_half_open(at_ms, season_milli):
    assert factors(TARIFF, "h100", "spare", "nhn", at_ms).season_milli == season_milli


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (("a100", "spare", "nhn"), "tariff 2026-1 has no GPU model 'a100'; it knows h100, b200"),
        (("h100", "gold", "nhn"), "no tier 'gold'; it knows reserved, standard, spare"),
        (("h100", "spare", "sk"), "no operator 'sk'; it knows nhn, kakao"),
    ],
)
def test_what_a_tariff_does_not_name_is_an_error(asked, sentence):
    with pytest.raises(ValueError, match=sentence):
        factors(TARIFF, *asked, at_ms=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": ""},
        {"weights_milli": (("h100", 0),)},
        {"weights_milli": (("h100", 1000), ("h100", 900))},
        {"tiers_milli": (("spare", -1),)},
        {"operator_prices_milli": (("nhn", 1_000_001),)},
        {
            "seasons": (
                Season(id="b", starts_ms=5, ends_ms=9, factor_milli=1000),
                Season(id="a", starts_ms=0, ends_ms=6, factor_milli=1000),
            )
        },
    ],
)
def test_a_tariff_out_of_order_is_refused(wrong):
    with pytest.raises(ValueError, match=r"use|give|let"):
        replace(TARIFF, **wrong)


def test_a_season_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValueError, match="give an end after the start"):
        Season(id="never", starts_ms=5, ends_ms=5, factor_milli=1000)


@pytest.mark.parametrize("subsidy_milli", [-1, 1001])
def test_a_subsidy_is_a_share(subsidy_milli):
    with pytest.raises(ValueError, match="subsidy_milli"):
        replace(H100, subsidy_milli=subsidy_milli)


def test_negative_usage_has_no_price():
    with pytest.raises(ValueError, match="negative"):
        charge_ucredit(-1, H100)


def test_a_charge_beyond_the_ledger_is_refused():
    with pytest.raises(ValueError, match="more than the ledger can hold"):
        charge_ucredit(INT64_MAX, replace(H100, weight_milli=1_000_000))


@given(some_gpu_ms, some_gpu_ms, some_factors)
def test_a_charge_never_falls_as_usage_grows(one, other, priced_by):
    low, high = sorted((one, other))

    assert charge_ucredit(low, priced_by) <= charge_ucredit(high, priced_by)


@given(some_gpu_ms, some_factors, st.data())
def test_a_charge_never_falls_as_a_factor_grows(gpu_ms, priced_by, data):
    name = data.draw(st.sampled_from(["tier_milli", "season_milli", "operator_price_milli"]))
    dearer = replace(priced_by, **{name: data.draw(st.integers(getattr(priced_by, name), 10**6))})

    assert charge_ucredit(gpu_ms, priced_by) <= charge_ucredit(gpu_ms, dearer)


# ---- what is believed ----------------------------------------------------------------------------

INTENDED, NOW, HOLD = 1_000_000, 9_000_000, 5_000_000
instants = st.integers(-(10**18), 10**18)


def claim(gpus=1, started_ms=INTENDED, ended_ms=INTENDED + 1_000):
    return Usage(attempt_id="j-1-0-1", gpus=gpus, started_ms=started_ms, ended_ms=ended_ms)


def metered(usage):
    return assess(usage, HOLD, INTENDED, NOW)


def test_an_honest_claim_is_posted_whole():
    assert metered(claim(gpus=8, ended_ms=INTENDED + 500)) == Metered(gpu_ms=4_000)


def test_what_never_started_used_nothing():
    assert metered(claim(started_ms=None)) == Metered(gpu_ms=0)
    assert metered(claim(started_ms=None, ended_ms=None)) == Metered(gpu_ms=0)


def test_clocks_may_differ_by_the_skew():
    early = claim(started_ms=INTENDED - SKEW_MS, ended_ms=INTENDED)
    late = claim(started_ms=NOW, ended_ms=NOW + SKEW_MS)

    assert metered(early) == metered(late) == Metered(gpu_ms=SKEW_MS)


@pytest.mark.parametrize(
    ("lie", "code", "gpu_ms", "disputed_gpu_ms"),
    [
        (claim(ended_ms=None), "usage-without-end", 0, 0),
        (claim(gpus=-8), "usage-negative", 0, 8_000),
        (claim(ended_ms=INTENDED - 7), "usage-negative", 0, 7),
        (claim(started_ms=0, ended_ms=INTENDED + 1), "usage-before-intent", 1, INTENDED),
        (claim(started_ms=NOW - 5, ended_ms=NOW + 10**6), "usage-in-future", 5, 10**6),
        (claim(started_ms=NOW + 10**6, ended_ms=NOW + 2 * 10**6), "usage-in-future", 0, 10**6),
        (claim(gpus=6_000), "usage-beyond-hold", HOLD, 1_000_000),
        (claim(gpus=1, ended_ms=10**21), "usage-beyond-hold", HOLD, INT64_MAX),
    ],
)
def test_a_lie_is_bounded_and_disputed(lie, code, gpu_ms, disputed_gpu_ms):
    got = metered(lie)

    assert (got.gpu_ms, got.disputed_gpu_ms) == (gpu_ms, disputed_gpu_ms)
    assert got.dispute is not None
    assert got.dispute.code == code
    assert "j-1-0-1" in got.dispute.sentence


@given(st.integers(-(10**9), 10**9), instants | st.none(), instants | st.none())
def test_whatever_is_claimed_stays_within_the_hold(gpus, started_ms, ended_ms):
    got = metered(claim(gpus, started_ms, ended_ms))

    assert 0 <= got.gpu_ms <= HOLD
    assert 0 <= got.disputed_gpu_ms <= INT64_MAX
    if got.dispute is None and started_ms is not None and ended_ms is not None:
        assert got.gpu_ms == gpus * (ended_ms - started_ms)


@given(st.integers(1, 4), st.lists(st.integers(INTENDED, INTENDED + 10**6), min_size=2))
def test_the_parts_of_an_interval_add_up_to_it(gpus, cuts):
    cuts.sort()
    parts = [metered(claim(gpus, start, end)) for start, end in pairwise(cuts)]

    assert sum(part.gpu_ms for part in parts) == metered(claim(gpus, cuts[0], cuts[-1])).gpu_ms


@pytest.mark.parametrize("window", [(-1, 0, 1), (0, 2, 1)])
def test_our_own_bounds_must_make_sense(window):
    with pytest.raises(ValueError, match="cannot be metered"):
        assess(claim(), *window)
