"""How traces lie on disk: text, gzipped or not, in columns named by the first line, and JSON."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path
from typing import Any, TextIO

from dure.rehearsal.traces.trace import BadRowError, Rows, TraceJob, bad_trace, parsed
from dure.text import shown

_GZIP = b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A text file, unpacked on the way where it is gzipped.

    Raises:
        RefusedError: `bad-trace`: it cannot be read, or is not UTF-8 text all through.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            with TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
                yield text
    except FileNotFoundError as missing:
        raise bad_trace(f"There is no file {path}; a trace needs it.") from missing
    except (OSError, EOFError, zlib.error) as broken:
        raise bad_trace(f"{path.name} cannot be read: {broken}; give a whole file.") from broken
    except UnicodeDecodeError as binary:
        raise bad_trace(
            f"{path.name} is not text: byte {binary.object[binary.start]:#04x} is not UTF-8; "
            "give CSV, SWF or JSON, gzipped or not."
        ) from binary


def columns_of(path: Path) -> list[str]:
    """The names in a CSV file's first line that is no comment."""
    with opened(path) as text:
        return next(_records(path, text), (0, []))[1]


def csv_jobs(
    path: Path, columns: Sequence[str], parse: Callable[[Sequence[str]], TraceJob]
) -> Rows:
    """The rows of a CSV file as jobs; `parse` gets each row's values of `columns`, in that order.

    Raises:
        RefusedError: `bad-trace`: the file cannot be read, or a column is missing.
    """
    return parsed(csv_values(path, columns), parse)


def csv_values(
    path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, Sequence[str] | BadRowError]]:
    """The rows of a CSV file by line: their values of `columns` (two at least), in that order.

    Lines that start with `#` are comments.

    Raises:
        RefusedError: `bad-trace`: as for `csv_jobs`.
    """
    with opened(path) as text:
        records = _records(path, text)
        line, header = next(records, (1, []))
        for column in columns:
            if column not in header:
                raise bad_trace(
                    f"{path.name}:{line}: column {column} is missing; "
                    f"the first line must name {', '.join(columns)}."
                )
        pick = itemgetter(*map(header.index, columns))
        width = len(header)
        for line, record in records:
            if len(record) == width:
                yield line, pick(record)
            else:
                yield (
                    line,
                    BadRowError(
                        "bad-columns", f"columns are {len(record)}; right is {width}, as in line 1"
                    ),
                )


def _records(path: Path, text: TextIO) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text)
    try:
        for record in reader:
            if record and not record[0].startswith("#"):
                yield reader.line_num, record
    except csv.Error as wrong:
        raise bad_trace(
            f"{path.name}:{reader.line_num}: not CSV: {wrong}; right is values with commas between."
        ) from wrong


def json_of(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        RefusedError: `bad-trace`: it cannot be read or is not JSON; the sentence names the line.
    """
    with opened(path) as text:
        try:
            return json.load(text)
        except json.JSONDecodeError as wrong:
            raise bad_trace(f"{path.name}:{wrong.lineno}: not JSON: {wrong.msg}.") from wrong
        except RecursionError as deep:
            raise bad_trace(f"{path.name}: nested too deep for a trace.") from deep


def nodes_of(path: Path) -> dict[str, int]:
    """`nodes.json`: how many nodes each VC has, as `{"vc": nodes}`.

    Raises:
        RefusedError: `bad-trace`: the file is missing or holds anything else.
    """
    nodes = json_of(path)
    if not isinstance(nodes, dict) or not nodes:
        raise bad_trace(f'{path.name} must be an object of nodes by VC, such as {{"vc1": 20}}.')
    for vc, count in nodes.items():
        if type(count) is not int or not 1 <= count <= 10_000_000:
            line = _line_of(path, json.dumps(vc, ensure_ascii=False))
            raise bad_trace(
                f"{path.name}:{line}: nodes of {shown(vc)} is {shown(count)}; "
                "right is a whole number, 1 to 10000000."
            )
    return nodes


def _line_of(path: Path, word: str) -> int:
    with opened(path) as text:
        return next((number for number, line in enumerate(text, 1) if word in line), 1)
