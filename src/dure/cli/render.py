"""How answers look: JSON for programs, narrow tables for people."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TextIO

from dure.allocations import BudgetUnit
from dure.cli.shell import Output, Shell
from dure.units import credits_text, gpu_time_text, iso

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

WIDTH: Final = 100
"""Columns that every table fits in, where no terminal says how wide it is."""


def console(stream: TextIO) -> Console:
    """Plain text on anything that is no terminal."""
    from rich.console import Console  # noqa: PLC0415 (only where something is shown)

    width = None if stream.isatty() else WIDTH
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def emit(shell: Shell, output: Output, value: Any, people: Callable[[Console], None]) -> None:
    """Write an answer: `value` whole as JSON, or what `people` prints of it."""
    if output is Output.JSON:
        from pydantic_core import to_json  # noqa: PLC0415 (only where something is shown)

        print(to_json(value, indent=2).decode(), file=shell.stdout)
        return
    people(console(shell.stdout))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Collection[str] = ()
) -> Table:
    """A table without frames; the columns named in `right` hold figures."""
    from rich.table import Table  # noqa: PLC0415 (only where something is shown)
    from rich.text import Text  # noqa: PLC0415

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(plain(cell)) for cell in row))
    return made


_UNSAFE: Final = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f-\x9f]")


def plain(value: object) -> str:
    """A cell: nothing as a dash, and no control character, which could move the cursor."""
    if value is None:
        return "-"
    return "".join(char if char.isprintable() else "\ufffd" for char in str(value))


def terminal_text(text: str) -> str:
    """What a job wrote, as a terminal may get it: lines, tabs and colours, nothing that moves the
    cursor, sets a title or writes a clipboard (ECMA-48; OSC 52).
    """
    return _UNSAFE.sub("\ufffd", text)


def line(to: Console, text: str) -> None:
    """One line of prose."""
    to.print(plain(text), soft_wrap=True)


def instant(at_ms: int | None) -> str:
    """An instant, or a dash."""
    return "-" if at_ms is None else iso(at_ms)


def clock(at_ms: int, now_ms: int) -> str:
    """An instant near now, to the minute: `14:20Z`; on another day, `11-24T02:10Z`."""
    day, _, time = iso(at_ms).partition("T")
    minute = f"{time[:5]}Z"
    return minute if iso(now_ms).startswith(day) else f"{day[5:]}T{minute}"


def span(from_ms: int, until_ms: int, now_ms: int) -> str:
    """A range of instants near now: `14:05Z to 14:50Z`."""
    ends = [clock(max(at_ms, now_ms), now_ms) for at_ms in (from_ms, until_ms)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def amount(value: int | None, unit: BudgetUnit) -> str:
    """What was charged or is left, with its unit."""
    if value is None:
        return "-"
    if unit is BudgetUnit.UCREDIT:
        return f"{credits_text(value)} credits"
    return gpu_time_text(value)


@contextmanager
def progress(shell: Shell, what: str, total_bytes: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, silence elsewhere."""
    if not shell.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=console(shell.stderr), transient=True) as bar:
        task = bar.add_task(what, total=total_bytes)
        yield lambda done: bar.advance(task, done)
