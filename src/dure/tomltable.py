"""Reading a TOML file key by key, so that every mistake is answered with its file, line and path.

Settings, `key.path=value`, are put in before it is read, and read like the rest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final, TypeVar

from dure.text import SLUG, shown
from dure.tomllines import Spot, line_of
from dure.units import INT64_MAX, instant_from_iso

FILE_BYTES_MAX: Final = 4 * 1024 * 1024

_Built = TypeVar("_Built")
_Else = TypeVar("_Else")
_Text = TypeVar("_Text", bound=str)


class _AtSpotError(ValueError):
    """Something wrong whose sentence begins with its path in the file."""

    def __init__(self, sentence: str, spot: Spot) -> None:
        super().__init__(sentence)
        self.spot = spot


def read(path: Path, build: Callable[[Table], _Built], settings: Sequence[str] = ()) -> _Built:
    """What `build` makes of a TOML file, with `settings` (`key.path=value`) put in first.

    A setting's value is TOML, or else a text as it stands. In an array of tables, a table goes by
    its id: `workload.startups.load=0.9`.

    Raises:
        ValueError: the file cannot be read, or the first thing wrong in it: `FILE:LINE: PATH` and
            what would be right; of a setting, `--set SETTING: PATH`. No full stop ends it.
    """
    try:
        text = _text(path)
        data = _parsed(text)
    except ValueError as wrong:
        raise ValueError(f"{path.name}: {wrong}") from wrong
    return read_data(Document(path.name, data, text), build, settings)


@dataclass(frozen=True, slots=True)
class Document:
    """What a TOML file holds, and the text that lines are found in, if it was a file."""

    name: str
    data: dict[str, Any]
    text: str = ""


def read_data(
    document: Document, build: Callable[[Table], _Built], settings: Sequence[str] = ()
) -> _Built:
    """What `build` makes of a document, as `read` does. The settings stay in its data."""
    set_at = {_set(document.data, setting): setting for setting in settings}
    try:
        return Table("", document.data).build(build)
    except _AtSpotError as wrong:
        for spot, setting in set_at.items():
            shared = min(len(spot), len(wrong.spot))
            if shared and wrong.spot[:shared] == spot[:shared]:
                raise ValueError(f"--set {setting}: {wrong}") from wrong
        line = line_of(wrong.spot, document.text) if document.text else None
        where = f"{document.name}:{line}" if line else document.name
        raise ValueError(f"{where}: {wrong}") from wrong


class Table:
    """One table of the file. Each key is read once, by its type; `build` refuses those left over.

    `path` leads from the top of the file to this table, as people read it: in an array, a table
    goes by its id.
    """

    def __init__(self, path: str, data: Mapping[str, Any], spot: Spot = ()) -> None:
        self._path = path
        self._spot = spot
        self._left = dict(data)
        self._known: dict[str, None] = {}

    def has(self, key: str) -> bool:
        """Whether an optional key is there."""
        self._known[key] = None
        return key in self._left

    def rest(self) -> tuple[str, ...]:
        """The keys not read yet, in order of their names: the file's order means nothing."""
        return tuple(sorted(self._left))

    def skip(self, *keys: str) -> None:
        """Pass by keys that somebody else reads."""
        for key in keys:
            self._left.pop(key, None)

    def text(self, key: str) -> str:
        """A text."""
        text: str = self._value(key, str, "a text in quotes")
        return text

    def given(self, key: str, read: Callable[[str], _Built], default: _Else) -> _Built | _Else:
        """What `read` makes of an optional key: `table.given("seed", table.integer, 0)`."""
        return read(key) if self.has(key) else default

    def integer(self, key: str) -> int:
        """A whole number of at most 64 bits."""
        value: int = self._value(key, int, "a whole number")
        if abs(value) > INT64_MAX:
            raise self.error(key, "is beyond 64 bits; write a smaller number")
        return value

    def count(self, key: str, *, least: int = 1) -> int:
        """A whole number that is at least 1, or as little as `least`."""
        value = self.integer(key)
        if value < least:
            raise self.error(key, f"is {value:,}; it must be at least {least:,}")
        return value

    def number(self, key: str) -> float:
        """A finite number above 0."""
        value = self._value(key, (int, float), "a number above 0")
        if not 0 < value <= INT64_MAX:
            raise self.error(key, f"is {value}; write a number above 0")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        """True or false."""
        return bool(self._value(key, bool, "true or false")) if self.has(key) else default

    def one_of(self, key: str, known: Iterable[_Text]) -> _Text:
        """A text that is one of those known."""
        return self._among(key, self.text(key), known)

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, None when the key is not there."""
        if not self.has(key):
            return None
        values: list[Any] = self._value(key, list, "a list of texts")
        if not all(isinstance(value, str) for value in values):
            raise self.error(key, f"is {shown(values)}; write a list of texts")
        return tuple(values)

    def some_of(self, key: str, known: Iterable[_Text]) -> tuple[_Text, ...] | None:
        """A list of texts that are among those known, None when the key is not there."""
        values = self.texts(key)
        return None if values is None else tuple(self._among(key, v, known) for v in values)

    def instant_ms(self, key: str) -> int:
        """A date (midnight UTC) or date and time, as TOML's own or as a text in ISO 8601."""
        value = self._value(key, (date, str), "a date such as 2026-11-23")
        try:
            instant_ms = instant_from_iso(value if isinstance(value, str) else value.isoformat())
        except (ValueError, OverflowError) as wrong:
            sentence = f"is {shown(str(value))}; write a date such as 2026-11-23"
            raise self.error(key, sentence) from wrong
        if instant_ms < 0:
            raise self.error(key, f"is {value}; write a date from 1970 on")
        return instant_ms

    def pairs(self, key: str) -> tuple[tuple[str, int], ...]:
        """A table of whole numbers, in the order of its keys."""
        table = self.table(key)
        return tuple((name, table.integer(name)) for name in table.rest())

    def table(self, key: str) -> Table:
        """A table in this one."""
        data = self._value(key, dict, f"a table [{key}]")
        return Table(self._at(key), data, (*self._spot, key))

    def tables(self, key: str, read: Callable[[Table], _Built]) -> tuple[_Built, ...]:
        """An array of tables, each read by `read`; empty when the key is not there."""
        if not self.has(key):
            return ()
        rows = self._value(key, list, f"tables [[{key}]]")
        built = []
        ids: set[str] = set()
        for index, row in enumerate(rows):
            if not isinstance(row, dict):
                raise self.error(key, f"is {shown(rows)}; write tables [[{key}]]")
            id_ = row.get("id")
            label = id_ if isinstance(id_, str) and _is_plain(id_) else str(index + 1)
            table = Table(f"{self._at(key)}[{label}]", row, (*self._spot, key, index))
            if label in ids:
                raise table.error("id", f"is {shown(id_)} for the second time; ids are unique")
            ids.add(label)
            built.append(table.build(read))
        return tuple(built)

    def build(self, read: Callable[[Table], _Built]) -> _Built:
        """What `read` makes of this table, all of whose keys must then be read.

        Raises:
            ValueError: the first thing wrong, with its path.
        """
        try:
            built = read(self)
        except _AtSpotError:
            raise
        except ValueError as wrong:
            sentence = f"{self._path}: {wrong}" if self._path else str(wrong)
            raise _AtSpotError(sentence, self._spot) from wrong
        for key in self._left:
            known = ", ".join(sorted(self._known))
            raise self.error(key, f"is not a known key here; known are {known}")
        return built

    def error(self, key: str, sentence: str) -> ValueError:
        """What to raise about the value of a key."""
        return _AtSpotError(f"{self._at(key)} {sentence}", (*self._spot, key))

    def _value(self, key: str, kind: type | tuple[type, ...], wanted: str) -> Any:
        if not self.has(key):
            raise self.error(key, f"is missing; write {wanted}")
        value = self._left.pop(key)
        # bool is an int to Python, and not to people.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.error(key, f"is {shown(value)}; write {wanted}")
        return value

    def _among(self, key: str, value: str, known: Iterable[_Text]) -> _Text:
        among = list(known)
        for text in among:
            if text == value:
                return text
        raise self.error(key, f"is {shown(value)}; write one of {', '.join(among) or 'none'}")

    def _at(self, key: str) -> str:
        plain = key if _is_plain(key) else shown(key)
        return f"{self._path}.{plain}" if self._path else plain


