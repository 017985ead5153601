"""Lists of nodes as Slurm writes them, and `scontrol show hostnames`, which reads them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator

from .node import fail


def hostnames(text: str) -> list[str]:
    """`a[1-3,7],b` as names. Source: scontrol(1), "show hostnames"."""
    return [name for part in re.split(r",(?![^\[]*\])", text) if part for name in _expanded(part)]


def _expanded(part: str) -> Iterator[str]:
    match = re.fullmatch(r"([^\[]*)\[([^\]]*)\](.*)", part)
    if match is None:
        yield part
        return
    for piece in match[2].split(","):
        first, _, last = piece.partition("-")
        for number in range(int(first), int(last or first) + 1):
            for rest in _expanded(match[3]):
                yield f"{match[1]}{str(number).zfill(len(first))}{rest}"


def scontrol(words: list[str]) -> int:
    """`show hostnames`, which scripts ask for; nothing else can be asked of a site."""
    if words[:1] != ["show"] or words[1:2] not in (["hostnames"], ["hostname"]):
        fail(f"scontrol {' '.join(words)}: outside of Slurm only show hostnames is known")
    text = words[2] if len(words) > 2 else os.environ.get("SLURM_JOB_NODELIST", "")
    sys.stdout.writelines(f"{name}\n" for name in hostnames(text))
    return 0
