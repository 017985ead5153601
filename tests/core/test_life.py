"""The transition table: what it must never allow, whatever happens in whatever order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.life import (
    CHARGED,
    LIVE,
    PLATFORM_FAULTS,
    TERMINAL,
    TRANSITIONS,
    Effect,
    EndCause,
    Event,
    ImpossibleEventError,
    State,
    job_state,
    step,
)


def test_every_state_can_be_reached_and_every_state_that_is_not_terminal_can_be_left():
    reached = {State.WAITING, State.QUEUED}
    for _ in State:
        reached |= {
            target
            for (state, _), taken in TRANSITIONS.items()
            if state in reached
            for target in (taken.to, taken.retry_to)
            if target
        }

    assert reached == set(State)
    assert {state for state, _ in TRANSITIONS} == set(State) - set(TERMINAL)


def test_every_live_state_knows_every_end():
    ends = {event for (state, event) in TRANSITIONS if state is State.RUNNING} & {
        Event.COMPLETED,
        Event.ERRED,
        Event.WALLTIME_REACHED,
        Event.STOPPED,
        *PLATFORM_FAULTS,
    }

    assert len(ends) == 7
    for state in LIVE:
        assert all((state, event) in TRANSITIONS for event in ends)


@pytest.mark.parametrize(("state", "event"), list(TRANSITIONS))
def test_an_attempt_is_closed_exactly_when_a_live_state_is_left(state: State, event: Event):
    taken = TRANSITIONS[state, event]
    for target in (taken.to, taken.retry_to):
        if target is not None:
            leaves = state in LIVE and target not in LIVE
            assert (Effect.CLOSE_ATTEMPT in taken.effects) == leaves
    assert (taken.cause is not None) == (Effect.CLOSE_ATTEMPT in taken.effects)


@pytest.mark.parametrize(("state", "event"), list(TRANSITIONS))
def test_a_task_is_finished_exactly_when_it_becomes_terminal(state: State, event: Event):
    for retries in (0, 1):
        taken = step(state, event, retries_left=retries)

        assert (Effect.FINISH_TASK in taken.effects) == (taken.to in TERMINAL)


@given(st.lists(st.tuples(st.sampled_from(list(Event)), st.integers(0, 2)), max_size=40))
def test_no_life_opens_an_attempt_before_the_last_is_closed(events: list[tuple[Event, int]]):
    state, opened, closed, finished = State.QUEUED, 0, 0, 0
    for event, retries in events:
        try:
            taken = step(state, event, retries_left=retries)
        except ImpossibleEventError:
            continue
        state = taken.to
        opened += Effect.OPEN_ATTEMPT in taken.effects
        closed += Effect.CLOSE_ATTEMPT in taken.effects
        finished += Effect.FINISH_TASK in taken.effects

        assert closed <= opened <= closed + 1
        assert (opened - closed == 1) == (state in LIVE)
        assert finished == (state in TERMINAL)


def test_what_the_platform_caused_is_never_charged():
    for (_, event), taken in TRANSITIONS.items():
        if event in PLATFORM_FAULTS:
            assert taken.cause not in CHARGED
    assert {EndCause.RECALLED, EndCause.LOST} & CHARGED == set()


def test_an_impossible_event_says_which_task_state_and_event():
    with pytest.raises(ImpossibleEventError, match="succeeded cannot have the event started"):
        step(State.SUCCEEDED, Event.STARTED)


@pytest.mark.parametrize(
    ("tasks", "job"),
    [
        ([State.SUCCEEDED, State.RUNNING, State.QUEUED], State.RUNNING),
        ([State.SUCCEEDED, State.FAILED], State.FAILED),
        ([State.SUCCEEDED, State.CANCELLED], State.CANCELLED),
        ([State.SUCCEEDED, State.QUEUED], State.QUEUED),
        ([State.SUCCEEDED], State.SUCCEEDED),
    ],
)
def test_a_jobs_state_is_its_most_advanced_live_task_or_its_worst_end(
    tasks: list[State], job: State
):
    assert job_state(tasks) is job
