"""The account book: double entry, in exact integers, hash-chained, only ever added to.

A journal moves value between accounts; in each of its units, debits equal credits. An account's
balance is its credits minus its debits. What each verb moves (from -> to):

    grant    programme/awarded          -> allocation/<id>/available
    hold     allocation/<id>/available  -> allocation/<id>/held        set aside at start
    settle   allocation/<id>/held       -> allocation/<id>/spent       post the charge, and
             allocation/<id>/held       -> allocation/<id>/available   void the rest, in one; and
             programme/owed             -> operator/<id>/earned        what the charge earns; and
             operator/<id>/metered      -> allocation/<id>/used        GPU-time that the user pays
             operator/<id>/metered      -> platform/absorbed           GPU-time that nobody pays
    void     allocation/<id>/held       -> allocation/<id>/available
    reverse  of a grant: back; of a settle: the charge back to available, the GPU-time to absorbed

`programme/...` and `operator/<id>/metered` are the far sides of these moves, so their balances are
at or below zero. No balance of an allocation is ever below zero: held + spent <= granted (I3).
What operators delivered equals what allocations used plus what the platform absorbed (I5).

An allocation's budget is in `ucredit` (hours) or `gpu_ms` (capacity: N GPUs x a window). A hold
fixes the price: its factors are kept in its memo and the settle charges by them, so that a charge
can never pass its hold. Even a free attempt holds 1 ucredit: every attempt stands in the book.

`dure.journal` says what a journal is; `dure.audit` recomputes all of this from the journals alone;
`dure.store.ledger` keeps them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dure.allocations import BudgetUnit
from dure.errors import Reason
from dure.journal import MEMO_TEXT_MAX, Draft, Entry, Journal, JournalKind, Memo
from dure.metering import Factors, charge_ucredit
from dure.text import check_slug, check_text, shown
from dure.units import INT64_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a hold set aside: `amount` in `unit`, for up to `gpu_ms`, at the price of `factors`."""

    allocation_id: str
    unit: BudgetUnit
    attempt_id: str
    amount: int
    gpu_ms: int
    factors: Factors | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """How an attempt ended, for the book: what it used, who pays (`charged`: the user), and why.

    `disputed_gpu_ms` and `dispute` come from `dure.metering.assess` and are recorded, not posted.
    """

    operator_id: str
    gpu_ms: int
    charged: bool
    cause: str
    disputed_gpu_ms: int = 0
    dispute: Reason | None = None

    def __post_init__(self) -> None:
        check_slug("operator_id", self.operator_id)
        check_text("cause", self.cause, limit=MEMO_TEXT_MAX)
        if self.gpu_ms < 0 or not 0 <= self.disputed_gpu_ms <= INT64_MAX:
            raise ValueError(
                f"usage of {self.gpu_ms} gpu_ms ({self.disputed_gpu_ms} disputed) is out of range; "
                "usage counts from 0 up"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """An allocation's standing in one unit: limit = held + spent + available."""

    unit: BudgetUnit
    limit: int
    held: int
    spent: int
    available: int


def available(allocation_id: str) -> str:
    """The account that an allocation's holds are taken from."""
    return f"allocation/{allocation_id}/available"


def held(allocation_id: str) -> str:
    """The account that keeps what running attempts may still cost."""
    return f"allocation/{allocation_id}/held"


def spent(allocation_id: str) -> str:
    """The account of what an allocation was charged."""
    return f"allocation/{allocation_id}/spent"


def used(allocation_id: str) -> str:
    """The account of the GPU-time (gpu_ms) that an allocation was charged for."""
    return f"allocation/{allocation_id}/used"


def earned(operator_id: str) -> str:
    """The account of what an operator is owed."""
    return f"operator/{operator_id}/earned"


def metered(operator_id: str) -> str:
    """The account of the GPU-time (gpu_ms) that an operator delivered; its balance is negative."""
    return f"operator/{operator_id}/metered"


AWARDED: Final = "programme/awarded"
OWED: Final = "programme/owed"
ABSORBED: Final = "platform/absorbed"


def grant(allocation_id: str, unit: BudgetUnit, amount: int, key: str = "award") -> Draft:
    """Give an allocation a budget. A supplement is a grant with another `key`."""
    check_slug("key", key)
    return Draft(
        id=f"grant/{allocation_id}/{key}",
        kind=JournalKind.GRANT,
        allocation_id=allocation_id,
        entries=_move(AWARDED, available(allocation_id), unit, amount),
        memo=_memo(unit=unit.value, amount=amount, key=key),
    )


def hold_id(attempt_id: str) -> str:
    """The id of the journal that holds for an attempt: there is one at most."""
    return f"hold/{attempt_id}"


CLOSE_PREFIX: Final = "close/"


def close_id(attempt_id: str) -> str:
    """The id of the journal, settle or void, that closes an attempt: there is one at most."""
    return CLOSE_PREFIX + attempt_id


def hold_amount(unit: BudgetUnit, gpu_ms: int, factors: Factors | None) -> int:
    """What a hold for up to `gpu_ms` sets aside: never 0, so that every attempt is in the book.

    Raises:
        ValueError: no usage to hold for, or a budget in credits without factors to price it.
    """
    if gpu_ms <= 0:
        raise ValueError(f"gpu_ms {gpu_ms} is nothing to hold for; give GPUs x walltime")
    return max(1, _cost(unit, gpu_ms, factors))


def hold(
    allocation_id: str,
    unit: BudgetUnit,
    attempt_id: str,
    gpu_ms: int,
    factors: Factors | None = None,
) -> Draft:
    """Set aside what an attempt may cost at most: `gpu_ms` is its GPUs x (walltime + grace).

    Raises:
        ValueError: as `hold_amount`.
    """
    amount = hold_amount(unit, gpu_ms, factors)
    return Draft(
        id=hold_id(attempt_id),
        kind=JournalKind.HOLD,
        allocation_id=allocation_id,
        attempt_id=attempt_id,
        entries=_move(available(allocation_id), held(allocation_id), unit, amount),
        memo=_memo(unit=unit.value, amount=amount, gpu_ms=gpu_ms, **_factors_memo(factors)),
    )


def settle(opened: Hold, bill: Bill) -> Draft:
    """Close an attempt: charge what it used (nothing, where the platform absorbs), free the rest.

    Raises:
        ValueError: the bill is beyond the hold; `dure.metering.assess` bounds it first.
    """
    if bill.gpu_ms > opened.gpu_ms:
        raise ValueError(
            f"attempt {opened.attempt_id} used {bill.gpu_ms} gpu_ms, beyond its hold for "
            f"{opened.gpu_ms}; bound it and dispute the rest"
        )
    charge = _cost(opened.unit, bill.gpu_ms, opened.factors) if bill.charged else 0
    allocation_id, unit = opened.allocation_id, opened.unit
    payer = used(allocation_id) if bill.charged else ABSORBED
    dispute = bill.dispute or Reason("", "")
    return Draft(
        id=close_id(opened.attempt_id),
        kind=JournalKind.SETTLE,
        allocation_id=allocation_id,
        attempt_id=opened.attempt_id,
        entries=(
            Entry(held(allocation_id), unit, opened.amount, 0),
            *_credit(spent(allocation_id), unit, charge),
            *_credit(available(allocation_id), unit, opened.amount - charge),
            *_move(OWED, earned(bill.operator_id), unit, charge),
            *_move(metered(bill.operator_id), payer, BudgetUnit.GPU_MS, bill.gpu_ms),
        ),
        memo=_memo(
            unit=unit.value,
            charge=charge,
            gpu_ms=bill.gpu_ms,
            charged=bill.charged,
            cause=bill.cause,
            operator_id=bill.operator_id,
            disputed_gpu_ms=bill.disputed_gpu_ms,
            dispute_code=dispute.code,
            dispute=dispute.sentence,
            **_factors_memo(opened.factors),
        ),
    )


def void(opened: Hold, cause: str) -> Draft:
    """Free a hold whole: its attempt never ran."""
    return Draft(
        id=close_id(opened.attempt_id),
        kind=JournalKind.VOID,
        allocation_id=opened.allocation_id,
        attempt_id=opened.attempt_id,
        entries=_move(
            held(opened.allocation_id), available(opened.allocation_id), opened.unit, opened.amount
        ),
        memo=_memo(unit=opened.unit.value, cause=cause),
    )


def reverse(journal: Journal, reason: str) -> Draft:
    """Take a grant back, or give a settled charge back; the GPU-time is then the platform's.

    Raises:
        ValueError: a kind that cannot be reversed (a hold is voided instead), a settle that
            charged nothing, or a memo that lacks what the kind needs.
    """
    memo = dict(journal.memo)
    allocation_id = journal.allocation_id
    try:
        unit = BudgetUnit(str(memo["unit"]))
        if journal.kind == JournalKind.GRANT:
            entries = _move(available(allocation_id), AWARDED, unit, _int(memo, "amount"))
        elif journal.kind == JournalKind.SETTLE and memo["charged"]:
            charge = charge_of(journal)
            entries = (
                *_move(spent(allocation_id), available(allocation_id), unit, charge),
                *_move(earned(str(memo["operator_id"])), OWED, unit, charge),
                *_move(used(allocation_id), ABSORBED, BudgetUnit.GPU_MS, _int(memo, "gpu_ms")),
            )
        else:
            entries = ()
    except KeyError as missing:
        raise ValueError(f"journal {journal.seq} has no {missing} in its memo") from None
    if not entries:
        raise ValueError(
            f"journal {journal.seq} is a {journal.kind} with nothing to give back; "
            "reverse a grant or a charged settle"
        )
    return Draft(
        id=f"reverse/{journal.seq}",
        kind=JournalKind.REVERSE,
        allocation_id=allocation_id,
        attempt_id=journal.attempt_id,
        reverses_seq=journal.seq,
        entries=entries,
        memo=_memo(unit=unit.value, reason=reason),
    )


def hold_of(journal: Journal) -> Hold:
    """The hold that a hold's journal made.

    Raises:
        ValueError: not a hold's journal, or a memo that lacks what it needs.
    """
    if journal.kind != JournalKind.HOLD or journal.attempt_id is None:
        raise ValueError(f"journal {journal.seq} is not an attempt's hold but a {journal.kind}")
    memo = dict(journal.memo)
    try:
        return Hold(
            allocation_id=journal.allocation_id,
            unit=BudgetUnit(str(memo["unit"])),
            attempt_id=journal.attempt_id,
            amount=_int(memo, "amount"),
            gpu_ms=_int(memo, "gpu_ms"),
            factors=_factors_of(memo),
        )
    except KeyError as missing:
        raise ValueError(f"journal {journal.seq} has no {missing} in its memo") from None


def bill_of(journal: Journal) -> Bill:
    """The bill that a settle's journal posted.

    Raises:
        ValueError: a memo that lacks what a bill needs.
    """
    memo = dict(journal.memo)
    try:
        code = str(memo["dispute_code"])
        return Bill(
            operator_id=str(memo["operator_id"]),
            gpu_ms=_int(memo, "gpu_ms"),
            charged=memo["charged"] is True,
            cause=str(memo["cause"]),
            disputed_gpu_ms=_int(memo, "disputed_gpu_ms"),
            dispute=Reason(code, str(memo["dispute"])) if code else None,
        )
    except KeyError as missing:
        raise ValueError(f"journal {journal.seq} has no {missing} in its memo") from None


def charge_of(settled: Journal) -> int:
    """What a settle's journal charged, in the unit of its allocation's budget.

    Raises:
        ValueError: not a settle's journal.
    """
    memo = dict(settled.memo)
    if settled.kind != JournalKind.SETTLE or "charge" not in memo:
        raise ValueError(f"journal {settled.seq} is a {settled.kind} without a charge")
    return _int(memo, "charge")


def balance(
    balances: Mapping[tuple[str, str], int], allocation_id: str, unit: BudgetUnit
) -> Balance:
    """An allocation's standing, from balances by (account, unit); a missing account is at 0."""
    free, kept, gone = (
        balances.get((account(allocation_id), unit), 0) for account in (available, held, spent)
    )
    return Balance(unit=unit, limit=free + kept + gone, held=kept, spent=gone, available=free)


def _cost(unit: BudgetUnit, gpu_ms: int, factors: Factors | None) -> int:
    if unit == BudgetUnit.GPU_MS:
        return gpu_ms
    if factors is None:
        raise ValueError("a budget in ucredit needs the factors of its price; give factors")
    return charge_ucredit(gpu_ms, factors)


def _move(source: str, target: str, unit: BudgetUnit, amount: int) -> tuple[Entry, ...]:
    """Debit one account, credit the other; nothing to move makes no lines."""
    if amount == 0:
        return ()
    return Entry(source, unit, amount, 0), Entry(target, unit, 0, amount)


def _credit(target: str, unit: BudgetUnit, amount: int) -> tuple[Entry, ...]:
    return (Entry(target, unit, 0, amount),) if amount else ()


def _memo(**pairs: str | int | bool) -> Memo:
    return tuple(sorted(pairs.items()))


def _int(memo: Mapping[str, str | int | bool], name: str) -> int:
    value = memo[name]
    if type(value) is not int:
        raise ValueError(f"memo {name} {shown(value)} is not an integer")
    return value


def _factors_memo(factors: Factors | None) -> dict[str, str | int | bool]:
    if factors is None:
        return {}
    return {
        "tariff_version": factors.tariff_version,
        "weight_milli": factors.weight_milli,
        "tier_milli": factors.tier_milli,
        "season_milli": factors.season_milli,
        "operator_price_milli": factors.operator_price_milli,
        "subsidy_milli": factors.subsidy_milli,
    }


def _factors_of(memo: Mapping[str, str | int | bool]) -> Factors | None:
    if "tariff_version" not in memo:
        return None
    return Factors(
        tariff_version=str(memo["tariff_version"]),
        weight_milli=_int(memo, "weight_milli"),
        tier_milli=_int(memo, "tier_milli"),
        season_milli=_int(memo, "season_milli"),
        operator_price_milli=_int(memo, "operator_price_milli"),
        subsidy_milli=_int(memo, "subsidy_milli"),
    )
