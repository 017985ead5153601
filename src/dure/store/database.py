"""Where transactions begin: one database, many readers, one writer at a time.

`write()` waits until nobody else writes before its first statement, so that what a transaction has
read cannot change under it; `read()` sees one consistent snapshot. A commit is on disk before it
returns: an accepted job survives a power cut. SQLite (`sqlite`) and PostgreSQL (`postgresql`) keep
these promises each by its own means (ADR 0003, ADR 0019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Self

from sqlalchemy import URL, Connection, Engine

from dure.store import postgresql, sqlite
from dure.store.limits import Limits

Turn = Callable[[], AbstractContextManager[None]]
"""What a writer of this process waits in before it asks the database itself."""


class Database:
    """An open database. `name` is what it may be called in messages: no password in it."""

    def __init__(self, where: Path | URL, limits: Limits | None = None) -> None:
        if isinstance(where, Path):
            self.name = str(where)
            limits = limits or Limits()
            self.engine = sqlite.engine(where, limits)
            self._turn: Turn = sqlite.Turns(limits.wait_s).one
        else:
            self.name = where.render_as_string(hide_password=True)
            self.engine = postgresql.engine(where, limits or Limits())
            self._turn = nullcontext
        self._first: Callable[[Connection], None] | None = None

    @property
    def is_shared(self) -> bool:
        """Whether several processes may use it at the same time."""
        return self.engine.dialect.name == postgresql.NAME

    def fenced(self, first: Callable[[Connection], None]) -> Self:
        """The same database, whose every writing transaction begins with `first`."""
        made = object.__new__(type(self))
        made.name, made.engine, made._turn = self.name, self.engine, self._turn
        made._first = first
        return made

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction that may write: committed at the end, rolled back on any exception."""
        with self._turn(), _begun(self.engine, writes=True) as connection:
            if self._first is not None:
                self._first(connection)
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """One snapshot; what would be written in it is refused."""
        with _begun(self.engine, writes=False) as connection:
            yield connection

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()


@contextmanager
def _begun(engine: Engine, *, writes: bool) -> Iterator[Connection]:
    options = (postgresql if engine.dialect.name == postgresql.NAME else sqlite).options(writes)
    with engine.connect().execution_options(**options) as connection, connection.begin():
        yield connection
