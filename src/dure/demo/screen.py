"""How the demo shows itself meanwhile: one live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from dure.demo.story import Screen
from dure.life import State
from dure.views import JobView, TaskView

_STYLES: Final = {
    State.RUNNING: "cyan",
    State.SUCCEEDED: "green",
    State.FAILED: "red",
    State.TIMED_OUT: "red",
    State.CANCELLED: "red",
    State.UNKNOWN: "yellow",
}


@contextmanager
def screen(console: Console) -> Iterator[Screen]:
    """A live table where the console is a terminal, else plain lines; neither reads a key."""
    began_s = time.monotonic()
    if not console.is_terminal:
        yield PlainScreen(console, began_s)
        return
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        shown = LiveScreen(live, began_s)
        yield shown
        shown.say("")


@dataclass(slots=True)
class PlainScreen:
    """A line for each thing said and for each task that changes its state."""

    console: Console
    began_s: float
    _states: dict[str, State] = field(default_factory=dict)

    def say(self, sentence: str) -> None:
        """See `Screen`."""
        self.console.print(_timed(self.began_s, sentence), soft_wrap=True)

    def show(self, jobs: tuple[JobView, ...]) -> None:
        """See `Screen`."""
        for job in jobs:
            for task in job.tasks:
                name = _name(job, task)
                if self._states.get(name) is not task.state:
                    self._states[name] = task.state
                    where = "" if _where(task) == "-" else f" at {_where(task)}"
                    self.say(f"  {name}: {task.state}{where}")


@dataclass(slots=True)
class LiveScreen:
    """The jobs as a table, what the demo does now below it, and what it did above it."""

    live: Live
    began_s: float
    _doing: str = ""
    _jobs: tuple[JobView, ...] = ()
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def say(self, sentence: str) -> None:
        """See `Screen`."""
        if self._doing:
            self.live.console.print(self._doing)
        self._doing = _timed(self.began_s, sentence) if sentence else ""
        self._refresh()

    def show(self, jobs: tuple[JobView, ...]) -> None:
        """See `Screen`."""
        self._jobs = jobs
        self._refresh()

    def _refresh(self) -> None:
        self._spinner.update(text=Text(self._doing, overflow="ellipsis", no_wrap=True))
        self.live.update(Group(_table(self._jobs), Text(), self._spinner))


def _timed(began_s: float, sentence: str) -> str:
    return f"{time.monotonic() - began_s:5.1f} s  {sentence}"


def _table(jobs: tuple[JobView, ...]) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for column in ("job", "project", "state", "operator/pool"):
        made.add_column(column, no_wrap=True)
    made.add_column("GPUs", no_wrap=True, justify="right")
    made.add_column("try", no_wrap=True, justify="right")
    made.add_column("reason now", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        for task in job.tasks:
            made.add_row(
                _name(job, task),
                job.summary.project,
                Text(task.state, style=_STYLES.get(task.state, "")),
                _where(task),
                str(job.spec.resources.gpus),
                str(len(task.attempts) or "-"),
                Text(task.reason.sentence if task.reason else ""),
            )
    return made


def _name(job: JobView, task: TaskView) -> str:
    return f"{job.summary.name}[{task.index}]" if job.spec.array else job.summary.name


def _where(task: TaskView) -> str:
    """Where its live or last attempt is; nowhere while it waits for its next one."""
    if not task.attempts or task.state in {State.WAITING, State.QUEUED}:
        return "-"
    last = task.attempts[-1]
    return f"{last.operator}/{last.pool}"
