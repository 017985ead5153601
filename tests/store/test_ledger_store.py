import dataclasses

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.exc import DatabaseError, IntegrityError

from bookkeeping import GPU_MS, TABLES, grant, hold, open_book
from dure import ledger
from dure.allocations import BudgetUnit
from dure.audit import audit
from dure.errors import RefusedError
from dure.journal import GENESIS, hash_of, seal, to_json
from dure.ledger import Balance, Bill
from dure.metering import Factors
from dure.store import ledger as book
from dure.store import ledger_schema as schema
from dure.store.database import Database
from dure.store.metadata import metadata

PRICE = Factors(tariff_version="2026-1", weight_milli=2250)


def bill(gpu_ms, *, charged=True):
    return Bill(operator_id="nhn", gpu_ms=gpu_ms, charged=charged, cause="completed")


def settle(connection, attempt_id, gpu_ms):
    opened = book.open_hold(connection, attempt_id)
    assert opened is not None
    return book.post(connection, ledger.settle(opened, bill(gpu_ms)), 3_000)


def fill(connection):
    """A book with something of each kind, and j-4 still held for."""
    grant(connection)
    hold(connection, "j-1", 40)
    charged = settle(connection, "j-1", 25)
    hold(connection, "j-2", 10)
    opened = book.open_hold(connection, "j-2")
    book.post(connection, ledger.void(opened, "cancelled"), 4_000)
    book.post(connection, ledger.reverse(charged, "the meter was wrong"), 5_000)
    hold(connection, "j-4", 7)


# ---- posting and reading -------------------------------------------------------------------------


def test_what_is_posted_is_read_back(database):
    with database.write() as connection:
        fill(connection)

    with database.read() as connection:
        stored = book.journals(connection)
        assert [journal.kind for journal in stored] == [
            "grant", "hold", "settle", "hold", "void", "reverse", "hold",
        ]  # fmt: skip
        assert stored[0].prev_hash == GENESIS
        assert all(journal.hash == hash_of(journal) for journal in stored)
        assert book.balance(connection, "a", GPU_MS) == Balance(
            unit=GPU_MS, limit=100, held=7, spent=0, available=93
        )
        assert book.audit(connection) == audit(stored)
        assert book.audit(connection).intact


def test_a_posted_journal_is_what_is_stored(database):
    with database.write() as connection:
        posted = [grant(connection), hold(connection, "j-1", 3), settle(connection, "j-1", 2)]

        assert [to_json(journal) for journal in book.journals(connection)] == [
            to_json(journal) for journal in posted
        ]
        assert book.journal(connection, 2) == posted[1]
        assert book.journal(connection, 4) is None


def test_journals_are_paged(database):
    with database.write() as connection:
        for number in range(5):
            grant(connection, key=f"tranche-{number}", allocation_id="ab"[number % 2])

        assert [journal.seq for journal in book.journals(connection, 2, 2)] == [3, 4]
        assert [j.seq for j in book.allocation_journals(connection, "a", 1, 9)] == [3, 5]


def test_a_hold_is_open_until_it_is_closed(database):
    with database.write() as connection:
        grant(connection, 10**9)
        draft = ledger.hold("a", GPU_MS, "j-1", 50, PRICE)
        made = ledger.hold_of(book.post(connection, draft, 0))

        assert book.open_hold(connection, "j-1") == made
        assert made.factors == PRICE
        settle(connection, "j-1", 5)
        assert book.open_hold(connection, "j-1") is None
        assert book.open_hold(connection, "j-2") is None


def test_an_unknown_allocation_stands_at_zero(database):
    with database.read() as connection:
        assert book.balance(connection, "none", GPU_MS) == Balance(
            unit=GPU_MS, limit=0, held=0, spent=0, available=0
        )


