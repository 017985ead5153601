"""A whole number over time that changes at instants: GPUs in service, GPUs promised."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator

from dure.units import INSTANT_MS_MAX


class Steps:
    """0 from 1970 to the end of time, until something is added. Windows are half-open, in ms.

    Adding and asking cost what the window holds of changes, not what the whole has.
    """

    __slots__ = ("_from_ms", "_values")

    def __init__(self) -> None:
        self._from_ms = [0]
        self._values = [0]

    def add(self, amount: int, starts_ms: int = 0, ends_ms: int = INSTANT_MS_MAX) -> None:
        """Add an amount, negative ones too, in a window."""
        first = self._cut(starts_ms)
        last = len(self._values) if ends_ms >= INSTANT_MS_MAX else self._cut(ends_ms)
        for index in range(first, last):
            self._values[index] += amount

    def least(self, starts_ms: int = 0, ends_ms: int = INSTANT_MS_MAX) -> int:
        """The lowest value in a window."""
        return min(self._window(starts_ms, ends_ms))

    def most(self, starts_ms: int = 0, ends_ms: int = INSTANT_MS_MAX) -> int:
        """The highest value in a window."""
        return max(self._window(starts_ms, ends_ms))

    def spans(self) -> Iterator[tuple[int, int, int]]:
        """Windows without a change, in order: (starts_ms, ends_ms, value)."""
        ends_ms = [*self._from_ms[1:], INSTANT_MS_MAX]
        yield from zip(self._from_ms, ends_ms, self._values, strict=True)

    def first_below_0(self) -> int | None:
        """The first instant at which the value is negative, in ms."""
        return next((start for start, _, value in self.spans() if value < 0), None)

    def _cut(self, at_ms: int) -> int:
        """The index of the step that starts at an instant; made, if there is none."""
        index = bisect_left(self._from_ms, at_ms)
        if index == len(self._from_ms) or self._from_ms[index] != at_ms:
            self._from_ms.insert(index, at_ms)
            self._values.insert(index, self._values[index - 1])
        return index

    def _window(self, starts_ms: int, ends_ms: int) -> list[int]:
        first = bisect_right(self._from_ms, starts_ms) - 1
        return self._values[first : bisect_left(self._from_ms, ends_ms)]
