"""Exact integers with their units, and the one place where anything is rounded.

Instants are milliseconds since 1970-01-01 UTC and intervals are half-open, [start, end). GPU time
is counted in GPU-milliseconds. A credit is one H100-hour equivalent and is counted in
micro-credits (`ucredit`). Nothing here is a float: sums of millions of entries must be exact.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from fractions import Fraction
from typing import Final, NewType

from dure.text import shown

InstantMs = NewType("InstantMs", int)

MS_PER_S: Final = 1_000
S_PER_HOUR: Final = 3_600
MS_PER_HOUR: Final = S_PER_HOUR * MS_PER_S
UCREDIT_PER_CREDIT: Final = 1_000_000
MILLI: Final = 1_000
"""Rates and factors are integers in thousandths: 2250 means x 2.25."""

INT64_MAX: Final = 2**63 - 1
"""What a database integer holds; every quantity is bounded below it."""

INSTANT_MS_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999, beyond which a date cannot be written."""

WALLTIME_S_MAX: Final = 366 * 24 * S_PER_HOUR

_CLOCK = re.compile(r"\A(?:(?P<days>[0-9]{1,4})-)?(?P<parts>[0-9]{1,6}(?::[0-9]{1,2}){0,2})\Z")
_SUFFIXED = re.compile(r"\A(?P<number>[0-9]{1,7})(?P<unit>[smhd])\Z")
_DECIMAL = re.compile(r"\A[0-9]{1,12}(?:\.[0-9]{1,6})?\Z")
_SECONDS: Final = {"s": 1, "m": 60, "h": S_PER_HOUR, "d": 24 * S_PER_HOUR}


def round_half_even(value: Fraction) -> int:
    """The only rounding there is: to the nearest integer, ties to the even one (IEEE 754)."""
    return round(value)


def instant_from_iso(text: str) -> InstantMs:
    """Read an ISO 8601 date (midnight UTC) or date and time; one without an offset is UTC.

    Raises:
        ValueError: not such a text.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return InstantMs(int(moment.timestamp() * MS_PER_S))


def iso(instant_ms: int) -> str:
    """An instant as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(instant_ms / MS_PER_S, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def walltime_s_from_text(text: str) -> int:
    """Read a walltime as Slurm's `--time` does, in seconds: `M`, `M:S`, `H:M:S`, `D-H`, `D-H:M`,
    `D-H:M:S`; besides `90s`, `30m`, `2h`, `3d`.

    Source: sbatch(1), option --time.

    Raises:
        ValueError: another form, zero, or more than a year.
    """
    seconds = _walltime_s(text.strip())
    if seconds is None:
        raise ValueError(
            f"time {shown(text)} is not a walltime; "
            "write minutes, H:MM:SS, D-HH:MM:SS or 90s, 30m, 2h, 3d"
        )
    if not 1 <= seconds <= WALLTIME_S_MAX:
        raise ValueError(f"time {shown(text)} is {seconds} s; it must be from 1 s to 366 days")
    return seconds


def _walltime_s(text: str) -> int | None:
    if suffixed := _SUFFIXED.match(text):
        return int(suffixed["number"]) * _SECONDS[suffixed["unit"]]
    if not (clock := _CLOCK.match(text)):
        return None
    parts = [int(part) for part in clock["parts"].split(":")]
    if clock["days"] is not None:  # D-H[:M[:S]]
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return ((int(clock["days"]) * 24 + hours) * 60 + minutes) * 60 + seconds
    match parts:
        case [minutes]:
            return minutes * 60
        case [minutes, seconds]:
            return minutes * 60 + seconds
        case [hours, minutes, seconds]:
            return (hours * 60 + minutes) * 60 + seconds
    return None


def duration(seconds: float) -> str:
    """A length of time as people read it: `42 s`, `3:05`, `2:00:00`, `1-06:00:00`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    hours, m = divmod(minutes, 60)
    if not hours:
        return f"{m}:{s:02d}"
    days, h = divmod(hours, 24)
    return f"{days}-{h:02d}:{m:02d}:{s:02d}" if days else f"{h}:{m:02d}:{s:02d}"


def credits_text(ucredit: int) -> str:
    """Micro-credits as credits: 1234567 -> `1.234567`, 5000000 -> `5`."""
    whole, part = divmod(abs(ucredit), UCREDIT_PER_CREDIT)
    digits = f"{whole:,}.{part:06d}".rstrip("0").rstrip(".")
    return f"-{digits}" if ucredit < 0 else digits


def ucredit_from_text(text: str) -> int:
    """Read credits written in decimal, exactly.

    Raises:
        ValueError: not a decimal number, finer than a micro-credit, or too large.
    """
    if not _DECIMAL.match(text):
        raise ValueError(
            f"{shown(text)} is not a number of credits; "
            "write a decimal such as 1500 or 0.25, with up to 12 digits and 6 decimals"
        )
    return int(Fraction(text) * UCREDIT_PER_CREDIT)


def gpu_time_text(gpu_ms: int) -> str:
    """GPU time with its unit: `8.0000 GPU-h`; below 0.01 GPU-h, `30.2 GPU-s`; `0 GPU-h`.

    A time that is not zero never reads as zero: up to 0.05 GPU-s is `<0.1 GPU-s`.
    """
    size = abs(gpu_ms)
    sign = "-" if gpu_ms < 0 else ""
    if size == 0:
        return "0 GPU-h"
    if size >= MS_PER_HOUR // 100:
        return f"{sign}{_decimal(Fraction(size, MS_PER_HOUR), 4)} GPU-h"
    if size <= 50:  # ms, which one decimal would round to nothing
        return f"{sign}<0.1 GPU-s"
    return f"{sign}{_decimal(Fraction(size, MS_PER_S), 1)} GPU-s"


def _decimal(value: Fraction, decimals: int) -> str:
    whole, part = divmod(round_half_even(value * 10**decimals), 10**decimals)
    return f"{whole:,}.{part:0{decimals}d}"
