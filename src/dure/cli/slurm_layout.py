"""How Slurm's commands lay out their answers: format strings, columns, and text for programs.

Source: squeue(1) and sinfo(1), --format; sacct(1), --format and --parsable2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from dure.cli.render import plain
from dure.text import shown

T = TypeVar("T")

_FIELD: Final = re.compile(r"%(\.?)(\d{0,4})([A-Za-z])|%(%)")
_LONG: Final = re.compile(r"\A([A-Za-z_]+)(?::(\.?)(\d{1,4}))?\Z")
_COLUMN: Final = re.compile(r"\A([A-Za-z]+)(?:%(-?)(\d{1,4}))?\Z")
LONG_WIDTH: Final = 20
"""Of a --Format field that names none."""


@dataclass(frozen=True, slots=True)
class Field(Generic[T]):
    """One thing that can be asked for: its heading, its value, its usual width in columns."""

    heading: str
    value: Callable[[T], str]
    width: int = 10
    left: bool = False


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A field where it stands in a line. `width` None is as wide as its text."""

    field: Field[T]
    width: int | None
    left: bool
    before: str = ""
    """Text between the column before it and this one."""

    def text(self, value: str) -> str:
        """The value cut and filled to its width."""
        safe = plain(value)
        if self.width is None:
            return f"{self.before}{safe}"
        cut = safe[: self.width]
        filled = cut.ljust(self.width) if self.left else cut.rjust(self.width)
        return f"{self.before}{filled}"


def by_letters(format_: str, known: Mapping[str, Field[T]]) -> tuple[tuple[Column[T], ...], str]:
    """`%.18i %.9P`: the columns, and the text after the last.

    Raises:
        ValueError: a letter that stands for nothing here.
    """
    columns: list[Column[T]] = []
    before, at = "", 0
    for match in _FIELD.finditer(format_):
        before += format_[at : match.start()]
        at = match.end()
        if match[4]:
            before += "%"
            continue
        field = known.get(match[3])
        if field is None:
            raise ValueError(
                f"format %{match[3]} is not known here; known are %{', %'.join(sorted(known))}"
            )
        width = int(match[2]) if match[2] else None
        columns.append(Column(field, width, left=not match[1], before=before))
        before = ""
    return tuple(columns), before + format_[at:]


def by_names(format_: str, known: Mapping[str, Field[T]]) -> tuple[Column[T], ...]:
    """`jobid:12,state:.8` of --Format. Raises ValueError."""
    columns: list[Column[T]] = []
    for part in format_.split(","):
        match = _LONG.match(part.strip())
        field = known.get(match[1].lower()) if match else None
        if match is None or field is None:
            raise ValueError(
                f"Format {shown(part)} is not known here; known are {', '.join(sorted(known))}"
            )
        width = int(match[3]) if match[3] else LONG_WIDTH
        columns.append(Column(field, width, left=not match[2]))
    return tuple(columns)


def in_columns(format_: str, known: Mapping[str, Field[T]]) -> tuple[Column[T], ...]:
    """`jobid,state%20,elapsed` of sacct's and sshare's --format. Raises ValueError."""
    columns: list[Column[T]] = []
    for part in filter(None, format_.split(",")):
        match = _COLUMN.match(part.strip())
        field = known.get(match[1].lower()) if match else None
        if match is None or field is None:
            raise ValueError(
                f"format {shown(part)} is not known here; known are {', '.join(sorted(known))}"
            )
        width = int(match[3]) if match[3] else field.width
        left = bool(match[2]) if match[3] else field.left
        columns.append(Column(field, width, left=left, before=" " if columns else ""))
    return tuple(columns)


def lines(columns: Sequence[Column[T]], rows: Iterable[T], after: str = "") -> Iterator[str]:
    """The heading and a line for each row."""
    yield "".join(column.text(column.field.heading) for column in columns) + after
    for row in rows:
        yield "".join(column.text(column.field.value(row)) for column in columns) + after


def underlined(columns: Sequence[Column[T]], rows: Iterable[T]) -> Iterator[str]:
    """As `lines`, with dashes below the heading."""
    heading, *rest = lines(columns, rows)
    yield heading
    yield "".join(column.text("-" * (column.width or 0)) for column in columns)
    yield from rest


def parsable(
    columns: Sequence[Column[T]], rows: Iterable[T], delimiter: str, *, at_end: bool
) -> Iterator[str]:
    """Values whole, with a delimiter between them and, for --parsable, after the last."""
    end = delimiter if at_end else ""
    yield delimiter.join(column.field.heading for column in columns) + end
    for row in rows:
        yield delimiter.join(plain(column.field.value(row)) for column in columns) + end


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7` of numbers in rising order."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
