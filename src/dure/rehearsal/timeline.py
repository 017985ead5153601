"""Step functions of time as exact integrals on a regular grid, in memory that does not grow.

A change of `delta` at `at_ms` adds its area up to the end of its step, and lifts every later step:
`area` and `rise` are a difference array, so that a change costs the same wherever it falls, and
changes may come in any order. When the grid is full, neighbouring steps are merged: sums of
integers, so nothing is lost but the detail.
"""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from dure.units import INSTANT_MS_MAX

STEPS_MAX: Final = 1_920
"""Steps of a full grid; divisible by every merge below."""

MERGES: Final = (5, 2, 2, 3, 2, 2, 3, 2)
"""How many steps become one, time after time: 1, 5, 10, 20 minutes, 1, 2, 4, 12 hours, a day.
After that the step doubles."""

FIRST_STEP_MS: Final = 60_000


Key = TypeVar("Key", bound=Hashable)


class Timeline(Generic[Key]):
    """Step functions, one per key, all zero before the first change; times are ms from 0 on, and
    what happens from `ends_ms` on is passed by.
    """

    __slots__ = ("_area", "_ends_ms", "_merges", "_reach_ms", "_rise", "_until_ms", "step_ms")

    def __init__(self, ends_ms: int = INSTANT_MS_MAX) -> None:
        self.step_ms = FIRST_STEP_MS
        self._ends_ms = ends_ms
        self._reach_ms = FIRST_STEP_MS * STEPS_MAX
        self._until_ms = min(self._reach_ms, ends_ms)
        self._merges = 0
        self._area: dict[Key, array[int]] = {}
        self._rise: dict[Key, array[int]] = {}

    def change(self, key: Key, at_ms: int, delta: int) -> None:
        """From `at_ms` on the function of `key` is higher by `delta`."""
        if at_ms >= self._until_ms:
            if at_ms >= self._ends_ms:
                return
            self.reach(at_ms)
        step_ms = self.step_ms
        step, into_ms = divmod(at_ms, step_ms)
        try:
            self._area[key][step] += delta * (step_ms - into_ms)
        except KeyError:
            self._area[key] = array("q", bytes(8 * STEPS_MAX))
            self._rise[key] = array("q", bytes(8 * STEPS_MAX))
            self._area[key][step] = delta * (step_ms - into_ms)
        self._rise[key][step] += delta

    def seen(self) -> list[Key]:
        """The keys that changed, in the order of their first change."""
        return list(self._area)

    def reach(self, at_ms: int) -> None:
        """Make the grid reach beyond `at_ms`, with longer steps if need be."""
        while at_ms >= self._reach_ms:
            factor = MERGES[self._merges] if self._merges < len(MERGES) else 2
            for key in self._area:
                self._merge(key, factor)
            self._merges += 1
            self.step_ms *= factor
            self._reach_ms *= factor
        self._until_ms = min(self._reach_ms, self._ends_ms)

    def integrals(self, key: Key, end_ms: int) -> npt.NDArray[np.int64]:
        """The integral over each step up to `end_ms`, at which the last one is cut; shape (steps,),
        value x ms. A key that never changed has zeros.

        `end_ms` is no earlier than the last change that counts, and the grid reaches it (see
        `reach`).
        """
        steps = -(-end_ms // self.step_ms)
        if key not in self._area:
            return np.zeros(steps, np.int64)
        area = np.array(self._area[key][:steps], np.int64)
        level = np.cumsum(np.array(self._rise[key][:steps], np.int64))
        area[1:] += level[:-1] * self.step_ms
        if steps:
            area[-1] -= level[-1] * (steps * self.step_ms - end_ms)
        return area

    def starts_ms(self, end_ms: int) -> npt.NDArray[np.int64]:
        """When each step up to `end_ms` starts; shape (steps,)."""
        return np.arange(0, end_ms, self.step_ms, dtype=np.int64)

    def lengths_ms(self, end_ms: int) -> npt.NDArray[np.int64]:
        """How long each step up to `end_ms` is, the last one cut; shape (steps,)."""
        starts_ms = self.starts_ms(end_ms)
        return np.minimum(starts_ms + self.step_ms, end_ms) - starts_ms

    def _merge(self, key: Key, factor: int) -> None:
        area = np.frombuffer(self._area[key], np.int64).reshape(-1, factor)
        rise = np.frombuffer(self._rise[key], np.int64).reshape(-1, factor)
        after_ms = self.step_ms * np.arange(factor - 1, -1, -1, dtype=np.int64)
        rest = bytes(8 * (STEPS_MAX - len(area)))
        self._area[key] = array("q", (area + rise * after_ms).sum(axis=1).tobytes() + rest)
        self._rise[key] = array("q", rise.sum(axis=1).tobytes() + rest)
