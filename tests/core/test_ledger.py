import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure import codec, ledger
from dure.allocations import BudgetUnit
from dure.audit import audit, audit_lines
from dure.errors import Reason
from dure.journal import (
    GENESIS,
    Draft,
    Entry,
    Journal,
    JournalKind,
    from_json,
    hash_of,
    seal,
    to_json,
)
from dure.ledger import Bill
from dure.metering import Factors
from dure.units import INT64_MAX, MS_PER_HOUR

PRICE = Factors(tariff_version="2026-1", weight_milli=2250, tier_milli=400, subsidy_milli=500)


class Book:
    """Journals in memory: the ledger without its database."""

    def __init__(self):
        self.journals = []

    def post(self, draft):
        prev_hash = self.journals[-1].hash if self.journals else GENESIS
        self.journals.append(seal(draft, len(self.journals) + 1, 1_000, prev_hash))
        return self.journals[-1]

    def audit(self, **options):
        return audit(self.journals, **options)

    def balance(self, allocation_id="a", unit=BudgetUnit.GPU_MS):
        balances = {(account, of): amount for account, of, amount in self.audit().balances}
        return ledger.balance(balances, allocation_id, unit)

    def account(self, account, unit):
        return {(name, of): n for name, of, n in self.audit().balances}.get((account, unit), 0)


def bill(gpu_ms, *, charged=True, **more):
    return Bill(operator_id="nhn", gpu_ms=gpu_ms, charged=charged, cause="completed", **more)


def carry_out(book, holds, words):
    match words:
        case ["grant", allocation_id, amount, key]:
            book.post(ledger.grant(allocation_id, BudgetUnit.GPU_MS, int(amount), key))
        case ["hold", allocation_id, attempt_id, gpu_ms]:
            draft = ledger.hold(allocation_id, BudgetUnit.GPU_MS, attempt_id, int(gpu_ms))
            holds[attempt_id] = ledger.hold_of(book.post(draft))
        case ["settle", attempt_id, gpu_ms, payer]:
            charged = payer == "user"
            book.post(ledger.settle(holds[attempt_id], bill(int(gpu_ms), charged=charged)))
        case ["void", attempt_id]:
            book.post(ledger.void(holds[attempt_id], "cancelled"))
        case ["reverse", seq]:
            book.post(ledger.reverse(book.journals[int(seq) - 1], "meter was wrong"))
        case _:
            raise AssertionError(words)


