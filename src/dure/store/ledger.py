"""Statements on the ledger, each inside the caller's transaction.

Writers come one at a time (`Database.write`), so the head that `post` reads is the head that it
extends. What the book forbids is refused by the database; see `ledger_schema`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, Select, exists, func, insert, select
from sqlalchemy.exc import DataError, IntegrityError

from dure import ledger
from dure.allocations import BudgetUnit
from dure.audit import Audit, Auditor
from dure.errors import RefusedError
from dure.journal import GENESIS, Draft, Journal, JournalKind, canonical, from_record, seal
from dure.ledger import Balance, Hold
from dure.store import ledger_schema as schema
from dure.units import credits_text, gpu_time_text

PAGE: Final = 1_000
_CLOSES: Final = (JournalKind.SETTLE, JournalKind.VOID)


def post(connection: Connection, draft: Draft, at_ms: int) -> Journal:
    """Seal a draft onto the chain and write it, or change nothing.

    Raises:
        RefusedError: `allocation-exhausted`, status 409: the allocation has less than that left;
            `book-full`, status 409: a sum would not fit 64 bits.
        IntegrityError: the draft breaks the book in another way, such as a second hold.
    """
    head = connection.execute(
        select(schema.journals.c.seq, schema.journals.c.hash)
        .order_by(schema.journals.c.seq.desc())
        .limit(1)
    ).one_or_none()
    seq, prev_hash = (head.seq, head.hash) if head else (0, GENESIS)
    journal = seal(draft, seq + 1, at_ms, prev_hash)
    try:
        with connection.begin_nested():
            _write(connection, journal)
    except (IntegrityError, DataError) as error:
        _refuse_overdraft(connection, draft)
        # SQLite makes a float of what overflows, and the check refuses it; PostgreSQL says so.
        if isinstance(error, DataError) or "ck_accounts_integers" in str(error.orig):
            raise RefusedError(
                "book-full",
                f"The book cannot carry {draft.allocation_id}: its sums would not fit 64 bits.",
                status=409,
            ) from None
        raise
    return journal


def journals(connection: Connection, after_seq: int = 0, limit: int = PAGE) -> tuple[Journal, ...]:
    """Up to `limit` journals after `after_seq`, in order.

    Raises:
        ValueError: a stored journal is not even of the right types: the file was tampered with.
    """
    return tuple(from_record(record) for record in _records(connection, after_seq, limit))


def allocation_journals(
    connection: Connection, allocation_id: str, after_seq: int = 0, limit: int = PAGE
) -> tuple[Journal, ...]:
    """As `journals`, of one allocation: what a statement lists."""
    query = select(schema.journals).where(schema.journals.c.allocation_id == allocation_id)
    return tuple(from_record(record) for record in _records(connection, after_seq, limit, query))


def journal(connection: Connection, seq: int) -> Journal | None:
    """One journal, to be reversed, say; None where there is no such."""
    found = journals(connection, seq - 1, 1)
    return found[0] if found and found[0].seq == seq else None


def was_posted(connection: Connection, id_: str) -> bool:
    """Whether there is a journal with that id."""
    query = select(schema.journals.c.seq).where(schema.journals.c.id == id_)
    return connection.scalar(query) is not None


def balance(connection: Connection, allocation_id: str, unit: BudgetUnit) -> Balance:
    """An allocation's standing now."""
    names = [account(allocation_id) for account in (ledger.available, ledger.held, ledger.spent)]
    table = schema.accounts.c
    rows = connection.execute(
        select(table.account, table.balance).where(table.account.in_(names), table.unit == unit)
    )
    return ledger.balance({(row.account, unit): row.balance for row in rows}, allocation_id, unit)


def balances(connection: Connection) -> dict[tuple[str, str], int]:
    """What every account stands at, by account and unit, for `dure.ledger.balance`."""
    table = schema.accounts.c
    rows = connection.execute(select(table.account, table.unit, table.balance))
    return {(account, unit): amount for account, unit, amount in rows}


def open_hold(connection: Connection, attempt_id: str) -> Hold | None:
    """The hold of an attempt that is not yet closed; None where there is none."""
    table = schema.journals
    closing = table.alias()
    seq = connection.scalar(
        select(table.c.seq).where(
            table.c.id == ledger.hold_id(attempt_id),
            ~exists().where(closing.c.id == ledger.close_id(attempt_id)),
        )
    )
    found = None if seq is None else journal(connection, seq)
    return ledger.hold_of(found) if found else None


