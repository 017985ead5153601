"""The words of squeue, scancel, sacct, sinfo and sshare, and what all of them have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import typer

from dure.cli.sbatch import COMMAND_LINE, WORDS
from dure.errors import RefusedError
from dure.sbatch import options, values
from dure.sbatch.options import Option, Takes
from dure.text import shown
from dure.units import INSTANT_MS_MAX, instant_from_iso

_DAY_MS: Final = 24 * 3_600_000
_UNITS_MS: Final = {
    "second": 1_000, "minute": 60_000, "hour": 3_600_000, "day": _DAY_MS, "week": 7 * _DAY_MS,
}  # fmt: skip
_FROM_NOW: Final = re.compile(r"\Anow(?:([+-])(\d{1,9})([a-z]*?)s?)?\Z")
_CLOCK: Final = re.compile(r"\A(\d{1,2}):(\d{2})(?::(\d{2}))?\Z")


def table(valued: str, flags: str) -> Mapping[str, Option]:
    """Options by name, from texts such as `user/u jobs/j name`; `flags` take no value."""
    return {
        name: Option(name, letter, takes)
        for text, takes in ((valued, Takes.VALUE), (flags, Takes.NOTHING))
        for name, _, letter in (word.partition("/") for word in text.split())
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """What was given: values by option, None for a flag; and the words that are no options."""

    given: Mapping[str, str | None]
    rest: tuple[str, ...]

    def __contains__(self, option: str) -> bool:
        return option in self.given

    def value(self, option: str) -> str | None:
        """An option's value."""
        return self.given.get(option)

    def listed(self, option: str) -> tuple[str, ...] | None:
        """A list between commas; None where it was not given."""
        text = self.given.get(option)
        return None if text is None else tuple(filter(None, text.split(",")))


def asked(ctx: typer.Context, known: Mapping[str, Option]) -> Asked:
    """Read a command's words; options may stand anywhere, as GNU's getopt has it.

    Raises:
        RefusedError: `usage`: an option that there is not, a value too many or too few.
    """
    left: Sequence[str] = ctx.meta.get(WORDS, ())
    given: dict[str, str | None] = {}
    rest: list[str] = []
    try:
        while left:
            found, left = options.read(left, COMMAND_LINE, known)
            given |= {one.option: one.value for one in found}
            if left:
                rest.append(left[0])
                left = left[1:]
    except ValueError as error:
        raise RefusedError("usage", f"{error}.") from None
    return Asked(given, tuple(rest))


def no_more(found: Asked) -> None:
    """Refuse words where there may be none."""
    if found.rest:
        raise RefusedError("usage", f"{shown(found.rest[0])} is one too many; see --help.")


def job_ids(texts: Iterable[str]) -> list[tuple[str, int | None]]:
    """`12,12_3,j-14` as jobs' ids and tasks' indices. Raises RefusedError."""
    try:
        return [values.job_id(one) for text in texts for one in text.split(",") if one]
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None


def instant(text: str | None, now_ms: int, otherwise: int | None) -> int | None:
    """A time as --starttime and --endtime take it, in UTC.

    Source: sacct(1), option --starttime.

    Raises:
        RefusedError: `bad-input`.
    """
    if text is None:
        return otherwise
    word, midnight_ms = text.strip().lower(), now_ms - now_ms % _DAY_MS
    named = {"now": now_ms, "today": midnight_ms, "midnight": midnight_ms}
    if word in named:
        return named[word]
    if (match := _FROM_NOW.match(word)) and (match[3] or "second") in _UNITS_MS:
        length_ms = int(match[2]) * _UNITS_MS[match[3] or "second"]
        return min(max(0, now_ms + (length_ms if match[1] == "+" else -length_ms)), INSTANT_MS_MAX)
    if match := _CLOCK.match(word):
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return midnight_ms + ((hours * 60 + minutes) * 60 + seconds) * 1_000
    try:
        return instant_from_iso(text)
    except (ValueError, OverflowError):
        raise RefusedError(
            "bad-input",
            f"time {shown(text)} is not a time; write 2026-11-24, 2026-11-24T09:00 or now-2hours.",
        ) from None


def chosen(values_: Any, wanted: tuple[str, ...] | None) -> bool:
    """Whether any of some values is wanted; where nothing was named, all are."""
    return wanted is None or bool(set(values_) & set(wanted))
