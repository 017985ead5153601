"""What the API answers, and what the client and the CLI therefore read: one definition for all.

Instants are ms since the epoch, UTC. What goes in is defined by the core itself (JobSpec,
Allocation, ...); here stands what only goes in by HTTP, and all that comes out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dure.agent.wire import Manifest
from dure.allocations import Allocation, BudgetUnit, Organisation, Project
from dure.errors import Reason
from dure.jobs import JobSpec, check_environment
from dure.lending import Lent
from dure.life import EndCause, State
from dure.metering import Factors
from dure.people import Person, Role, RoleGrant, TokenScope
from dure.text import check_name, check_slug, check_text

JOBS_PER_SUBMISSION_MAX = 100
TASKS_PER_SUBMISSION_MAX = 20_000

# ---- in ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRequest:
    """A job and the secrets it runs with. Secrets never come out again."""

    spec: JobSpec
    secrets: dict[str, str] | None = None

    def __post_init__(self) -> None:
        check_environment("secrets", self.secrets or {})
        if both := set(self.secrets or {}) & set(self.spec.env or {}):
            raise ValueError(f"{min(both)} is both in env and in secrets; keep it in one")


@dataclass(frozen=True, slots=True)
class Submission:
    """Jobs accepted together or not at all; they may depend on each other by name."""

    jobs: tuple[JobRequest, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.jobs) <= JOBS_PER_SUBMISSION_MAX:
            raise ValueError(
                f"jobs has {len(self.jobs)} entries; it must have 1 to {JOBS_PER_SUBMISSION_MAX}"
            )
        if self.tasks > TASKS_PER_SUBMISSION_MAX:
            raise ValueError(
                f"jobs have {self.tasks:,} tasks together; "
                f"a submission may have {TASKS_PER_SUBMISSION_MAX:,}"
            )

    @property
    def tasks(self) -> int:
        """How many tasks all its jobs have."""
        return sum(len(request.spec.indices) for request in self.jobs)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRequest:
    """Makes a person a member of a project."""

    person: str
    role: Role = Role.MEMBER


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRequest:
    """Asks for a token; for oneself, unless `person` names another (administrators only)."""

    label: str
    person: str | None = None
    scopes: tuple[TokenScope, ...] = (TokenScope.READ, TokenScope.SUBMIT)
    days: int = 90

    def __post_init__(self) -> None:
        check_name("label", self.label)
        if self.person is not None:
            check_slug("person", self.person)
        if not 1 <= self.days <= 366:
            raise ValueError(f"days is {self.days}; a token lives 1 to 366 days")
        if not self.scopes:
            raise ValueError("scopes is empty; name at least one of read, submit, admin, agent")


@dataclass(frozen=True, slots=True)
class ReverseRequest:
    """Why a journal is reversed; kept in the ledger."""

    reason: str

    def __post_init__(self) -> None:
        check_text("reason", self.reason, limit=300)
        if not self.reason.strip():
            raise ValueError("reason is empty; say why the journal is reversed")


# ---- out: people ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """A token, without its secret."""

    id: str
    person: str
    label: str
    scopes: tuple[TokenScope, ...]
    created_ms: int
    expires_ms: int
    revoked_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A token just made. `secret` is shown this once: only its hash is kept."""

    token: TokenView
    secret: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonView:
    """A person and the roles they hold."""

    person: Person
    grants: tuple[RoleGrant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectView:
    """A project, whose it is and who is in it."""

    project: Project
    organisation: Organisation
    members: tuple[MemberView, ...]


@dataclass(frozen=True, slots=True)
class MemberView:
    """One member of a project."""

    person: str
    role: Role


# ---- out: allocations and accounts ---------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationView:
    """An allocation and its balance, all in `unit`: limit = held + spent + available."""

    allocation: Allocation
    unit: BudgetUnit
    limit: int
    held: int
    spent: int
    available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageLine:
    """What one attempt used, from the ledger. `charge` is in the allocation's unit."""

    attempt: str
    job: str
    task_index: int
    allocation: str
    project: str
    operator: str
    pool: str
    gpu_model: str
    started_ms: int | None
    ended_ms: int | None
    cause: EndCause
    gpu_ms: int
    unit: BudgetUnit
    charge: int
    absorbed: bool
    factors: Factors
    dispute: str | None
    refund: str | None
    """Why its charge was given back, if it was."""
    journal: int
    """The ledger's journal that closed it; what `reverse` takes."""


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Usage in the order in which attempts closed, newest first; `next` is a cursor or None."""

    lines: tuple[UsageLine, ...]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatementLine:
    """Sums over closed attempts of one allocation at one operator on one GPU model."""

    project: str
    allocation: str
    operator: str
    gpu_model: str
    attempts: int
    gpu_ms: int
    unit: BudgetUnit
    charge: int
    absorbed_gpu_ms: int
    disputed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a project, an operator or the nation used in [from_ms, until_ms)."""

    from_ms: int
    until_ms: int
    lines: tuple[StatementLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LendingLine:
    """What one share lent another in one pool: sums over closed attempts.

    An operator's share has the operator's id; below it, and below `national`, stand projects and
    their capacity allocations: `national.fab-yield`.
    """

    lender: str
    borrower: str
    pool: str
    gpu_model: str
    attempts: int
    gpu_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LendingStatement:
    """What shares lent each other in [from_ms, until_ms), by the closing of attempts."""

    from_ms: int
    until_ms: int
    lines: tuple[LendingLine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What somebody did with a right that others lack; `token` is the id of the token they used.

    `seq` counts without a gap. `subject` is what it was done to: `project/lab`, `job/j-7`.
    """

    seq: int
    at_ms: int
    person: str
    token: str
    act: str
    subject: str
    sentence: str


@dataclass(frozen=True, slots=True)
class ActPage:
    """Acts, newest first. `next` is the cursor of the following page, None at the end."""

    acts: tuple[Act, ...]
    next: int | None


# ---- out: jobs -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One run of a task on one cluster. It is open while `cause` is None."""

    id: str
    number: int
    operator: str
    cluster: str
    pool: str
    gpu_model: str
    nodes: tuple[int, ...]
    gpus: int
    placed: Reason
    intended_ms: int
    started_ms: int | None
    ended_ms: int | None
    cause: EndCause | None
    exit_code: int | None
    detail: str | None
    gpu_ms: int | None
    charge: int | None
    dispute: str | None
    guarantor: str | None = None
    """The share under whose guarantee it runs; None: it borrows and can be called back."""
    lenders: tuple[Lent, ...] = ()
    """Shares on whose idle guarantee it runs, where it borrows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One element of a job; a job without an array has one, with index 0."""

    index: int
    state: State
    reason: Reason | None
    exit_code: int | None
    attempts: tuple[AttemptView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """When a queued task will start, as foreseen at `at_ms`.

    It starts in the `likely` range in one of two cases, in the `surely` range in nine of ten.
    """

    at_ms: int
    expected_ms: int
    likely_from_ms: int
    likely_until_ms: int
    surely_from_ms: int
    surely_until_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSummary:
    """A job as a list shows it. `reason` and `start` are those of the first of its tasks that is in
    the job's state; `pools` are those in which it has GPUs now.
    """

    id: str
    name: str
    project: str
    allocation: str
    submitter: str
    state: State
    tasks: int
    accepted_ms: int
    ended_ms: int | None
    pools: tuple[str, ...] = ()
    reason: Reason | None = None
    start: Start | None = None
    """None where it does not wait for GPUs, or no start is foreseen yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job whole, with at most its first 1,000 tasks."""

    summary: JobSummary
    spec: JobSpec
    unit: BudgetUnit
    counts: dict[State, int]
    gpu_ms: int
    charge: int
    tasks: tuple[TaskView, ...]


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. `next` is the cursor of the following page, None at the end."""

    jobs: tuple[JobSummary, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Accepted:
    """The jobs of a submission. `repeated` says that its key had been used before."""

    jobs: tuple[JobSummary, ...]
    repeated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """Something that happened to a job, and why. `seq` rises and is the cursor to resume from."""

    seq: int
    at_ms: int
    job: str
    task_index: int | None
    attempt: str | None
    state: State | None
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskWhy:
    """Why a task is where it is, and when it will start where that is foreseen."""

    index: int
    state: State
    reason: Reason | None
    start: Start | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """Why a job is where it is: its tasks' reasons now, and all that happened, oldest first."""

    job: str
    state: State
    tasks: tuple[TaskWhy, ...]
    events: tuple[EventView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of what one node of an attempt wrote, from byte `offset` on.

    `end` is the byte after it. Text is UTF-8 with what is not UTF-8 replaced; a chunk never ends
    inside a character.
    """

    task_index: int
    attempt_number: int
    rank: int
    offset: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOutputs:
    """The output files of a task's last ended attempt that has any."""

    index: int
    attempt: str
    files: Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A manifest that was registered: its digest names the workdir once nothing is missing."""

    sha256: str
    missing: tuple[str, ...]


# ---- out: fleet ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """A pool as planned and as its site reports it now."""

    pool: str
    operator: str
    cluster: str
    gpu_model: str
    gpus_per_node: int
    gpus_in_service: int
    nodes_up: int
    gpus_up: int
    gpus_used: int
    silent: bool
    nodes_idle: int = 0
    nodes_full: int = 0
    """Of the nodes that are up, those of which no GPU is used, and those of which every one is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteView:
    """A cluster's site: when it was last heard, what it signs with, and what is wrong there."""

    cluster: str
    operator: str
    engine: str
    received_ms: int | None
    """Its last sync; None: it was never heard."""
    silent: bool
    engine_answered: bool
    attempts: int
    """How many it reports."""
    public_key: str | None
    drift: tuple[str, ...]
    """Where its engine does other than was asked of it."""
    strangers: tuple[str, ...]
    """Attempts that it reports and that are none of this federation's: left alone, not charged."""
    late: tuple[str, ...]
    """Attempts that it still runs though they were given up: being stopped, not charged."""

    @property
    def is_well(self) -> bool:
        """Whether nothing there needs anybody's attention."""
        wrong = self.drift or self.strangers or self.late
        return not self.silent and self.engine_answered and not wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Whoami:
    """Who the caller's token says they are."""

    person: str
    grants: tuple[RoleGrant, ...]
    scopes: tuple[TokenScope, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error, as problem+json (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
