"""What a rehearsal tells as it goes on: the events that its tables, report and digest are made of.

Times are ms since the rehearsal's start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from dure.rehearsal.workload import Kind

SITE_OUTAGE: Final = "site-outage"
"""The kind of fault that takes a whole site away."""

OWN: Final = "own"
"""The borrower's name where an owner's GPUs serve the owner."""

UNDIGESTED: Final = frozenset(
    {"digest", "isolated", "jobs_per_s", "peak_rss_mib", "settings", "wall_s"}
)
"""Fields of a summary that tell of the machine, of what was asked or of another run."""


class JobEnded(NamedTuple):
    """A job that ended for good. `pool` is where it ran last, `home` whether its own operator owns
    that pool; `borrowed_gpu_ms` is GPU-time outside its share's guarantee.
    """

    id: str
    kind: Kind
    submit_ms: int
    first_start_ms: int
    end_ms: int
    duration_ms: int
    pool: str
    home: bool = True
    recalls: int = 0
    lost_gpu_ms: int = 0
    borrowed_gpu_ms: int = 0


class Recalled(NamedTuple):
    """A job of the share `victim` was called back from `pool` so that `beneficiary` could start."""

    at_ms: int
    pool: str
    victim: str
    beneficiary: str
    gpus: int
    lost_gpu_ms: int
    vacated_after_ms: int


class Faulted(NamedTuple):
    """`gpus` GPUs of `place` were out of service from `at_ms` until before `until_ms`."""

    at_ms: int
    until_ms: int
    kind: str
    place: str
    gpus: int


class Record(Protocol):
    """Who listens. Each method is called once per event and costs about a microsecond.

    GPUs in use, waiting, in service, and of shares are told as changes; all begin at zero.
    """

    def job_ended(self, job: JobEnded) -> None:
        """A job ended for good."""

    def use_changed(self, at_ms: int, owner: str, borrower: str, delta_gpus: int) -> None:
        """`borrower`, or the owner's `OWN` people, use more or fewer of `owner`'s GPUs."""

    def capacity_changed(self, at_ms: int, owner: str, delta_gpus: int) -> None:
        """`owner` has more or fewer GPUs in service."""

    def queue_changed(self, at_ms: int, operator: str, delta_jobs: int, delta_gpus: int) -> None:
        """More or fewer jobs of `operator` wait, for so many GPUs."""

    def share_changed(self, at_ms: int, share: str, delta_gpus: int, delta_entitled: int) -> None:
        """`share` uses more or fewer GPUs, or is entitled to more or fewer.

        Told of shares side by side only, never of a share and of one above it.
        """

    def recalled(self, recall: Recalled) -> None:
        """A borrower was called back."""

    def lent(self, lender: str, borrower: str, gpus: int, from_ms: int, until_ms: int) -> None:
        """`lender`'s idle guarantee served `borrower`; told when it is over."""

    def faulted(self, fault: Faulted) -> None:
        """Capacity was lost for a while; told when its end is known."""

    def digest(self, summary: Mapping[str, Any]) -> str:
        """SHA-256, in hex, over every job's outcome in order of end and over the summary."""


class Outcomes:
    """The digest of a run, fed with jobs in order of their ends."""

    __slots__ = ("_sha",)

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def update(self, jobs: Iterable[JobEnded]) -> None:
        """Take in these jobs' outcomes."""
        text = "".join(
            f"{job.first_start_ms},{job.end_ms},{job.recalls},{job.lost_gpu_ms},{job.pool},{job.id}\n"
            for job in jobs
        )
        self._sha.update(text.encode("utf-8", "surrogatepass"))

    def sealed(self, summary: Mapping[str, Any]) -> str:
        """The digest of all jobs so far and of `summary` but for the fields `UNDIGESTED`."""
        sha = self._sha.copy()
        kept = {name: value for name, value in summary.items() if name not in UNDIGESTED}
        sha.update(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode())
        return sha.hexdigest()


_BATCH: Final = 4_096


class NullRecord:
    """Keeps nothing but the digest: for runs that want their summary only."""

    __slots__ = ("_ended", "_outcomes")

    def __init__(self) -> None:
        self._outcomes = Outcomes()
        self._ended: list[JobEnded] = []

    def job_ended(self, job: JobEnded) -> None:
        """Its outcome goes into the digest."""
        self._ended.append(job)
        if len(self._ended) == _BATCH:
            self._take_in()

    def use_changed(self, at_ms: int, owner: str, borrower: str, delta_gpus: int) -> None:
        """Nothing."""

    def capacity_changed(self, at_ms: int, owner: str, delta_gpus: int) -> None:
        """Nothing."""

    def queue_changed(self, at_ms: int, operator: str, delta_jobs: int, delta_gpus: int) -> None:
        """Nothing."""

    def share_changed(self, at_ms: int, share: str, delta_gpus: int, delta_entitled: int) -> None:
        """Nothing."""

    def recalled(self, recall: Recalled) -> None:
        """Nothing."""

    def lent(self, lender: str, borrower: str, gpus: int, from_ms: int, until_ms: int) -> None:
        """Nothing."""

    def faulted(self, fault: Faulted) -> None:
        """Nothing."""

    def digest(self, summary: Mapping[str, Any]) -> str:
        """See `Record.digest`."""
        self._take_in()
        return self._outcomes.sealed(summary)

    def _take_in(self) -> None:
        self._outcomes.update(self._ended)
        self._ended.clear()
