"""The rehearsal itself: a heap of events and a simulated clock, and the production scheduler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappop, heappush
from typing import Final

from dure.rehearsal.workload import Arrival
from dure.scheduling.scheduler import Scheduler
from dure.scheduling.waiting import Line, Task

_END: Final = 0
_VACATED: Final = 1


class Play:
    """One rehearsal under way."""

    def __init__(self, scheduler, lines, measures, overhead_ms: int) -> None:
        self.scheduler = scheduler
        self.lines = lines
        self.measures = measures
        self.overhead_ms = overhead_ms
        self.recalls = 0

    def run(self, arrivals):
        scheduler = self.scheduler
        lines = self.lines
        events = []
        serial = 0
        overhead = self.overhead_ms
        source = iter(arrivals)
        arrival = next(source, None)
        submit, ended, decide = scheduler.submit, scheduler.ended, scheduler.decide
        now = 0
        while arrival is not None or events:
            if events and (arrival is None or events[0][0] <= arrival.at_ms):
                now = events[0][0]
            else:
                now = arrival.at_ms
            wake = scheduler.wake_ms
            if wake is not None and wake < now:
                now = wake
            while events and events[0][0] == now:
                _, _, task, version = heappop(events)
                live = task.source
                if live[3] != version:
                    continue
                ended(task, now)
                if task.notice_ms is None:
                    self.measures(live, now)
                else:
                    task.notice_ms = None
                    task.expected_ms = max(task.expected_ms - (live[5] - task.started_ms), 60_000)
                    task.bound_ms = task.expected_ms
                    task.late = 1
                    submit(task)
            while arrival is not None and arrival.at_ms == now:
                line = lines[arrival.kind]
                serial += 1
                task = Task(serial, line, [arrival, arrival.duration_ms, 0, 0, now, 0])
                predicted = arrival.predicted_ms
                task.expected_ms = task.bound_ms = arrival.duration_ms if predicted is None else predicted
                task.since_ms = now
                task.limited = predicted is None
                submit(task)
                arrival = next(source, None)
            decide(now)
            for task in scheduler.starts:
                live = task.source
                heappush(events, (now + live[1], task.serial, task, live[3]))
            for victim, _ in scheduler.recalls:
                live = victim.source
                live[1] -= now - victim.started_ms
                live[5] = now
                live[3] += 1
                live[2] += 1
                self.recalls += 1
                heappush(events, (now + overhead, victim.serial, victim, live[3]))
        return now
