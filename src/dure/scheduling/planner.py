"""`schedule`, cycle by cycle: the board is kept, so that a plan costs what has changed since."""

from __future__ import annotations

from dure.scheduling.answer import answer
from dure.scheduling.board import Board
from dure.scheduling.world import Plan, World


class Planner:
    """Plans for the worlds of one nation as they follow each other.

    A plan is what `schedule` would make of the same world, but for what a board remembers (`board`
    says what that is). Whether the plan before was carried out, the next world tells; so nothing
    need be reported back. For one thread at a time.
    """

    def __init__(self) -> None:
        self.board: Board | None = None
        """The one that made the latest plan."""

    def plan(self, world: World) -> Plan:
        """Decide about every request of the world. A board that does not serve is built anew, and
        one that an exception has left half done is never used again.
        """
        board, self.board = self.board, None
        if board is not None and board.serves(world):
            board.update(world)
        else:
            board = Board(world)
        board.decide()
        plan = answer(board)
        self.board = board
        return plan

    def forget(self) -> None:
        """Begin anew with the next world: this one's plan had a fault, or its cycle broke off."""
        self.board = None
