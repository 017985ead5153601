"""The values of sbatch's options: times, memory, counts, GPUs, signals, dependencies.

Each reader raises ValueError with one sentence. Source: sbatch(1), at the option it names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from dure.jobs import DependencyKind
from dure.text import shown
from dure.units import walltime_s_from_text

SIGNAL_BEFORE_S_DEFAULT: Final = 60
SIGNAL_BEFORE_S_MAX: Final = 65_535

SIGNALS: Final = (
    "HUP", "INT", "QUIT", "ABRT", "KILL", "USR1", "USR2", "ALRM", "TERM", "URG", "CONT", "STOP",
)  # fmt: skip
"""By the names that --signal knows."""
_SIGNAL_NUMBERS: Final = {1: "HUP", 2: "INT", 9: "KILL", 10: "USR1", 12: "USR2", 15: "TERM"}
"""As Linux numbers them. Source: signal(7), x86 and ARM."""

_NO_LIMIT: Final = frozenset({"infinite", "unlimited", "-1", "0"})
_TIME: Final = re.compile(r"\A[0-9:-]+\Z")
_SIZE: Final = re.compile(r"\A(\d{1,12})([KMGT]?)B?\Z", re.IGNORECASE)
_KIB: Final = {"K": 1, "": 1024, "M": 1024, "G": 1024**2, "T": 1024**3}
_COUNT: Final = re.compile(r"\A(\d{1,9})([km]?)\Z", re.IGNORECASE)
_RANGE: Final = re.compile(r"\A([^-]+)(?:-([^-]+))?\Z")
_GPUS: Final = re.compile(r"\A(?:(?P<type>[A-Za-z][^:,()]*)(?:[:=]))?(?P<count>\d{1,6})\Z")
_SIGNAL: Final = re.compile(r"\A(?:([BR]{1,2}):)?([A-Za-z0-9]+)(?:@(\d+))?\Z", re.IGNORECASE)
_JOB: Final = re.compile(r"\A(?:j-)?(\d{1,18})(_(?:\d+|\*))?\Z")


def time_s(text: str) -> int:
    """`--time`: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S, in seconds."""
    if text.lower() in _NO_LIMIT:
        raise ValueError(f"time {shown(text)} is no limit, and a job needs one; 24:00:00 say")
    if not _TIME.match(text):
        raise ValueError(f"time {shown(text)} is not a time; write minutes, H:MM:SS or D-HH:MM:SS")
    return walltime_s_from_text(text)


def memory_mib(text: str) -> int:
    """`--mem` and its like: a number with K, M, G or T, of 1,024; without one, M. Rounded up."""
    if not (match := _SIZE.match(text)):
        raise ValueError(f"memory {shown(text)} is not a size; write 64G, 500M or 65536")
    return -(-int(match[1]) * _KIB[match[2].upper()] // 1024)


def count(option: str, text: str) -> int:
    """A whole number from 1; `2k` is 2,048."""
    match = _COUNT.match(text)
    number = 0 if match is None else int(match[1])
    if match is not None and match[2]:
        number *= {"k": 1024, "m": 1024**2}[match[2].lower()]
    if number < 1:
        raise ValueError(f"{option} {shown(text)} is not a number from 1; write 4 say")
    return number


def nodes(text: str) -> tuple[int, int]:
    """`--nodes`: at least and at most so many."""
    match = _RANGE.match(text)
    if match is None:
        raise ValueError(f"nodes {shown(text)} is not a number of nodes; write 2 or 2-4")
    least = count("nodes", match[1])
    most = least if match[2] is None else count("nodes", match[2])
    if most < least:
        raise ValueError(f"nodes {shown(text)} goes backwards; write the smaller number first")
    return least, most


@dataclass(frozen=True, slots=True)
class Gpus:
    """So many GPUs, of a type as the script calls it, or of any."""

    count: int
    type: str | None = None


def gpus(option: str, text: str) -> Gpus:
    """`[type:]number`, of --gpus and its like. Lists of several types are not understood."""
    if not (match := _GPUS.match(text)):
        raise ValueError(f"{option} {shown(text)} is not a number of GPUs; write 2 or h100:2")
    return Gpus(int(match["count"]), match["type"])


@dataclass(frozen=True, slots=True)
class Gres:
    """What `--gres` asks for on each node: GPUs, and what else it lists."""

    gpus: Gpus | None
    others: tuple[str, ...]


def gres(text: str) -> Gres:
    """`gpu:2`, `gpu:a100:3`, `gpu`, `gres/gpu=2`, `gpu:1,tmpdisk:100`."""
    found: list[Gpus] = []
    others: list[str] = []
    for part in text.split(","):
        name, _, rest = part.strip().removeprefix("gres/").replace("=", ":").partition(":")
        if name != "gpu":
            others.append(part.strip().removeprefix("none"))
        elif not rest:
            found.append(Gpus(1))
        elif _GPUS.match(rest) is None and not rest[0].isdigit():  # a type alone is one of it
            found.append(Gpus(1, rest))
        else:
            found.append(gpus("gres", rest))
    if len(found) > 1:
        raise ValueError(f"gres {shown(text)} asks for GPUs twice; write one gpu:TYPE:NUMBER")
    return Gres(found[0] if found else None, tuple(filter(None, others)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """A signal `before_s` seconds before the time is over, to the batch shell or to the steps."""

    name: str
    before_s: int
    to_shell: bool


def signal(text: str) -> Signal:
    """`[{R|B}:]SIG[@SECONDS]`, of --signal."""
    match = _SIGNAL.match(text)
    name = _signal_name(match[2]) if match else None
    if match is None or name is None:
        raise ValueError(f"signal {shown(text)} is not a signal; write USR1@120 or B:TERM@60")
    before_s = SIGNAL_BEFORE_S_DEFAULT if match[3] is None else int(match[3])
    if before_s > SIGNAL_BEFORE_S_MAX:
        raise ValueError(f"signal {shown(text)} is too early; at most @{SIGNAL_BEFORE_S_MAX}")
    return Signal(name=name, before_s=before_s, to_shell="B" in (match[1] or "").upper())


def _signal_name(text: str) -> str | None:
    if text.isdigit():
        return _SIGNAL_NUMBERS.get(int(text))
    name = text.upper().removeprefix("SIG")
    return name if name in SIGNALS else None


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Jobs to run after, as Dure names them; `others` are conditions that it does not know."""

    after: tuple[tuple[DependencyKind, str], ...]
    others: tuple[str, ...]


def dependencies(text: str) -> Dependencies:
    """`afterok:12:13,afterany:14`, of --dependency; a number alone is `afterany`."""
    if "?" in text:
        return Dependencies((), (text,))
    after: list[tuple[DependencyKind, str]] = []
    others: list[str] = []
    for part in text.split(","):
        kind, _, jobs = part.strip().partition(":")
        if _JOB.match(kind):
            kind, jobs = DependencyKind.AFTERANY, part.strip()
        named = [_JOB.match(job) for job in jobs.split(":")]
        if kind not in set(DependencyKind) or not all(match and not match[2] for match in named):
            others.append(part.strip())
            continue
        after.extend((DependencyKind(kind), f"j-{match[1]}") for match in named if match)
    return Dependencies(tuple(after), tuple(others))


def job_id(text: str) -> tuple[str, int | None]:
    """`12`, `j-12`, `12_3` as a job's id and, where there is one, its task's index."""
    match = _JOB.match(text.strip())
    if match is None or match[2] == "_*":
        raise ValueError(f"{shown(text)} is not a job; write 12, j-12 or 12_3")
    return f"j-{match[1]}", int(match[2][1:]) if match[2] else None
