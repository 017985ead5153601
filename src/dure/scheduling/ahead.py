"""When tasks will start: the scheduler run forward on a copy, as if nothing new came.

What runs ends when it is expected to; what has outlived that is expected to run as long again.
What will come meanwhile and go before them is not in it: `foresight` learns how much that matters.
"""

from __future__ import annotations

from collections.abc import Collection
from heapq import heapify, heappop, heappush
from typing import Final

from dure.scheduling.fork import Fork
from dure.scheduling.waiting import Task

STEPS_MAX: Final = 5_000
"""Instants that a look ahead goes through at most; what has not started by then is not foreseen."""


def starts_ahead(fork: Fork, now_ms: int, wanted: Collection[int]) -> dict[int, int]:
    """When the wanted tasks, by serial, start; those that are not foreseen to are left out.

    The fork is used up.
    """
    scheduler = fork.scheduler
    left = set(wanted)
    found: dict[int, int] = {}
    ends = [(expected_end_ms(task, now_ms), task.serial, task) for task in fork.running.values()]
    heapify(ends)
    for _ in range(STEPS_MAX):
        scheduler.decide(now_ms)
        for task in scheduler.starts:
            if task.serial in left:
                left.discard(task.serial)
                found[task.serial] = now_ms
            heappush(ends, (now_ms + task.expected_ms, task.serial, task))
        for victim, _ in scheduler.recalls:
            notice_ms = scheduler.tuning.recall_s * 1_000
            heappush(ends, (now_ms + notice_ms, victim.serial, victim))
        now_ms = _next_ms(ends, scheduler.wake_ms, now_ms)
        if not left or now_ms < 0:
            break
        while ends and ends[0][0] <= now_ms:
            end_ms, _, task = heappop(ends)
            if task.lane is not None and (task.notice_ms is None or _has_left(task, end_ms)):
                _leaves(fork, task, now_ms)
    return found


def expected_end_ms(task: Task, now_ms: int) -> int:
    """When what runs is expected to end, having run until now."""
    expected_ms = task.started_ms + task.expected_ms
    if expected_ms <= now_ms:
        expected_ms = 2 * now_ms - task.started_ms + 1
    if task.limited:
        expected_ms = min(expected_ms, max(task.release_ms, now_ms + 1))
    return expected_ms


def _next_ms(ends: list[tuple[int, int, Task]], wake_ms: int | None, now_ms: int) -> int:
    """The next instant; -1 where there is none."""
    times = [ends[0][0]] if ends else []
    if wake_ms is not None:
        times.append(max(wake_ms, now_ms + 1))
    return max(min(times), now_ms + 1) if times else -1


def _has_left(task: Task, end_ms: int) -> bool:
    return task.notice_ms is not None and end_ms > task.notice_ms


def _leaves(fork: Fork, task: Task, now_ms: int) -> None:
    """A run is over; a task that was called back waits again for the rest of its time."""
    ran_ms = now_ms - task.started_ms
    recalled = task.notice_ms is not None and ran_ms < task.expected_ms
    fork.scheduler.ended(task, now_ms)
    if recalled:
        task.notice_ms = None
        task.expected_ms -= ran_ms
        fork.scheduler.submit(task)
