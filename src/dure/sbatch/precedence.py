"""Which of several sayings counts: command line over environment over script, last over first.

Source: sbatch(1), "INPUT ENVIRONMENT VARIABLES".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from dure.sbatch.options import Given

_ONE_OF: Final = (
    frozenset({"mem", "mem-per-cpu", "mem-per-gpu"}),
    frozenset({"gres", "gpus-per-node"}),
    frozenset({"requeue", "no-requeue"}),
    frozenset({"partition", "pool"}),
    frozenset({"chdir", "workdir", "no-workdir"}),
)
"""Options of which one takes the place of the others."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What counts, by option, and what was said before it."""

    given: Mapping[str, Given]
    overridden: tuple[tuple[Given, Given], ...]
    """Each with what took its place."""

    def value(self, option: str) -> str | None:
        """An option's value; None where it was not given, or has none."""
        found = self.given.get(option)
        return None if found is None else found.value


def choose(
    script: Iterable[Given], environment: Iterable[Given], command_line: Iterable[Given]
) -> Chosen:
    """What counts of all that was given."""
    chosen: dict[str, Given] = {}
    overridden: list[tuple[Given, Given]] = []
    for one in (*script, *environment, *command_line):
        rivals = next((names for names in _ONE_OF if one.option in names), {one.option})
        overridden.extend((chosen.pop(name), one) for name in sorted(rivals) if name in chosen)
        chosen[one.option] = one
    return Chosen(chosen, tuple(overridden))
