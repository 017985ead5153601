"""Which process leads: the control loop of one alone decides, however many answer the API.

One row counts terms and, within a term, the leader's writing transactions. A leader begins each of
them with `beat`, which fails once another has begun a new term: the term is a fencing token, and
whoever was paused and wakes changes nothing. Writers come one at a time, so the term cannot change
under a transaction that has beaten.

A leader's `Seat` is a session of its own that holds a lock on its term. Where the server finds that
session gone, others need not wait for the term to fall silent. It is a hint, and no more: a lock
alone does not keep a paused leader from writing (see Kleppmann, How to do distributed locking,
2016).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import CheckConstraint, Column, Connection, String, Table, select, update
from sqlalchemy.exc import DBAPIError

from dure.store.database import Database
from dure.store.metadata import Int64, metadata
from dure.store.postgresql import LOCKS

leadership: Final = Table(
    "leadership",
    metadata,
    Column("id", Int64, primary_key=True, autoincrement=False),
    Column("term", Int64, nullable=False),
    Column("beats", Int64, nullable=False),
    Column("holder", String),
    CheckConstraint("id = 1", name="single"),
    comment="one row: who leads, in which term, and how often it has written in it",
)


class DeposedError(Exception):
    """Another process leads now; the transaction has changed nothing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The row as it was read. `holder` None: nobody leads, or the leader has resigned."""

    term: int
    beats: int
    holder: str | None


def standing(connection: Connection) -> Standing:
    """Who leads, as far as was written."""
    row = connection.execute(select(leadership)).one()
    return Standing(row.term, row.beats, row.holder)


def take(connection: Connection, seen: Standing, holder: str) -> bool:
    """Begin the next term; False where the leader has beaten, or another was faster."""
    done = connection.execute(
        update(leadership)
        .where(leadership.c.term == seen.term, leadership.c.beats == seen.beats)
        .values(term=seen.term + 1, beats=0, holder=holder)
    )
    return done.rowcount == 1


def beat(connection: Connection, term: int) -> None:
    """Begin a leader's transaction.

    Raises:
        DeposedError: the term is over.
    """
    done = connection.execute(
        update(leadership)
        .where(leadership.c.term == term, leadership.c.holder.is_not(None))
        .values(beats=leadership.c.beats + 1)
    )
    if done.rowcount != 1:
        raise DeposedError(f"term {term} is over")


def resign(connection: Connection, term: int) -> None:
    """End a term, so that the next can begin at once; nothing where it is over already."""
    connection.execute(update(leadership).where(leadership.c.term == term).values(holder=None))


class Seat:
    """The session whose end shows at once that a leader is gone.

    In SQLite, where the data folder's lock keeps other processes out, every seat is empty.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._session: Connection | None = None

    def is_empty(self, term: int) -> bool:
        """Whether no living session holds that term."""
        if not self._database.is_shared:
            return True
        with self._database.engine.connect() as connection:
            return bool(
                connection.exec_driver_sql(
                    f"SELECT pg_try_advisory_xact_lock({LOCKS}, {term})"
                ).scalar_one()
            )

    def sit(self, term: int) -> bool:
        """Hold a term until `leave`, or until this process or its connection ends; False where
        another has its hand on it.
        """
        self.leave()
        if not self._database.is_shared:
            return True
        session = self._database.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        session.detach()  # it must end with its lock, not go back to the pool with it
        self._session = session
        lock = f"SELECT pg_try_advisory_lock({LOCKS}, {term})"
        if not session.exec_driver_sql(lock).scalar_one():
            self.leave()
        return self._session is not None

    def keep(self, term: int) -> None:
        """Sit again where the session was lost: the server was restarted, say."""
        try:
            if self._session is not None:
                self._session.exec_driver_sql("SELECT 1")
                return
        except DBAPIError:
            pass
        self.sit(term)

    def leave(self) -> None:
        """End the session, if there is one."""
        if self._session is not None:
            self._session.close()
            self._session = None
