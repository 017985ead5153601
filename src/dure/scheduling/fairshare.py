"""Whose turn it is: hierarchical fair share with history, exact and without a decay pass.

Shares are compared as Slurm's Fair Tree compares accounts (slurm.schedmd.com/fair_tree.html): at
the first ancestors in which they differ, by what each used against what its weight entitles it to.
So what a project uses counts against its owner among owners and against itself among the owner's
projects, and never between two projects of someone else. Usage loses half its weight each half-life
(Slurm's PriorityDecayHalfLife), and what runs counts from the first millisecond.

**No decay pass.** Only ratios matter, so instead of shrinking the past, the present grows: what is
used at t weighs 2^(t / half-life). What holds rate r from s to e adds r (A(e) - A(s)), where
A(t) = half-life / ln 2 x 2^(t / half-life). So a share's sum is `used + rate x A(now)`: a start
takes r A(s) off `used`, an end puts r A(e) back. Sums are integers of any size; replayed in
whatever order, starts, ends and charges give the same bits.

**Bursts.** History alone is blind to a share that was idle for long: it would take every GPU that
comes free until its average has caught up. So what a share holds now counts besides. With history
as a mean rate, what is compared is mean + held / (burst - 1): a steady share that holds r has
r x burst / (burst - 1), which one without any history reaches when it holds burst x r. That is the
most by which it goes before its steady siblings, however long it was away.

**Short jobs buy nothing.** Time is charged from when GPUs are taken until they are free again, and
each start is charged `start_charge_ms` more, about what GPUs lose between two jobs. Work in more
pieces is dearer, and holding few GPUs at the moments of decision hides nothing.
"""

from __future__ import annotations

from itertools import pairwise
from math import log
from typing import Final, NamedTuple

from dure.shares import Shares
from dure.units import MILLI

START_CHARGE_MS: Final = 60_000
"""What a start is charged besides the time that it takes."""

_FRACTION_BITS: Final = 20
_WHOLE: Final = 1 << 64
_UNUSED: Final = -1


class Standing(NamedTuple):
    """Where a share stands, in millionths of the level above: what its weight entitles it to, what
    it has used of late, what it holds now.
    """

    share: str
    entitled_ppm: int
    used_ppm: int
    held_ppm: int


class _Tally:
    """What a share and all below it have used, and at which rate they use now."""

    __slots__ = ("entitled", "rate_milli", "share", "used")

    def __init__(self, share: str, entitled: int) -> None:
        self.share = share
        self.entitled = entitled
        self.used = 0
        self.rate_milli = 0


