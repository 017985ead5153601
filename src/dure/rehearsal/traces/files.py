"""How traces lie on disk: text, gzipped or not, in columns named by the first line, and JSON."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from operator import itemgetter
from pathlib import Path
from typing import Any, Final, TextIO

from dure.rehearsal.traces.trace import BadRowError, Rows, TraceJob, bad_trace, parsed
from dure.text import shown

_GZIP: Final = b"\x1f\x8b"
_PIECE: Final = 1 << 20
_ITEM_MAX: Final = 4 << 20
_BETWEEN: Final = re.compile(r"[\s\[,]*")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """A text file, unpacked on the way where it is gzipped; one of that name and `.gz` does too.

    Raises:
        RefusedError: `bad-trace`: it cannot be read, or is not UTF-8 text all through.
    """
    try:
        with (_packed(path) or path).open("rb") as raw:
            packed = raw.peek(2)[:2] == _GZIP
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            with TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
                yield text
    except FileNotFoundError as missing:
        raise bad_trace(f"There is no file {path}; name one that is there.") from missing
    except (OSError, EOFError, zlib.error) as broken:
        raise bad_trace(f"{path.name} cannot be read: {broken}; give a whole file.") from broken
    except UnicodeDecodeError as binary:
        raise bad_trace(
            f"{path.name} is not text: byte {binary.object[binary.start]:#04x} is not UTF-8; "
            "give CSV, SWF or JSON, gzipped or not."
        ) from binary


def _packed(path: Path) -> Path | None:
    """The gzipped file that stands where this one should."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if not path.exists() and packed.is_file() else None


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


def json_items(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a JSON array by the line on which each starts, read a piece at a time.

    Raises:
        RefusedError: `bad-trace`: the file cannot be read, or is no array; the sentence names the
            line.
    """
    decode = json.JSONDecoder().raw_decode
    line, rest, at = 1, "", 0
    with opened(path) as text:
        while len(rest) < _ITEM_MAX and (piece := text.read(_PIECE)):
            rest, at = rest[at:] + piece, 0
            while True:
                start = _between(rest, at)
                line += rest.count("\n", at, start)
                at = start
                try:
                    item, end = decode(rest, start)
                except ValueError:  # the item may go on in the next piece
                    break
                except RecursionError as deep:
                    raise bad_trace(f"{path.name}:{line}: nested too deep for a trace.") from deep
                yield line, item
                line += rest.count("\n", start, end)
                at = end
    if rest[at:].strip() != "]":
        raise bad_trace(f"{path.name}:{line}: not a JSON array of jobs; give the file whole.")


def _between(text: str, at: int) -> int:
    """Where the next item starts: past the bracket, commas and spaces."""
    found = _BETWEEN.match(text, at)
    return found.end() if found else at


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


def nodes_beside(file: Path) -> dict[str, int]:
    """`nodes.json` in a file's folder, for layouts that do not tell what nodes there were.

    Raises:
        RefusedError: `bad-trace`: it is missing or no such file.
    """
    beside = file.parent / "nodes.json"
    if not beside.is_file():
        raise bad_trace(
            f"{file.name} does not say what nodes its VCs have; "
            'put nodes.json beside it, such as {"vc1": 20}.'
        )
    return nodes_of(beside)


def csvs_in(folder: Path) -> list[Path]:
    """The CSV files of a folder by name, gzipped or not.

    Raises:
        RefusedError: `bad-trace`: there is none.
    """
    files = sorted(file for file in folder.glob("*") if file.name.endswith((".csv", ".csv.gz")))
    if not files:
        raise bad_trace(f"There is no CSV file in {folder}; a trace needs one.")
    return files


def stem(file: Path) -> str:
    """A file's name without what follows the first dot."""
    return file.name.split(".", 1)[0]


def _line_of(path: Path, word: str) -> int:
    with opened(path) as text:
        return next((number for number, line in enumerate(text, 1) if word in line), 1)
