"""What a share is promised of one pool, and how much of that runs."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dure.scheduling.lane import Lane
    from dure.scheduling.waiting import Claim, Task


class Promise:
    """`gpus` of a lane that only this share is promised, `used` of which run or are owed now.

    `own` are tasks of the share that borrow in this very lane: they move under the promise as soon
    as it has room, so that nobody is called back from what is its own.
    """

    __slots__ = ("claims", "gpus", "lane", "lends", "own", "share", "used")

    def __init__(self, share: str, lane: Lane, *, lends: bool) -> None:
        self.share = share
        self.lane = lane
        self.lends = lends
        self.gpus = 0
        self.used = 0
        self.own: deque[Task] = deque()
        self.claims: dict[Claim, None] = {}
        """Those with something waiting, in order of arrival."""

    @property
    def room(self) -> int:
        """GPUs that the share may still have at once."""
        return self.gpus - self.used