def test_more_than_is_left_is_refused_and_changes_nothing(database):
    with database.write() as connection:
        draft = ledger.grant("a", BudgetUnit.UCREDIT, 12_500_000)
        book.post(connection, draft, 0)
        with pytest.raises(RefusedError) as refused:
            book.post(connection, ledger.hold("a", BudgetUnit.UCREDIT, "j-1", 36 * 10**6, PRICE), 0)
        # the transaction goes on as if it had not been asked
        book.post(connection, ledger.hold("a", BudgetUnit.UCREDIT, "j-2", 20 * 10**6, PRICE), 0)

    assert refused.value.reason.code == "allocation-exhausted"
    assert refused.value.status == 409
    assert str(refused.value) == "Allocation a has 12.5 credits left; this needs 22.5 credits."
    with database.read() as connection:
        assert [journal.id for journal in book.journals(connection)] == [
            "grant/a/award",
            "hold/j-2",
        ]
        assert book.audit(connection).intact


def test_a_grant_that_is_spent_cannot_be_taken_back(database):
    with database.write() as connection:
        granted = grant(connection)
        hold(connection, "j-1", 1)
        with pytest.raises(RefusedError, match="GPU-s left; this needs"):
            book.post(connection, ledger.reverse(granted, "withdrawn"), 0)


@pytest.mark.parametrize("again", ["grant", "hold", "hold after close", "settle", "reverse"])
def test_nothing_is_posted_twice(database, again):
    with database.write() as connection:
        granted, _ = grant(connection), hold(connection, "j-1", 10)
        opened = book.open_hold(connection, "j-1")
        close = ledger.settle(opened, bill(5))
        if again != "hold":
            settled = book.post(connection, close, 0)
        if again == "reverse":
            book.post(connection, ledger.reverse(settled, "wrong"), 0)
        drafts = {
            "grant": lambda: ledger.grant("a", GPU_MS, 100),
            "settle": lambda: close,
            "reverse": lambda: ledger.reverse(settled, "wrong"),
        }
        draft = drafts.get(again, lambda: ledger.hold("a", GPU_MS, "j-1", 10))()
        before = book.audit(connection)

        with pytest.raises(IntegrityError):
            book.post(connection, draft, 0)

        assert book.audit(connection) == before
        assert granted.seq == 1


def test_a_failed_transaction_leaves_nothing(database):
    with pytest.raises(RuntimeError), database.write() as connection:  # noqa: PT012 - the failure
        fill(connection)
        raise RuntimeError

    with database.read() as connection:
        assert book.journals(connection) == ()
        assert book.audit(connection).balances == ()


# ---- what the database refuses, whoever asks -----------------------------------------------------

FREE, HELD = "allocation/a/available", "allocation/a/held"
NEW_HASH = "f" * 64
HEAD_HASH = "(SELECT hash FROM journals ORDER BY seq DESC LIMIT 1)"


def line(number, account, debit=0, credit=0, unit="gpu_ms", seq=8):
    return f"INSERT INTO entries VALUES ({seq}, {number}, '{account}', '{unit}', {debit}, {credit})"


def sealed(kind="grant", attempt="NULL", *, seq=8, key="forged", prev_hash=HEAD_HASH):
    return (
        "INSERT INTO journals (seq, id, kind, at_ms, allocation_id, attempt_id, memo, prev_hash,"
        f" hash) VALUES ({seq}, '{key}', '{kind}', 0, 'a', {attempt}, '{{}}', {prev_hash},"
        f" '{NEW_HASH}')"
    )


def moved(source, target, seal):
    """A journal that moves 5."""
    return [line(1, source, debit=5), line(2, target, credit=5), seal]


def replacing(statement):
    return statement.replace("INSERT", "INSERT OR REPLACE")


def run(database, statements):
    with database.write() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


