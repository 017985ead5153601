"""Every row of a database as lines of JSON, and back, the same for SQLite and PostgreSQL.

The first line is a `Header`, the last one counts the rows between them, so that what was cut off is
noticed. A row is `["table", {column: value}]`; contents of bytes stand in base64. Tables come in
the order in which rows refer to each other; the book comes last, journal by journal, each after its
entries. So it is posted anew, past every guard of the ledger, and what was changed in a backup does
not get in. Balances (`accounts`) are not written: the guards make them from the entries.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final

from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, LargeBinary, MetaData, Table, insert, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from dure.errors import RefusedError
from dure.store import postgresql
from dure.store.database import Database
from dure.store.leadership import leadership
from dure.store.ledger_schema import accounts, entries, journals
from dure.store.metadata import metadata
from dure.store.migrate import alembic_config, migrate

FORMAT: Final = 1
PAGE: Final = 500
_BOOK: Final = {accounts.name, entries.name, journals.name}
_NOT_KEPT: Final = {leadership.name}
"""Who leads is of the processes that run now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a dump is of. `head_seq` and `head_hash`: the last journal, an anchor for the audit."""

    format: int
    schema: str
    at_ms: int
    head_seq: int
    head_hash: str


def header(connection: Connection, at_ms: int) -> Header:
    """Of the database as it is now.

    Raises:
        RefusedError: `older-database`: it is not at the present schema.
    """
    schema = MigrationContext.configure(connection).get_current_revision()
    present = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if schema is None or schema != present:
        raise RefusedError(
            "older-database",
            f"The database is at schema {schema}, and this version of Dure is of {present}; "
            "use the version that wrote it, or start this one once.",
        )
    query = select(journals.c.seq, journals.c.hash).order_by(journals.c.seq.desc()).limit(1)
    head = connection.execute(query).one_or_none()
    return Header(
        format=FORMAT,
        schema=schema,
        at_ms=at_ms,
        head_seq=head.seq if head else 0,
        head_hash=head.hash if head else "",
    )


def dump(connection: Connection, said: Header) -> Iterator[str]:
    """The lines of a snapshot."""
    yield json.dumps(asdict(said))
    count = 0
    for table, row in _rows(connection):
        yield json.dumps([table.name, _plain(table, row)], ensure_ascii=False)
        count += 1
    yield json.dumps({"rows": count})


def _rows(connection: Connection) -> Iterator[tuple[Table, dict[str, Any]]]:
    for table in metadata.sorted_tables:
        if table.name not in _BOOK | _NOT_KEPT:
            query = select(table).order_by(*table.primary_key)
            found = connection.execute(query, execution_options={"yield_per": PAGE}).mappings()
            yield from ((table, dict(row)) for row in found)
    after_seq, more = 0, True
    while more:
        page = select(journals).where(journals.c.seq > after_seq).order_by(journals.c.seq)
        sealed = connection.execute(page.limit(PAGE)).mappings().all()
        if more := bool(sealed):
            yield from _book(connection, [dict(row) for row in sealed])
            after_seq = sealed[-1]["seq"]


def _book(
    connection: Connection, sealed: list[dict[str, Any]]
) -> Iterator[tuple[Table, dict[str, Any]]]:
    query = (
        select(entries)
        .where(entries.c.journal_seq.between(sealed[0]["seq"], sealed[-1]["seq"]))
        .order_by(entries.c.journal_seq, entries.c.line)
    )
    lines: dict[int, list[dict[str, Any]]] = {}
    for row in connection.execute(query).mappings():
        lines.setdefault(row["journal_seq"], []).append(dict(row))
    for journal in sealed:
        yield from ((entries, line) for line in lines.get(journal["seq"], []))
        yield journals, journal


def _plain(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    for column in table.columns:
        if isinstance(column.type, LargeBinary) and row[column.name] is not None:
            row[column.name] = base64.b64encode(row[column.name]).decode()
    return row


def load(database: Database, lines: Iterable[str]) -> Header:
    """Fill an empty database with a dump, whole or not at all, and bring it to the present schema.

    Raises:
        RefusedError: `database-not-empty`; `bad-backup`: it was cut off, or changed so that the
            database refuses it; `newer-database`: it was written by a newer Dure.
    """
    found = iter(lines)
    said = _header(next(found, ""))
    with database.write() as connection:
        if inspect(connection).get_table_names():
            raise RefusedError(
                "database-not-empty",
                f"{database.name} has tables in it; name an empty one.",
            )
        if database.is_shared:
            postgresql.require_fit(connection)
            postgresql.take_time(connection)
        _create(connection, said.schema)
        try:
            _fill(connection, found)
        except (SQLAlchemyError, ValueError, LookupError, TypeError) as error:
            raise _bad(str(getattr(error, "orig", error)).splitlines()[0]) from None
        if database.is_shared:
            _count_on(connection)
    migrate(database)
    return said


def _header(line: str) -> Header:
    try:
        said = Header(**json.loads(line))
    except (ValueError, TypeError):
        raise _bad("its first line is not that of a backup") from None
    known = ScriptDirectory.from_config(alembic_config()).walk_revisions()
    if said.format != FORMAT or said.schema not in {script.revision for script in known}:
        raise RefusedError(
            "newer-database",
            f"The backup is of schema {said.schema}, which this version of Dure does not know; "
            "use the newer version.",
        )
    return said


def _bad(why: str) -> RefusedError:
    return RefusedError("bad-backup", f"The backup cannot be restored: {why}.")


def _create(connection: Connection, schema: str) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, schema)


def _fill(connection: Connection, lines: Iterator[str]) -> None:
    """Insert the rows into the tables as they were when the dump was made."""
    tables = MetaData()
    tables.reflect(connection)
    count, said = 0, None

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        nonlocal count, said
        for line in lines:
            one = json.loads(line)
            if isinstance(one, dict):
                said = one["rows"]
                return
            count += 1
            yield one[0], one[1]

    for name, some in groupby(rows(), key=lambda row: row[0]):
        table = tables.tables[name]
        binary = [one.name for one in table.columns if isinstance(one.type, LargeBinary)]
        for batch in _batches(_read(row, binary) for _, row in some):
            connection.execute(insert(table), batch)
    if said != count:
        raise ValueError(f"it was cut off after {count:,} rows")


def _read(row: dict[str, Any], binary: list[str]) -> dict[str, Any]:
    for name in binary:
        if row[name] is not None:
            row[name] = base64.b64decode(row[name])
    return row


def _batches(rows: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for row in rows:
        batch.append(row)
        if len(batch) == PAGE:
            yield batch
            batch = []
    if batch:
        yield batch


def _count_on(connection: Connection) -> None:
    """Let PostgreSQL number new rows after those that came with their numbers."""
    owned = connection.exec_driver_sql(
        "SELECT c.relname, a.attname, pg_get_serial_sequence(quote_ident(c.relname), a.attname) s"
        " FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid"
        " WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0"
        " AND NOT a.attisdropped"
        " AND pg_get_serial_sequence(quote_ident(c.relname), a.attname) IS NOT NULL"
    ).all()
    for table, column, sequence in owned:
        connection.exec_driver_sql(
            f"SELECT setval('{sequence}', (SELECT max({column}) FROM {table}))"  # noqa: S608 (our own names)
        )
