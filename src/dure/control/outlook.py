"""When what waits will start: foreseen every so often for the heads of the queue, and kept, so that
whoever asks has only to read.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from dure.control.snapshot import Moment
from dure.scheduling import foreseen_starts
from dure.scheduling.world import Plan, Request, World
from dure.store import starts
from dure.store.database import Database
from dure.store.starts import Foreseen
from dure.units import MS_PER_S

HEADS_MAX: Final = 200
"""Of so many jobs the first task that waits is looked for: those further back would start too far
ahead for the answer to hold."""

QUEUE_MAX: Final = 5_000
"""So much of the queue is run forward: those behind go before few of the heads, and `foresight`
learns what that makes of the estimates."""
REST: Final = 10
"""So many times what a look took, the loop does other things before it looks again."""


def foresee(database: Database, world: World, plan: Plan, moment: Moment) -> None:
    """Look ahead from the world that was planned for, where it is time to, and keep what is seen.

    Only what is written holds the database's lock; the run forward does not.
    """
    if not moment.memory.is_due(moment.now_ms) or not (heads := heads_of(world.requests, plan)):
        return
    began_s = time.perf_counter()
    found = foreseen_starts(replace(world, requests=world.requests[:QUEUE_MAX]), heads)
    rest_s = max(moment.settings.foresee_every_s, REST * (time.perf_counter() - began_s))
    moment.memory.rests(moment.now_ms, round(rest_s * MS_PER_S))
    with database.write() as connection:
        foresight = moment.known(connection).foresight
        foreseen = {
            task: Foreseen(starts_ms, foresight.estimate(moment.now_ms, starts_ms))
            for task, starts_ms in sorted(found.items())
        }
        starts.keep(connection, foreseen, moment.now_ms)


def heads_of(requests: Sequence[Request], plan: Plan) -> tuple[int, ...]:
    """The first waiting task of each of the first jobs, by id, in the order of the queue."""
    waits = {wait.task_id for wait in plan.waits}
    heads: dict[int, int] = {}
    for request in requests:
        if request.task_id in waits:
            heads.setdefault(request.job_id, request.task_id)
        if len(heads) == HEADS_MAX:
            break
    return tuple(heads.values())
