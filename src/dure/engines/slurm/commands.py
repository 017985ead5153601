"""Slurm's commands, run as argument vectors in an environment of our own. No shell, no user text.

Every failure is an EngineError, and so unknown; only what sbatch itself refuses is a refusal.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

from dure.engines import EngineError, LaunchRefusedError
from dure.engines.slurm.answers import (
    QUEUE_FORMAT,
    RUNS_FORMAT,
    VERSION_FLOOR,
    Run,
    read_queue,
    read_runs,
    read_version,
)
from dure.engines.slurm.nodes import NODES_FORMAT, Node, read_nodes
from dure.engines.slurm.site import SlurmSite
from dure.text import shown

_JOB_ID: Final = re.compile(r"\A(\d+)(?:;[^;\n]*)?\n?\Z")
_UNSURE: Final = (
    "Unable to contact",
    "Socket timed out",
    "Zero Bytes were transmitted",
    "Connection refused",
    "Connection timed out",
    "Protocol authentication error",
    "Unable to establish",
    "temporarily unable",
    "Slurm backup controller",
    "DNS SRV",
)
"""Of sbatch's errors those after which the job may be there after all, or another try may do."""

_ASKED_FOR_MAX: Final = 1_000
"""Jobs in one question: far below what an argument vector holds. The others' turn comes next."""

_IN_SECONDS: Final = {"SLURM_TIME_FORMAT": "%s"}
"""Not for sbatch, which hands its environment on to the job."""


class Commands:
    """One cluster's commands."""

    def __init__(self, site: SlurmSite, mark: str) -> None:
        self._site = site
        self._mark = mark
        self._environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        if site.slurm_conf is not None:
            self._environment["SLURM_CONF"] = site.slurm_conf

    def check_version(self) -> None:
        """Raises EngineError below the version floor, or where there is no Slurm."""
        version = read_version(self._run("sinfo", ["--version"]))
        if version < VERSION_FLOOR:
            raise EngineError(
                f"this Slurm is {_said(version)}; Dure needs {_said(VERSION_FLOOR)} or newer"
            )

    def cluster_name(self) -> str:
        """What the cluster calls itself: ClusterName of slurm.conf(5)."""
        for line in self._run("scontrol", ["show", "config"]).splitlines():
            if line.startswith("ClusterName"):
                return line.partition("=")[2].strip()
        raise EngineError("scontrol names no ClusterName")

    def submit(self, options: Sequence[str], arguments: Sequence[str]) -> int:
        """Asks sbatch once; the job's id.

        Raises:
            LaunchRefusedError: Slurm said no, and will again.
            EngineError: the outcome is unknown.
        """
        words = ["--parsable", f"--comment={self._mark}", *options, "--", *arguments]
        try:
            done = self._completed("sbatch", words)
        except EngineError as error:
            raise EngineError(f"whether Slurm has the job is not known: {error}") from error
        if done.returncode:
            said = _last_words(done.stderr)
            if any(sign in done.stderr for sign in _UNSURE):
                raise EngineError(f"sbatch did not get an answer: {said}")
            raise LaunchRefusedError(f"Slurm refused it: {said}")
        found = _JOB_ID.match(done.stdout)
        if found is None:
            raise EngineError(f"sbatch's answer {shown(done.stdout)} is not a job's id")
        return int(found[1])

    def queue(self) -> tuple[Run, ...]:
        """Our jobs that the controller knows, those that ended lately among them: one query."""
        words = ["--noheader", "--me", "--states=all", f"--format={QUEUE_FORMAT}"]
        return read_queue(self._run("squeue", words), self._mark)

    def runs(self, job_ids: Iterable[int]) -> tuple[Run, ...]:
        """All runs of these jobs from the accounting database: one query."""
        return self._sacct([f"--jobs={_listed(map(str, sorted(job_ids)))}"])

    def runs_named(self, names: Iterable[str], since_s: int) -> tuple[Run, ...]:
        """All runs of jobs of these names that were known after an instant: one query."""
        since = datetime.fromtimestamp(since_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return self._sacct([f"--name={_listed(sorted(names))}", f"--starttime={since}"])

    def _sacct(self, which: Sequence[str]) -> tuple[Run, ...]:
        words = ["--allocations", "--duplicates", "--noheader", "--parsable2"]
        return read_runs(self._run("sacct", [*words, f"--format={RUNS_FORMAT}", *which]))

    def nodes(self) -> tuple[Node, ...]:
        """All nodes, by partition."""
        return read_nodes(self._run("sinfo", ["--noheader", "--Node", f"--format={NODES_FORMAT}"]))

    def cancel(self, job_ids: Iterable[int], *, pending_only: bool = False) -> None:
        """Cancels jobs. Those that Slurm no longer has are no error."""
        ids = [str(job_id) for job_id in sorted(job_ids)]
        state = ["--state=PENDING"] if pending_only else []
        self._run("scancel", ["--quiet", *state, *ids])

    def _run(self, program: str, words: Sequence[str]) -> str:
        done = self._completed(program, words)
        if done.returncode:
            raise EngineError(f"{program} failed: {_last_words(done.stderr)}")
        return done.stdout

    def _completed(self, program: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603  the site's own program, our words
                [f"{self._site.bin_dir}/{program}", *words],
                env=self._environment | ({} if program == "sbatch" else _IN_SECONDS),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self._site.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EngineError(f"{program} did not answer within {self._site.timeout_s} s") from None
        except OSError as error:
            raise EngineError(f"{program} cannot be run: {error}") from error


def _listed(words: Iterable[str]) -> str:
    return ",".join(islice(words, _ASKED_FOR_MAX))


def _last_words(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _said(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]:02}"
