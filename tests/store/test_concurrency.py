"""However many ask at once, an allocation is never overspent (I3), and the book stays one chain."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy.exc import DBAPIError

from bookkeeping import GPU_MS, grant, hold, open_book
from dure.errors import RefusedError
from dure.store import ledger as book
from dure.store.database import Database
from dure.store.limits import Limits

ASKING = 64
WORTH = 50
ROUNDS = 3
"""`benchmarks/holds.py` goes 200 rounds."""


def all_at_once(act: Callable[[int], str]) -> Counter[str]:
    """What each of the threads came to."""
    outcomes: list[str] = []
    together = threading.Barrier(ASKING)

    def run(number: int) -> None:
        together.wait()
        outcomes.append(act(number))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(ASKING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Counter(outcomes)


def assert_held(database: Database, allocation: str, held: int) -> None:
    with database.read() as connection:
        assert book.balance(connection, allocation, GPU_MS).held == held
        assert book.audit(connection).intact


def test_exactly_as_many_hold_as_there_is_for(database: Database):
    for round_ in range(ROUNDS):
        allocation = f"a{round_}"
        with database.write() as connection:
            grant(connection, WORTH, allocation)

        def ask(number: int, allocation: str = allocation) -> str:
            try:
                with database.write() as connection:
                    hold(connection, f"j-{allocation}-{number}", 1, allocation)
            except RefusedError as refused:
                return refused.reason.code
            return "held"

        assert all_at_once(ask) == {"held": WORTH, "allocation-exhausted": ASKING - WORTH}
        assert_held(database, allocation, WORTH)


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["postgresql"])
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_who_goes_round_the_writers_lock_is_refused_by_the_book(database: Database, isolation: str):
    """The lock keeps order; that nothing is overspent and no chain forks is the tables' own."""
    with database.write() as connection:
        grant(connection, WORTH)

    def ask(number: int) -> str:
        try:
            with (
                database.engine.connect().execution_options(
                    isolation_level=isolation
                ) as connection,
                connection.begin(),
            ):
                hold(connection, f"j-{number}", 1)
        except (RefusedError, DBAPIError):
            return "refused"
        return "held"

    outcomes = all_at_once(ask)

    assert 1 <= outcomes["held"] <= WORTH
    assert_held(database, "a", outcomes["held"])


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.engine)])
def test_what_a_writer_has_read_does_not_change_under_it(database: Database):
    """Read, wait for the other to ask, write what was read plus one: nothing is lost."""

    def ask(number: int) -> str:
        with database.write() as connection:
            seen = connection.exec_driver_sql("SELECT count(*) FROM journals").scalar_one()
            grant(connection, 1, "a", f"after-{seen}")
        return "granted"

    assert all_at_once(ask) == {"granted": ASKING}
    with database.read() as connection:
        ids = [journal.id for journal in book.journals(connection)]
    assert ids == [f"grant/a/after-{seen}" for seen in range(ASKING)]


def test_a_reader_sees_one_instant(database: Database):
    with database.write() as connection:
        grant(connection)
    with database.read() as reader:
        before = book.balance(reader, "a", GPU_MS)
        with database.write() as connection:
            hold(connection, "j-1", 40)
        assert book.balance(reader, "a", GPU_MS) == before
    assert_held(database, "a", 40)


def test_a_reader_writes_nothing(database: Database):
    with pytest.raises(DBAPIError, match=r"read-?only"), database.read() as connection:
        grant(connection)
    assert_held(database, "a", 0)


@pytest.mark.engine
def test_a_writer_that_falls_silent_is_ended_and_the_others_go_on(postgres):
    fresh = postgres.create(postgres.template("book", open_book))
    where = postgres.url(fresh)
    paused, other = Database(where, Limits(idle_s=0.2)), Database(where)
    with pytest.raises(DBAPIError) as ended, paused.write() as silent:  # noqa: PT012 (how it ends)
        grant(silent)
        with other.write() as connection:  # waits until the server ends the silent one
            grant(connection, 7, "b")
        hold(silent, "j-1", 1)
    assert ended.value.connection_invalidated
    assert_held(other, "a", 0)
    with paused.read() as connection:
        assert book.balance(connection, "b", GPU_MS).available == 7
    paused.close()
    other.close()


@pytest.mark.engine
def test_who_waits_too_long_for_the_others_is_told_so(postgres):
    where = postgres.url(postgres.create())
    busy, hurried = Database(where), Database(where, Limits(wait_s=0.1))
    with busy.write(), pytest.raises(DBAPIError, match="lock timeout"), hurried.write():
        pass
    busy.close()
    hurried.close()
