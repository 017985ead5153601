"""JSON in and out of the core's dataclasses, strictly: the one edge between text and values.

Strict means: no string for a number, no 8.0 for 8, no `true` for 1, no field that the dataclass
lacks, no field twice. What does not fit is refused in one sentence that names the field and the
value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar, cast

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails, SchemaValidator

from dure.errors import RefusedError
from dure.text import shown

T = TypeVar("T")

ERRORS_MAX: Final = 100
"""A body with more mistakes than this is not described: that would cost more than it helps."""
SENTENCE_MAX: Final = 600
FIELD_MAX: Final = 120

_ADAPTERS: Final[dict[Any, TypeAdapter[Any]]] = {}


def adapter(type_: Any) -> TypeAdapter[Any]:
    """The decoder and encoder of a type, built once."""
    found = _ADAPTERS.get(type_)
    if found is None:
        found = _ADAPTERS[type_] = TypeAdapter(type_)
        _stop_at_first_bad_element(found.core_schema)
        found.validator = SchemaValidator(found.core_schema)
    return found


def _stop_at_first_bad_element(schema: Any) -> None:
    """Make sequences fail fast: four million bad elements would else be four million errors."""
    if isinstance(schema, dict):
        if schema.get("type") in {"tuple", "list"}:
            schema["fail_fast"] = True
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            _stop_at_first_bad_element(part)


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
        value = adapter(type_).validate_json(data, strict=True, extra="forbid")
        json.loads(data, object_pairs_hook=_each_once)
    except ValidationError as error:
        raise RefusedError("bad-input", _mistakes(error, what), status=422) from None
    except _TwiceError as error:
        text = f"{shown(error.name)} stands twice in one object of the {what}."
        raise RefusedError("bad-input", text, status=422) from None
    return cast("T", value)


class _TwiceError(Exception):
    """A name that an object has twice; JSON leaves open which of the values counts."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _each_once(pairs: list[tuple[str, Any]]) -> None:
    seen = set()
    for name, _ in pairs:
        if name in seen:
            raise _TwiceError(name)
        seen.add(name)


def _mistakes(error: ValidationError, what: str) -> str:
    if error.error_count() > ERRORS_MAX:
        return f"The {what} has {error.error_count():,} mistakes; it is not of the form expected."
    return sentence(error.errors(include_url=False, include_context=True), what)


def read(type_: type[T], data: str | bytes) -> T:
    """Read back what `encode` wrote, from a trusted place such as our own database."""
    return cast("T", adapter(type_).validate_json(data))


def sentence(details: Iterable[ErrorDetails], what: str) -> str:
    """The first thing that is wrong, as one sentence."""
    return _cut(_sentence(min(details, key=_seriousness), what), SENTENCE_MAX)


def _sentence(first: ErrorDetails, what: str) -> str:
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
            return f"{where} is {_value(first)}; it must be one of {allowed}."
        case _:
            expected = re.sub(r"\A(?:Input|Value) should be ", "it must be ", first["msg"])
            return f"{where} is {_value(first)}; {expected}."


def _value(error: ErrorDetails) -> str:
    """The value as it was sent, unless it was meant as a secret: answers end up in logs."""
    return "(not shown)" if "secrets" in error["loc"] else shown(error["input"])


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
    return _cut(text) if text.isprintable() else shown(text)


def _cut(text: str, limit: int = FIELD_MAX) -> str:
    return text if len(text) <= limit else f"{text[: limit - 7]} [...]{text[-1]}"


def _prefix(location: tuple[int | str, ...]) -> str:
    """Where a dataclass that checks itself stands, unless it is the whole."""
    field = _field(location)
    return f"{field}: " if field else ""
