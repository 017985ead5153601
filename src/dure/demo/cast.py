"""Who takes part in the demo: organisations and projects, all fictional, and what they hold.

One is an owner of GPUs, which the id of its organisation says: it is an operator of the scenario.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.client import Client
from dure.people import Person, Role
from dure.server import write_private
from dure.units import MILLI, MS_PER_HOUR, UCREDIT_PER_CREDIT, credits_text
from dure.views import MemberRequest, TokenRequest

MONTH_MS: Final = 30 * 24 * MS_PER_HOUR


@dataclass(frozen=True, slots=True, kw_only=True)
class Player:
    """One organisation with its project and the PI who submits for it."""

    organisation: Organisation
    project: Project
    pi: Person

    @property
    def id(self) -> str:
        """The project's id, by which the demo names the player."""
        return self.project.id


def _player(organisation: Organisation, project: tuple[str, str], pi: Person) -> Player:
    id_, title = project
    return Player(
        organisation=organisation,
        project=Project(id=id_, organisation=organisation.id, title=title),
        pi=pi,
    )


UNIVERSITY: Final = _player(
    Organisation(id="saebyeok", name="Saebyeok University", kind=OrganisationKind.UNIVERSITY),
    ("fab-yield", "Yield models for chip fabs"),
    Person(id="seo-yuna", name="Seo Yuna"),
)
STARTUP: Final = _player(
    Organisation(id="neulbom", name="Neulbom AI", kind=OrganisationKind.STARTUP),
    ("hangul-ocr", "Reading handwriting"),
    Person(id="park-jiho", name="Park Jiho"),
)
COMPANY: Final = _player(
    Organisation(id="mirinae", name="Mirinae Shipyards", kind=OrganisationKind.COMPANY),
    ("hull-vision", "Inspecting welds by camera"),
    Person(id="kim-dohyeon", name="Kim Dohyeon"),
)
OWNER: Final = _player(
    Organisation(id="sk", name="SK", kind=OrganisationKind.COMPANY),
    ("line-twin", "A digital twin of a production line"),
    Person(id="choi-minseo", name="Choi Minseo"),
)
PLAYERS: Final = (UNIVERSITY, STARTUP, COMPANY, OWNER)

STARTUP_SUBSIDY_MILLI: Final = 900
"""Korea's programme asks small firms and startups for 5 to 10 % of the market price (heraldcorp.com
10638855, December 2025): the startup is charged a tenth, the programme pays the rest."""


def allocations(now_ms: int) -> tuple[Allocation, ...]:
    """What the players hold for the next thirty days, in their order."""
    starts_ms, ends_ms = now_ms, now_ms + MONTH_MS
    return (
        Allocation(
            id="fab-yield-hours",
            project=UNIVERSITY.id,
            kind=AllocationKind.HOURS,
            starts_ms=starts_ms,
            ends_ms=ends_ms,
            credit_ucredit=200 * UCREDIT_PER_CREDIT,
        ),
        Allocation(
            id="hangul-ocr-hours",
            project=STARTUP.id,
            kind=AllocationKind.HOURS,
            starts_ms=starts_ms,
            ends_ms=ends_ms,
            credit_ucredit=50 * UCREDIT_PER_CREDIT,
            subsidy_milli=STARTUP_SUBSIDY_MILLI,
        ),
        Allocation(
            id="hull-vision-b200",
            project=COMPANY.id,
            kind=AllocationKind.CAPACITY,
            starts_ms=starts_ms,
            ends_ms=ends_ms,
            gpus=8,
            gpu_model="b200",
            pool="nhn-b200",
        ),
        Allocation(
            id="line-twin-hours",
            project=OWNER.id,
            kind=AllocationKind.HOURS,
            starts_ms=starts_ms,
            ends_ms=ends_ms,
            credit_ucredit=100 * UCREDIT_PER_CREDIT,
        ),
    )


def terms(allocation: Allocation) -> str:
    """What an allocation is of, in words."""
    days = (allocation.ends_ms - allocation.starts_ms) // (24 * MS_PER_HOUR)
    if allocation.kind is AllocationKind.CAPACITY:
        return f"{allocation.gpus} {(allocation.gpu_model or '').upper()} for {days} days"
    held = f"{credits_text(allocation.credit_ucredit or 0)} credits for {days} days"
    if not allocation.subsidy_milli:
        return held
    charged = f"{(MILLI - allocation.subsidy_milli) / MILLI:.0%}"
    return f"{held}, charged {charged} of the price (Korea asks startups for 5 to 10%)"


def enrol(admin: Client, tokens: Path, now_ms: int) -> dict[str, str]:
    """Enrol everybody and award their allocations. Returns the PIs' tokens by project.

    A copy of each token goes to the folder `tokens`, readable by its owner only.
    """
    tokens.mkdir(mode=0o700)
    found = {}
    for player in PLAYERS:
        admin.create_organisation(player.organisation)
        admin.create_project(player.project)
        admin.create_person(player.pi)
        admin.add_member(player.id, MemberRequest(person=player.pi.id, role=Role.PI))
        made = admin.create_token(TokenRequest(label="demo", person=player.pi.id))
        found[player.id] = made.secret
        write_private(tokens / player.pi.id, made.secret)
    for allocation in allocations(now_ms):
        admin.award(allocation)
    return found
