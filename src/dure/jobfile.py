"""The job file: YAML in the shape of a SkyPilot task, with Dure's own fields beside it.

    name: train
    num_nodes: 2
    resources: {accelerators: {H200: 8, B200: 8}, cpus: 32+, memory: 256+}   # any of these models
    workdir: .
    envs: {EPOCHS: 10}
    secrets: {HF_TOKEN: null}        # null: from the environment of whoever submits
    setup: pip install -r requirements.txt
    run: torchrun train.py
    time: 2:00:00
    checkpoint: {dir: ckpt, signal: USR1, grace: 60s}

Counts of `resources` are of one node. Several documents are one submission; they may depend on each
other by name. Source of the shape: docs.skypilot.co, "Task YAML".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from dure import draft
from dure.draft import Draft, nearest
from dure.errors import RefusedError
from dure.text import NAME, shown
from dure.units import walltime_s_from_text
from dure.views import JOBS_PER_SUBMISSION_MAX
from dure.yamltext import Fields, Items, Node, Scalar, YamlError, documents

_WHOLE: Final = re.compile(r"\A-?\d{1,15}\Z")
NAME_MAX: Final = 63


class _AtLineError(ValueError):
    """Something wrong, and the line it stands on."""

    def __init__(self, sentence: str, line: int) -> None:
        super().__init__(sentence)
        self.line = line


def parse(text: str, base: Path, *, source: str = "job file") -> tuple[Draft, ...]:
    """The jobs of a file. A relative `workdir` is below `base`, the folder of the file; names that
    are not given come from `source`, the file's name.

    Raises:
        RefusedError: `bad-job-file`: one sentence with the line, the field, the value, the remedy.
    """
    try:
        return _jobs(text, base, source)
    except (YamlError, _AtLineError) as error:
        where = source if error.line is None else f"{source} line {error.line}"
        raise RefusedError("bad-job-file", f"{where}: {error}.") from None


def _jobs(text: str, base: Path, source: str) -> tuple[Draft, ...]:
    if text.startswith("#!"):
        raise YamlError("this is a script; run it with dure submit ... -- bash SCRIPT", 1)
    roots = documents(text)
    if not roots:
        raise YamlError("the file holds no job; write at least run and time")
    if len(roots) > JOBS_PER_SUBMISSION_MAX:
        raise YamlError(f"the file holds {len(roots)} jobs; at most {JOBS_PER_SUBMISSION_MAX}")
    default = source.rpartition(".")[0]
    default = default if NAME.match(default) else "job"
    names = [default] if len(roots) == 1 else [f"{default}-{n}" for n in range(1, len(roots) + 1)]
    return tuple(
        _job(root, base).over(Draft(name=name[-NAME_MAX:]))
        for root, name in zip(roots, names, strict=True)
    )


def _job(root: Node, base: Path) -> Draft:
    if not isinstance(root, Fields):
        raise _AtLineError("a job is written as key: value lines, name: train say", root.line)
    said = _read("", root, _TASK)
    if (gpus := said.pop("accelerators", None)) is not None:
        models, said["gpus_per_node"] = gpus
        said["gpu_models"] = models or None
    if (folder := said.pop("workdir", None)) is not None:
        said["workdir"] = Path(folder) if folder.startswith("~") else base / folder
    return Draft(**said)


def _read(path: str, node: Node, table: _Table) -> dict[str, Any]:
    """The draft's fields that a mapping gives, by the table of its keys."""
    said: dict[str, Any] = {}
    for key, value in _pairs(path or "the job", node):
        name = f"{path}.{key.text}" if path else key.text
        known = table.get(key.text)
        if known is None:
            raise _AtLineError(_unknown(path, key.text, table), key.line)
        if isinstance(value, Scalar) and value.is_null:
            continue
        if isinstance(known, dict):
            said.update(_read(name, value, known))
            continue
        field, reader = known
        try:
            said[field] = reader(name, value)
        except ValueError as error:
            raise _AtLineError(str(error), value.line) from None
    return said


def _unknown(path: str, key: str, table: _Table) -> str:
    where = f" of {path}" if path else ""
    guess = nearest(key, table)
    hint = f"did you mean {guess}" if guess else f"known are {', '.join(table)}"
    return f"{shown(key)} is not a key{where}; {hint}"


