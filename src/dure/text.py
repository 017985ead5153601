r"""What text from users may hold: their words travel as data only, and this is the second wall.

Every pattern ends in `\Z`: a `$` would let a trailing newline through, and a newline is all that an
engine's directive needs.
"""

from __future__ import annotations

import re
from typing import Final

NAME = re.compile(r"\A[A-Za-z0-9가-힣][A-Za-z0-9가-힣 ._()+-]{0,62}\Z")
SLUG = re.compile(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")
ENV_NAME = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]{0,127}\Z")
EMAIL = re.compile(r"\A[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+\Z")
SHA256 = re.compile(r"\A[0-9a-f]{64}\Z")

TEXT_MAX: Final = 65_536
PATH_MAX: Final = 1_024


def shown(value: object) -> str:
    """A value as an error may show it: quoted, escaped, cut short."""
    text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def check_name(field: str, value: str) -> None:
    """A name people give: letters (Latin or Hangul), digits and ` ._()+-`, up to 63.

    Raises:
        ValueError: anything else.
    """
    if not NAME.match(value):
        raise ValueError(
            f"{field} {shown(value)} is not a name; use 1 to 63 letters, digits, spaces or ._()+-, "
            "starting with a letter or digit"
        )


def check_slug(field: str, value: str) -> None:
    """An id people give: lower-case letters, digits and hyphens, up to 63.

    Raises:
        ValueError: anything else.
    """
    if not SLUG.match(value):
        raise ValueError(
            f"{field} {shown(value)} is not an id; "
            "use 1 to 63 lower-case letters, digits or hyphens"
        )


def check_text(field: str, value: str, *, limit: int = TEXT_MAX) -> None:
    """Free text that travels as data: what UTF-8 can carry, without NUL, up to `limit` characters.

    Raises:
        ValueError: NUL, a lone surrogate, or too long.
    """
    if len(value) > limit:
        raise ValueError(f"{field} has {len(value):,} characters; at most {limit:,} are allowed")
    if "\0" in value:
        raise ValueError(f"{field} holds a NUL character, which no command or file can carry")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError(f"{field} holds half of a surrogate pair, which is not text in UTF-8")


def check_relative_path(field: str, value: str) -> None:
    """A path that stays inside the folder it is joined to.

    Raises:
        ValueError: absolute, empty, with `..`, `.`, a backslash, a control character, or too long.
    """
    check_text(field, value, limit=PATH_MAX)
    parts = value.split("/")
    if any(part in {"", ".", ".."} for part in parts):
        raise ValueError(
            f"{field} {shown(value)} is not a path inside the job's folder; "
            "write it relative, without '..', '.' or empty parts"
        )
    if "\\" in value or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError(f"{field} {shown(value)} holds a backslash or a control character")