class FairShare:
    """The usage of every share of a tree.

    A rate is what GPUs are worth in thousandths, GPUs x the model's weight; a credit-ms is a GPU of
    weight 1 for 1 ms. A share without history goes first until it holds `burst` times what a steady
    one does. `origin_ms` is any instant near the first event: sums grow by a bit each half-life.

    The whole above all roots is the share "": what nobody's share stands for is charged there. All
    that names a share raises KeyError where the tree has no such share.
    """

    __slots__ = ("_burst", "_half_life_ms", "_latest", "_origin_ms", "_paths", "_start_charge_ms")

    def __init__(
        self,
        shares: Shares,
        half_life_ms: int,
        *,
        start_charge_ms: int = START_CHARGE_MS,
        burst: int = 2,
        origin_ms: int = 0,
    ) -> None:
        if half_life_ms < 1:
            raise ValueError(f"half_life_ms is {half_life_ms}; it must be at least 1")
        if burst < 2:
            raise ValueError(f"burst is {burst}; it must be at least 2")
        self._half_life_ms = half_life_ms
        self._start_charge_ms = start_charge_ms
        self._burst = burst
        self._origin_ms = origin_ms
        self._paths = _paths(shares)
        self._latest = (origin_ms, self._scales(origin_ms))

    def charge(self, share: str, credit_ms: int, at_ms: int) -> None:
        """Count usage at one instant."""
        self._add(share, MILLI * credit_ms * self._scales_at(at_ms)[0], 0)

    def starts(self, share: str, rate_milli: int, at_ms: int) -> None:
        """GPUs of this worth are taken, and a start is charged."""
        unit, area = self._scales_at(at_ms)
        self._add(share, rate_milli * (self._start_charge_ms * unit - area), rate_milli)

    def ends(self, share: str, rate_milli: int, at_ms: int) -> None:
        """GPUs of this worth, taken before, are free again."""
        self._add(share, rate_milli * self._scales_at(at_ms)[1], -rate_milli)

    def undo(self, share: str, rate_milli: int, from_ms: int, to_ms: int) -> None:
        """Take back, to the last bit, what a start and its end were charged: it never was, or is
        charged by other figures.
        """
        unit, from_area = self._scales_at(from_ms)
        area = self._scales_at(to_ms)[1] - from_area
        self._add(share, -rate_milli * (self._start_charge_ms * unit + area), 0)

    def rank(self, share: str, now_ms: int) -> tuple[int, ...]:
        """A key that sorts shares, the most deserving first: a number for each ancestor, from the
        root on, and for the share itself.

        A number is usage against entitlement in half octaves: within a factor of 1.4, shares stand
        equal and something else may decide. A key stands still while nothing runs on its path, and
        rises while something does, by two in a half-life when all is steady. What happens elsewhere
        changes nothing. So it may be kept until its path is touched, and renewed now and then.
        """
        area = self._scales_at(now_ms)[1]
        return tuple([self._step(tally, area) for tally in self._paths[share][1:]])

    def explain(self, share: str, now_ms: int) -> tuple[Standing, ...]:
        """How each ancestor stands, from the root on, and the share itself."""
        area = self._scales_at(now_ms)[1]
        return tuple(
            Standing(
                share=tally.share,
                entitled_ppm=_ppm(tally.entitled, above.entitled),
                used_ppm=_ppm(
                    tally.used + tally.rate_milli * area, above.used + above.rate_milli * area
                ),
                held_ppm=_ppm(tally.rate_milli, above.rate_milli),
            )
            for above, tally in pairwise(self._paths[share])
        )

    def moved(self, shares: Shares) -> FairShare:
        """The same usage in another tree. That of a share which is gone stays with the nearest
        ancestor that is not.
        """
        new = FairShare(
            shares,
            self._half_life_ms,
            start_charge_ms=self._start_charge_ms,
            burst=self._burst,
            origin_ms=self._origin_ms,
        )
        for *above, tally in self._paths.values():
            # It comes along with all from below, so its parent hands on only what is left.
            for path, sign in (([*above, tally], 1), (above, -1)):
                kept = [one.share for one in path if one.share in new._paths]
                if kept:
                    new._add(kept[-1], sign * tally.used, sign * tally.rate_milli)
        return new

    def _add(self, share: str, used: int, rate_milli: int) -> None:
        for tally in self._paths[share]:
            tally.used += used
            tally.rate_milli += rate_milli

    def _step(self, tally: _Tally, area: int) -> int:
        """The half octave of usage, with what is held now, against entitlement; without floats."""
        used = (self._burst - 1) * tally.used + self._burst * tally.rate_milli * area
        if used <= 0:
            return _UNUSED
        square, entitled_square = (used * _WHOLE) ** 2, tally.entitled**2
        step = square.bit_length() - entitled_square.bit_length()
        return step - (square < entitled_square << step)

    def _scales_at(self, at_ms: int) -> tuple[int, int]:
        """What 1 ms weighs then, and A(t); kept for the last instant asked for."""
        if self._latest[0] != at_ms:
            self._latest = (at_ms, self._scales(at_ms))
        return self._latest[1]

    def _scales(self, at_ms: int) -> tuple[int, int]:
        """2^(t / half-life) and A(t), as multiples of 2^-20."""
        octaves, rest_ms = divmod(at_ms - self._origin_ms, self._half_life_ms)
        weight = 2 ** (rest_ms / self._half_life_ms) * (1 << _FRACTION_BITS)
        unit, area = round(weight), round(self._half_life_ms / log(2) * weight)
        if octaves < 0:
            return unit >> -octaves, area >> -octaves
        return unit << octaves, area << octaves


def _paths(shares: Shares) -> dict[str, tuple[_Tally, ...]]:
    """Each share's tallies, from the whole on down to its own."""
    paths: dict[str, tuple[_Tally, ...]] = {"": (_Tally("", _WHOLE),)}
    parents: list[str | None] = [None]
    for parent in parents:
        children = shares.children.get(parent, ())
        weight_milli = sum(child.weight_milli for child in children)
        above = paths[parent or ""]
        for child in children:
            entitled = above[-1].entitled * child.weight_milli // weight_milli
            paths[child.id] = (*above, _Tally(child.id, max(1, entitled)))
            parents.append(child.id)
    return paths


def _ppm(part: int, whole: int) -> int:
    return part * 1_000_000 // whole if whole > 0 else 0
