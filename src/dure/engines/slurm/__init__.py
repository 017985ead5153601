"""Slurm as an engine: its commands, our one batch script, and a shim on each node.

`engine.py` is the engine; `commands.py` and `answers.py` talk with Slurm, `attempts.py` keeps what
must not be forgotten, `batch.sh` and `rank.py` run on the nodes (ADR 0018).
"""

from dure.engines.slurm.engine import SlurmEngine
from dure.engines.slurm.site import SlurmPool, SlurmSite

__all__ = ["SlurmEngine", "SlurmPool", "SlurmSite"]