TABLES = {
    "a completed attempt": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 100 award      100    0     0      100        0     0         0
        hold a j-1 40          100    40    0      60         0     0         0
        settle j-1 25 user     100    0     25     75         25    0         25
    """,
    "an attempt that used its whole hold": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 40 award       40     0     0      40         0     0         0
        hold a j-1 40          40     40    0      0          0     0         0
        settle j-1 40 user     40     0     40     0          40    0         40
    """,
    "a node failure is the platform's": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 100 award      100    0     0      100        0     0         0
        hold a j-1 40          100    40    0      60         0     0         0
        settle j-1 25 platform 100    0     0      100        0     25        0
    """,
    "an attempt that never ran": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 100 award      100    0     0      100        0     0         0
        hold a j-1 40          100    40    0      60         0     0         0
        void j-1               100    0     0      100        0     0         0
        hold a j-2 100         100    100   0      0          0     0         0
        settle j-2 0 user      100    0     0      100        0     0         0
    """,
    "two attempts of one task, then a supplement": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 100 award      100    0     0      100        0     0         0
        hold a j-1-1 40        100    40    0      60         0     0         0
        settle j-1-1 10 user   100    0     10     90         10    0         10
        hold a j-1-2 90        100    90    10     0          10    0         10
        grant a 50 supplement  150    90    10     50         10    0         10
        settle j-1-2 5 user    150    0     15     135        15    0         15
    """,
    "a charge given back, and a grant taken back": """
        verb                   limit  held  spent  available  used  absorbed  earned
        grant a 100 award      100    0     0      100        0     0         0
        grant a 30 extra       130    0     0      130        0     0         0
        hold a j-1 40          130    40    0      90         0     0         0
        settle j-1 25 user     130    0     25     105        25    0         25
        reverse 4              130    0     0      130        0     25        0
        reverse 2              100    0     0      100        0     25        0
    """,
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_verbs_move_balances(table):
    book, holds = Book(), {}
    for line in table.strip().splitlines()[1:]:
        words = line.split()

        carry_out(book, holds, words[:-7])

        standing = book.balance()
        assert [int(word) for word in words[-7:]] == [
            standing.limit,
            standing.held,
            standing.spent,
            standing.available,
            book.account("allocation/a/used", "gpu_ms"),
            book.account("platform/absorbed", "gpu_ms"),
            book.account("operator/nhn/earned", "gpu_ms"),
        ], line
    assert book.audit().findings == ()
    assert book.audit().open_holds == ()


def test_what_operators_delivered_is_used_or_absorbed():
    book = example()

    delivered = -book.account("operator/nhn/metered", "gpu_ms")
    used = book.account("allocation/a/used", "gpu_ms")
    assert delivered == used + book.account("platform/absorbed", "gpu_ms") == MS_PER_HOUR + 500


def test_credits_are_charged_by_the_factors_that_the_hold_fixed():
    opened = ledger.hold_of(Book().post(ledger.hold("a", BudgetUnit.UCREDIT, "j-1", 8, PRICE)))

    settled = ledger.settle(dataclasses.replace(opened, gpu_ms=MS_PER_HOUR, amount=450_000),
                            bill(MS_PER_HOUR))  # fmt: skip

    memo = dict(settled.memo)
    assert memo["charge"] == 450_000  # 1 h x 2.25 x 0.4 x (1 - 0.5)
    assert (memo["tariff_version"], memo["weight_milli"], memo["tier_milli"]) == (
        "2026-1",
        2250,
        400,
    )


def test_a_free_attempt_is_in_the_book_too():
    free = dataclasses.replace(PRICE, subsidy_milli=1000)
    book = Book()
    book.post(ledger.grant("a", BudgetUnit.UCREDIT, 10))
    opened = ledger.hold_of(book.post(ledger.hold("a", BudgetUnit.UCREDIT, "j-1", 10**9, free)))
    book.post(ledger.settle(opened, bill(10**9)))

    assert opened.amount == 1
    assert book.balance(unit=BudgetUnit.UCREDIT).spent == 0
    assert book.account("allocation/a/used", "gpu_ms") == 10**9
    assert book.audit().intact


def test_a_dispute_is_recorded_and_not_posted():
    book = Book()
    opened = ledger.hold_of(book.post(ledger.hold("a", BudgetUnit.GPU_MS, "j-1", 10)))
    dispute = Reason("usage-beyond-hold", "The operator's report claims more.")
    settled = book.post(ledger.settle(opened, bill(10, disputed_gpu_ms=90, dispute=dispute)))

    assert dict(settled.memo)["disputed_gpu_ms"] == 90
    assert ledger.bill_of(settled).dispute == dispute
    assert book.account("allocation/a/used", "gpu_ms") == 10


@given(st.integers(1, 10**12), st.data())
def test_a_charge_never_passes_its_hold(gpu_ms, data):
    price = data.draw(
        st.builds(
            Factors,
            tariff_version=st.just("1"),
            weight_milli=st.integers(1, 10_000),
            tier_milli=st.integers(0, 2_000),
            subsidy_milli=st.integers(0, 1000),
        )
    )
    draft = ledger.hold("a", BudgetUnit.UCREDIT, "j-1", gpu_ms, price)
    opened = ledger.hold_of(seal(draft, 1, 0, GENESIS))

    settled = ledger.settle(opened, bill(data.draw(st.integers(0, gpu_ms))))

    assert 0 <= dict(settled.memo)["charge"] <= opened.amount


# ---- what is refused -----------------------------------------------------------------------------


def hold_for(gpu_ms):
    draft = ledger.hold("a", BudgetUnit.GPU_MS, "j-1", gpu_ms)
    return ledger.hold_of(seal(draft, 1, 0, GENESIS))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ledger.grant("a", BudgetUnit.UCREDIT, 0), "needs two"),
        (lambda: ledger.grant("a", BudgetUnit.UCREDIT, -5), "outside 0 to 2"),
        (lambda: ledger.grant("a", BudgetUnit.UCREDIT, INT64_MAX + 1), "outside 0 to 2"),
        (lambda: ledger.grant("a/held", BudgetUnit.UCREDIT, 1), "not an id"),
        (lambda: ledger.grant("a\n", BudgetUnit.UCREDIT, 1), "not an id"),
        (lambda: ledger.hold("a", BudgetUnit.GPU_MS, "j/1", 1), "not an id"),
        (lambda: ledger.hold("a", BudgetUnit.GPU_MS, "j-1", 0), "nothing to hold for"),
        (lambda: ledger.hold("a", BudgetUnit.UCREDIT, "j-1", 5), "give factors"),
        (lambda: ledger.settle(hold_for(10), bill(11)), "beyond its hold"),
        (lambda: bill(-1), "out of range"),
        (lambda: Bill(operator_id="N", gpu_ms=0, charged=True, cause="x"), "not an id"),
        (lambda: ledger.void(hold_for(1), "half a pair \ud800"), "surrogate"),
    ],
)
def test_a_draft_that_makes_no_sense_is_refused(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_a_draft_that_does_not_balance_is_refused():
    entries = (Entry("a", "ucredit", 5, 0), Entry("b", "gpu_ms", 0, 5))
    with pytest.raises(ValueError, match="does not balance in gpu_ms"):
        Draft(id="x", kind=JournalKind.GRANT, allocation_id="a", entries=entries, memo=())


def test_only_a_settle_has_a_charge():
    journals = example().journals

    assert ledger.charge_of(journals[4]) == 450_000
    assert ledger.charge_of(journals[5]) == 0  # absorbed
    for journal in journals[:4] + journals[6:]:
        with pytest.raises(ValueError, match="without a charge"):
            ledger.charge_of(journal)


def test_only_a_grant_or_a_charge_is_reversed():
    book = example()
    for journal in book.journals:
        memo = dict(journal.memo)
        if journal.kind == "grant" or memo.get("charged"):
            assert ledger.reverse(journal, "wrong").reverses_seq == journal.seq
        else:
            with pytest.raises(ValueError, match="nothing to give back"):
                ledger.reverse(journal, "wrong")


# ---- export and audit ----------------------------------------------------------------------------


def example():
    """One journal of each kind, and an open hold."""
    book = Book()
    book.post(ledger.grant("a", BudgetUnit.UCREDIT, 10_000_000))
    first = ledger.hold_of(
        book.post(ledger.hold("a", BudgetUnit.UCREDIT, "j-1", MS_PER_HOUR, PRICE))
    )
    second = ledger.hold_of(book.post(ledger.hold("a", BudgetUnit.UCREDIT, "j-2", 999, PRICE)))
    third = ledger.hold_of(book.post(ledger.hold("a", BudgetUnit.UCREDIT, "j-3", 999, PRICE)))
    settled = book.post(ledger.settle(first, bill(MS_PER_HOUR)))
    book.post(ledger.settle(second, bill(500, charged=False)))
    book.post(ledger.void(third, "cancelled"))
    book.post(ledger.reverse(settled, "the operator's clock was wrong"))
    book.post(ledger.hold("a", BudgetUnit.UCREDIT, "j-4", 77, PRICE))
    return book


def test_an_export_reads_back_as_it_was_and_audits_the_same():
    book = example()
    lines = [to_json(journal) for journal in book.journals]

    assert [from_json(line) for line in lines] == book.journals
    result = audit_lines(lines)
    assert result == book.audit()
    assert result.intact
    assert result.open_holds == ("j-4",)
    assert (result.journals, result.head_seq) == (9, 9)
    assert result.chain_head == book.journals[-1].hash
    for total in result.totals:
        assert total.debits == total.credits > 0


def test_a_journal_keeps_its_hash_over_the_api():
    journals = tuple(example().journals)

    received = codec.decode(tuple[Journal, ...], codec.encode(journals, tuple[Journal, ...]))

    assert received == journals
    assert audit(received).intact


def test_the_hash_is_of_canonical_json_and_does_not_change():
    journal = seal(ledger.grant("a", BudgetUnit.UCREDIT, 5), 1, 1_000, GENESIS)

    body = json.loads(to_json(journal))
    del body["hash"]
    assert list(body) == sorted(body)
    assert journal.hash == hash_of(journal)
    assert journal.hash == "17029d05c86373f5d7be832b8df2cb3697ad09a0f3aab08e38b07c18c81aa592"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[]",
        "null",
        "{}",
        "[" * 100_000,
        '{"seq": 1.0}',
        '{"seq": NaN}',
        to_json(example().journals[0]).replace('"seq":1', '"seq":"1"'),
        to_json(example().journals[0]).replace('"seq":1', '"seq":true'),
        to_json(example().journals[0]).replace('"memo":{', '"memo":{"x":null,'),
        to_json(example().journals[0]).replace('"debit":0', '"debit":0.0'),
        to_json(example().journals[0]).replace('"debit"', '"debt"'),
    ],
    ids=range(12),
)
def test_a_line_that_is_no_journal_is_a_finding(line):
    with pytest.raises(ValueError, match="not a journal"):
        from_json(line)
    assert [finding.code for finding in audit_lines([line]).findings] == ["unreadable"]


def codes(journals, **options):
    return {finding.code for finding in audit(journals, **options).findings}


def rechained(journals):
    """As a forger with all rights would: every hash made to fit."""
    prev_hash, forged = GENESIS, []
    for seq, journal in enumerate(journals, 1):
        linked = dataclasses.replace(journal, seq=seq, prev_hash=prev_hash)
        forged.append(dataclasses.replace(linked, hash=hash_of(linked)))
        prev_hash = forged[-1].hash
    return forged


def with_memo(journal, **changes):
    memo = tuple(sorted({**dict(journal.memo), **changes}.items()))
    return dataclasses.replace(journal, memo=memo)


def scaled(journal, factor):
    entries = tuple(
        dataclasses.replace(e, debit=e.debit * factor, credit=e.credit * factor)
        for e in journal.entries
    )
    return dataclasses.replace(journal, entries=entries)


FORGERIES = {
    "a charge halved, figures and all": (
        lambda js: [*js[:4], scaled(js[4], 2), *js[5:]],
        "charge-mismatch",
    ),
    "another weight in a settle": (
        lambda js: [*js[:4], with_memo(js[4], weight_milli=1000), *js[5:]],
        "charge-mismatch",
    ),
    "usage beyond the hold": (
        lambda js: [*js[:4], with_memo(js[4], gpu_ms=2 * MS_PER_HOUR), *js[5:]],
        "usage-beyond-hold",
    ),
    "a hold settled twice": (lambda js: [*js[:5], js[4], *js[5:]], "hold-missing"),
    "a settle of no hold": (lambda js: [js[0], *js[2:]], "hold-missing"),
    "a hold made twice": (lambda js: [*js, js[-1]], "hold-repeated"),
    "a hold made again after its close": (lambda js: [*js, js[1]], "hold-repeated"),
    "a grant posted twice": (lambda js: [*js, js[0]], "repeated"),
    "a hold larger than its price": (
        lambda js: [js[0], scaled(js[1], 2), *js[2:]],
        "entries-mismatch",
    ),
    "more held than granted": (
        lambda js: [with_memo(scaled(js[0], 0), amount=0), *js[1:]],
        "overdraft",
    ),
    "a reversal repeated": (lambda js: [*js, js[7]], "reverse-unmatched"),
    "a reversal of more than was charged": (
        lambda js: [*js[:7], scaled(js[7], 2), js[8]],
        "reverse-mismatch",
    ),
    "one side only": (
        lambda js: [dataclasses.replace(js[0], entries=js[0].entries[:1]), *js[1:]],
        "unbalanced",
    ),
    "a unit that is none": (
        lambda js: [
            dataclasses.replace(
                js[0], entries=tuple(dataclasses.replace(e, unit="won") for e in js[0].entries)
            ),
            *js[1:],
        ],
        "entry-malformed",
    ),
    "a verb that is none": (
        lambda js: [*js[:-1], dataclasses.replace(js[-1], kind="gift")],
        "kind-unknown",
    ),
    "a memo without its figures": (
        lambda js: [*js[:-1], dataclasses.replace(js[-1], memo=())],
        "memo-malformed",
    ),
}


@pytest.mark.parametrize(("forge", "code"), FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forgery_is_found_even_where_every_hash_fits(forge, code):
    found = codes(rechained(forge(example().journals)))

    assert code in found
    assert not found & {"chain-broken", "hash-mismatch", "sequence-gap"}


@pytest.mark.parametrize("index", range(9))
def test_a_journal_left_out_is_a_gap(index):
    journals = example().journals
    del journals[index]

    if index < 8:
        assert {"sequence-gap", "chain-broken"} <= codes(journals)
    else:  # the end cut off: only an anchor shows it
        whole = example().journals[-1]
        assert codes(journals) == set()
        assert codes(journals, anchor=(whole.seq, whole.hash)) == {"cut-off"}


def test_journals_in_another_order_are_found():
    journals = example().journals
    journals[2], journals[3] = journals[3], journals[2]

    assert {"sequence-gap", "chain-broken"} <= codes(journals)


@pytest.mark.parametrize("field", ["id", "kind", "at_ms", "allocation_id", "attempt_id", "memo"])
@pytest.mark.parametrize("index", range(9))
def test_a_changed_field_is_not_what_its_hash_was_taken_of(index, field):
    journals = example().journals
    new = 7 if field == "at_ms" else (("x", 1),) if field == "memo" else "other"
    journals[index] = dataclasses.replace(journals[index], **{field: new})

    assert "hash-mismatch" in codes(journals)


def test_a_whole_book_forged_is_shown_by_an_anchor():
    journals = example().journals
    anchor = (journals[4].seq, journals[4].hash)
    forged = rechained([with_memo(journals[0], key="gift"), *journals[1:]])

    assert codes(journals, anchor=anchor) == set()
    assert "anchor-mismatch" in codes(forged, anchor=anchor)
