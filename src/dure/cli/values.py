"""What people type where a value is meant, and how a wrong one is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Final

from dure.errors import RefusedError
from dure.text import shown
from dure.units import MILLI, instant_from_iso

_SHARE: Final = re.compile(r"\A[01](?:\.[0-9]{1,3})?\Z")


@contextmanager
def refusing() -> Iterator[None]:
    """Turn the core's `ValueError`, whose sentence is fit to be shown, into a refusal."""
    try:
        yield
    except ValueError as error:
        raise RefusedError("bad-input", f"{error}.") from None


def instant_ms(name: str, text: str | None) -> int | None:
    """A date, midnight UTC, or a date and time.

    Raises:
        RefusedError: `bad-input`.
    """
    if text is None:
        return None
    try:
        return instant_from_iso(text)
    except (ValueError, OverflowError):
        raise RefusedError(
            "bad-input",
            f"--{name} {shown(text)} is not a date; write 2027-01-01 or 2027-01-01T09:00+09:00.",
        ) from None


def milli(name: str, text: str) -> int:
    """A share from 0 to 1 in thousandths, exactly.

    Raises:
        RefusedError: `bad-input`.
    """
    if not _SHARE.match(text) or (value := Decimal(text) * MILLI) > MILLI:
        raise RefusedError(
            "bad-input", f"--{name} {shown(text)} is not a share; write 0 to 1, 0.7 for 70 %."
        )
    return int(value)


def pair(name: str, text: str) -> tuple[str, str]:
    """`NAME=VALUE`.

    Raises:
        RefusedError: `bad-input`; it does not show the value.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise RefusedError("bad-input", f"--{name} {shown(key)} has no value; write NAME=VALUE.")
    return key, value
