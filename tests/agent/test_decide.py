from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from agent_bench import order, reply
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.agent.decide import Action, Stage, Verb, actions, denied
from dure.agent.wire import Wish
from dure.engines import EngineEnd, Observation, Phase

RUN = order("a")
STOP = replace(RUN, wish=Wish.STOP)
RAN = replace(RUN, accepted=True)


def seen(attempt_id="a", phase=Phase.RUNNING):
    end = EngineEnd.COMPLETED if phase is Phase.ENDED else None
    return Observation(attempt_id=attempt_id, engine_id="e", phase=phase, end=end)


def verb(reply_, observations=(), **known):
    decided = actions(reply_, observations, known)
    assert len(decided) <= 1
    return decided[0].verb if decided else None


@pytest.mark.parametrize(
    ("stage", "when_run", "when_stop", "when_gone", "when_closed"),
    [
        (None, Verb.PREPARE, Verb.END_UNSTARTED, None, None),
        (Stage.PREPARING, None, Verb.END_UNSTARTED, Verb.FORGET, Verb.FORGET),
        (Stage.READY, Verb.SUBMIT, Verb.END_UNSTARTED, Verb.FORGET, Verb.FORGET),
        (Stage.SUBMITTING, Verb.SUBMIT, Verb.END_UNSTARTED, Verb.FORGET, Verb.FORGET),
        (Stage.SUBMITTED, None, Verb.STOP, Verb.FORGET, Verb.FORGET),
        (Stage.SETTLING, None, None, None, Verb.FORGET),
        (Stage.FINISHED, None, None, None, Verb.FORGET),
    ],
)
def test_what_the_engine_does_not_know(stage, when_run, when_stop, when_gone, when_closed):
    known = {"a": stage} if stage else {}
    assert verb(reply(RUN), **known) is when_run
    assert verb(reply(STOP), **known) is when_stop
    assert verb(reply(), **known) is when_gone
    assert verb(reply(closed=["a"]), **known) is when_closed


@pytest.mark.parametrize("phase", [Phase.ACCEPTED, Phase.RUNNING])
@pytest.mark.parametrize("stage", [None, Stage.SUBMITTING, Stage.SUBMITTED])
def test_what_lives_on_the_engine(phase, stage):
    known = {"a": stage} if stage else {}
    there = (seen(phase=phase),)
    assert verb(reply(RUN), there, **known) is None
    assert verb(reply(STOP), there, **known) is Verb.STOP
    assert verb(reply(), there, **known) is Verb.STOP
    assert verb(reply(closed=["a"]), there, **known) is Verb.STOP
    assert verb(reply(strangers=["a"]), there, **known) is Verb.LEAVE


@pytest.mark.parametrize("ordered", [RUN, STOP])
def test_what_ended_on_the_engine(ordered):
    there = (seen(phase=Phase.ENDED),)
    assert verb(reply(ordered), there) is Verb.SETTLE
    assert verb(reply(ordered), there, a=Stage.SUBMITTED) is Verb.SETTLE
    assert verb(reply(ordered), there, a=Stage.SETTLING) is None
    assert verb(reply(ordered), there, a=Stage.FINISHED) is None
    assert verb(reply(), there, a=Stage.SUBMITTED) is Verb.SETTLE
    assert verb(reply(), there) is None
    assert verb(reply(strangers=["a"]), there) is Verb.LEAVE
    assert verb(reply(closed=["a"]), there, a=Stage.FINISHED) is Verb.FORGET


def test_only_what_was_never_submitted_is_begun():
    for stage, ordered, phase in product([None, *Stage], [RUN, STOP, None], [None, *Phase]):
        known = {"a": stage} if stage else {}
        there = (seen(phase=phase),) if phase else ()
        begun = verb(reply(*([ordered] if ordered else [])), there, **known)
        if begun in {Verb.PREPARE, Verb.SUBMIT}:
            assert ordered is RUN
            assert phase is None
            assert stage in {None, Stage.READY, Stage.SUBMITTING}


IDS = ["a", "b", "c", "d"]


@st.composite
def worlds(draw):
    orders = [order(i, wish=draw(st.sampled_from(Wish))) for i in IDS if draw(st.booleans())]
    there = [seen(i, draw(st.sampled_from(Phase))) for i in IDS if draw(st.booleans())]
    known = {i: draw(st.sampled_from(Stage)) for i in IDS if draw(st.booleans())}
    closed = [i for i in IDS if draw(st.booleans())]
    return orders, there, known, closed


@settings(max_examples=60, deadline=None, derandomize=True)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_and_repeats_change_nothing(world, dice):
    orders, there, known, closed = world
    first = actions(reply(*orders, closed=closed), tuple(there), known)
    for values in (orders, there, closed):
        values.extend(list(values))
        dice.shuffle(values)
    keys = list(known)
    dice.shuffle(keys)
    again = actions(reply(*orders, closed=closed), tuple(there), {key: known[key] for key in keys})
    assert again == first
    assert len({action.attempt_id for action in first}) == len(first)


def test_an_action_carries_its_order():
    assert actions(reply(RUN), (), {}) == (Action(Verb.PREPARE, "a", RUN),)


@pytest.mark.parametrize("ordered", [RAN, replace(RAN, wish=Wish.STOP)])
@pytest.mark.parametrize("stage", [None, *Stage])
def test_what_an_engine_once_accepted_is_never_begun_again(ordered, stage):
    known = {"a": stage} if stage else {}
    done = stage in {Stage.SETTLING, Stage.FINISHED}
    assert verb(reply(ordered), **known) in {None, Verb.STOP}
    assert denied([ordered], {}, known) == (() if done else ("a",))
    assert denied([ordered], {"a"}, known) == ()


@pytest.mark.parametrize("ordered", [[RUN], [STOP], []])
@pytest.mark.parametrize("stage", [None, *Stage])
def test_only_what_the_engine_took_is_denied(ordered, stage):
    known = {"a": stage} if stage else {}
    assert denied(ordered, {}, known) == (("a",) if stage is Stage.SUBMITTED else ())
