"""The script that a job really runs: the user's, unchanged, and what makes nodes look like Slurm's.

User text travels as data between marks that do not occur in it; no word of it reaches a shell that
is not its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.resources import files

from dure.jobs import Array
from dure.sbatch.precedence import Chosen
from dure.sbatch.shape import Shape
from dure.sbatch.values import Signal


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What `onnode` must know of a job to run its script as sbatch would."""

    name: str
    args: tuple[str, ...]
    walltime_s: int
    ntasks: int
    gpus_per_task: int | None
    output: str | None
    error: str | None
    input: str | None
    append: bool
    requeue: bool
    signal: Signal | None
    """None too where the engine itself gives the notice."""
    variables: Mapping[str, str] = field(default_factory=dict)


def variables(shape: Shape, chosen: Chosen, array: Array | None) -> dict[str, str]:
    """The SLURM_* variables that are the same on all nodes and in all attempts.

    Source: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES".
    """
    cpus = shape.cpus_per_node or shape.tasks_per_node
    found = {
        "SLURM_NTASKS": str(shape.ntasks),
        "SLURM_NPROCS": str(shape.ntasks),
        "SLURM_NNODES": str(shape.nodes),
        "SLURM_JOB_NUM_NODES": str(shape.nodes),
        "SLURM_TASKS_PER_NODE": _by_node(shape.ntasks, shape.nodes),
        "SLURM_CPUS_ON_NODE": str(cpus),
        "SLURM_JOB_CPUS_PER_NODE": _times(cpus, shape.nodes),
        "SLURM_GPUS_ON_NODE": str(shape.gpus_per_node),
    }
    if shape.memory_mib_per_node is not None:
        found["SLURM_MEM_PER_NODE"] = str(shape.memory_mib_per_node)
    for option in _AS_ASKED:
        value = chosen.value(option)
        if value is not None:
            found[f"SLURM_{option.replace('-', '_').upper()}"] = value
    if (dependency := chosen.value("dependency")) is not None:
        found["SLURM_JOB_DEPENDENCY"] = dependency
    if array is not None:
        found |= _of_array(array.indices)
    return found


_AS_ASKED = (
    "ntasks-per-node", "cpus-per-task", "cpus-per-gpu", "gpus", "gpus-per-node", "gpus-per-task",
)  # fmt: skip


def _of_array(indices: tuple[int, ...]) -> dict[str, str]:
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    return {
        "SLURM_ARRAY_TASK_COUNT": str(len(indices)),
        "SLURM_ARRAY_TASK_MIN": str(indices[0]),
        "SLURM_ARRAY_TASK_MAX": str(indices[-1]),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


def _times(count: int, nodes: int) -> str:
    return f"{count}(x{nodes})" if nodes > 1 else str(count)


def _by_node(ntasks: int, nodes: int) -> str:
    """`3,2` for five tasks on two nodes: as even as can be, the first have one more."""
    each, more = divmod(ntasks, nodes)
    parts = [(each + 1, more), (each, nodes - more)]
    return ",".join(_times(count, times) for count, times in parts if times)


def wrap(text: str, batch: Batch) -> str:
    """The script that every node of the job runs."""
    code = sorted(files("dure.sbatch.onnode").iterdir(), key=lambda file: file.name)
    parts = {
        **{
            f"onnode/{file.name}": file.read_text(encoding="utf-8")
            for file in code
            if file.name.endswith(".py")
        },
        "run.py": _RUN,
        "job.json": json.dumps(asdict(batch), ensure_ascii=False, sort_keys=True) + "\n",
        "script": text if text.endswith("\n") else f"{text}\n",
    }
    lines = [_HEAD]
    for name, content in parts.items():
        mark = _mark(content)
        lines.append(f"cat >\"$own/{name}\" <<'{mark}'\n{content}{mark}\n")
    return "".join([*lines, _TAIL])


_HEAD = """\
#!/bin/bash
# Made by dure sbatch: a batch script, unchanged, and what makes its nodes look like Slurm's.
set -e
own=$(mktemp -d "${TMPDIR:-/tmp}/dure-batch.XXXXXX")
mkdir "$own/onnode"
"""

_RUN = """\
import sys

sys.path.insert(0, __file__.rpartition("/")[0])
from onnode.__main__ import main

sys.exit(main(sys.argv[1:]))
"""

_TAIL = 'exec python3 -I "$own/run.py" batch "$own"\n'


def _mark(content: str) -> str:
    """A line that does not occur in the content."""
    taken = set(content.split("\n"))
    number = 0
    while (mark := f"DURE-{number}") in taken:
        number += 1
    return mark