# ---- one value -----------------------------------------------------------------------------------


def _pairs(name: str, node: Node) -> tuple[tuple[Scalar, Node], ...]:
    if not isinstance(node, Fields):
        raise _AtLineError(f"{name} is {_shown(node)}; write key: value lines below it", node.line)
    return node.pairs


def _shown(node: Node) -> str:
    match node:
        case Scalar():
            return "nothing" if node.is_null else shown(node.text)
        case Items():
            return "a list"
        case Fields():
            return "a mapping"


def _text(name: str, node: Node) -> str:
    if not isinstance(node, Scalar) or node.is_null:
        raise ValueError(f"{name} is {_shown(node)}; write one text")
    return node.text


def _whole(name: str, node: Node) -> int:
    if not isinstance(node, Scalar) or not node.plain or not _WHOLE.match(node.text):
        raise ValueError(f"{name} is {_shown(node)}; write a whole number")
    return int(node.text)


def _texts(name: str, node: Node) -> tuple[str, ...]:
    values = node.values if isinstance(node, Items) else (node,)
    return tuple(_text(name, value) for value in values)


def _words(name: str, node: Node) -> tuple[str, ...]:
    if isinstance(node, Items):
        return _texts(name, node)
    raise ValueError(f"{name} is {_shown(node)}; write a list of words, [python, train.py]")


def _variables(name: str, node: Node) -> dict[str, str | None]:
    """Values as they are written: `1e400`, `no` and `1.10` are text to a process."""
    variables: dict[str, str | None] = {}
    for key, value in _pairs(name, node):
        if not isinstance(value, Scalar):
            kind = _shown(value)
            raise _AtLineError(f"{name}.{key.text} is {kind}; write one text", value.line)
        variables[key.text] = None if value.is_null else value.text
    return variables


def _secrets(name: str, node: Node) -> dict[str, str | None]:
    """As variables, and what is there instead of them may be a secret: it is not shown."""
    if isinstance(node, Fields):
        return _variables(name, node)
    raise ValueError(f"{name} has no names; write NAME: value lines below it")


def _accelerators(name: str, node: Node) -> tuple[tuple[str, ...], int]:
    """`H200:8`, `8`, a list of such, or a mapping of models to counts."""
    if not isinstance(node, Fields):
        return draft.accelerators_from_texts(_texts(name, node))
    texts = []
    for model, count in node.pairs:
        bare = isinstance(count, Scalar) and count.is_null  # {H200:8} is a key without a value
        texts.append(model.text if bare else f"{model.text}:{_text(name, count)}")
    return draft.accelerators_from_texts(texts)


def _as(read: Callable[[str], Any]) -> Callable[[str, Node], Any]:
    return lambda name, node: read(_text(name, node))


_Reader = Callable[[str, Node], Any]
_Table = dict[str, "tuple[str, _Reader] | _Table"]

_TASK: Final[_Table] = {
    "name": ("name", _text),
    "num_nodes": ("nodes", _whole),
    "pools": ("pools", _texts),
    "resources": {
        "accelerators": ("accelerators", _accelerators),
        "cpus": ("cpus_per_node", _as(draft.cpus_from_text)),
        "memory": ("memory_gib_per_node", _as(draft.memory_gib_from_text)),
    },
    "envs": ("env", _variables),
    "secrets": ("secrets", _secrets),
    "workdir": ("workdir", _text),
    "setup": ("setup", _text),
    "run": ("run", _text),
    "command": ("command", _words),
    "time": ("walltime_s", _as(walltime_s_from_text)),
    "project": ("project", _text),
    "allocation": ("allocation", _text),
    "tier": ("tier", _as(draft.tier_from_text)),
    "priority": ("priority", _whole),
    "data": {"class": ("data_class", _text)},
    "checkpoint": {
        "dir": ("checkpoint_dir", _text),
        "signal": ("signal", _as(draft.signal_from_text)),
        "grace": ("grace_s", _as(draft.grace_s_from_text)),
    },
    "outputs": ("outputs", _text),
    "array": ("array", _as(draft.array_from_text)),
    "retries": ("retries", _whole),
    "depends": {"afterok": ("after_ok", _texts), "afterany": ("after_any", _texts)},
}
