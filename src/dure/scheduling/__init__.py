"""Who runs next, where, and why: a snapshot of the nation in, a plan with its reasons out.

`schedule` is the one decision of the control cycle (its steps 3 and 4), `forecast` the same
decision asked about a job that is not submitted, `refusal` what submission says no with. All are
pure: equal worlds give equal answers, in whatever order their parts are listed.

A pass, top-down:

1. `order`: the queue, by priority and age.
2. For each request in turn (`place`), first what it may use: `budget` (its allocation's window and
   balance, its array's cap) and `eligible` (rules, GPU model, allocation, node shape, price).
3. Where there is room now, it starts: on the cheapest pool, then the one it fits most tightly
   (`fit`: best fit over counts of nodes by free slots; a gang whole or not at all).
4. Where there is none, it waits; the pool where it can start soonest keeps nodes for it, and later
   requests use those only if they end in time (`backfill`: EASY).
5. `explain` puts every answer into a code and a sentence.

`check` holds a plan against every invariant without using any of this; whoever commits a plan asks
it first. `world` is all that goes in and comes out.

Invariants kept here: I3 (no two decisions of a pass spend the same credit), I7 (no node is
oversubscribed), I10 (same world, same plan), I12 (nothing is placed where a rule forbids it).

A pass costs requests x pools; no decision walks a pool's nodes. Where next: fair share is one more
part of the key in `order`; guarantees, lending and recall come between steps 2 and 3.

Only a request that lacks nodes keeps its place, with nodes and its hold set aside. One that waits
for its own allocation (`allocation-held`, `allocation-gpus-in-use`) may be passed by smaller jobs
of its own project.
"""

from __future__ import annotations

from dure.scheduling.forecast import forecast, refusal
from dure.scheduling.order import in_order
from dure.scheduling.place import Pass
from dure.scheduling.world import Placement, Plan, Wait, World

__all__ = ["forecast", "refusal", "schedule"]


def schedule(world: World) -> Plan:
    """Decide about every request of the world: it starts now, or it waits; each with its reason."""
    state = Pass(world)
    outcomes = [state.place(request) for request in in_order(world.requests)]
    return Plan(
        placements=tuple(outcome for outcome in outcomes if isinstance(outcome, Placement)),
        reservations=tuple(state.reservations),
        waits=tuple(outcome for outcome in outcomes if isinstance(outcome, Wait)),
    )
