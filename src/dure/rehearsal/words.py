"""Figures as a report's prose has them: rounded to what a reader keeps."""

from __future__ import annotations

from dure.units import MS_PER_HOUR


def span(seconds: float) -> str:
    """A length of time: `0 s`, `42 s`, `3.1 min`, `2.4 h`, `1.3 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.95 * size if unit == "days" else seconds >= size:
            return f"{_short(seconds / size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{_short(seconds)} s"


def count(number: float) -> str:
    """How many: `12`, `4,321`, `1.25 million`; below 10 with a decimal where it has one."""
    if abs(number) >= 1_000_000:
        return f"{number / 1_000_000:,.2f} million"
    return _short(number) if abs(number) < 10 else f"{number:,.0f}"


def percent(fraction: float) -> str:
    """A part of the whole: `81.3 %`."""
    return f"{100 * fraction:.1f} %"


def gpu_hours(gpu_ms: float) -> str:
    """GPU time: `12 GPU-h`, `1.25 million GPU-h`."""
    return f"{count(gpu_ms / MS_PER_HOUR)} GPU-h"


def things(number: float, one: str, many: str) -> str:
    """A count and its noun: `1 job`, `3 jobs`."""
    return f"{count(number)} {one if number == 1 else many}"


def _short(number: float) -> str:
    return f"{number:,.1f}".removesuffix(".0")
