"""A report's words: figures rounded to what a reader keeps, and what its terms mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dure.units import MS_PER_HOUR, iso

MEANINGS: Final[Mapping[str, str]] = {
    "wait": "A job's end less its submission and its own run time, so that what recalls and "
    "faults cost it counts as wait.",
    "GPU-h": "One GPU in use, or in service, for an hour.",
    "holder": "Who is promised the GPUs: their owner, or a programme such as national.",
    "lent": "In use by others, while their holder left them idle.",
    "recall": "The holder needs its GPUs: who borrows them gets notice, saves its work where it "
    "can, leaves, and waits for another place.",
    "alone": "The same jobs and faults, with nothing lent.",
    "entitled": "What a share is promised, as a part of all that is promised.",
}


def span(seconds: float) -> str:
    """A length of time: `0 s`, `42 s`, `3.1 min`, `2.4 h`, `1.3 days`."""
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 1.95 * size if unit == "days" else seconds >= size:
            return f"{_short(seconds / size)} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{_short(seconds)} s"


def at_most(seconds: float) -> str:
    """An upper bound of waits: `not at all`, `at most 3.1 min`."""
    return "not at all" if seconds < 1 else f"at most {span(seconds)}"


def setting(name: str, value: object) -> tuple[str, str]:
    """A setting of a run as people read it: an instant, `starts_ms`, as a date."""
    if isinstance(value, int) and name in {"starts_ms", "ends_ms"}:
        return name.removesuffix("_ms"), iso(value)
    return name, "–" if value is None else str(value)


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
