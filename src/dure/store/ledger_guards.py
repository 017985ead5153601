"""The guards by which the database itself keeps the book straight; `ledger_schema` says why.

The 64 zeros are `dure.journal.GENESIS`, what the first journal names as the hash before it.
"""

from __future__ import annotations

from typing import Final

from dure.store.guards import Guard, only_added

_HISTORY: Final = "ledger: history is only added to"

_ENTRIES_OPEN: Final = {
    "ledger: entries belong to the next journal only": """
        NEW.journal_seq {differs} (SELECT coalesce(max(seq), 0) + 1 FROM journals)""",
    "ledger: this line is written already": """
        EXISTS (SELECT 1 FROM entries WHERE journal_seq = NEW.journal_seq AND line = NEW.line)""",
}

_ENTRIES_POST: Final = (
    """INSERT INTO accounts (account, unit, balance, last_seq, last_line)
        SELECT NEW.account, NEW.unit, 0, 0, 0
        WHERE NOT EXISTS (SELECT 1 FROM accounts
                          WHERE account = NEW.account AND unit = NEW.unit)""",
    """UPDATE accounts SET balance = balance + NEW.credit - NEW.debit,
                            last_seq = NEW.journal_seq, last_line = NEW.line
        WHERE account = NEW.account AND unit = NEW.unit""",
)

_ACCOUNTS_START_EMPTY: Final = {
    "ledger: an account starts at zero, once": """
        NEW.balance {differs} 0 OR NEW.last_seq {differs} 0 OR NEW.last_line {differs} 0
        OR EXISTS (SELECT 1 FROM accounts WHERE account = NEW.account AND unit = NEW.unit)""",
}

_ACCOUNTS_FOLLOW_ENTRIES: Final = {
    "ledger: a balance changes by an entry only": """
        NEW.account {differs} OLD.account OR NEW.unit {differs} OLD.unit
        OR (NEW.last_seq, NEW.last_line) <= (OLD.last_seq, OLD.last_line)
        OR NOT EXISTS (
            SELECT 1 FROM entries
            WHERE journal_seq = NEW.last_seq AND line = NEW.last_line
              AND account = NEW.account AND unit = NEW.unit
              AND OLD.balance + credit - debit = NEW.balance)""",
}

_JOURNALS_CHAIN: Final = {
    "ledger: a journal follows the last one": """
        NEW.seq {differs} (SELECT coalesce(max(seq), 0) + 1 FROM journals)
        OR NEW.prev_hash {differs} coalesce(
            (SELECT hash FROM journals ORDER BY seq DESC LIMIT 1),
            '0000000000000000000000000000000000000000000000000000000000000000')""",
    "ledger: this is posted already": """
        EXISTS (SELECT 1 FROM journals WHERE id = NEW.id OR hash = NEW.hash)
        OR EXISTS (SELECT 1 FROM journals WHERE reverses_seq = NEW.reverses_seq)""",
}

_JOURNALS_BALANCE: Final = {
    "ledger: a journal has lines 1, 2, ... and at least two": """
        (SELECT count(*) < 2 OR count(*) <> max(line) FROM entries WHERE journal_seq = NEW.seq)""",
    "ledger: debits and credits differ": """
        EXISTS (SELECT 1 FROM entries WHERE journal_seq = NEW.seq
                GROUP BY unit HAVING sum(debit) <> sum(credit))""",
}

_JOURNALS_PAIR: Final = {
    "ledger: an attempt is held for once": """
        NEW.kind = 'hold' AND EXISTS (
            SELECT 1 FROM journals WHERE kind = 'hold' AND attempt_id = NEW.attempt_id)""",
    "ledger: a hold is closed once": """
        NEW.kind IN ('settle', 'void') AND EXISTS (
            SELECT 1 FROM journals
            WHERE kind IN ('settle', 'void') AND attempt_id = NEW.attempt_id)""",
    "ledger: a hold sets aside, a close frees it, nothing else touches it": """
        CASE WHEN NEW.kind IN ('hold', 'settle', 'void') THEN 1 ELSE 0 END <> (
            SELECT count(*) FROM entries
            WHERE journal_seq = NEW.seq AND account LIKE 'allocation/%/held')""",
    "ledger: a hold sets aside for its own allocation": """
        NEW.kind = 'hold' AND NOT EXISTS (
            SELECT 1 FROM entries WHERE journal_seq = NEW.seq AND credit > 0
               AND account = 'allocation/' || NEW.allocation_id || '/held')""",
    "ledger: a close frees the whole hold of its attempt": """
        NEW.kind IN ('settle', 'void') AND NOT EXISTS (
            SELECT 1 FROM journals AS hold
            JOIN entries AS kept ON kept.journal_seq = hold.seq
             AND kept.account = 'allocation/' || NEW.allocation_id || '/held'
            JOIN entries AS freed ON freed.journal_seq = NEW.seq
             AND freed.account = kept.account AND freed.unit = kept.unit
             AND freed.debit = kept.credit
            WHERE hold.kind = 'hold' AND hold.attempt_id = NEW.attempt_id)""",
}

GUARDS: Final = (
    Guard("entries_open", "entries", "BEFORE INSERT", _ENTRIES_OPEN),
    Guard("entries_post", "entries", "AFTER INSERT", then=_ENTRIES_POST),
    Guard("accounts_start_empty", "accounts", "BEFORE INSERT", _ACCOUNTS_START_EMPTY),
    Guard("accounts_follow_entries", "accounts", "BEFORE UPDATE", _ACCOUNTS_FOLLOW_ENTRIES),
    Guard("journals_chain", "journals", "BEFORE INSERT", _JOURNALS_CHAIN),
    Guard("journals_balance", "journals", "BEFORE INSERT", _JOURNALS_BALANCE),
    Guard("journals_pair", "journals", "BEFORE INSERT", _JOURNALS_PAIR),
    *only_added("entries", _HISTORY),
    *only_added("journals", _HISTORY),
    *only_added("accounts", _HISTORY, ("DELETE",)),
)
"""Created in this order; see `dure.store.guards` for how they are written."""
