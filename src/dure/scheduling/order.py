"""Who is next: priority first, then age.

Fair share between projects and expected shortness come in here, before age: whatever decides the
order is one more part of the key, and nothing else in the pass knows how the order came about.
"""

from __future__ import annotations

from collections.abc import Iterable

from dure.scheduling.world import Request

Turn = tuple[int, tuple[int, int], int]


def turn(request: Request) -> Turn:
    """The sort key of a request: the lower, the sooner. No two tasks share one."""
    return (-request.priority, request.order, request.task_id)


def in_order(requests: Iterable[Request]) -> tuple[Request, ...]:
    """The queue, its head first, whatever order the requests came in."""
    return tuple(sorted(requests, key=turn))
