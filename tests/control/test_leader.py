"""Who leads, told by a clock that is passed in, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dure.control.leader import Leader
from dure.store import leadership
from dure.store.database import Database
from dure.store.leadership import DeposedError, Seat
from nation import found
from postgres import Server

LEASE_S = 60.0


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    database = Database(postgres.url(postgres.create(postgres.template("nation", found))))
    yield database
    database.close()


def test_a_leader_with_nothing_to_write_stays_the_leader(database: Database):
    clock = Clock()
    first, second = (Leader(database, name, LEASE_S, clock) for name in ("first", "second"))
    assert first.leads()
    for _ in range(20):
        assert first.leads()
        assert not second.leads()
        clock.now_s += LEASE_S / 4
    first.resign()
    assert second.leads()


def test_a_leader_with_nothing_to_write_learns_that_another_leads(database: Database):
    clock = Clock()
    paused = Leader(database, "paused", LEASE_S, clock)
    assert paused.leads()
    seat = Seat(database)
    assert seat.sit(2)
    with database.write() as connection:
        assert leadership.take(connection, leadership.standing(connection), "another")

    clock.now_s += LEASE_S
    with pytest.raises(DeposedError):
        paused.leads()
    assert not paused.leads()
    with database.read() as connection:
        assert leadership.standing(connection).holder == "another"
    seat.leave()
