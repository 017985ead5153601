"""What a run of the demo saw, as plain values: the checks judge it and the report prints it."""

from __future__ import annotations

from dataclasses import dataclass

from dure.audit import Audit
from dure.errors import Reason
from dure.federation import Played
from dure.fleet import EngineKind
from dure.scheduling.world import Forecast
from dure.views import AllocationView, EventView, JobView, LendingLine, UsageLine

SWEEP = "sweep"
GANG = "gang"
NATIONAL = "national-core"
FAILING = "missing-data"
BORROWER = "borrower"
OWNER = "owner"
TOO_MUCH = "too-much"
MOVER = "mover"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One training run of the sweep, read from the outputs that were fetched back."""

    index: int
    c: float
    gamma: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """The node that was killed, and the last epoch whose checkpoint the log had shown by then."""

    attempt: str
    rank: int
    cluster: str
    node: int
    epoch_seen: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GangRun:
    """What the gang's log and outputs said."""

    broken: Break | None
    resumed_from_epoch: int | None
    ranks_heard: tuple[int, ...]
    """Ranks whose log says that they took part."""
    loss: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loan:
    """What the borrower's events and log said of its recall."""

    epoch_seen: int | None
    """The last epoch whose checkpoint its log had shown when the owner came; None: it never did."""
    notice: EventView | None
    resumed_from_epoch: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounted:
    """GPU time of one attempt in the accounting of the Slurm cluster that ran it."""

    attempt: str
    gpu_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Whether a job's secret reached it, and where else it was found."""

    reached: bool
    answers_searched: int
    files_searched: int
    found_in: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The accounts when all had ended. `posted_gpu_ms` is the sum over the ledger's settles."""

    allocations: tuple[AllocationView, ...]
    usage: tuple[UsageLine, ...]
    audit: Audit
    posted_gpu_ms: int
    lending: tuple[LendingLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Everything. What the demo did not come to is None or empty."""

    played: tuple[Played, ...]
    agents: tuple[tuple[str, int], ...]
    """Operators with a reporting site, and the process id of its agent."""
    government_pools: tuple[str, ...]
    """Pools of the scenario that the government owns."""
    jobs: tuple[JobView, ...] = ()
    refusal: Reason | None = None
    plan: Forecast | None = None
    sweep: tuple[Point, ...] = ()
    gang: GangRun | None = None
    loan: Loan | None = None
    lost_site: str | None = None
    """The cluster that was taken away under the job that then moved."""
    accounted: tuple[Accounted, ...] = ()
    """From every Slurm cluster that is still there."""
    failing_log: tuple[str, ...] = ()
    secret: Secret | None = None
    books: Books | None = None

    def clusters_on(self, engine: EngineKind) -> tuple[str, ...]:
        """The clusters that this engine plays."""
        return tuple(one.cluster.cluster_id for one in self.played if one.engine is engine)

    def job(self, name: str) -> JobView | None:
        """The job of that name."""
        return next((job for job in self.jobs if job.summary.name == name), None)
