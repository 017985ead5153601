"""What in a script's commands depends on where it runs: things that no directive tells of."""

from __future__ import annotations

import re
from typing import Final

from dure.sbatch.report import Line, Verdict
from dure.sbatch.script import Script

_COMMENT: Final = re.compile(r"(?:\A|\s)#.*\Z")

_SRUN = "on Slurm it is Slurm's own; elsewhere Dure starts its tasks on the job's nodes"
_MODULES = "modules are a site's own, and may be missing or named otherwise where it runs"
_CONTAINER = "it needs a site whose Slurm has Pyxis; elsewhere srun refuses it"
_HOME = "HOME is the job's own and empty; put what it needs into the folder"
_PATH = "that path is one site's; put what it needs into the folder, or pin it with --pool"
_AGAIN = "a job submits and changes no jobs; --dependency, --requeue and --retries do that"

_SIGNS: Final = (
    ("srun", re.compile(r"(?:\A|[\s;&|(`])(srun)\s"), Verdict.KEPT, _SRUN),
    ("container", re.compile(r"--container-(?:image|mounts|name)\b"), Verdict.LOST, _CONTAINER),
    ("module", re.compile(r"\A\s*(?:module|ml)\s+\S"), Verdict.LOST, _MODULES),
    ("conda", re.compile(r"\b(?:conda|mamba)\s+activate\b"), Verdict.LOST, _HOME),
    ("home", re.compile(r"(?:\$HOME|\$\{HOME\}|(?<![\w/])~)/"), Verdict.LOST, _HOME),
    (
        "path",
        re.compile(
            r"(?<![\w/.}])/(?:home|scratch|projects?|data|work|lustre|gpfs|nfs|shared|mnt|fsx|opt)/"
        ),
        Verdict.LOST,
        _PATH,
    ),
    ("again", re.compile(r"\A\s*(?:sbatch|scontrol\s+requeue)\s"), Verdict.LOST, _AGAIN),
)


def remarks(script: Script, pinned_to: str | None) -> tuple[Line, ...]:
    """One remark for each such thing, at its first line, with the number of others.

    `pinned_to` names the one site that the job is pinned to: what is that site's own is there.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for number, text in enumerate(script.text.split("\n"), start=1):
        code = "" if text.lstrip().startswith("#") else _COMMENT.sub("", text)
        for name, pattern, _, _ in _SIGNS:
            if pattern.search(code):
                found.setdefault(name, []).append((number, code.strip()))
    return tuple(
        _remark(found[name], verdict, note, pinned_to if name in _OF_A_SITE else None)
        for name, _, verdict, note in _SIGNS
        if name in found
    )


_OF_A_SITE: Final = frozenset({"container", "module", "path"})


def _remark(at: list[tuple[int, str]], verdict: Verdict, note: str, pinned_to: str | None) -> Line:
    number, code = at[0]
    more = f" and {len(at) - 1} more" if len(at) > 1 else ""
    if pinned_to is not None:
        verdict, note = Verdict.PINNED, f"as {pinned_to} has it"
    cut = code if len(code) <= 48 else f"{code[:45]}..."
    return Line(where=f"line {number}", said=f"{cut}{more}", verdict=verdict, note=note)
