"""Who runs next, where, and why: a snapshot of the nation in, a plan with its reasons out.

`schedule` is the one decision of the control cycle (its steps 3 and 4), `forecast` the same
decision asked about a job that is not submitted, `refusal` what submission says no with. All are
pure: equal worlds give equal answers, in whatever order their parts are listed. Whoever decides
about one world after another keeps a `Planner`.

What decides is the `scheduler`: events in, decisions out. A rehearsal tells it events; here a world
is told to it, and what it decided is put into words. Top-down:

1. `board`: the world as the scheduler keeps it. Built anew, or brought up to the next world.
2. `lines`: in which line each request waits: what may run it (`eligible`: rules, GPU model,
   allocation, node shape, price), whose promises cover it.
3. `scheduler` decides about what stands on the `floor`: `waiting` (whose turn), `lane` (best fit
   over counts of nodes by free slots), `promise` and `recall` (guarantees), `shadow` (EASY),
   `fairshare`. `gate` asks the `budget`.
4. `answer` says what was decided, `reasons` why what waits does so, `explain` in which words.

`check` holds a plan against every invariant without using any of this; whoever commits a plan asks
it first. `world` is all that goes in and comes out. `trial` and `ahead` run the scheduler forward
on a copy, for `forecast`; `foresight` knows how sure that is.

Invariants kept here: I3 (no two decisions spend the same credit), I7 (no node is oversubscribed,
guarantees are met within the recall time), I10 (same world, same plan), I12 (nothing is placed
where a rule forbids it).

Only a request that lacks nodes keeps its place, with nodes and its hold set aside. One that waits
for its own allocation (`allocation-held`, `allocation-gpus-in-use`) may be passed by others.
"""

from __future__ import annotations

from dure.scheduling.answer import answer
from dure.scheduling.board import Board
from dure.scheduling.forecast import forecast, foreseen_starts
from dure.scheduling.planner import Planner
from dure.scheduling.refusal import refusal
from dure.scheduling.world import Plan, World

__all__ = ["Board", "Planner", "forecast", "foreseen_starts", "refusal", "schedule"]


def schedule(world: World) -> Plan:
    """Decide about every request of the world: it starts now, or it waits; each with its reason."""
    board = Board(world)
    board.decide()
    return answer(board)
