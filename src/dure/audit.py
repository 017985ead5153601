"""Recompute the whole account book from its journals, offline, trusting none of them.

Each journal is checked for its place (no gap, the chain unbroken, the hash its own) and for its
lines (balanced, no allocation below zero after any of them). Then the verb that it claims to be is
carried out again, by the code that made it, from the figures in its memo and the hold before
it: what comes out must be what stands there. So a charge is recomputed from its GPU-time and its
stored factors, a hold is closed once and in full, and a journal is reversed once.

What an auditor keeps is balances, open holds, and for each closed attempt a name and a digest.
A chain whose end was cut off is still a chain: only an anchor, a (seq, hash) that was published
elsewhere, shows the cut.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dure import ledger
from dure.allocations import BudgetUnit
from dure.journal import (
    GENESIS,
    Draft,
    Entry,
    Journal,
    JournalKind,
    canonical,
    entry_fault,
    from_json,
    hash_of,
    unbalanced_unit,
)
from dure.ledger import Hold
from dure.text import shown

FINDINGS_MAX: Final = 1_000
"""A book this broken need not be described further."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a code, the journal (0: the book as a whole), one sentence."""

    code: str
    journal_seq: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Total:
    """All debits and all credits of a unit."""

    unit: str
    debits: int
    credits: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the journals say when they are added up again. `chain_head` is the last one's hash.

    `balances`: (account, unit, credits - debits), sorted. `open_holds`: attempts not yet closed.
    """

    journals: int
    findings: tuple[Finding, ...]
    balances: tuple[tuple[str, str, int], ...]
    totals: tuple[Total, ...]
    open_holds: tuple[str, ...]
    head_seq: int
    chain_head: str

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.findings


def audit(journals: Iterable[Journal], anchor: tuple[int, str] | None = None) -> Audit:
    """Audit a book; `anchor` is a (seq, hash) known from elsewhere that it must still contain."""
    auditor = Auditor(anchor)
    for journal in journals:
        auditor.add(journal)
    return auditor.result()


def audit_lines(lines: Iterable[str], anchor: tuple[int, str] | None = None) -> Audit:
    """Audit an export: one journal a line, as `dure.journal.to_json` writes it."""
    auditor = Auditor(anchor)
    for number, line in enumerate(lines, 1):
        try:
            journal = from_json(line)
        except ValueError as error:
            auditor.note("unreadable", 0, f"Line {number}: {error}.")
            continue
        auditor.add(journal)
    return auditor.result()


class Auditor:
    """An audit under way: add the journals in order, then take the result."""

    def __init__(self, anchor: tuple[int, str] | None = None) -> None:
        self.balances: dict[tuple[str, str], int] = {}
        self._anchor = anchor
        self._journals = 0
        self._findings: list[Finding] = []
        self._debits = dict.fromkeys(BudgetUnit, 0)
        self._credits = dict.fromkeys(BudgetUnit, 0)
        self._head_seq = 0
        self._head_hash = GENESIS
        self._open: dict[str, Hold] = {}
        self._closed: set[str] = set()
        self._granted: set[str] = set()
        self._reversals: dict[int, bytes] = {}

    def note(self, code: str, journal_seq: int, sentence: str) -> None:
        """Record something wrong."""
        if len(self._findings) < FINDINGS_MAX:
            self._findings.append(Finding(code, journal_seq, sentence))

    def add(self, journal: Journal) -> None:
        """Audit the next journal."""
        self._journals += 1
        self._place(journal)
        self._lines(journal)
        self._verb(journal)

    def result(self) -> Audit:
        """What was found."""
        if self._anchor and self._head_seq < self._anchor[0]:
            self.note("cut-off", 0, f"The book ends before journal {self._anchor[0]}, its anchor.")
        return Audit(
            journals=self._journals,
            findings=tuple(self._findings),
            balances=tuple((*key, amount) for key, amount in sorted(self.balances.items())),
            totals=tuple(Total(u, self._debits[u], self._credits[u]) for u in BudgetUnit),
            open_holds=tuple(sorted(self._open)),
            head_seq=self._head_seq,
            chain_head=self._head_hash,
        )

    def _place(self, journal: Journal) -> None:
        seq = journal.seq
        if seq != self._head_seq + 1:
            self.note("sequence-gap", seq, f"Journal {seq} follows journal {self._head_seq}.")
        if journal.prev_hash != self._head_hash:
            self.note(
                "chain-broken", seq, f"Journal {seq} does not name the hash of the one before it."
            )
        if journal.hash != hash_of(journal):
            self.note("hash-mismatch", seq, f"Journal {seq} is not what its hash was taken of.")
        if self._anchor and seq == self._anchor[0] and journal.hash != self._anchor[1]:
            self.note("anchor-mismatch", seq, f"Journal {seq} has another hash than its anchor.")
        self._head_seq, self._head_hash = seq, journal.hash

    def _lines(self, journal: Journal) -> None:
        seq = journal.seq
        for entry in journal.entries:
            if fault := entry_fault(entry):
                self.note("entry-malformed", seq, f"Journal {seq}: {fault}.")
                continue
            self._post(seq, entry)
        if len(journal.entries) < 2:
            self.note("unbalanced", seq, f"Journal {seq} has {len(journal.entries)} entries.")
        elif unit := unbalanced_unit(journal.entries):
            self.note("unbalanced", seq, f"Journal {seq} does not balance in {shown(unit)}.")

    def _post(self, seq: int, entry: Entry) -> None:
        unit = BudgetUnit(entry.unit)
        self._debits[unit] += entry.debit
        self._credits[unit] += entry.credit
        key = (entry.account, entry.unit)
        after = self.balances.get(key, 0) + entry.credit - entry.debit
        self.balances[key] = after
        if after < 0 and entry.debit and entry.account.startswith("allocation/"):
            self.note("overdraft", seq, f"Journal {seq} leaves {entry.account} at {after} {unit}.")

    def _verb(self, journal: Journal) -> None:
        seq = journal.seq
        if journal.id in self._granted:
            self.note("repeated", seq, f"Journal {seq} posts {shown(journal.id)} once more.")
            return
        if journal.kind == JournalKind.GRANT:
            self._granted.add(journal.id)  # the other kinds repeat an attempt or a reversed journal
        try:
            self._check_verb(journal)
        except (ValueError, KeyError) as error:
            self.note("memo-malformed", seq, f"Journal {seq}: {error}.")

    def _check_verb(self, journal: Journal) -> None:
        match journal.kind:
            case JournalKind.GRANT:
                self._check_same(journal, _grant(journal), "entries-mismatch")
                self._remember_reversal(journal)
            case JournalKind.HOLD:
                self._hold(journal)
            case JournalKind.SETTLE | JournalKind.VOID:
                self._close(journal)
            case JournalKind.REVERSE:
                self._reverse(journal)
            case _:
                self.note(
                    "kind-unknown",
                    journal.seq,
                    f"Journal {journal.seq} is of no kind that there is: {shown(journal.kind)}.",
                )

    def _hold(self, journal: Journal) -> None:
        opened = ledger.hold_of(journal)
        if opened.attempt_id in self._open or opened.attempt_id in self._closed:
            self.note(
                "hold-repeated",
                journal.seq,
                f"Journal {journal.seq} holds for attempt {opened.attempt_id} a second time.",
            )
            return
        self._open[opened.attempt_id] = opened
        again = ledger.hold(
            opened.allocation_id, opened.unit, opened.attempt_id, opened.gpu_ms, opened.factors
        )
        self._check_same(journal, again, "entries-mismatch")

    def _close(self, journal: Journal) -> None:
        seq, attempt_id = journal.seq, journal.attempt_id or ""
        opened = self._open.pop(attempt_id, None)
        if opened is None:
            again = "was closed before" if attempt_id in self._closed else "holds nothing"
            self.note(
                "hold-missing", seq, f"Journal {seq} closes {shown(attempt_id)}, which {again}."
            )
            return
        self._closed.add(attempt_id)
        if journal.kind == JournalKind.VOID:
            draft = ledger.void(opened, str(dict(journal.memo)["cause"]))
            self._check_same(journal, draft, "entries-mismatch")
            return
        bill = ledger.bill_of(journal)
        if bill.gpu_ms > opened.gpu_ms:
            self.note("usage-beyond-hold", seq, f"Journal {seq} posts more usage than was held.")
            return
        self._check_same(journal, ledger.settle(opened, bill), "charge-mismatch")
        self._remember_reversal(journal)

    def _reverse(self, journal: Journal) -> None:
        expected = self._reversals.pop(journal.reverses_seq or 0, None)
        if expected is None:
            self.note(
                "reverse-unmatched",
                journal.seq,
                f"Journal {journal.seq} reverses {journal.reverses_seq}, "
                "which cannot be reversed or was before.",
            )
        elif expected != _undo_digest(journal):
            self.note(
                "reverse-mismatch",
                journal.seq,
                f"Journal {journal.seq} does not undo journal {journal.reverses_seq}.",
            )

    def _check_same(self, journal: Journal, draft: Draft, code: str) -> None:
        """The journal must say what its verb, carried out again, says."""
        if (journal.id, journal.allocation_id, journal.entries, journal.memo) != (
            draft.id,
            draft.allocation_id,
            draft.entries,
            draft.memo,
        ):
            self.note(
                code,
                journal.seq,
                f"Journal {journal.seq} is not what a {journal.kind} of these figures posts.",
            )

    def _remember_reversal(self, journal: Journal) -> None:
        try:
            draft = ledger.reverse(journal, "")
        except ValueError:  # nothing to give back
            return
        self._reversals[journal.seq] = _undo_digest(draft)


def _grant(journal: Journal) -> Draft:
    memo = dict(journal.memo)
    amount = memo["amount"]
    if type(amount) is not int:
        raise ValueError(f"amount {shown(amount)} is not an integer")
    return ledger.grant(
        journal.allocation_id, BudgetUnit(str(memo["unit"])), amount, str(memo["key"])
    )


def _undo_digest(reversal: Journal | Draft) -> bytes:
    lines = [[e.account, e.unit, e.debit, e.credit] for e in reversal.entries]
    whole = [reversal.id, reversal.allocation_id, reversal.attempt_id, lines]
    return hashlib.sha256(canonical(whole).encode()).digest()[:16]
