"""What an agent does next, decided from what should be and what is: no clock, no I/O.

Every input is a level, the whole present, so repeating, reordering or losing any of them changes
nothing but when a thing is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dure.agent.wire import Order, SyncReply, Wish
from dure.engines import Observation, Phase


class Stage(StrEnum):
    """How far the agent itself is with an attempt. None at all: it has not begun."""

    PREPARING = "preparing"  # fetching its files and secrets
    READY = "ready"  # prepared, not yet handed to the engine
    SUBMITTING = "submitting"  # written down before the engine is asked; it may know it or not
    SUBMITTED = "submitted"  # the engine took it
    SETTLING = "settling"  # it ended; its log and files are being handed over
    FINISHED = "finished"  # its end, files and all, is ready to be reported


class Verb(StrEnum):
    """What an agent can do about an attempt."""

    PREPARE = "prepare"
    SUBMIT = "submit"
    STOP = "stop"
    END_UNSTARTED = "end-unstarted"  # report that it will never start here
    SETTLE = "settle"
    FORGET = "forget"
    LEAVE = "leave"  # a stranger: not ours to touch


@dataclass(frozen=True, slots=True)
class Action:
    """One thing to do. `order` is None where the attempt is no longer, or never was, ordered."""

    verb: Verb
    attempt_id: str
    order: Order | None = None


def actions(
    reply: SyncReply, observations: tuple[Observation, ...], known: Mapping[str, Stage]
) -> tuple[Action, ...]:
    """What to do about every attempt that anybody names, in the order of their ids.

    `observations` is a complete answer of the engine: what is not in it, the engine does not know.
    """
    orders = {order.attempt_id: order for order in reply.orders}
    seen = {observation.attempt_id: observation for observation in observations}
    decided = []
    for attempt_id in sorted(orders.keys() | seen.keys() | known.keys()):
        order, stage = orders.get(attempt_id), known.get(attempt_id)
        observation = seen.get(attempt_id)
        if observation is None:
            verb = _unseen(order, stage, closed=attempt_id in reply.closed)
        elif attempt_id in reply.strangers:
            verb = Verb.LEAVE
        elif observation.phase is Phase.ENDED:
            verb = _ended(order, stage, closed=attempt_id in reply.closed)
        else:
            verb = Verb.STOP if order is None or order.wish is Wish.STOP else None
        if verb is not None:
            decided.append(Action(verb, attempt_id, order))
    return tuple(decided)


def _unseen(order: Order | None, stage: Stage | None, *, closed: bool) -> Verb | None:
    """The engine does not know it. Only what was never submitted may be, and once."""
    if closed:
        return Verb.FORGET
    if order is None:
        return None if stage in {Stage.SETTLING, Stage.FINISHED} else Verb.FORGET
    if stage in {Stage.SETTLING, Stage.FINISHED}:
        return None
    if order.accepted and stage is not Stage.SUBMITTED:  # it ran here, and we forgot: it is denied
        return None
    if order.wish is Wish.STOP:  # asked just now, the engine has no SUBMITTING one: it never began
        return Verb.STOP if stage is Stage.SUBMITTED else Verb.END_UNSTARTED
    match stage:
        case None:
            return Verb.PREPARE
        case Stage.READY | Stage.SUBMITTING:  # an engine's submit is idempotent by attempt id
            return Verb.SUBMIT
        case _:  # SUBMITTED and gone: it is denied, and nobody runs it again
            return None


def _ended(order: Order | None, stage: Stage | None, *, closed: bool) -> Verb | None:
    if closed:
        return Verb.FORGET
    if stage in {Stage.SETTLING, Stage.FINISHED} or (stage is None and order is None):
        return None
    return Verb.SETTLE


def denied(
    orders: Iterable[Order], seen: Collection[str], known: Mapping[str, Stage]
) -> tuple[str, ...]:
    """Attempts that an engine had accepted, and of which it now, asked for all, knows nothing.

    That it had one is known here, or by the control plane where this site has lost its records.
    """
    accepted = {order.attempt_id for order in orders if order.accepted}
    accepted -= {id_ for id_, stage in known.items() if stage in {Stage.SETTLING, Stage.FINISHED}}
    accepted |= {id_ for id_, stage in known.items() if stage is Stage.SUBMITTED}
    return tuple(sorted(accepted.difference(seen)))
