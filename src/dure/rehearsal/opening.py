"""What a rehearsal begins with, when it does not begin with an empty nation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from dure.rehearsal.nation import Nation, Underway
from dure.rehearsal.workload import Arrival


class Expected(NamedTuple):
    """A job that waits since `since_ms`, before the start, and was called back so often."""

    arrival: Arrival
    since_ms: int
    recalls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opening:
    """What runs and what waits at the start, each in order of age, and what shares have used of
    late, in credit-ms. All arrive at 0: waits are counted from the rehearsal's start on.
    """

    running: tuple[tuple[Arrival, Underway], ...] = ()
    waiting: tuple[Expected, ...] = ()
    used: tuple[tuple[str, int], ...] = ()

    def enter(self, nation: Nation) -> None:
        """Put it all on the stage, whose pools and promises are in place."""
        fair = nation.stage.scheduler.fair
        for share, credit_ms in self.used:
            if fair is not None:
                fair.charge(share, credit_ms, 0)
        for arrival, run in self.running:
            nation.resume(arrival, run)
        nation.stage.settle()
        for expected in self.waiting:
            nation.expect(*expected)


EMPTY: Final = Opening()
