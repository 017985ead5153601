"""What sinfo says of nodes, and what that makes of a pool. No I/O."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from dure.engines import EngineError, NodeReport, PoolReport
from dure.engines.slurm.site import SlurmPool
from dure.text import shown

NODES_FORMAT: Final = "%N|%R|%t|%G|%c|%m"
"""sinfo(1): node, partition, state, GPUs and other generic resources, CPUs, memory in MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node of a partition. `gpus` counts by type, `""` where Slurm was told none."""

    name: str
    partition: str
    up: bool
    kept: bool
    """For a reservation."""
    gpus: dict[str, int]
    cpus: int
    memory_mib: int


# sinfo(1), NODE STATE CODES: a base state, then one sign for what else is so.
_UP: Final = frozenset({"idle", "mix", "alloc", "comp", "plnd", "resv"})
_FINE_SIGNS: Final = "-+~#"  # planned for, more to it, asleep or waking: it takes jobs

_GPU: Final = re.compile(r"\Agpu(?::([A-Za-z0-9_.-]+))?:(\d+)")


def read_nodes(text: str) -> tuple[Node, ...]:
    """The nodes of an answer of sinfo, a row for each partition that a node is in."""
    return tuple(_node(line) for line in text.splitlines() if line)


def _node(line: str) -> Node:
    try:
        name, partition, state, gres, cpus, memory = line.split("|")
        base = state.rstrip(_FINE_SIGNS)  # any other sign, `*` say, leaves what is not up
        return Node(
            name=name,
            partition=partition,
            up=base in _UP,
            kept=base == "resv",
            gpus=dict(_gpus(gres)),
            cpus=int(cpus),
            memory_mib=int(memory.rstrip("+")),
        )
    except ValueError as error:
        raise EngineError(f"sinfo's answer has a row that is none: {shown(line)}") from error


def _gpus(gres: str) -> Iterator[tuple[str, int]]:
    """`gpu:b200:8(S:0-1),nvme:1` -> ("b200", 8)."""
    for part in re.split(r",(?![^(]*\))", gres):
        if (found := _GPU.match(part)) is not None:
            yield found[1] or "", int(found[2])


def pool_report(pool: SlurmPool, nodes: Collection[Node]) -> PoolReport:
    """The nodes of a pool's partition that have its GPUs, numbered in the order of their names.

    A node that is kept for a reservation is up for a pool of a reservation only.
    """
    found = {}
    for node in nodes:
        gpus = sum(
            count
            for kind, count in node.gpus.items()
            if pool.gpu_type is None or kind == pool.gpu_type
        )
        if node.partition == pool.partition and gpus:
            found[node.name] = (gpus, node.up and (pool.reservation is not None or not node.kept))
    numbered = enumerate(found[name] for name in sorted(found, key=_by_number))
    return PoolReport(
        pool.pool_id, tuple(NodeReport(ordinal, gpus, up=up) for ordinal, (gpus, up) in numbered)
    )


def _by_number(name: str) -> tuple[tuple[int, str], ...]:
    """Sorts names as people number them: n2 before n10."""
    return tuple(
        (int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)
    )
