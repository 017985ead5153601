"""Refusals that stand in the database itself, written once and rendered for each database.

A guard is a row trigger. Its refusals are conditions in SQL, each by the sentence with which a row
is refused that meets it; `{differs}` stands for a comparison to which NULL is a value like others.
Where no condition holds, the guard's own statements run.

References: sqlite.org/lang_createtrigger.html; PostgreSQL 15, chapters 39 (triggers) and 43.10
(trigger functions of PL/pgSQL). PostgreSQL's TRUNCATE fires no row trigger, so that `only_added`
refuses it by a trigger of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Guard:
    """A trigger. `when` is BEFORE or AFTER and a verb: `BEFORE INSERT`."""

    name: str
    table: str
    when: str
    refusals: Mapping[str, str] = field(default_factory=dict)
    then: tuple[str, ...] = ()

    @property
    def removes(self) -> bool:
        """Whether it is about rows that go."""
        return self.when.endswith("DELETE")


def only_added(
    table: str, sentence: str, verbs: Iterable[str] = ("UPDATE", "DELETE")
) -> list[Guard]:
    """Guards by which a table's rows are never changed nor removed."""
    return [
        Guard(f"{table}_no_{verb.lower()}", table, f"BEFORE {verb}", {sentence: "TRUE"})
        for verb in verbs
    ]


def create(connection: Connection, guards: Iterable[Guard]) -> None:
    """Create them; to create them again changes nothing.

    Raises:
        NotImplementedError: on a database whose triggers are not written: no book without guards.
    """
    database = connection.dialect.name
    if database not in _RENDER:
        raise NotImplementedError(f"the guards are not written for {database}")
    for guard in guards:
        for statement in _RENDER[database](guard):
            connection.exec_driver_sql(statement, execution_options={"no_parameters": True})


def _for_sqlite(guard: Guard) -> Iterator[str]:
    steps = [
        f"    SELECT RAISE(ABORT, '{sentence}')\n    WHERE {_condition(condition, 'IS NOT')};"
        for sentence, condition in guard.refusals.items()
    ]
    steps += [f"    {statement};" for statement in guard.then]
    body = "\n".join(steps)
    yield (
        f"CREATE TRIGGER IF NOT EXISTS {guard.name} {guard.when} ON {guard.table} BEGIN\n"
        f"{body}\nEND"
    )


def _for_postgresql(guard: Guard) -> Iterator[str]:
    steps = [
        f"    IF ({_condition(condition, 'IS DISTINCT FROM')}) THEN\n"
        f"        RAISE EXCEPTION USING MESSAGE = '{sentence}',"
        " ERRCODE = 'integrity_constraint_violation';\n"
        "    END IF;"
        for sentence, condition in guard.refusals.items()
    ]
    steps += [f"    {statement};" for statement in guard.then]
    body = "\n".join([*steps, f"    RETURN {'OLD' if guard.removes else 'NEW'};"])
    yield (
        f"CREATE OR REPLACE FUNCTION {guard.name}() RETURNS trigger LANGUAGE plpgsql AS\n"
        f"$guard$ BEGIN\n{body}\nEND $guard$"
    )
    called = f"EXECUTE FUNCTION {guard.name}()"
    yield (
        f"CREATE OR REPLACE TRIGGER {guard.name} {guard.when} ON {guard.table}"
        f" FOR EACH ROW {called}"
    )
    if guard.removes:
        yield (
            f"CREATE OR REPLACE TRIGGER {guard.table}_no_truncate BEFORE TRUNCATE ON {guard.table}"
            f" FOR EACH STATEMENT {called}"
        )


def _condition(text: str, differs: str) -> str:
    return text.strip().replace("{differs}", differs)


_RENDER = {"sqlite": _for_sqlite, "postgresql": _for_postgresql}