SHARED = {
    "ck_accounts_overdraft": {
        "overdraft": [line(1, FREE, debit=94)],
        "held below zero": [line(1, HELD, debit=8)],
        "another's overdraft": [line(1, "allocation/b/spent", debit=1)],
    },
    "debits and credits differ": {
        "unbalanced": [line(1, "x", debit=5), line(2, FREE, credit=6), sealed()],
        "unbalanced across units": [
            line(1, "x", debit=5),
            line(2, FREE, credit=5, unit="ucredit"),
            sealed(),
        ],
    },
    "at least two": {
        "no entries": [sealed()],
        "one entry": [line(1, FREE, credit=6), sealed()],
        "a line left out": [line(1, "x", debit=5), line(3, FREE, credit=5), sealed()],
    },
    "(?i)foreign key": {
        "entries that nothing seals": [line(1, "x", debit=5), line(2, FREE, credit=5)],
    },
    "entries belong to the next journal only": {
        "a number left out": [line(1, "x", debit=5, seq=9)],
        "an entry added later": [line(3, FREE, credit=5, seq=7)],
        "an entry upserted": [
            line(1, "x", credit=9, seq=1)
            + " ON CONFLICT (journal_seq, line) DO UPDATE SET credit = 50"
        ],
    },
    "a journal follows the last one": {
        "a wrong previous hash": moved("x", FREE, sealed(prev_hash=f"'{GENESIS}'")),
    },
    "ck_entries_sides": {
        "both sides": [line(1, "x", debit=5, credit=5)],
        "neither side": [line(1, "x")],
        "a negative debit": [line(1, "x", debit=-5)],
    },
    "ck_entries_unit": {"another unit": [line(1, "x", debit=5, unit="won")]},
    "ck_journals_kind": {"another kind": moved("x", FREE, sealed("gift"))},
    "ck_journals_attempt": {"a hold of no attempt": moved(FREE, HELD, sealed("hold"))},
    "ck_journals_reverses": {"a reversal of nothing": moved("x", FREE, sealed("reverse"))},
    "an attempt is held for once": {
        "a second hold": moved(FREE, HELD, sealed("hold", "'j-4'")),
        "a hold after its close": moved(FREE, HELD, sealed("hold", "'j-1'")),
    },
    "nothing else touches it": {
        "a hold that sets nothing aside": moved(FREE, "x", sealed("hold", "'j-5'")),
        "held moved by another verb": moved(HELD, FREE, sealed("grant")),
    },
    "a hold sets aside for its own allocation": {
        "a hold for another's account": moved(FREE, "allocation/b/held", sealed("hold", "'j-5'")),
    },
    "a hold is closed once": {
        "a second settle": moved(HELD, FREE, sealed("settle", "'j-1'")),
        "a void after a void": moved(HELD, FREE, sealed("void", "'j-2'")),
    },
    "a close frees the whole hold of its attempt": {
        "a close without a hold": moved(HELD, FREE, sealed("void", "'j-9'")),
        "a close of a part": moved(HELD, FREE, sealed("void", "'j-4'")),
    },
    "this is posted already": {
        "an id again": moved("x", FREE, sealed(key="hold/j-4")),
    },
    "history is only added to": {
        "an entry updated": ["UPDATE entries SET credit = 50 WHERE journal_seq = 1 AND line = 2"],
        "an entry deleted": ["DELETE FROM entries WHERE journal_seq = 7"],
        "a journal updated": ["UPDATE journals SET at_ms = 0"],
        "a journal deleted": ["DELETE FROM journals WHERE seq = 7"],
        "an account deleted": ["DELETE FROM accounts"],
    },
    "a balance changes by an entry only": {
        "a balance raised": ["UPDATE accounts SET balance = balance + 1"],
        "an entry counted twice": [
            "UPDATE accounts SET balance = balance + 100, last_seq = 1, last_line = 2",
        ],
        "an account renamed": [f"UPDATE accounts SET account = 'x' WHERE account = '{FREE}'"],
    },
    "an account starts at zero, once": {
        "an account with a gift": [f"INSERT INTO accounts VALUES ('{FREE}', 'ucredit', 9, 0, 0)"],
    },
}
SQLITE = {
    "entries belong to the next journal only": {
        "an entry replaced": [replacing(line(1, FREE, credit=5, seq=7))],
    },
    "this line is written already": {
        "an unsealed entry replaced": [
            line(1, "x", debit=5),
            replacing(line(1, "x", debit=6)),
        ],
    },
    "ck_entries_integers": {
        "a float": [line(1, "x", debit=0.5)],
        "a text": [line(1, "x", debit="'five'")],
        "an integer that overflows": [line(1, "x", debit=2**63)],
    },
    "ck_accounts_integers": {
        "a sum that overflows": [line(1, "x", credit=2**63 - 1), line(2, "x", credit=1)],
    },
    "this is posted already": {
        "an id replaced": moved("x", FREE, replacing(sealed(key="hold/j-4"))),
    },
    "an account starts at zero, once": {
        "an account replaced": [
            f"INSERT OR REPLACE INTO accounts VALUES ('{FREE}', 'gpu_ms', 0, 0, 0)"
        ],
    },
    "ledger: ": {"a journal replaced": [replacing(sealed(seq=7))]},
}
GIFT = f"INSERT INTO accounts VALUES ('{FREE}', 'gpu_ms', 0, 0, 0)"
POSTGRESQL = {
    "this line is written already": {
        "an unsealed entry upserted": [
            line(1, "x", debit=5),
            line(1, "x", debit=6) + " ON CONFLICT (journal_seq, line) DO UPDATE SET debit = 6",
        ],
    },
    "invalid input syntax": {"a text": [line(1, "x", debit="'five'")]},
    "out of range": {
        "an integer that overflows": [line(1, "x", debit=2**63)],
        "a sum that overflows": [line(1, "x", credit=2**63 - 1), line(2, "x", credit=1)],
    },
    "an account starts at zero, once": {
        "an account upserted": [
            f"{GIFT} ON CONFLICT (account, unit) DO UPDATE SET balance = 9",
        ],
    },
    "history is only added to": {
        "all entries truncated": ["TRUNCATE entries"],
        "the whole book truncated": ["TRUNCATE entries, journals, accounts"],
        "the accounts truncated": ["TRUNCATE accounts CASCADE"],
    },
}


