"""Pages of jobs at 1,000,000 jobs: our cursor against OFFSET, in the same database and run.

    .venv/bin/python benchmarks/pages.py [JOBS]

Prints the median of 50 pages of 50 jobs, at three depths, for an officer (all projects), a member
of one project of 1,000 and a member who looks for the few jobs that run.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, insert, select

from dure.life import State
from dure.store import jobs as store
from dure.store.database import Database
from dure.store.migrate import migrate
from dure.store.schema import allocations, jobs, organisations, people, projects

PROJECTS = 1_000
PAGE = 50
ROUNDS = 50


def fill(connection: Connection, count: int) -> None:
    """Jobs of all projects in turn; one in 1,000 runs, the others have ended."""
    names = [f"p-{n:04d}" for n in range(PROJECTS)]
    connection.execute(insert(people).values(id="kim", name="kim", created_ms=0))
    connection.execute(insert(organisations).values(id="o", name="o", kind="university"))
    connection.execute(
        insert(projects), [{"id": n, "organisation": "o", "title": n} for n in names]
    )
    hours = {"kind": "hours", "starts_ms": 0, "ends_ms": 1, "credit_ucredit": 1, "subsidy_milli": 0}
    connection.execute(insert(allocations), [{"id": n, "project": n, **hours} for n in names])
    dice = random.Random(1)  # noqa: S311  a benchmark's data
    for start in range(0, count, 10_000):
        rows = []
        for n in range(start, min(count, start + 10_000)):
            name = dice.choice(names)
            state = State.RUNNING if n % 1_000 == 0 else State.SUCCEEDED
            rows.append(
                {"project": name, "allocation": name, "submitter": "kim", "name": f"job {n}",
                 "spec": "{}", "state": state, "tasks": 1, "accepted_ms": n}
            )  # fmt: skip
        connection.execute(insert(jobs), rows)


def median_ms(look: Callable[[], object]) -> float:
    """The median time of ROUNDS looks."""
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        look()
        times.append((time.perf_counter() - began) * 1_000)
    return statistics.median(times)


def by_cursor(
    connection: Connection, project: str | None, state: State | None, before: int | None
) -> object:
    """A page as the API reads it."""
    of_projects = None if project is None else [project]
    return store.page(connection, of_projects=of_projects, state=state, before=before, limit=PAGE)


def by_offset(
    connection: Connection, project: str | None, state: State | None, skip: int
) -> object:
    """The same page as most portals read it."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(PAGE).offset(skip)
    if project is not None:
        query = query.where(jobs.c.project == project)
    if state is not None:
        query = query.where(jobs.c.state == state)
    return connection.execute(query).all()


def main() -> None:
    """Fill, measure, print."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        database = Database(Path(folder) / "dure.sqlite")
        migrate(database)
        with database.write() as connection:
            fill(connection, count)
        print(f"{count:,} jobs of {PROJECTS:,} projects, pages of {PAGE}, median of {ROUNDS}")
        print(f"{'who':<26}{'depth':>10}{'cursor ms':>12}{'offset ms':>12}{'ratio':>8}")
        with database.read() as connection:
            for who, project, state, total in (
                ("officer", None, None, count),
                ("member", "p-0500", None, count // PROJECTS),
                ("officer, running", None, State.RUNNING, count // 1_000),
            ):
                for depth in (0, total // 2, total - 2 * PAGE):
                    before = _job_at(connection, project, state, depth)
                    cursor = median_ms(lambda: by_cursor(connection, project, state, before))  # noqa: B023
                    offset = median_ms(lambda: by_offset(connection, project, state, depth))  # noqa: B023
                    times = f"{cursor:>12.2f}{offset:>12.2f}{offset / cursor:>8.1f}"
                    print(f"{who:<26}{depth:>10,}{times}")
        database.close()


def _job_at(
    connection: Connection, project: str | None, state: State | None, depth: int
) -> int | None:
    if depth <= 0:
        return None
    query = select(jobs.c.id).order_by(jobs.c.id.desc()).limit(1).offset(depth)
    if project is not None:
        query = query.where(jobs.c.project == project)
    if state is not None:
        query = query.where(jobs.c.state == state)
    return connection.scalar(query)


if __name__ == "__main__":
    main()
