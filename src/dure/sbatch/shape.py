"""How many nodes, tasks, GPUs, CPUs and how much memory: sbatch counts them in many ways, Dure by
the node, all nodes alike.

Source: sbatch(1), at each option.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dure.sbatch import values
from dure.sbatch.precedence import Chosen
from dure.sbatch.values import Gpus

MIB_PER_GIB: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What every node of the job needs, and how its tasks lie on them."""

    nodes: int
    gpus_per_node: int
    gpu_type: str | None
    """As the script calls it."""
    cpus_per_node: int | None
    memory_mib_per_node: int | None
    ntasks: int
    tasks_per_node: int
    gpus_per_task: int | None
    asks_for_gpus: bool
    notes: Mapping[str, str]
    """By option, how its number was made to fit; one without a note is kept as it is."""

    @property
    def memory_gib_per_node(self) -> int | None:
        """Rounded up to what Dure counts in."""
        mib = self.memory_mib_per_node
        return None if mib is None else -(-mib // MIB_PER_GIB)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Numbers:
    """What was said, read; None is what was not."""

    nodes: tuple[int, int] | None
    ntasks: int | None
    tasks_per_node: int | None
    tasks_per_gpu: int | None
    cpus_per_task: int | None
    cpus_per_gpu: int | None
    cpus_least: int | None
    gpus: Gpus | None
    gpus_per_node: Gpus | None
    gpus_per_task: Gpus | None


def shape(chosen: Chosen, node_gpus: int) -> Shape:
    """The shape of a job; `node_gpus` are the GPUs of the largest node that it may run on.

    Raises:
        ValueError: a number that is none, or numbers that do not fit each other.
    """
    said = _read(chosen)
    notes: dict[str, str] = {}
    nodes = _nodes(said, node_gpus, notes)
    tasks_per_node = _tasks_per_node(said, nodes)
    gpus = _gpus_per_node(said, nodes, tasks_per_node, notes)
    cpus = _cpus_per_node(said, tasks_per_node, max(gpus, 1))
    typed = next((g for g in (said.gpus_per_node, said.gpus, said.gpus_per_task) if g), None)
    return Shape(
        nodes=nodes,
        gpus_per_node=max(gpus, 1),
        gpu_type=typed.type if typed else None,
        cpus_per_node=cpus,
        memory_mib_per_node=_memory_mib(chosen, cpus, max(gpus, 1), notes),
        ntasks=said.ntasks or tasks_per_node * nodes,
        tasks_per_node=tasks_per_node,
        gpus_per_task=said.gpus_per_task.count if said.gpus_per_task else None,
        asks_for_gpus=gpus > 0,
        notes=notes,
    )


def _read(chosen: Chosen) -> _Numbers:
    def number(option: str) -> int | None:
        text = chosen.value(option)
        return None if text is None else values.count(option, text)

    def typed(option: str) -> Gpus | None:
        text = chosen.value(option)
        return None if text is None else values.gpus(option, text)

    nodes, gres = chosen.value("nodes"), chosen.value("gres")
    listed = None if gres is None else values.gres(gres).gpus
    return _Numbers(
        nodes=None if nodes is None else values.nodes(nodes),
        ntasks=number("ntasks"),
        tasks_per_node=number("ntasks-per-node"),
        tasks_per_gpu=number("ntasks-per-gpu"),
        cpus_per_task=number("cpus-per-task"),
        cpus_per_gpu=number("cpus-per-gpu"),
        cpus_least=number("mincpus"),
        gpus=typed("gpus"),
        gpus_per_node=typed("gpus-per-node") or listed,
        gpus_per_task=typed("gpus-per-task"),
    )


def _nodes(said: _Numbers, node_gpus: int, notes: dict[str, str]) -> int:
    if said.nodes is not None:
        least, most = said.nodes
        if most > least:
            notes["nodes"] = f"{least}: a job starts on a number of nodes that is fixed"
        return least
    if said.ntasks and said.tasks_per_node:
        return -(-said.ntasks // said.tasks_per_node)
    each = said.gpus_per_node.count if said.gpus_per_node else 0
    if said.gpus and each:
        return -(-said.gpus.count // each)
    if said.gpus:
        return _fewest(said.gpus.count, node_gpus)
    if said.gpus_per_task and said.ntasks:
        tasks = max(1, node_gpus // max(1, said.gpus_per_task.count))
        return -(-said.ntasks // tasks)
    return 1


def _fewest(gpus: int, node_gpus: int) -> int:
    """The fewest nodes that divide so many GPUs evenly, none having more than the largest has."""
    nodes = max(1, -(-gpus // node_gpus))
    while gpus % nodes:
        nodes += 1
    return nodes


def _tasks_per_node(said: _Numbers, nodes: int) -> int:
    if said.tasks_per_node and not said.ntasks:
        return said.tasks_per_node
    if said.ntasks:
        return -(-said.ntasks // nodes)
    if said.tasks_per_gpu:
        each = said.gpus_per_node.count if said.gpus_per_node else 0
        return said.tasks_per_gpu * (each or -(-(said.gpus.count if said.gpus else 1) // nodes))
    return 1


def _gpus_per_node(said: _Numbers, nodes: int, tasks_per_node: int, notes: dict[str, str]) -> int:
    if said.gpus_per_node is not None:
        each = said.gpus_per_node.count
        if said.gpus is not None and said.gpus.count != each * nodes:
            raise ValueError(
                f"gpus is {said.gpus.count}, but {nodes} nodes of {each} GPUs have "
                f"{each * nodes}; make them agree"
            )
        return each
    if said.gpus is not None:
        each = -(-said.gpus.count // nodes)
        split = f"{nodes} {'node' if nodes == 1 else 'nodes'} of {each}"
        if each * nodes != said.gpus.count:
            notes["gpus"] = f"{split}, {each * nodes} in all: the nodes of a job are alike"
        elif nodes > 1:
            notes["gpus"] = split
        return each
    if said.gpus_per_task is not None:
        each = said.gpus_per_task.count * tasks_per_node
        tasks = "1 task" if tasks_per_node == 1 else f"{tasks_per_node} tasks"
        notes["gpus-per-task"] = f"{each} a node, for {tasks} on each"
        return each
    return 0


def _cpus_per_node(said: _Numbers, tasks_per_node: int, gpus: int) -> int | None:
    counts = [said.cpus_least or 0]
    if said.cpus_per_gpu:
        counts.append(said.cpus_per_gpu * gpus)
    elif said.cpus_per_task or said.ntasks or said.tasks_per_node:
        counts.append((said.cpus_per_task or 1) * tasks_per_node)
    return max(counts) or None


def _memory_mib(chosen: Chosen, cpus: int | None, gpus: int, notes: dict[str, str]) -> int | None:
    for option, times in (("mem", 1), ("mem-per-cpu", cpus or 1), ("mem-per-gpu", gpus)):
        text = chosen.value(option)
        if text is None:
            continue
        mib = values.memory_mib(text) * times
        if not mib:
            notes[option] = "no least amount is asked for; the site's own limit holds"
            return None
        gib = -(-mib // MIB_PER_GIB)
        if times > 1 or gib * MIB_PER_GIB != mib:
            notes[option] = f"{gib} GiB a node, at least"
        return mib
    return None
