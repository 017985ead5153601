"""What the scheduler sees and what it answers: plain values, no behaviour that decides.

A `World` is a snapshot of one instant. `schedule(world)` proposes a `Plan`; whoever commits it
checks again (`check.py`) and drops what has gone stale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dure.allocations import Allocation
from dure.errors import Reason
from dure.fleet import Pool
from dure.jobs import Resources, Tier
from dure.metering import Tariff
from dure.policy import Rules
from dure.scheduling.tuning import Tuning
from dure.shares import Shares
from dure.units import INT64_MAX

NEVER_MS: Final = INT64_MAX
"""The end of an occupation that nobody can foresee: a GPU that its node does not report, say."""


NO_SHARES: Final = Shares()
USUAL: Final = Tuning()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A task that wants a place. `order` is its place in the queue among equals: its job's
    acceptance, then its index; lower is older.
    """

    task_id: int
    job_id: int
    order: tuple[int, int]
    project: str
    allocation: str
    resources: Resources
    walltime_s: int
    grace_s: int
    priority: int
    data_class: str
    tier: Tier
    max_running: int | None = None
    """At most so many tasks of its job at a time."""
    share: str = ""
    """The leaf of the capacity tree that it runs on; empty: on nobody's guarantee."""
    estimate_ms: int | None = None
    """How long it is expected to run, from its like's history; None: as long as it may."""
    waiting_since_ms: int = 0
    """When it was queued first: what the bounded wait counts from, over all its attempts."""
    recalls: int = 0
    """How often its GPUs were called back so far."""

    @property
    def occupied_ms(self) -> int:
        """The longest it can keep its GPUs: walltime and then grace."""
        return (self.walltime_s + self.grace_s) * 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupation:
    """Node slots that a live attempt keeps until `ends_ms` at the latest, or NEVER_MS."""

    attempt_id: str
    task_id: int
    job_id: int
    pool_id: str
    nodes: tuple[int, ...]
    slots_per_node: int
    gpus: int
    allocation: str
    ends_ms: int
    share: str = ""
    guarantor: str | None = None
    """The share under whose guarantee it runs; None: on GPUs that others lend or nobody is
    promised, from where it can be called back."""
    started_ms: int = 0
    expected_ms: int | None = None
    """When it is expected to end; None: at its limit."""
    checkpoint_ms: int | None = None
    """The instant of its last known checkpoint; None: it has told of none."""
    recalled_ms: int | None = None
    """When it was given notice that its GPUs are called back."""
    recalls: int = 0
    grace_s: int = 0
    """How long it may take to leave once it has notice."""
    tier: Tier = Tier.STANDARD


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolState:
    """A pool of the fleet and the nodes of it that may be used now.

    `nodes` are the ordinals that the site reports up, at most as many as the plan has in service;
    empty when its cluster is silent.
    """

    pool: Pool
    nodes: tuple[int, ...]
    silent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationState:
    """An allocation and what its ledger account has left, in its own unit."""

    allocation: Allocation
    available: int
    held: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a share has used of late: credit-ms, decayed by half each half-life up to `at_ms`."""

    share: str
    credit_ms: int
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One instant of the nation."""

    now_ms: int
    pools: tuple[PoolState, ...]
    occupations: tuple[Occupation, ...]
    requests: tuple[Request, ...]
    allocations: tuple[AllocationState, ...]
    rules: Rules
    tariff: Tariff
    shares: Shares = NO_SHARES
    tuning: Tuning = USUAL
    usage: tuple[Usage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A task starts now: on these nodes of this pool, holding this much of its allocation."""

    task_id: int
    job_id: int
    pool_id: str
    nodes: tuple[int, ...]
    slots_per_node: int
    hold: int
    """In the allocation's unit: what the whole walltime and grace would cost."""
    hold_gpu_ms: int
    reason: Reason
    guarantor: str | None = None
    """The share under whose guarantee it starts; None: it borrows and can be called back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """A borrower is given notice: its nodes are for `for_task_id`, whose guarantee covers them.

    The notice signal goes out at once; it has vacated its nodes at `vacates_ms` at the latest.
    """

    attempt_id: str
    task_id: int
    job_id: int
    pool_id: str
    for_task_id: int
    for_share: str
    vacates_ms: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Nodes kept for a blocked task: it starts at `starts_ms` at the latest."""

    task_id: int
    pool_id: str
    nodes: tuple[int, ...]
    slots_per_node: int
    starts_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A task stays queued, and why."""

    task_id: int
    job_id: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now. Everything in it has its reason."""

    placements: tuple[Placement, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    recalls: tuple[Recall, ...] = ()
    waits: tuple[Wait, ...] = ()
    unfinished: bool = False
    """There is more to decide at once: as many starts and recalls as one plan may hold are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """A pool that may or can never run a request, and why."""

    pool_id: str
    operator_id: str
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A pool that may run a request: when it could start there, and the most it would cost.

    `starts_ms` is when it starts if nothing new comes; None when no start can be foreseen: the
    nodes it needs are not up. It starts in the `likely` range in half of all cases, in the `surely`
    range in nine of ten.
    """

    pool_id: str
    operator_id: str
    gpu_model: str
    starts_ms: int | None
    hold: int
    likely_from_ms: int | None = None
    likely_until_ms: int | None = None
    surely_from_ms: int | None = None
    surely_until_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What `dure plan` answers: nothing is committed. Options stand soonest first."""

    options: tuple[Option, ...]
    exclusions: tuple[Exclusion, ...]
    refusal: Reason | None
    """Why it would be refused at submission, if it would."""