def attacks_on(kind, attacks, *marks):
    return [
        pytest.param(kind, refusal, statements, id=f"{kind}-{name}", marks=marks)
        for refusal, named in attacks.items()
        for name, statements in named.items()
    ]


@pytest.mark.parametrize(
    ("kind", "refusal", "statements"),
    [
        *attacks_on("sqlite", SHARED),
        *attacks_on("sqlite", SQLITE),
        *attacks_on("postgresql", SHARED, pytest.mark.engine),
        *attacks_on("postgresql", POSTGRESQL, pytest.mark.engine),
    ],
)
def test_the_database_refuses(database, refusal, statements):
    with database.write() as connection:
        fill(connection)
    with database.read() as connection:
        before = book.audit(connection)

    with pytest.raises(DatabaseError, match=refusal):
        run(database, statements)

    with database.read() as connection:
        assert book.audit(connection) == before
        assert before.intact


def test_the_database_takes_what_is_right(database):
    """The attacks fail for what is wrong with them, not for how they are written."""
    with database.write() as connection:
        fill(connection)

    run(database, moved("x", FREE, sealed()))

    with database.read() as connection:
        assert book.balance(connection, "a", GPU_MS).available == 98
        assert "hash-mismatch" in {found.code for found in book.audit(connection).findings}


def test_no_guards_no_book():
    class Elsewhere:
        class dialect:  # noqa: N801 - stands for SQLAlchemy's attribute
            name = "mysql"

    with pytest.raises(NotImplementedError, match="mysql"):
        schema.create_ledger_guards(Elsewhere())


def test_guards_may_be_created_again(database):
    with database.write() as connection:
        schema.create_ledger_guards(connection)
        fill(connection)


# ---- what the audit finds, once the guards are gone ----------------------------------------------

COLUMNS = [
    *(("journals", column.name) for column in schema.journals.columns),
    *(("entries", column.name) for column in schema.entries.columns),
    ("accounts", "balance"),
]


def without_guards(database, statement):
    """As whoever owns the database can: no triggers, no checks, no foreign keys."""
    if database.is_shared:
        return without_postgresql_guards(database, statement)
    raw = database.engine.raw_connection()
    try:
        raw.execute("PRAGMA query_only = OFF")
        raw.execute("PRAGMA foreign_keys = OFF")
        raw.execute("PRAGMA ignore_check_constraints = ON")
        triggers = raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute(statement)
        raw.commit()
    finally:
        raw.invalidate()