def audit(connection: Connection, anchor: tuple[int, str] | None = None) -> Audit:
    """Audit the stored book: the journals as `dure.audit` does, and the kept balances by them."""
    auditor = Auditor(anchor)
    after_seq: int | None = 0
    while after_seq is not None:
        last_seq = None
        for record in _records(connection, after_seq, PAGE):
            last_seq = record["seq"]
            try:
                auditor.add(from_record(record))
            except ValueError as error:
                auditor.note("unreadable", last_seq, f"Journal {last_seq}: {error}.")
        after_seq = last_seq
    _audit_entries(connection, auditor)
    _audit_accounts(connection, auditor)
    return auditor.result()


def _write(connection: Connection, sealed: Journal) -> None:
    """The entries first: the journal's row seals what stands there."""
    # One statement: of several in a pipeline, a refused one leaves psycopg complaining of the rest.
    rows = [
        {
            "journal_seq": sealed.seq,
            "line": line,
            "account": entry.account,
            "unit": entry.unit,
            "debit": entry.debit,
            "credit": entry.credit,
        }
        for line, entry in enumerate(sealed.entries, 1)
    ]
    connection.execute(insert(schema.entries).values(rows))
    connection.execute(
        insert(schema.journals).values(
            seq=sealed.seq,
            id=sealed.id,
            kind=sealed.kind,
            at_ms=sealed.at_ms,
            allocation_id=sealed.allocation_id,
            attempt_id=sealed.attempt_id,
            reverses_seq=sealed.reverses_seq,
            memo=canonical(dict(sealed.memo)),
            prev_hash=sealed.prev_hash,
            hash=sealed.hash,
        )
    )


def _refuse_overdraft(connection: Connection, draft: Draft) -> None:
    """Say what is missing, where a draft asks an allocation for more than it has left."""
    account = ledger.available(draft.allocation_id)
    for entry in draft.entries:
        if entry.account != account:
            continue
        unit = BudgetUnit(entry.unit)
        left = balance(connection, draft.allocation_id, unit).available
        if entry.debit > left:
            raise RefusedError(
                "allocation-exhausted",
                f"Allocation {draft.allocation_id} has {_amount(left, unit)} left; "
                f"this needs {_amount(entry.debit, unit)}.",
                status=409,
            ) from None


def _amount(amount: int, unit: BudgetUnit) -> str:
    if unit == BudgetUnit.UCREDIT:
        return f"{credits_text(amount)} credits"
    return gpu_time_text(amount)


def _records(
    connection: Connection,
    after_seq: int,
    limit: int,
    query: Select[Any] | None = None,
) -> Iterator[dict[str, Any]]:
    """Stored journals as the objects that `dure.journal.from_record` reads."""
    table = schema.journals.c
    query = select(schema.journals) if query is None else query
    page = query.where(table.seq > after_seq).order_by(table.seq).limit(limit)
    rows = connection.execute(page).mappings().all()
    lines = _lines(connection, [row["seq"] for row in rows])
    for row in rows:
        yield {**row, "memo": _memo(row["memo"]), "entries": lines.get(row["seq"], [])}


def _lines(connection: Connection, seqs: list[int]) -> dict[int, list[dict[str, Any]]]:
    table = schema.entries.c
    rows = connection.execute(
        select(table.journal_seq, table.account, table.unit, table.debit, table.credit)
        .where(table.journal_seq.in_(seqs))
        .order_by(table.journal_seq, table.line)
    ).mappings()
    lines: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        entry = dict(row)
        lines.setdefault(entry.pop("journal_seq"), []).append(entry)
    return lines


def _memo(text: Any) -> Any:
    """The memo's object; what is no JSON stays as it is, and `from_record` refuses it."""
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return text


def _audit_entries(connection: Connection, auditor: Auditor) -> None:
    sealed = exists().where(schema.journals.c.seq == schema.entries.c.journal_seq)
    loose = connection.scalar(select(func.count()).select_from(schema.entries).where(~sealed))
    if loose:
        auditor.note("entries-loose", 0, f"{loose} entries belong to no journal.")


def _audit_accounts(connection: Connection, auditor: Auditor) -> None:
    """Each kept balance must be the sum of its entries; an account without entries is at 0."""
    table = schema.accounts.c
    rows = connection.execute(select(table.account, table.unit, table.balance))
    kept = {(row.account, row.unit): row.balance for row in rows}
    for key in sorted(kept.keys() | auditor.balances.keys()):
        summed = auditor.balances.get(key, 0)
        if kept.get(key, 0) != summed:
            auditor.note(
                "balance-mismatch",
                0,
                f"Account {key[0]} is kept at {kept.get(key, 0)} {key[1]}; "
                f"its entries sum to {summed}.",
            )
