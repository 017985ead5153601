"""When an owner keeps its pools to itself: no clock, no I/O but the time zones' own tables.

Before such a time begins, what runs there has notice, and nothing starts any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dure.text import check_slug, shown

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
NOTICE_S_MAX: Final = 24 * 3_600
_LOOK_EVERY_S: Final = 60
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blackout:
    """Pools that are closed every week, on some days from `begin` to `end`, or once, from `starts`
    to `ends`.
    """

    pools: tuple[str, ...] = ()
    """All where none is named."""
    days: tuple[str, ...] = ()
    """Every week on these, of `mon` to `sun`."""
    begin: str = ""
    """`09:00` say, on each of the days."""
    end: str = ""
    """The time of day at which it ends; on the next day where it is not later than `begin`."""
    zone: str = "UTC"
    """Whose clocks `begin` and `end` are read from: `Asia/Seoul` say."""
    starts: str = ""
    """Once, from then on: ISO 8601 with an offset."""
    ends: str = ""
    """Until then."""
    notice_s: int = 600
    """So long before, nothing starts any more and what runs has notice."""

    def __post_init__(self) -> None:
        for pool in self.pools:
            check_slug("pools", pool)
        if not 0 <= self.notice_s <= NOTICE_S_MAX:
            raise ValueError(f"notice_s is {self.notice_s}; it must be from 0 to {NOTICE_S_MAX}")
        weekly, once = bool(self.days or self.begin or self.end), bool(self.starts or self.ends)
        if weekly == once:
            raise ValueError("a blackout has either days, begin and end, or starts and ends")
        if once:
            starts, ends = _instant("starts", self.starts), _instant("ends", self.ends)
            if starts >= ends:
                raise ValueError(f"ends {shown(self.ends)} is not after starts")
            return
        if not self.days or not set(self.days) <= set(DAYS):
            raise ValueError(f"days is {list(self.days)}; name some of {', '.join(DAYS)}")
        _clock("begin", self.begin)
        _clock("end", self.end)
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            text = f"zone {shown(self.zone)} is not known here; write one like Asia/Seoul"
            raise ValueError(text) from None

    def closes(self, pool_id: str, now_ms: int) -> bool:
        """Whether a pool is closed, or has notice that it soon will be."""
        return (not self.pools or pool_id in self.pools) and self.is_near(now_ms)

    def is_near(self, now_ms: int) -> bool:
        """Whether the time has come, or its notice."""
        now = datetime.fromtimestamp(now_ms / 1_000, UTC)
        if self.starts:
            notice = _instant("starts", self.starts) - timedelta(seconds=self.notice_s)
            return notice <= now < _instant("ends", self.ends)
        zone, begin, end = ZoneInfo(self.zone), _clock("begin", self.begin), _clock("end", self.end)
        ahead_s = [*range(0, self.notice_s, _LOOK_EVERY_S), self.notice_s]
        return any(
            self._holds((now + timedelta(seconds=later_s)).astimezone(zone), begin, end)
            for later_s in ahead_s
        )

    def _holds(self, there: datetime, begin: time, end: time) -> bool:
        clock = there.time()
        today = DAYS[there.weekday()] in self.days
        if begin < end:
            return today and begin <= clock < end
        yesterday = DAYS[there.weekday() - 1] in self.days
        return (today and clock >= begin) or (yesterday and clock < end)


def closed_pools(
    blackouts: Iterable[Blackout], pool_ids: Iterable[str], now_ms: int
) -> frozenset[str]:
    """The pools that are closed now."""
    near = [one for one in blackouts if one.is_near(now_ms)]
    return frozenset(
        pool_id
        for pool_id in pool_ids
        if any(not one.pools or pool_id in one.pools for one in near)
    )


def _instant(name: str, text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ValueError(f"{name} {shown(text)} is not like 2026-12-24T18:00:00+09:00")
    return found


def _clock(name: str, text: str) -> time:
    found = _CLOCK.fullmatch(text)
    if found is None:
        raise ValueError(f"{name} {shown(text)} is not a time like 09:30")
    return time(int(found[1]), int(found[2]))
