"""What tasks ask for, as the scheduler sees it. What was read once is kept: of a task that waits or
runs, little ever changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final

from sqlalchemy import Connection

from dure.scheduling.world import Request
from dure.store import jobs
from dure.store.jobs import Brief, Task

KEPT_MIN: Final = 10_000
"""So many requests are kept though nobody asks for them any more."""


class Requests:
    """The requests of tasks that wait, or of those that run; threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: dict[int, Request] = {}

    def of(
        self,
        connection: Connection,
        briefs: Sequence[Brief],
        read: Callable[[Task], Request],
        share_of: Callable[[str], str],
    ) -> tuple[Request, ...]:
        """The requests of these tasks, in their order. `read` makes one of a task that is new, or
        of which something has changed; `share_of` says on which share an allocation's jobs run.
        """
        with self._lock:
            kept = self._kept
            stale = []
            for one in briefs:
                request = kept.get(one.task)
                if (
                    request is None
                    or request.waiting_since_ms != one.queued_ms
                    or request.recalls != one.recalls
                    or request.share != share_of(request.allocation)
                ):
                    stale.append(one.task)
            for task in jobs.tasks_by_id(connection, stale):
                kept[task.id] = read(task)
            found = tuple([kept[one.task] for one in briefs])
            if len(kept) > 2 * len(found) + KEPT_MIN:
                self._kept = {request.task_id: request for request in found}
            return found
