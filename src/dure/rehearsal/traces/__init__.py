"""Recorded workloads, each read from the layout that it was published in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Final

from dure.rehearsal.traces import dure, helios, itp, openb, philly, swf
from dure.rehearsal.traces.files import columns_of, csvs_in, opened
from dure.rehearsal.traces.predictions import joined
from dure.rehearsal.traces.trace import Trace, Within, bad_trace

__all__ = ["Format", "Trace", "Within", "read"]


class Format(StrEnum):
    """A layout of traces; `auto` recognises it."""

    AUTO = "auto"
    DURE = "dure"
    HELIOS = "helios"
    PHILLY = "philly"
    ITP = "itp"
    OPENB = "openb"
    SWF = "swf"


_READERS: Final[Mapping[Format, Callable[[Path, Within], Trace]]] = {
    Format.DURE: dure.read,
    Format.HELIOS: helios.read,
    Format.PHILLY: philly.read,
    Format.ITP: itp.read,
    Format.OPENB: openb.read,
    Format.SWF: swf.read,
}

_TABLES: Final = {
    Format.DURE: dure.COLUMNS,
    Format.HELIOS: helios.COLUMNS,
    Format.OPENB: openb.COLUMNS,
    Format.ITP: itp.COLUMNS,
}

_JOB_LISTS: Final = ("jobs.csv", "jobs.csv.gz", "cluster_log.csv", "cluster_job_log")


def read(
    path: Path,
    format: Format = Format.AUTO,  # noqa: A002 (the word that the command line has)
    *,
    within: Within = Within.OWN,
    predictions: Path | None = None,
) -> Trace:
    """Read a trace: a folder, or the file in it that lists the jobs.

    `within` says where a job must fit, so as not to be left out as too large; `predictions` is a
    CSV file of job_id and predicted_s.

    Raises:
        RefusedError: `bad-trace`: something is missing, no trace, or in no layout that is known;
            the sentence names the file, the line and what would be right.
    """
    file = _job_list(path)
    if format is Format.AUTO:
        format = _recognised(file)  # noqa: A001
    trace = _READERS[format](file.parent if format is Format.DURE else file, within)
    if predictions is not None:
        trace.predict = partial(joined, path=predictions)
    return trace


def _job_list(path: Path) -> Path:
    """The file that lists a folder's jobs; the folder itself where each of its files does."""
    if not path.is_dir():
        return path
    for name in _JOB_LISTS:
        if (path / name).is_file():
            return path / name
    pods = [file for file in csvs_in(path) if "pod_list" in file.name]
    return pods[0] if pods else path


def _recognised(file: Path) -> Format:
    if file.is_dir():
        file = csvs_in(file)[0]
    with opened(file) as text:
        start = text.read(4096).lstrip()
    if start.startswith("["):
        return Format.PHILLY
    if start.startswith(";") or len(start.split("\n", 1)[0].split()) == swf.FIELDS:
        return Format.SWF
    header = columns_of(file)
    for format_, columns in _TABLES.items():
        if set(columns) <= set(header):
            return format_
    raise bad_trace(
        f"{file.name}:1: columns are {', '.join(header)[:200]}; right are "
        + "; or ".join(f"{', '.join(columns)} ({name})" for name, columns in _TABLES.items())
        + "; or name the format."
    )
