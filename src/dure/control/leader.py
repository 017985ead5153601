"""One process's part in who leads: it takes over where nobody does, and notices when it is deposed.

No clock is compared with another's. A challenger watches the leader's count of transactions with
its own steady clock, and takes over when the count has stood still for a lease, or at once where
the leader has resigned or its session with the database has ended.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog
from sqlalchemy import Connection

from dure.store import leadership
from dure.store.database import Database
from dure.store.leadership import DeposedError, Seat, Standing

_LOG = structlog.get_logger("dure.control")


class Leader:
    """For one thread: the control loop's. What it writes, it writes through `database`."""

    def __init__(
        self, database: Database, holder: str, lease_s: float, steady_s: Callable[[], float]
    ) -> None:
        self.database = database.fenced(self._beat)
        """Each of its writing transactions first makes sure that the term is not over."""
        self._plain = database
        self._holder = holder
        self._lease_s = lease_s
        self._steady_s = steady_s
        self._seat = Seat(database)
        self._term: int | None = None
        self._seen: Standing | None = None
        self._seen_s = 0.0
        self._beaten_s = 0.0

    def leads(self) -> bool:
        """Whether this process leads, or does so from now on.

        Raises:
            DeposedError: it led until now, and another does.
        """
        if self._term is not None:
            self._seat.keep(self._term)
            self._beat_in_silence()
            return True
        with self._plain.read() as connection:
            standing = leadership.standing(connection)
        return self._is_vacant(standing) and self._take_over(standing)

    def resign(self) -> None:
        """Let another take over at once: this process ends."""
        if self._term is not None:
            with self._plain.write() as connection:
                leadership.resign(connection, self._term)
        self._step_down()

    def _is_vacant(self, standing: Standing) -> bool:
        if standing.holder is None or self._seat.is_empty(standing.term):
            return True
        if standing != self._seen:
            self._seen, self._seen_s = standing, self._steady_s()
        return self._steady_s() - self._seen_s >= self._lease_s

    def _take_over(self, standing: Standing) -> bool:
        term = standing.term + 1
        # Seated before the term begins: else others would find its seat empty.
        if not self._seat.sit(term):
            return False
        with self._plain.write() as connection:
            taken = leadership.take(connection, standing, self._holder)
        if not taken:
            self._seat.leave()
            return False
        self._term = term
        _LOG.info("leads", term=term, after=standing.holder)
        return True

    def _beat_in_silence(self) -> None:
        """A leader with nothing to write beats all the same: else it would look dead, and not learn
        that another leads.
        """
        if self._plain.is_shared and self._steady_s() - self._beaten_s >= self._lease_s / 4:
            with self.database.write():
                pass

    def _beat(self, connection: Connection) -> None:
        if self._term is None:
            raise DeposedError("this process does not lead")
        try:
            leadership.beat(connection, self._term)
        except DeposedError:
            self._step_down()
            raise
        self._beaten_s = self._steady_s()

    def _step_down(self) -> None:
        self._term = self._seen = None
        self._seat.leave()
