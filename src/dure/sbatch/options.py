"""The options of sbatch and Dure's own beside them, and how a list of words is read as such.

Source: sbatch(1), "OPTIONS" and "INPUT ENVIRONMENT VARIABLES"; getopt_long(3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dure.text import shown


class Takes(StrEnum):
    """Whether an option has a value."""

    NOTHING = "nothing"
    VALUE = "value"
    PERHAPS = "perhaps"
    """Only one written with `=`, or right behind a short letter."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option: its long name, its letter or "", its variables in the environment."""

    name: str
    letter: str = ""
    takes: Takes = Takes.VALUE
    variables: tuple[str, ...] = ()
    ours: bool = False
    """Dure's own: sbatch does not know it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """An option as it was given: its long name, its value, and where it stood."""

    option: str
    value: str | None
    where: str

    @property
    def text(self) -> str:
        """As one would write it on a line of its own."""
        return f"--{self.option}" if self.value is None else f"--{self.option}={self.value}"


def _valued(*names: str) -> tuple[Option, ...]:
    """Options with a value and without a letter, whose variable is their name."""
    return tuple(Option(name, "", Takes.VALUE, (_variable(name),)) for name in names)


def _flag(name: str, letter: str = "", *variables: str) -> Option:
    return Option(name, letter, Takes.NOTHING, variables)


def _variable(name: str) -> str:
    return f"SBATCH_{name.replace('-', '_').upper()}"


def _ours(*names: str, takes: Takes = Takes.VALUE) -> tuple[Option, ...]:
    return tuple(Option(name, "", takes, (), ours=True) for name in names)


_ALL: Final = (
    Option("account", "A", Takes.VALUE, ("SBATCH_ACCOUNT",)),
    Option("array", "a", Takes.VALUE, ("SBATCH_ARRAY_INX",)),
    Option("begin", "b"),
    Option("chdir", "D"),
    Option("clusters", "M", Takes.VALUE, ("SBATCH_CLUSTERS", "SLURM_CLUSTERS")),
    Option("constraint", "C", Takes.VALUE, ("SBATCH_CONSTRAINT",)),
    Option("core-spec", "S", Takes.VALUE, ("SBATCH_CORE_SPEC",)),
    Option("cpus-per-task", "c"),
    Option("dependency", "d"),
    Option("distribution", "m", Takes.VALUE, ("SBATCH_DISTRIBUTION",)),
    Option("error", "e", Takes.VALUE, ("SBATCH_ERROR",)),
    Option("exclude", "x"),
    Option("extra-node-info", "B"),
    Option("gpus", "G", Takes.VALUE, ("SBATCH_GPUS",)),
    Option("hint", "", Takes.VALUE, ("SBATCH_HINT", "SLURM_HINT")),
    Option("input", "i", Takes.VALUE, ("SBATCH_INPUT",)),
    Option("job-name", "J", Takes.VALUE, ("SBATCH_JOB_NAME",)),
    Option("licenses", "L"),
    Option("mem", "", Takes.VALUE, ("SBATCH_MEM_PER_NODE",)),
    Option("nodefile", "F"),
    Option("nodelist", "w"),
    Option("nodes", "N"),
    Option("ntasks", "n"),
    Option("output", "o", Takes.VALUE, ("SBATCH_OUTPUT",)),
    Option("partition", "p", Takes.VALUE, ("SBATCH_PARTITION",)),
    Option("qos", "q", Takes.VALUE, ("SBATCH_QOS",)),
    Option("switches", "", Takes.VALUE, ("SBATCH_REQ_SWITCH",)),
    Option("time", "t", Takes.VALUE, ("SBATCH_TIMELIMIT",)),
    *_valued("acctg-freq", "batch", "container", "cpus-per-gpu", "delay-boot", "export"),
    *_valued("gpu-bind", "gpu-freq", "gpus-per-node", "gpus-per-task", "gres", "gres-flags"),
    *_valued("mem-bind", "mem-per-cpu", "mem-per-gpu", "network", "open-mode", "power"),
    *_valued("profile", "reservation", "signal", "thread-spec", "threads-per-core"),
    *_valued("wait-all-nodes", "wckey"),
    *(
        Option(name)
        for name in (
            "bb", "bbf", "cluster-constraint", "comment", "cores-per-socket", "cpu-freq",
            "deadline", "export-file", "gid", "gpus-per-socket", "kill-on-invalid-dep",
            "mail-type", "mail-user", "mcs-label", "mincpus", "ntasks-per-core", "ntasks-per-gpu",
            "ntasks-per-node", "ntasks-per-socket", "prefer", "priority", "sockets-per-node",
            "time-min", "tmp", "uid", "wrap",
        )
    ),
    Option("exclusive", "", Takes.PERHAPS, ("SBATCH_EXCLUSIVE",)),
    Option("get-user-env", "", Takes.PERHAPS, ("SBATCH_GET_USER_ENV",)),
    Option("nice", "", Takes.PERHAPS),
    Option("no-kill", "k", Takes.PERHAPS, ("SBATCH_NO_KILL",)),
    Option("propagate", "", Takes.PERHAPS),
    _flag("contiguous"),
    _flag("hold", "H"),
    _flag("ignore-pbs", "", "SBATCH_IGNORE_PBS"),
    _flag("no-requeue", "", "SBATCH_NO_REQUEUE"),
    _flag("overcommit", "O", "SBATCH_OVERCOMMIT"),
    _flag("oversubscribe", "s"),
    _flag("parsable"),
    _flag("quiet", "Q"),
    _flag("reboot"),
    _flag("requeue", "", "SBATCH_REQUEUE"),
    _flag("spread-job", "", "SBATCH_SPREAD_JOB"),
    _flag("test-only"),
    _flag("use-min-nodes", "", "SBATCH_USE_MIN_NODES"),
    _flag("verbose", "v", "SBATCH_DEBUG"),
    _flag("wait", "W", "SBATCH_WAIT"),
    *_ours("project", "allocation", "data-class", "outputs", "checkpoint-dir", "workdir"),
    *_ours("retries", "gpu-model", "pool"),
    *_ours("no-workdir", takes=Takes.NOTHING),
)  # fmt: skip

OPTIONS: Final[Mapping[str, Option]] = {one.name: one for one in _ALL}
_SYNONYMS: Final = {"workdir-none": "no-workdir", "tasks-per-node": "ntasks-per-node"}
OURS: Final = frozenset(one.name for one in _ALL if one.ours)

_NO_VALUES: Final = frozenset({"", "yes", "YES"})


def read(
    words: Sequence[str], where: str, known: Mapping[str, Option] = OPTIONS
) -> tuple[tuple[Given, ...], tuple[str, ...]]:
    """The options that words begin with, and the words from the first that is none.

    Raises:
        ValueError: an option that there is not, a value too many or too few.
    """
    found: list[Given] = []
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        if word.startswith("--"):
            found.append(_long(word[2:], left, where, known))
        else:
            found.extend(_letters(word[1:], left, where, known))
    return tuple(found), tuple(left)


def of_environment(environ: Mapping[str, str]) -> tuple[Given, ...]:
    """The options that SBATCH_* variables set; the first of an option's variables counts."""
    found = []
    for option in _ALL:
        name = next((name for name in option.variables if name in environ), None)
        if name is None:
            continue
        value = environ[name]
        if option.takes is not Takes.NOTHING:
            found.append(Given(option=option.name, value=value or None, where=name))
        elif value in _NO_VALUES or (value.isdigit() and int(value)):
            found.append(Given(option=option.name, value=None, where=name))
    return tuple(found)


