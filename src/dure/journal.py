"""What a journal is: balanced entries, a place in a hash chain, one canonical JSON form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, NoReturn

from dure.allocations import BudgetUnit
from dure.text import check_slug, check_text, shown
from dure.units import INT64_MAX

GENESIS: Final = "0" * 64
"""The `prev_hash` of the first journal."""

MEMO_TEXT_MAX: Final = 500

Memo = tuple[tuple[str, str | int | bool], ...]
"""What a journal says about itself: sorted pairs, no floats, so that its JSON is canonical."""


class JournalKind(StrEnum):
    """The ledger's verbs."""

    GRANT = "grant"
    HOLD = "hold"
    SETTLE = "settle"
    VOID = "void"
    REVERSE = "reverse"


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a journal. Exactly one of `debit` and `credit` is above zero.

    A record read back may hold anything: `Draft` refuses a bad one and `dure.audit` reports it.
    """

    account: str
    unit: str
    debit: int
    credit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A journal before it has its place in the chain.

    `id` is the idempotency key: the same thing cannot be posted twice.
    """

    id: str
    kind: JournalKind
    allocation_id: str
    entries: tuple[Entry, ...]
    memo: Memo
    attempt_id: str | None = None
    reverses_seq: int | None = None

    def __post_init__(self) -> None:
        check_slug("allocation_id", self.allocation_id)
        if self.attempt_id is not None:
            check_slug("attempt_id", self.attempt_id)
        if len(self.entries) < 2:
            raise ValueError(f"journal {self.id} has {len(self.entries)} entries; it needs two")
        for entry in self.entries:
            if fault := entry_fault(entry):
                raise ValueError(f"journal {self.id}: {fault}")
        if unit := unbalanced_unit(self.entries):
            raise ValueError(f"journal {self.id} does not balance in {unit}")
        for name, value in self.memo:
            if isinstance(value, str):
                check_text(name, value, limit=MEMO_TEXT_MAX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """A sealed journal: a link of the chain. Not checked when made; see `Entry`."""

    seq: int
    id: str
    kind: str
    at_ms: int
    allocation_id: str
    attempt_id: str | None
    reverses_seq: int | None
    memo: Memo
    entries: tuple[Entry, ...]
    prev_hash: str
    hash: str


def seal(draft: Draft, seq: int, at_ms: int, prev_hash: str) -> Journal:
    """Give a draft its place in the chain: number, instant, and a hash over all of it."""
    unsealed = Journal(
        seq=seq,
        id=draft.id,
        kind=draft.kind,
        at_ms=at_ms,
        allocation_id=draft.allocation_id,
        attempt_id=draft.attempt_id,
        reverses_seq=draft.reverses_seq,
        memo=draft.memo,
        entries=draft.entries,
        prev_hash=prev_hash,
        hash="",
    )
    return replace(unsealed, hash=hash_of(unsealed))


def hash_of(journal: Journal) -> str:
    """SHA-256 over the journal's canonical JSON without its own hash, in hexadecimal."""
    return hashlib.sha256(canonical(_body(journal)).encode()).hexdigest()


def canonical(value: object) -> str:
    """JSON with sorted keys, no spaces, ASCII only: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_json(journal: Journal) -> str:
    """One journal as one line of canonical JSON, for export."""
    return canonical({**_body(journal), "hash": journal.hash})


def from_json(line: str) -> Journal:
    """Read a line that `to_json` wrote; its content is as yet unaudited.

    Raises:
        ValueError: not such a line.
    """
    try:
        return from_record(json.loads(line, parse_float=_no_float, parse_constant=_no_float))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{shown(line)} is not a journal: {error}") from None


def from_record(data: Any) -> Journal:
    """A journal from its fields, `memo` an object and `entries` a list of objects, types checked.

    Raises:
        ValueError: other fields, or a value of another type.
    """
    fields = _typed(data, _JOURNAL)
    return Journal(
        **{
            **fields,
            "memo": memo_of(fields["memo"]),
            "entries": tuple(Entry(**_typed(entry, _ENTRY)) for entry in fields["entries"]),
        }
    )


def memo_of(data: Any) -> Memo:
    """A memo from its JSON object.

    Raises:
        ValueError: not an object of texts, integers and booleans.
    """
    if not isinstance(data, dict) or any(type(v) not in {str, int, bool} for v in data.values()):
        raise ValueError(f"{shown(data)} is not a memo; use an object of texts, integers, booleans")
    return tuple(sorted(data.items()))


def entry_fault(entry: Entry) -> str | None:
    """What is wrong with a line, in one sentence; None where nothing is."""
    amounts = (entry.debit, entry.credit)
    if entry.unit not in set(BudgetUnit):
        return f"unit {shown(entry.unit)} of account {shown(entry.account)} is not known"
    if any(type(amount) is not int or not 0 <= amount <= INT64_MAX for amount in amounts):
        return f"account {shown(entry.account)} has an amount outside 0 to 2^63 - 1"
    if (entry.debit == 0) == (entry.credit == 0):
        return f"account {shown(entry.account)} must have either a debit or a credit"
    return None


def unbalanced_unit(entries: tuple[Entry, ...]) -> str | None:
    """The first unit in which debits and credits differ; None where all balance (I4)."""
    for unit in sorted({entry.unit for entry in entries}):
        if sum(entry.debit - entry.credit for entry in entries if entry.unit == unit):
            return unit
    return None


_ENTRY: Final[dict[str, tuple[type, ...]]] = {
    "account": (str,),
    "unit": (str,),
    "debit": (int,),
    "credit": (int,),
}
_JOURNAL: Final[dict[str, tuple[type, ...]]] = {
    "seq": (int,),
    "id": (str,),
    "kind": (str,),
    "at_ms": (int,),
    "allocation_id": (str,),
    "attempt_id": (str, type(None)),
    "reverses_seq": (int, type(None)),
    "memo": (dict,),
    "entries": (list,),
    "prev_hash": (str,),
    "hash": (str,),
}


def _typed(data: Any, types: Mapping[str, tuple[type, ...]]) -> dict[str, Any]:
    if not isinstance(data, dict) or data.keys() != types.keys():
        raise ValueError(f"{shown(data)} is not an object of the fields {', '.join(types)}")
    for name, value in data.items():
        if type(value) not in types[name]:
            raise ValueError(f"{name} {shown(value)} is of the wrong type")
    return data


def _no_float(text: str) -> NoReturn:
    raise ValueError(f"{shown(text)} is not an integer")


def _body(journal: Journal) -> dict[str, Any]:
    return {
        "seq": journal.seq,
        "id": journal.id,
        "kind": journal.kind,
        "at_ms": journal.at_ms,
        "allocation_id": journal.allocation_id,
        "attempt_id": journal.attempt_id,
        "reverses_seq": journal.reverses_seq,
        "memo": dict(journal.memo),
        "entries": [
            {"account": e.account, "unit": e.unit, "debit": e.debit, "credit": e.credit}
            for e in journal.entries
        ],
        "prev_hash": journal.prev_hash,
    }
