"""Who may use how much: organisations, projects, and the allocations that projects hold."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dure.text import check_name, check_slug
from dure.units import INSTANT_MS_MAX, INT64_MAX, MILLI, iso

ALLOCATION_GPUS_MAX: Final = 1_000_000
CREDIT_MAX_UCREDIT: Final = 10**12 * 10**6


class OrganisationKind(StrEnum):
    """Kinds of organisation that apply and use."""

    UNIVERSITY = "university"
    INSTITUTE = "institute"
    STARTUP = "startup"
    SME = "sme"
    COMPANY = "company"
    GOVERNMENT = "government"


@dataclass(frozen=True, slots=True, kw_only=True)
class Organisation:
    """A body with projects."""

    id: str
    name: str
    kind: OrganisationKind

    def __post_init__(self) -> None:
        check_slug("organisation id", self.id)
        check_name("organisation name", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What members belong to, submit for and are awarded GPUs for."""

    id: str
    organisation: str
    title: str

    def __post_init__(self) -> None:
        check_slug("project id", self.id)
        check_slug("organisation", self.organisation)
        check_name("project title", self.title)


class AllocationKind(StrEnum):
    """`hours` is a balance of credits, `capacity` a number of GPUs; both for a window."""

    HOURS = "hours"
    CAPACITY = "capacity"


class BudgetUnit(StrEnum):
    """What the ledger holds and posts against an allocation."""

    UCREDIT = "ucredit"
    GPU_MS = "gpu_ms"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What a project holds, from `starts_ms` until before `ends_ms`.

    An `hours` allocation has `credit_ucredit`; a `capacity` allocation has `gpus` of `gpu_model`,
    in `pool` or in any pool, and its budget is those GPUs for the whole window, in GPU-ms.
    """

    id: str
    project: str
    kind: AllocationKind
    starts_ms: int
    ends_ms: int
    credit_ucredit: int | None = None
    gpus: int | None = None
    gpu_model: str | None = None
    pool: str | None = None
    subsidy_milli: int = 0

    def __post_init__(self) -> None:
        check_slug("allocation id", self.id)
        check_slug("project", self.project)
        if not 0 <= self.starts_ms < self.ends_ms <= INSTANT_MS_MAX:
            raise ValueError(
                f"the window of allocation {self.id} must end after it starts, by the year 9999 "
                f"({self.starts_ms} to {self.ends_ms} ms)"
            )
        if not 0 <= self.subsidy_milli <= MILLI:
            raise ValueError(
                f"subsidy_milli is {self.subsidy_milli}; it must be from 0 to {MILLI} thousandths"
            )
        match self.kind:
            case AllocationKind.HOURS:
                self._check_hours()
            case AllocationKind.CAPACITY:
                self._check_capacity()

    def _check_hours(self) -> None:
        credit = self.credit_ucredit
        if credit is None or not 1 <= credit <= CREDIT_MAX_UCREDIT:
            raise ValueError(
                f"credit_ucredit is {credit}; an hours allocation needs from 1 to "
                f"{CREDIT_MAX_UCREDIT:,} micro-credits"
            )
        if self.gpus is not None or self.pool is not None:
            raise ValueError("gpus and pool belong to a capacity allocation, not to hours")

    def _check_capacity(self) -> None:
        if self.gpus is None or not 1 <= self.gpus <= ALLOCATION_GPUS_MAX:
            raise ValueError(
                f"gpus is {self.gpus}; a capacity allocation needs from 1 to "
                f"{ALLOCATION_GPUS_MAX:,}"
            )
        if self.gpu_model is None:
            raise ValueError("gpu_model is missing; a capacity allocation is of one GPU model")
        if self.credit_ucredit is not None:
            raise ValueError("credit_ucredit belongs to an hours allocation, not to capacity")
        if self.limit > INT64_MAX:
            raise ValueError(f"{self.gpus:,} GPUs for that window do not fit 64 bits of GPU-ms")

    @property
    def unit(self) -> BudgetUnit:
        """The unit of its budget."""
        return BudgetUnit.UCREDIT if self.kind is AllocationKind.HOURS else BudgetUnit.GPU_MS

    @property
    def limit(self) -> int:
        """Its whole budget, in its unit."""
        if self.kind is AllocationKind.HOURS:
            return self.credit_ucredit or 0
        return (self.gpus or 0) * (self.ends_ms - self.starts_ms)

    @property
    def window(self) -> str:
        """Its window as people read it."""
        return f"{iso(self.starts_ms)} to {iso(self.ends_ms)}"
