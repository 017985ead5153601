"""`batch DIR`, by the job itself; `srun ...` and `scontrol ...`, by its script."""

from __future__ import annotations

import sys
from pathlib import Path

from .hostnames import scontrol
from .script import batch
from .srun import srun


def main(words: list[str]) -> int:
    """Run one of the three; its exit code."""
    verb, *rest = words
    if verb == "batch":
        return batch(Path(rest[0]))
    return srun(rest) if verb == "srun" else scontrol(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
