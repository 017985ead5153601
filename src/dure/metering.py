"""What an attempt used, and what that costs.

An operator's agent says when an attempt began and ended. Nobody has to believe it: `assess` bounds
each claim by what is possible (the attempt's own time, the hold) and turns the rest into a
dispute that a person looks at. `charge_ucredit` prices what is left with factors that are all kept
beside the charge, so that an auditor can compute it again years later.

    charge = GPU-time x weight x tier x season x operator price x (1 - subsidy)

One credit is one GPU-hour of weight 1, tier 1, season 1, price 1, unsubsidised. The product is
exact; it is rounded once, at the end, to the micro-credit. The factors are those that national
programmes charge by (ABCI's reserved tier, Osaka SQUID's seasons, subsidy by kind of applicant).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Final

from dure.errors import Reason
from dure.text import check_text, shown
from dure.units import INT64_MAX, MILLI, MS_PER_HOUR, UCREDIT_PER_CREDIT, round_half_even

FACTOR_MILLI_MAX: Final = 1_000_000
"""No weight, tier, season or price is above x 1000; beyond that it is a slip of the pen."""

SKEW_MS: Final = 90_000
"""How far an operator's clock may be off before a claim is disputed."""

VERSION_MAX: Final = 64

Table = tuple[tuple[str, int], ...]
"""Names with their factor in thousandths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Season:
    """A window [starts_ms, ends_ms) in which GPU-time costs `factor_milli` thousandths."""

    id: str
    starts_ms: int
    ends_ms: int
    factor_milli: int

    def __post_init__(self) -> None:
        if self.ends_ms <= self.starts_ms:
            raise ValueError(
                f"season {shown(self.id)} ends at {self.ends_ms} ms, not after its start at "
                f"{self.starts_ms} ms; give an end after the start"
            )
        _check_factor(f"season {shown(self.id)} factor_milli", self.factor_milli)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tariff:
    """A dated price list. Outside every season the season's factor is 1.

    `weights_milli`: GPU model -> H100 equivalents; `tiers_milli`: tier -> factor;
    `operator_prices_milli`: operator -> factor. All in thousandths. A tariff never changes: another
    price is another `version`.
    """

    version: str
    weights_milli: Table
    tiers_milli: Table
    operator_prices_milli: Table
    seasons: tuple[Season, ...] = ()

    def __post_init__(self) -> None:
        _check_version(self.version)
        _check_table("weights_milli", self.weights_milli, least=1)
        _check_table("tiers_milli", self.tiers_milli)
        _check_table("operator_prices_milli", self.operator_prices_milli)
        ordered = sorted(self.seasons, key=lambda season: season.starts_ms)
        for earlier, later in pairwise(ordered):
            if later.starts_ms < earlier.ends_ms:
                raise ValueError(
                    f"seasons {shown(earlier.id)} and {shown(later.id)} overlap; "
                    "let one end before the other starts"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Every factor of one charge, in thousandths, and the tariff that they came from."""

    tariff_version: str
    weight_milli: int
    tier_milli: int = MILLI
    season_milli: int = MILLI
    operator_price_milli: int = MILLI
    subsidy_milli: int = 0

    def __post_init__(self) -> None:
        _check_version(self.tariff_version)
        _check_factor("weight_milli", self.weight_milli, least=1)
        _check_factor("tier_milli", self.tier_milli)
        _check_factor("season_milli", self.season_milli)
        _check_factor("operator_price_milli", self.operator_price_milli)
        if not 0 <= self.subsidy_milli <= MILLI:
            raise ValueError(
                f"subsidy_milli {self.subsidy_milli} is not a share; use 0 (none) to 1000 (free)"
            )


def weight_milli(tariff: Tariff, gpu_model: str) -> int:
    """H100 equivalents of a GPU model. Raises ValueError where the tariff has no such model."""
    return _lookup(tariff, "GPU model", gpu_model, tariff.weights_milli)


def tier_milli(tariff: Tariff, tier: str) -> int:
    """The factor of a tier. Raises ValueError where the tariff has no such tier."""
    return _lookup(tariff, "tier", tier, tariff.tiers_milli)


def operator_price_milli(tariff: Tariff, operator_id: str) -> int:
    """The factor of an operator. Raises ValueError where the tariff has no such operator."""
    return _lookup(tariff, "operator", operator_id, tariff.operator_prices_milli)


def season_milli(tariff: Tariff, at_ms: int) -> int:
    """The factor of the season that `at_ms` is in; 1000 outside every season."""
    for season in tariff.seasons:
        if season.starts_ms <= at_ms < season.ends_ms:
            return season.factor_milli
    return MILLI


def factors(
    tariff: Tariff, gpu_model: str, tier: str, operator_id: str, at_ms: int, subsidy_milli: int = 0
) -> Factors:
    """The factors that price an attempt of `tier` on `gpu_model` at `operator_id`, as of `at_ms`.

    Raises:
        ValueError: the tariff does not name the model, tier or operator, or the subsidy is no
            share.
    """
    return Factors(
        tariff_version=tariff.version,
        weight_milli=weight_milli(tariff, gpu_model),
        tier_milli=tier_milli(tariff, tier),
        season_milli=season_milli(tariff, at_ms),
        operator_price_milli=operator_price_milli(tariff, operator_id),
        subsidy_milli=subsidy_milli,
    )


