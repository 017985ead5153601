"""YAML 1.2 read as text with line numbers, for files that people write by hand.

Scalars stay as they were written: whoever reads `2:00:00` or `1e400` decides what it is, so no
number is ever rounded on the way in. What YAML can do beyond that is bounded or refused: aliases
count each time they are used, keys stand once, tags and directives are not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from dure.text import shown

TEXT_BYTES_MAX: Final = 1024 * 1024
VALUES_MAX: Final = 20_000
"""Of one file, an alias counting as much as what it stands for."""
DEPTH_MAX: Final = 16

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as it was written; `plain` says that it had no quotes and was no block."""

    text: str
    plain: bool
    line: int

    @property
    def is_null(self) -> bool:
        """Whether it is YAML's nothing."""
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    values: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Fields:
    """Keys and values, in the file's order; each key stands once."""

    pairs: tuple[tuple[Scalar, Node], ...]
    line: int


Node = Scalar | Items | Fields


class YamlError(ValueError):
    """Not YAML, or more of it than is accepted: one sentence, and the line where that is known."""

    def __init__(self, sentence: str, line: int | None = None) -> None:
        super().__init__(sentence)
        self.line = line


def documents(text: str) -> tuple[Node, ...]:
    """The documents of a YAML text that hold something.

    Raises:
        YamlError: not YAML, or beyond the limits of this module.
    """
    _check_text(text)
    found = []
    builder = _Builder()
    for event in _events(text):
        root = builder.take(event)
        if root is not None and not (isinstance(root, Scalar) and root.is_null):
            found.append(root)
    return tuple(found)


def _check_text(text: str) -> None:
    if len(text.encode(errors="surrogatepass")) > TEXT_BYTES_MAX:
        raise YamlError(f"the file is larger than {TEXT_BYTES_MAX:,} bytes")
    for number, line in enumerate(text.split("\n"), start=1):
        if line.startswith("%"):
            raise YamlError(f"{shown(line)} is a YAML directive; leave it out", number)
        for char in line:
            if char == "\0" or "\ud800" <= char <= "\udfff":
                raise YamlError(f"the character {char!a} is not text; take it out", number)


def _events(text: str) -> Iterator[Any]:
    from ruamel.yaml import YAML  # noqa: PLC0415 (only where a file is read: it costs start-up)

    try:
        yield from YAML(typ="safe", pure=True).parse(text)
    except YamlError:
        raise
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).split("\n", maxsplit=1)[0]
        line = None if mark is None else mark.line + 1
        raise YamlError(f"the file is not YAML: {problem or type(error).__name__}", line) from error


@dataclass(slots=True)
class _Open:
    """A list or mapping that has not ended yet; `size` counts the values in it."""

    line: int
    anchor: str | None
    keyed: bool
    children: list[Node] = field(default_factory=list)
    size: int = 1


class _Builder:
    """Builds documents from the parser's events, without recursion."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._total = 0

    def take(self, event: Any) -> Node | None:
        """Take the next event; a document that it completes is returned."""
        line = event.start_mark.line + 1
        if getattr(event, "tag", None) is not None:
            raise YamlError(f"the tag {shown(str(event.tag))} is not known; leave it out", line)
        match type(event).__name__:
            case "DocumentStartEvent":
                self._anchors = {}
            case "ScalarEvent":
                plain = event.style is None
                self._count(1, line)
                return self._add(Scalar(event.value, plain, line), event.anchor, 1)
            case "AliasEvent":
                return self._alias(event.anchor, line)
            case "SequenceStartEvent" | "MappingStartEvent" as kind:
                if len(self._stack) == DEPTH_MAX:
                    raise YamlError(f"values are nested more than {DEPTH_MAX} deep", line)
                self._count(1, line)
                self._stack.append(_Open(line, event.anchor, kind.startswith("Mapping")))
            case "SequenceEndEvent" | "MappingEndEvent":
                return self._close()
        return None

    def _count(self, values: int, line: int) -> None:
        self._total += values
        if self._total > VALUES_MAX:
            raise YamlError(f"the file holds more than {VALUES_MAX:,} values", line)

    def _alias(self, anchor: str, line: int) -> Node | None:
        if anchor not in self._anchors:
            raise YamlError(f"*{anchor} stands for nothing that was named &{anchor} before", line)
        node, size = self._anchors[anchor]
        self._count(size, line)
        return self._add(node, None, size)

    def _close(self) -> Node | None:
        done = self._stack.pop()
        node = _fields(done) if done.keyed else Items(tuple(done.children), done.line)
        return self._add(node, done.anchor, done.size)

    def _add(self, node: Node, anchor: str | None, size: int) -> Node | None:
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        if not self._stack:
            return node
        self._stack[-1].children.append(node)
        self._stack[-1].size += size
        return None


def _fields(done: _Open) -> Fields:
    pairs = []
    seen: dict[str, int] = {}
    for key, value in zip(done.children[::2], done.children[1::2], strict=True):
        if not isinstance(key, Scalar):
            raise YamlError("a key must be a text, not a list or mapping", key.line)
        if key.text in seen:
            raise YamlError(
                f"{shown(key.text)} stands twice, first on line {seen[key.text]}; keep one",
                key.line,
            )
        seen[key.text] = key.line
        pairs.append((key, value))
    return Fields(tuple(pairs), done.line)