def without_postgresql_guards(database, statement):
    with database.write() as connection:
        connection.exec_driver_sql("SET session_replication_role = replica")
        checks = connection.exec_driver_sql(
            "SELECT conrelid::regclass, conname FROM pg_constraint"
            " WHERE contype = 'c' AND connamespace = 'public'::regnamespace"
        )
        for table, name in checks.all():
            connection.exec_driver_sql(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
        connection.exec_driver_sql(statement)
        connection.exec_driver_sql("SET session_replication_role = origin")


def findings(database):
    with database.read() as connection:
        return {finding.code for finding in book.audit(connection).findings}


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_a_tampered_row_is_found(database, table, column):
    with database.write() as connection:
        fill(connection)
    row = {
        "journals": "seq = 3",
        "entries": "journal_seq = 3 AND line = 2",
        "accounts": f"account = '{FREE}'",
    }
    texts = {"id", "kind", "allocation_id", "attempt_id", "memo", "prev_hash", "hash", "account"}
    value = "'other'" if column in texts | {"unit"} else "77"

    without_guards(database, f"UPDATE {table} SET {column} = {value} WHERE {row[table]}")

    assert findings(database)


@pytest.mark.parametrize("seq", range(1, 8))
@pytest.mark.parametrize("table", ["journals", "entries"])
def test_a_deleted_row_is_found(database, table, seq):
    with database.write() as connection:
        fill(connection)
    key = "seq" if table == "journals" else "journal_seq"

    without_guards(database, f"DELETE FROM {table} WHERE {key} = {seq}")

    assert findings(database)


def test_two_journals_exchanged_are_found(database):
    with database.write() as connection:
        fill(connection)

    without_guards(
        database,
        "UPDATE entries SET journal_seq = CASE journal_seq WHEN 2 THEN -4 ELSE -2 END"
        " WHERE journal_seq IN (2, 4)",
    )
    without_guards(database, "UPDATE entries SET journal_seq = -journal_seq WHERE journal_seq < 0")

    assert {"hash-mismatch", "entries-mismatch"} <= findings(database)


@pytest.mark.parametrize("memo", ["{", "null", '{"x": 0.5}', "[" * 100_000])
def test_a_memo_that_cannot_be_read_is_found(database, memo):
    with database.write() as connection:
        fill(connection)

    without_guards(database, f"UPDATE journals SET memo = '{memo}' WHERE seq = 7")

    assert "unreadable" in findings(database)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_memo_that_is_no_text_is_found(database):
    with database.write() as connection:
        fill(connection)

    without_guards(database, "UPDATE journals SET memo = x'00' WHERE seq = 7")

    assert "unreadable" in findings(database)


def test_a_sealed_journal_of_another_book_does_not_fit(database):
    with database.write() as connection:
        fill(connection)
        stray = seal(ledger.grant("b", GPU_MS, 5), 8, 0, GENESIS)
        with pytest.raises(IntegrityError, match="follows the last one"):
            book._write(connection, stray)
        connection.rollback()


# ---- random lives of a book ----------------------------------------------------------------------


def in_memory() -> Engine:
    engine = create_engine("sqlite://")

    @event.listens_for(engine, "connect")
    def _settings(connection, _record):
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@dataclasses.dataclass
class Standing:
    """The model of one allocation."""

    limit: int = 0
    held: int = 0
    spent: int = 0

    @property
    def available(self):
        return self.limit - self.held - self.spent


class BookMachine(RuleBasedStateMachine):
    """Any sequence of verbs, against a model of four numbers an allocation."""

    held = Bundle("held")
    reversible = Bundle("reversible")

    def empty_book(self):
        engine = in_memory()
        with engine.begin() as connection:
            metadata.create_all(connection, tables=TABLES)
        return engine

    @initialize()
    def open(self):
        self.engine = self.empty_book()
        self.model = {"a": Standing(), "b": Standing()}
        self.absorbed = 0
        self.used = 0
        self.count = 0

    def post(self, draft):
        with self.engine.begin() as connection:
            return book.post(connection, draft, self.count)

    def number(self):
        self.count += 1
        return self.count

    @rule(target=reversible, allocation_id=st.sampled_from("ab"), amount=st.integers(1, 1_000))
    def grant(self, allocation_id, amount):
        posted = self.post(ledger.grant(allocation_id, GPU_MS, amount, f"t-{self.number()}"))
        self.model[allocation_id].limit += amount
        return posted

    @rule(target=held, allocation_id=st.sampled_from("ab"), gpu_ms=st.integers(1, 600))
    def hold(self, allocation_id, gpu_ms):
        draft = ledger.hold(allocation_id, GPU_MS, f"j-{self.number()}", gpu_ms)
        standing = self.model[allocation_id]
        if gpu_ms > standing.available:
            with pytest.raises(RefusedError):
                self.post(draft)
            return multiple()
        standing.held += gpu_ms
        return ledger.hold_of(self.post(draft))

    @rule(target=reversible, opened=consumes(held), part=st.integers(0, 4), charged=st.booleans())
    def settle(self, opened, part, charged):
        gpu_ms = opened.gpu_ms * part // 4
        posted = self.post(ledger.settle(opened, bill(gpu_ms, charged=charged)))
        standing = self.model[opened.allocation_id]
        standing.held -= opened.amount
        if not charged:
            self.absorbed += gpu_ms
            return multiple()
        standing.spent += gpu_ms
        self.used += gpu_ms
        return posted if gpu_ms else multiple()

    @rule(opened=consumes(held))
    def void(self, opened):
        self.post(ledger.void(opened, "cancelled"))
        self.model[opened.allocation_id].held -= opened.amount

    @rule(journal=consumes(reversible))
    def reverse(self, journal):
        draft, standing = ledger.reverse(journal, "wrong"), self.model[journal.allocation_id]
        memo = dict(journal.memo)
        if journal.kind == "settle":
            standing.spent -= memo["charge"]
            self.used -= memo["gpu_ms"]
            self.absorbed += memo["gpu_ms"]
        elif memo["amount"] > standing.available:
            with pytest.raises(RefusedError):
                self.post(draft)
            return
        else:
            standing.limit -= memo["amount"]
        self.post(draft)

    @rule(opened=held)
    def hold_again(self, opened):
        draft = ledger.hold(opened.allocation_id, GPU_MS, opened.attempt_id, 1)
        with pytest.raises((IntegrityError, RefusedError)):
            self.post(draft)

    @invariant()
    def the_book_agrees_with_the_model(self):
        with self.engine.begin() as connection:
            for allocation_id, standing in self.model.items():
                got = book.balance(connection, allocation_id, GPU_MS)
                assert (got.limit, got.held, got.spent, got.available) == (
                    standing.limit,
                    standing.held,
                    standing.spent,
                    standing.available,
                )
                assert got.held + got.spent <= got.limit, "I3"

    def teardown(self):
        with self.engine.begin() as connection:
            result = book.audit(connection)
            if connection.dialect.name == "sqlite":
                assert connection.execute(text("PRAGMA foreign_key_check")).all() == []
        self.engine.dispose()
        assert result.findings == (), "I6"
        assert all(total.debits == total.credits for total in result.totals), "I4"
        balances = {account: amount for account, unit, amount in result.balances}
        assert balances.get("platform/absorbed", 0) == self.absorbed
        assert -balances.get("operator/nhn/metered", 0) == self.used + self.absorbed, "I5"


LIVES = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
BookMachine.TestCase.settings = LIVES
TestBook = BookMachine.TestCase


@pytest.mark.engine
def test_random_lives_of_a_book_on_postgresql(postgres):
    template = postgres.template("book", open_book)

    class OnPostgreSQL(BookMachine):
        def empty_book(self):
            return Database(postgres.url(postgres.create(template))).engine

    run_state_machine_as_test(OnPostgreSQL, settings=settings(LIVES, max_examples=10))