def charge_ucredit(gpu_ms: int, priced_by: Factors) -> int:
    """The charge for `gpu_ms`, in micro-credits, rounded half to even once.

    Raises:
        ValueError: `gpu_ms` is negative, or the charge is beyond what the ledger can hold.
    """
    if gpu_ms < 0:
        raise ValueError(f"gpu_ms {gpu_ms} is negative; usage counts from 0 up")
    exact = Fraction(
        gpu_ms
        * UCREDIT_PER_CREDIT
        * priced_by.weight_milli
        * priced_by.tier_milli
        * priced_by.season_milli
        * priced_by.operator_price_milli
        * (MILLI - priced_by.subsidy_milli),
        MS_PER_HOUR * MILLI**5,
    )
    charge = round_half_even(exact)
    if charge > INT64_MAX:
        raise ValueError(f"{gpu_ms} gpu_ms cost {charge} ucredit, more than the ledger can hold")
    return charge


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What an operator claims: so many GPUs from `started_ms` to `ended_ms`.

    None where the attempt never started, or where its end is not known. Nothing here is checked;
    judging it is what `assess` is for.
    """

    attempt_id: str
    gpus: int
    started_ms: int | None
    ended_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered:
    """What is believed of a claim. `disputed_gpu_ms` is how far the claim lies from it."""

    gpu_ms: int
    disputed_gpu_ms: int = 0
    dispute: Reason | None = None


def assess(usage: Usage, hold_gpu_ms: int, not_before_ms: int, not_after_ms: int) -> Metered:
    """What to post of a claim: never negative, never more than the hold, never silently less.

    `not_before_ms` is when the attempt was intended, `not_after_ms` is now; a claim may pass either
    by SKEW_MS. What lies beyond is cut off and disputed. An attempt that never started used 0; one
    that started and has no known end is believed for 0 and disputed.

    Raises:
        ValueError: our own bounds make no sense (a negative hold, an end before the start).
    """
    if hold_gpu_ms < 0 or not_after_ms < not_before_ms:
        raise ValueError(
            f"attempt {usage.attempt_id} cannot be metered against a hold of {hold_gpu_ms} gpu_ms "
            f"from {not_before_ms} ms to {not_after_ms} ms; give a hold >= 0 and an ordered window"
        )
    if usage.started_ms is None:
        return Metered(gpu_ms=0)
    if usage.ended_ms is None:
        return _disputed(usage, "usage-without-end", "started but has no known end", 0, 0)
    claimed = usage.gpus * (usage.ended_ms - usage.started_ms)
    if usage.gpus < 0:
        return _disputed(usage, "usage-negative", f"claims {usage.gpus} GPUs", claimed, 0)
    if usage.ended_ms < usage.started_ms:
        what = f"ends {usage.started_ms - usage.ended_ms} ms before it starts"
        return _disputed(usage, "usage-negative", what, claimed, 0)
    return _bounded(usage, hold_gpu_ms, not_before_ms, not_after_ms)


def _bounded(usage: Usage, hold_gpu_ms: int, not_before_ms: int, not_after_ms: int) -> Metered:
    """`assess` for a claim whose own numbers are in order."""
    assert usage.started_ms is not None
    assert usage.ended_ms is not None
    start, end = usage.started_ms, usage.ended_ms
    claimed = usage.gpus * (end - start)
    code = what = ""
    if start < not_before_ms - SKEW_MS:
        code = "usage-before-intent"
        what = f"starts {not_before_ms - start} ms before it was intended"
        start = not_before_ms
    if end > not_after_ms + SKEW_MS:
        code, what = "usage-in-future", f"ends {end - not_after_ms} ms from now, in the future"
        end = not_after_ms
    possible = usage.gpus * max(0, end - start)
    if possible > hold_gpu_ms:
        code = "usage-beyond-hold"
        what = f"claims {claimed} gpu_ms against a hold of {hold_gpu_ms}"
        possible = hold_gpu_ms
    if code and claimed != possible:
        return _disputed(usage, code, what, claimed, possible)
    return Metered(gpu_ms=possible)


def _disputed(usage: Usage, code: str, what: str, claimed: int, believed: int) -> Metered:
    sentence = (
        f"The operator's report of attempt {usage.attempt_id} {what}; posted {believed} gpu_ms."
    )
    return Metered(
        gpu_ms=believed,
        disputed_gpu_ms=min(INT64_MAX, abs(claimed - believed)),
        dispute=Reason(code, sentence),
    )


def _lookup(tariff: Tariff, kind: str, name: str, table: Table) -> int:
    for known, factor in table:
        if known == name:
            return factor
    raise ValueError(
        f"tariff {tariff.version} has no {kind} {shown(name)}; "
        f"it knows {', '.join(known for known, _ in table) or 'none'}"
    )


def _check_version(version: str) -> None:
    if not version:
        raise ValueError("tariff version '' is empty; give each tariff a version such as 2026-1")
    check_text("tariff version", version, limit=VERSION_MAX)


def _check_factor(field: str, value: int, *, least: int = 0) -> None:
    if not least <= value <= FACTOR_MILLI_MAX:
        raise ValueError(
            f"{field} {value} is out of range; use {least} to {FACTOR_MILLI_MAX} thousandths"
        )


def _check_table(field: str, table: Table, *, least: int = 0) -> None:
    _check_unique(field, [name for name, _ in table])
    for name, factor in table:
        _check_factor(f"{field} of {shown(name)}", factor, least=least)


def _check_unique(field: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{field} names {shown(name)} twice; give each name one factor")
