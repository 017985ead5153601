"""The life of a task and its attempts: one table, (state, event) -> (next state, effects).

A task is queued until an attempt is intended for it; the states from `intended` to `recalling`
are those of its one live attempt, and an attempt that ends closes before another can open (I2). The
table is the specification: what is not in it cannot happen, and says so. The diagram in
docs/reference/job-states.md is drawn from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a task stands."""

    WAITING = "waiting"  # for the jobs it depends on
    QUEUED = "queued"  # for a place
    INTENDED = "intended"  # attempt and hold recorded; the engine may or may not know of it
    STARTING = "starting"  # the engine has it
    RUNNING = "running"
    UNKNOWN = "unknown"  # its cluster is silent; it keeps its GPUs and its hold
    CANCELLING = "cancelling"  # its owner cancelled it; notice given
    RECALLING = "recalling"  # the platform calls its GPUs back; notice given
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to a task."""

    DEPENDENCIES_MET = "dependencies-met"
    DEPENDENCY_FAILED = "dependency-failed"
    PLACED = "placed"
    ACCEPTED = "accepted"  # by the engine
    STARTED = "started"
    SILENT = "silent"  # its cluster stopped reporting
    CANCEL = "cancel"
    RECALL = "recall"
    COMPLETED = "completed"  # exit code 0 on every node
    ERRED = "erred"  # another exit code, or a signal of its own making
    WALLTIME_REACHED = "walltime-reached"
    STOPPED = "stopped"  # ended by our notice
    NODE_FAILED = "node-failed"
    START_FAILED = "start-failed"
    LOST = "lost"  # its lease ended unseen, or the engine says twice that it has no such attempt


class Effect(StrEnum):
    """What the shell must do in the same transaction as the change of state."""

    OPEN_ATTEMPT = "open-attempt"  # attempt row, hold, desired state `run`
    STOP_ATTEMPT = "stop-attempt"  # desired state `stop`
    CLOSE_ATTEMPT = "close-attempt"  # metering, ledger, GPUs free
    FINISH_TASK = "finish-task"  # its job may have ended with it: dependants, secrets


class EndCause(StrEnum):
    """Why an attempt ended, in the ledger's terms."""

    COMPLETED = "completed"
    ERRED = "erred"
    WALLTIME_REACHED = "walltime-reached"
    CANCELLED = "cancelled"
    RECALLED = "recalled"
    NODE_FAILED = "node-failed"
    START_FAILED = "start-failed"
    LOST = "lost"


CHARGED: Final = frozenset(
    {EndCause.COMPLETED, EndCause.ERRED, EndCause.WALLTIME_REACHED, EndCause.CANCELLED}
)
"""Who pays is data: the user for these; the platform absorbs the rest.

Source: Isambard's requeue charging design, which charges a user's own failures and requeues and
absorbs node failures, preemptions and what is unknown.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of the table. With a retry left, `retry_to` is taken instead of `to`.

    An erred attempt draws on the retries its owner asked for, a platform fault on the platform's.
    """

    to: State
    effects: tuple[Effect, ...] = ()
    cause: EndCause | None = None
    retry_to: State | None = None


class ImpossibleEventError(Exception):
    """An event that a task in this state cannot have: a fault in Dure, never in user input."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a task that is {state} cannot have the event {event}")


LIVE: Final = (
    State.INTENDED,
    State.STARTING,
    State.RUNNING,
    State.UNKNOWN,
    State.CANCELLING,
    State.RECALLING,
)
"""States with a live attempt: one that holds GPUs and credits."""

TERMINAL: Final = (State.SUCCEEDED, State.FAILED, State.TIMED_OUT, State.CANCELLED)

_FINISH = (Effect.CLOSE_ATTEMPT, Effect.FINISH_TASK)
_REQUEUE = (Effect.CLOSE_ATTEMPT,)
_Table = dict[tuple[State, Event], Step]

_ENDS: Final = {
    Event.COMPLETED: Step(State.SUCCEEDED, _FINISH, EndCause.COMPLETED),
    Event.ERRED: Step(State.FAILED, _FINISH, EndCause.ERRED, retry_to=State.QUEUED),
    Event.WALLTIME_REACHED: Step(State.TIMED_OUT, _FINISH, EndCause.WALLTIME_REACHED),
    Event.STOPPED: Step(State.QUEUED, _REQUEUE, EndCause.RECALLED),
    Event.NODE_FAILED: Step(State.FAILED, _FINISH, EndCause.NODE_FAILED, retry_to=State.QUEUED),
    Event.START_FAILED: Step(State.FAILED, _FINISH, EndCause.START_FAILED, retry_to=State.QUEUED),
    Event.LOST: Step(State.FAILED, _FINISH, EndCause.LOST, retry_to=State.QUEUED),
}

PLATFORM_FAULTS: Final = frozenset({Event.NODE_FAILED, Event.START_FAILED, Event.LOST})
"""Ends that cost the user nothing; they draw on the platform's budget of retries."""

