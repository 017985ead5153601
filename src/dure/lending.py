"""Who lends the GPUs that a borrower runs on.

A borrower takes first what nobody is promised. For the rest, each share whose guarantee in that
pool idles lends in proportion to what idles of it, at the instant of the start. That split is kept
with the attempt and holds until it ends: an owner that would have used its GPUs a minute later has
the borrower called back instead, and a split that moved with every start and end of others could
be checked by nobody afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lent:
    """GPUs of a share's guarantee on which somebody else's attempt runs."""

    lender: str
    gpus: int

    def part_of(self, gpu_ms: int, gpus: int) -> int:
        """What of an attempt's `gpu_ms` on `gpus` GPUs ran on these, rounded down."""
        return gpu_ms * self.gpus // gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A pool at an instant, in GPUs: those in service, what each share alone is promised of them
    (`dure.shares.cells`), what runs under each share's guarantee, what each lends already, and all
    that borrowers hold.
    """

    in_service: int
    promised: Mapping[str, int]
    in_use: Mapping[str, int]
    lent: Mapping[str, int]
    borrowed: int


def lenders(gpus: int, not_from: Iterable[str], pool: Standing) -> tuple[Lent, ...]:
    """Who lends a borrower its `gpus`, by id. `not_from` are the shares that do not lend to it: its
    own, up to the root, and those that lend to nobody.

    Together they lend at most `gpus`, and each at most what idles of its guarantee. Parts are whole
    GPUs by largest remainder, ties by id.
    """
    idle = {
        share: left
        for share in sorted(pool.promised.keys() - set(not_from))
        if (left := pool.promised[share] - pool.in_use.get(share, 0) - pool.lent.get(share, 0)) > 0
    }
    taken = pool.borrowed - sum(pool.lent.values())
    unpromised = pool.in_service - sum(pool.promised.values()) - taken
    wanted = min(gpus - max(0, unpromised), sum(idle.values()))
    if wanted <= 0:
        return ()
    whole = sum(idle.values())
    parts = {share: wanted * left // whole for share, left in idle.items()}
    by_remainder = sorted(idle, key=lambda share: (-(wanted * idle[share] % whole), share))
    for share in by_remainder[: wanted - sum(parts.values())]:
        parts[share] += 1
    return tuple(Lent(share, part) for share, part in parts.items() if part)
