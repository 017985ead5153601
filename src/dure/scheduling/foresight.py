"""How sure a start estimate is: ranges learned from how earlier ones turned out.

A look ahead knows nothing of what is yet to come, and run times are guesses. So what is said is not
an instant but two ranges around it, which contain the true start in half and in nine of ten cases:
the ratios of true to foreseen waits of late, by rank. That is split conformal prediction on a
sliding window, which needs no assumption on how errors are distributed.

Source: V. Vovk, A. Gammerman, G. Shafer, "Algorithmic Learning in a Random World", 2005; a window
for drift as in R. Barber et al., "Conformal prediction beyond exchangeability", Ann. Statist. 2023.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import exp2, log2
from typing import Final, NamedTuple

WINDOW: Final = 400
_FLOOR_MS: Final = 60_000
"""Waits are compared beyond this: a minute more or less is no error."""
_PRIOR: Final = (-4.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 6.0)
"""Octaves by which waits exceed what was foreseen, before anything was seen."""


class StartEstimate(NamedTuple):
    """When a task will start: most likely, with one chance in two, and with nine in ten. Instants
    in ms.
    """

    expected_ms: int
    likely_from_ms: int
    likely_until_ms: int
    surely_from_ms: int
    surely_until_ms: int


class Foresight:
    """What has become of earlier estimates."""

    __slots__ = ("_errors", "_ranked")

    def __init__(self) -> None:
        self._errors: deque[float] = deque(_PRIOR)
        self._ranked = sorted(_PRIOR)

    def estimate(self, now_ms: int, foreseen_ms: int) -> StartEstimate:
        """The ranges around a foreseen start. What can start at once is certain."""
        wait_ms = foreseen_ms - now_ms
        if wait_ms <= 0:
            return StartEstimate(now_ms, now_ms, now_ms, now_ms, now_ms)

        def at(rank: float) -> int:
            reach = (wait_ms + _FLOOR_MS) * exp2(self._quantile(rank)) - _FLOOR_MS
            return now_ms + max(0, round(reach))

        return StartEstimate(at(0.5), at(0.25), at(0.75), at(0.05), at(0.95))

    def learn(self, foreseen_wait_ms: int, wait_ms: int) -> None:
        """An estimated start has come true, after so long a wait."""
        error = log2((wait_ms + _FLOOR_MS) / (foreseen_wait_ms + _FLOOR_MS))
        self._errors.append(error)
        insort(self._ranked, error)
        if len(self._errors) > WINDOW:
            del self._ranked[bisect_left(self._ranked, self._errors.popleft())]

    def _quantile(self, rank: float) -> float:
        """The error at a rank, taken outward: of n errors, one more is yet to be seen."""
        ranked = self._ranked
        n = len(ranked)
        index = round(rank * (n + 1)) - 1
        return ranked[max(0, min(index, n - 1))]
