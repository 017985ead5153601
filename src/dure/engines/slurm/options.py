"""What sbatch is told of a launch. No I/O; no text of a user is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dure.engines import Launch, LaunchRefusedError
from dure.engines.slurm.site import SlurmPool, SlurmSite
from dure.text import SLUG, shown

_TIME_MARGIN_S: Final = 60
"""Slurm's own limit lies behind walltime and grace, which the ranks keep to the second: Slurm
counts whole minutes, and sends --signal up to 60 s early (sbatch(1))."""


def sbatch_options(launch: Launch, pool: SlurmPool, site: SlurmSite, log: Path) -> list[str]:
    """Options of sbatch(1): our own ids, numbers, and the site's own names.

    Slurm's own end of the job lies behind the ranks'; where the site moves it forward, --signal
    still gives them their grace. Raises LaunchRefusedError.
    """
    if not SLUG.match(launch.attempt_id):
        raise LaunchRefusedError(f"attempt id {shown(launch.attempt_id)} cannot name a job")
    limit_s = launch.walltime_s + launch.grace_s + _TIME_MARGIN_S
    kind = f"gpu:{pool.gpu_type}" if pool.gpu_type else "gpu"
    batch = "B:" if len(launch.nodes) == 1 else ""  # a lone rank is the batch script itself
    wanted = {
        "job-name": launch.attempt_id,
        "partition": pool.partition,
        "account": _account(launch.project, site),
        "qos": pool.qos,
        "reservation": pool.reservation,
        "nodes": len(launch.nodes),
        "ntasks-per-node": 1,
        "cpus-per-task": _times(pool.cpus_per_gpu, launch.gpus_per_node),
        "mem": _times(pool.memory_mib_per_gpu, launch.gpus_per_node),
        "gres": f"{kind}:{launch.gpus_per_node}",
        "time": -(-limit_s // 60),
        "signal": f"{batch}TERM@{max(1, launch.grace_s)}",
        "chdir": log.parent,
        "output": log,
    }
    given = [f"--{name}={value}" for name, value in wanted.items() if value is not None]
    return ["--no-requeue", *given]


def _account(project: str, site: SlurmSite) -> str | None:
    account = site.accounts.get(project, site.account)
    if account is None and site.accounts:
        raise LaunchRefusedError(f"the site maps no Slurm account to project {shown(project)}")
    return account


def _times(each: int | None, gpus: int) -> int | None:
    return None if each is None else each * gpus