def _long(text: str, left: list[str], where: str, known: Mapping[str, Option]) -> Given:
    name, equals, value = text.partition("=")
    option = _named(_SYNONYMS.get(name, name), known)
    if option.takes is Takes.NOTHING and equals:
        raise ValueError(f"--{option.name} takes no value; {shown(value)} is one too many")
    if option.takes is Takes.VALUE and not equals:
        value = _next(f"--{option.name}", left)
    given = value if equals or option.takes is Takes.VALUE else None
    return Given(option=option.name, value=given, where=where)


def _named(name: str, known: Mapping[str, Option]) -> Option:
    """By its name or, as getopt_long(3) has it, a beginning of it that is no other's."""
    if name in known:
        return known[name]
    begun = sorted(one for one in known if name and one.startswith(name))
    if len(begun) == 1:
        return known[begun[0]]
    if begun:
        raise ValueError(
            f"--{name} may be {', '.join(f'--{one}' for one in begun[:4])}; write more"
        )
    raise ValueError(f"{shown(f'--{name}')} is no option here; see --help")


def _letters(text: str, left: list[str], where: str, known: Mapping[str, Option]) -> list[Given]:
    """`-N2`, `-N 2`, `-HQ`: letters without a value may stand together."""
    letters = {one.letter: one for one in known.values() if one.letter}
    found = []
    while text:
        option = letters.get(text[0])
        if option is None:
            raise ValueError(f"{shown(f'-{text[0]}')} is no option here; see --help")
        value, text = text[1:], text[1:]
        if option.takes is not Takes.NOTHING:
            text = ""
            if option.takes is Takes.VALUE and not value:
                value = _next(f"-{option.letter}", left)
            # getopt leaves a `=` in a short option's value; sbatch then refuses it.
            found.append(Given(option=option.name, value=value or None, where=where))
        else:
            found.append(Given(option=option.name, value=None, where=where))
    return found


def _next(option: str, left: list[str]) -> str:
    if not left:
        raise ValueError(f"{option} has no value; write one behind it")
    return left.pop(0)
