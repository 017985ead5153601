"""`schedule`, cycle by cycle: the board is kept, so that a plan costs what has changed since."""

from __future__ import annotations

from typing import Final

from dure.scheduling.answer import answer
from dure.scheduling.board import Board
from dure.scheduling.world import Plan, World

AT_ONCE: Final = 500
"""Starts and recalls that one plan holds. A start costs a tenth of a millisecond to find and some
milliseconds to commit: without a bound, a large site that comes back would keep all other news
waiting for a minute."""


class Planner:
    """Plans for the worlds of one nation as they follow each other.

    A plan is what `schedule` would make of the same world, but for what a board remembers (`board`
    says what that is). Whether the plan before was carried out, the next world tells; so nothing
    need be reported back. One that holds `at_once` starts and recalls may be unfinished: the next
    goes on from there. For one thread at a time.
    """

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.at_once = at_once
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
        board.decide(self.at_once)
        plan = answer(board)
        self.board = board
        return plan

    def forget(self) -> None:
        """Begin anew with the next world: this one's plan had a fault, or its cycle broke off."""
        self.board = None
