"""JSON in and out of the core's dataclasses, strictly: the one edge between text and values.

Strict means: no string for a number, no 8.0 for 8, no `true` for 1, no field that the dataclass
lacks. What does not fit is refused in one sentence that names the field and the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from dure.errors import RefusedError
from dure.text import shown

T = TypeVar("T")

_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def adapter(type_: Any) -> TypeAdapter[Any]:
    """The decoder and encoder of a type, built once."""
    found = _ADAPTERS.get(type_)
    if found is None:
        found = _ADAPTERS[type_] = TypeAdapter(type_)
    return found


def encode(value: Any, type_: Any = None) -> bytes:
    """A value as compact JSON in UTF-8. `type_` is needed for tuples and unions."""
    return adapter(type_ or type(value)).dump_json(value)


def encode_text(value: Any, type_: Any = None) -> str:
    """The same, as text for a column."""
    return encode(value, type_).decode()


def decode(type_: type[T], data: str | bytes, *, what: str = "body") -> T:
    """Read a value from untrusted JSON.

    Raises:
        RefusedError: code `bad-input`, one sentence; `what` names the whole where no field does.
    """
    try:
        return cast("T", adapter(type_).validate_json(data, strict=True, extra="forbid"))
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        raise RefusedError("bad-input", sentence(details, what), status=422) from None


def read(type_: type[T], data: str | bytes) -> T:
    """Read back what `encode` wrote, from a trusted place such as our own database."""
    return cast("T", adapter(type_).validate_json(data))


def sentence(details: Iterable[ErrorDetails], what: str) -> str:
    """The first thing that is wrong, as one sentence."""
    first = min(details, key=_seriousness)
    where = _field(first["loc"]) or what
    match first["type"]:
        case "value_error":
            text = str(first.get("ctx", {}).get("error", first["msg"]))
            return f"{_prefix(first['loc'])}{text}."
        case "missing":
            return f"{where} is missing."
        case "unexpected_keyword_argument" | "extra_forbidden":
            return f"{where} is not a field that Dure knows."
        case "json_invalid":
            return f"The {what} is not JSON: {first['ctx']['error']}."
        case "enum" | "literal_error":
            allowed = first["ctx"]["expected"].replace(" or ", ", ")
            return f"{where} is {shown(first['input'])}; it must be one of {allowed}."
        case _:
            expected = re.sub(r"\A(?:Input|Value) should be ", "it must be ", first["msg"])
            return f"{where} is {shown(first['input'])}; {expected}."


def _seriousness(error: ErrorDetails) -> int:
    """An unknown field explains a missing one (a typo), so it is told first."""
    return 0 if error["type"] in {"unexpected_keyword_argument", "extra_forbidden"} else 1


def _field(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif not part.startswith(("function-", "constrained-", "nullable")):
            text += f".{part}" if text else part
    return text if text.isprintable() else shown(text)


def _prefix(location: tuple[int | str, ...]) -> str:
    """Where a dataclass that checks itself stands, unless it is the whole."""
    field = _field(location)
    return f"{field}: " if field else ""