PLATFORM_RETRIES: Final = 10


def _ends_of_a_run() -> _Table:
    """A live attempt that nobody asked to stop ends for its own reasons, or the platform's."""
    unasked = (State.INTENDED, State.STARTING, State.RUNNING, State.UNKNOWN)
    return {(state, event): step for state in unasked for event, step in _ENDS.items()}


def _ends_of_a_stop() -> _Table:
    """A cancelled attempt ends its task; a recalled one goes back to the queue.

    One that completed before the notice reached it keeps its own end.
    """
    cancelled = {
        Event.COMPLETED: Step(State.SUCCEEDED, _FINISH, EndCause.COMPLETED),
        Event.ERRED: Step(State.CANCELLED, _FINISH, EndCause.CANCELLED),
        Event.WALLTIME_REACHED: Step(State.CANCELLED, _FINISH, EndCause.CANCELLED),
        Event.STOPPED: Step(State.CANCELLED, _FINISH, EndCause.CANCELLED),
        Event.NODE_FAILED: Step(State.CANCELLED, _FINISH, EndCause.NODE_FAILED),
        Event.START_FAILED: Step(State.CANCELLED, _FINISH, EndCause.START_FAILED),
        Event.LOST: Step(State.CANCELLED, _FINISH, EndCause.LOST),
    }
    recalled = _ENDS | {Event.ERRED: Step(State.QUEUED, _REQUEUE, EndCause.RECALLED)}
    return {(State.CANCELLING, event): step for event, step in cancelled.items()} | {
        (State.RECALLING, event): step for event, step in recalled.items()
    }


def _progress() -> _Table:
    stop = (Effect.STOP_ATTEMPT,)
    table: _Table = {
        (State.WAITING, Event.DEPENDENCIES_MET): Step(State.QUEUED),
        (State.WAITING, Event.DEPENDENCY_FAILED): Step(State.CANCELLED, (Effect.FINISH_TASK,)),
        (State.QUEUED, Event.PLACED): Step(State.INTENDED, (Effect.OPEN_ATTEMPT,)),
        (State.INTENDED, Event.ACCEPTED): Step(State.STARTING),
        (State.INTENDED, Event.STARTED): Step(State.RUNNING),
        (State.STARTING, Event.STARTED): Step(State.RUNNING),
        (State.UNKNOWN, Event.ACCEPTED): Step(State.STARTING),
        (State.UNKNOWN, Event.STARTED): Step(State.RUNNING),
        (State.RECALLING, Event.CANCEL): Step(State.CANCELLING, stop),
    }
    for state in (State.WAITING, State.QUEUED):
        table[state, Event.CANCEL] = Step(State.CANCELLED, (Effect.FINISH_TASK,))
    for state in (State.INTENDED, State.STARTING, State.RUNNING):
        table[state, Event.SILENT] = Step(State.UNKNOWN)
    for state in (State.INTENDED, State.STARTING, State.RUNNING, State.UNKNOWN):
        table[state, Event.CANCEL] = Step(State.CANCELLING, stop)
        table[state, Event.RECALL] = Step(State.RECALLING, stop)
    return table


TRANSITIONS: Final = MappingProxyType(_progress() | _ends_of_a_run() | _ends_of_a_stop())


def step(state: State, event: Event, *, retries_left: int = 0) -> Step:
    """The table's answer, its retry already decided.

    Raises:
        ImpossibleEventError: the table has no such entry.
    """
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise ImpossibleEventError(state, event)
    if found.retry_to is not None and retries_left > 0:
        return Step(found.retry_to, _REQUEUE, found.cause)
    return Step(found.to, found.effects, found.cause)


_ROLLUP_ORDER: Final = (
    State.RUNNING,
    State.RECALLING,
    State.CANCELLING,
    State.UNKNOWN,
    State.STARTING,
    State.INTENDED,
    State.QUEUED,
    State.WAITING,
    State.FAILED,
    State.TIMED_OUT,
    State.CANCELLED,
    State.SUCCEEDED,
)


def job_state(task_states: Iterable[State]) -> State:
    """A job's state from its tasks': the most advanced live one, else the worst end.

    Raises:
        ValueError: no task at all.
    """
    return min(task_states, key=_ROLLUP_ORDER.index)
