"""What a site says of its Slurm cluster: the `[engine]` table, its pools and its accounts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal

from dure.jobs import CPUS_PER_NODE_MAX
from dure.text import check_slug, check_text, shown

NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
"""What Dure hands to Slurm as the name of a partition, account, QOS, reservation or GPU type."""

_MEMORY_MIB_MAX: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmPool:
    """A pool as Slurm knows it: a partition's nodes that have GPUs of one type."""

    pool_id: str
    partition: str
    gpu_type: str | None = None
    """As gres.conf(5) names it; None where the site's GPUs have no type."""
    qos: str | None = None
    reservation: str | None = None
    cpus_per_gpu: int | None = None
    memory_mib_per_gpu: int | None = None

    def __post_init__(self) -> None:
        check_slug("pool_id", self.pool_id)
        for name in ("partition", "gpu_type", "qos", "reservation"):
            value = getattr(self, name)
            if value is not None:
                _check_name(f"{name} of pool {self.pool_id}", value)
        for name, most in (
            ("cpus_per_gpu", CPUS_PER_NODE_MAX),
            ("memory_mib_per_gpu", _MEMORY_MIB_MAX),
        ):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= most:
                raise ValueError(
                    f"{name} of pool {self.pool_id} is {value:,}; it must be from 1 to {most:,}"
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmSite:
    """How this site's Slurm is reached and what it is told."""

    type: Literal["slurm"]
    slurm_conf: str | None = None
    """Where slurm.conf is, for more than one cluster on a machine; None: where Slurm looks."""
    bin_dir: str = "/usr/bin"
    """The folder of sbatch, squeue and the others."""
    python: str = "/usr/bin/python3"
    """An interpreter on the compute nodes, 3.9 or newer."""
    path: str = "/usr/local/bin:/usr/bin:/bin"
    """PATH of the jobs."""
    account: str | None = None
    """The Slurm account of projects that `accounts` does not name; None: those are refused where
    `accounts` names any, and otherwise run under the agent user's own default account."""
    accounts: dict[str, str] = field(default_factory=dict)
    """Slurm accounts by project."""
    timeout_s: int = 30
    """How long a command of Slurm may take before its outcome counts as unknown."""
    settle_s: int = 10
    """How far apart Slurm must have said twice that it has no such job before the same attempt is
    submitted again. Its controller saves its state every 5 s (SAVE_MAX_WAIT in slurmctld)."""

    def __post_init__(self) -> None:
        for name in ("slurm_conf", "bin_dir", "python"):
            value = getattr(self, name)
            if value is not None:
                check_text(name, value, limit=1_024)
                if not value.startswith("/"):
                    raise ValueError(f"{name} {shown(value)} must be an absolute path")
        check_text("path", self.path)
        for project, account in self.accounts.items():
            check_slug("accounts (project)", project)
            _check_name(f"account of project {project}", account)
        if self.account is not None:
            _check_name("account", self.account)
        for name, least, most in (("timeout_s", 1, 600), ("settle_s", 6, 3_600)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be from {least} to {most}"
                )


def _check_name(what: str, value: str) -> None:
    if not NAME.match(value):
        raise ValueError(
            f"{what} {shown(value)} is not a name of Slurm's; "
            "use 1 to 64 letters, digits or ._-, starting with a letter or digit"
        )