def _is_plain(key: str) -> bool:
    return all(SLUG.match(part) for part in key.replace("_", "-").split("."))


# ---- The file ------------------------------------------------------------------------------------


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as wrong:
        raise ValueError(f"the file cannot be read: {wrong.strerror}") from wrong
    if len(raw) > FILE_BYTES_MAX:
        raise ValueError(f"the file is larger than {FILE_BYTES_MAX:,} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as wrong:
        raise ValueError(f"the file is not UTF-8 at byte {wrong.start}") from wrong


def _parsed(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as wrong:
        raise ValueError(f"the file is not TOML: {wrong}") from wrong


# ---- Settings ------------------------------------------------------------------------------------


def _set(data: dict[str, Any], setting: str) -> Spot:
    """Put a setting into the data; where it went."""
    path, equals, text = setting.partition("=")
    if not equals or not path:
        raise ValueError(f"--set {setting}: write KEY=VALUE, such as policy.recalls_max=5")
    value = _toml_value(text)
    at: Any = data
    spot: list[str | int] = []
    left = path.strip()
    while True:
        if isinstance(at, list):
            index, left = _row(at, left, setting)
            spot.append(index)
            at = at[index]
            continue
        key, dot, left = left.partition(".")
        spot.append(key)
        if not dot:
            at[key] = value
            return tuple(spot)
        at = at.setdefault(key, {})
        if not isinstance(at, dict | list):
            sentence = f"--set {setting}: {key} is {shown(at)}, nothing lies below it"
            raise ValueError(sentence)  # noqa: TRY004 (a wrong file, not a wrong type of ours)


def _row(rows: list[Any], path: str, setting: str) -> tuple[int, str]:
    """Which table of an array a path goes on in, by its id, and what is left of the path."""
    ids = [str(row.get("id", number)) for number, row in enumerate(rows, 1)]
    # An id may hold dots, so the longest that fits is meant.
    for id_ in sorted(ids, key=len, reverse=True):
        if path.startswith(f"{id_}."):
            return ids.index(id_), path[len(id_) + 1 :]
    first = shown(path.partition(".")[0])
    raise ValueError(f"--set {setting}: there is no {first} here; known are {', '.join(ids)}")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
