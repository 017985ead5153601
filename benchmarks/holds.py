"""64 at once ask an allocation worth 50 for one each, round after round: overspent, and holds/s.

    .venv/bin/python benchmarks/holds.py DATABASE [ROUNDS]

DATABASE is the path of a new SQLite file, or the address of an empty PostgreSQL database. Exit code
1 where any round held more, or fewer, than there was.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dure import ledger
from dure.allocations import BudgetUnit
from dure.errors import RefusedError
from dure.store import ledger as book
from dure.store import postgresql
from dure.store.database import Database
from dure.store.migrate import migrate

ASKING, WORTH = 64, 50
UNIT = BudgetUnit.GPU_MS


def ask(database: Database, allocation: str, number: int) -> bool:
    """Whether it got one."""
    try:
        with database.write() as connection:
            draft = ledger.hold(allocation, UNIT, f"{allocation}-{number}", 1)
            book.post(connection, draft, 0)
    except RefusedError:
        return False
    return True


def main(where: str, rounds: int) -> int:
    """Go the rounds; the exit code."""
    database = Database(postgresql.url(where) if ":" in where else Path(where))
    migrate(database)
    wrong, began_s = 0, time.monotonic()
    with ThreadPoolExecutor(ASKING) as threads:
        for number in range(rounds):
            allocation = f"a{number}"
            with database.write() as connection:
                book.post(connection, ledger.grant(allocation, UNIT, WORTH), 0)
            got = list(threads.map(lambda n, a=allocation: ask(database, a, n), range(ASKING)))
            with database.read() as connection:
                held = book.balance(connection, allocation, UNIT).held
            wrong += not sum(got) == held == WORTH
    took_s = time.monotonic() - began_s
    with database.read() as connection:
        intact = book.audit(connection).intact
    asked = rounds * ASKING
    print(f"{database.engine.dialect.name}: {rounds} rounds, {asked:,} asked in {took_s:.1f} s")
    print(f"{asked / took_s:,.0f} answers/s; wrong rounds: {wrong}; book intact: {intact}")
    database.close()
    return int(wrong > 0 or not intact)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200))
