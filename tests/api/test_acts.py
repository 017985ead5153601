"""The record of acts: each administrative act once, by who did it, and never changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from sqlalchemy.exc import DatabaseError

from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.client import ApiError, Client
from dure.people import Person, Role, RoleGrant, TokenScope
from dure.views import Act, MemberRequest, TokenRequest
from nation import DAY_MS, Nation, Site, spec, submit

HOURS = Allocation(
    id="lab-more",
    project="lab",
    kind=AllocationKind.HOURS,
    starts_ms=0,
    ends_ms=DAY_MS,
    credit_ucredit=1,
)
PI = RoleGrant(Role.PI, "lab")


class World:
    """A lab with a job of its member's, somebody else, and an officer who acts."""

    def __init__(self, nation: Nation, site: Site) -> None:
        self.nation = nation
        self.member = nation.lab()
        (self.job,) = submit(self.member, spec())
        site.start_all()
        nation.person("guest")
        nation.admin.grant_role("guest", RoleGrant(Role.PI, "lab"))
        nation.person("boss")
        nation.admin.grant_role("boss", RoleGrant(Role.ADMIN))
        everything = (TokenScope.READ, TokenScope.SUBMIT, TokenScope.ADMIN)
        made = nation.admin.create_token(
            TokenRequest(label="own", person="boss", scopes=everything)
        )
        self.token, self.boss = made.token.id, nation.client(made.secret)

    def acts(self) -> tuple[Act, ...]:
        """All of them, oldest first."""
        page = self.nation.admin.acts(limit=1_000)
        assert page.next is None
        return page.acts[::-1]


@pytest.fixture
def world(nation: Nation, site: Site) -> World:
    return World(nation, site)


@dataclass(frozen=True)
class Case:
    """A use case: the operation, what the client is asked, and the act that it leaves."""

    operation: tuple[str, str]
    does: Callable[[Client, World], object]
    act: str
    subject: str
    sentence: str


def case(
    operation: str, does: Callable[[Client, World], object], act: str, subject: str, sentence: str
) -> Case:
    method, path = operation.split()
    return Case((method, path), does, act, subject, sentence)


CASES = [
    case(
        "post /v1/organisations",
        lambda c, _: c.create_organisation(
            Organisation(id="o", name="O", kind=OrganisationKind.SME)
        ),
        "organisation-created", "organisation/o", "The sme o was enrolled.",
    ),
    case(
        "post /v1/projects",
        lambda c, _: c.create_project(Project(id="p", organisation="lab-org", title="P")),
        "project-created", "project/p", "The project p of lab-org was enrolled.",
    ),
    case(
        "post /v1/people",
        lambda c, _: c.create_person(Person(id="kim", name="Kim", email="kim@example.kr")),
        "person-created", "person/kim", "kim was enrolled.",
    ),
    case(
        "post /v1/projects/{project}/members",
        lambda c, _: c.add_member("lab", MemberRequest(person="guest")),
        "member-added", "project/lab", "guest, pi until now, became member of lab.",
    ),
    case(
        "delete /v1/projects/{project}/members/{person}",
        lambda c, _: c.remove_member("lab", "guest"),
        "member-removed", "project/lab", "guest was removed from lab.",
    ),
    case(
        "post /v1/people/{person}/roles",
        lambda c, _: c.grant_role("guest", RoleGrant(Role.OFFICER)),
        "role-granted", "person/guest", "guest became officer of the nation.",
    ),
    case(
        "delete /v1/people/{person}/roles",
        lambda c, _: c.revoke_role("guest", PI),
        "role-revoked", "person/guest", "guest is no longer pi of lab.",
    ),
    case(
        "post /v1/tokens",
        lambda c, _: c.create_token(TokenRequest(label="l", person="guest", days=1)),
        "token-created", "token/", "guest got a token for read, submit until 2026-11-24",
    ),
    case(
        "delete /v1/tokens/{token}",
        lambda c, w: c.revoke_token(w.member.tokens()[0].id),
        "token-revoked", "token/", "A token of lab-member was revoked.",
    ),
    case(
        "post /v1/agents/{cluster}",
        lambda c, _: c.enrol_agent("sk-industrial"),
        "agent-enrolled", "cluster/sk-industrial", "as agent of sk-industrial until 2027-11-24",
    ),
    case(
        "post /v1/allocations",
        lambda c, _: c.award(HOURS),
        "allocation-awarded", "allocation/lab-more", "lab was awarded lab-more by journal 3.",
    ),
    case(
        "post /v1/ledger/journals/{seq}/reverse",
        lambda c, w: c.reverse(w.nation.admin.award(HOURS) and 3, "a mistake"),
        "journal-reversed", "journal/3",
        "Journal 3, a grant of lab-more, was reversed by journal 4: 'a mistake'.",
    ),
    case(
        "post /v1/jobs/{job}/cancel",
        lambda c, w: c.cancel(w.job),
        "job-cancelled", "job/j-1", "lab-member's job j-1 was cancelled.",
    ),
    case(
        "post /v1/jobs/{job}/recall",
        lambda c, w: c.recall(w.job),
        "job-recalled", "job/j-1", "The GPUs of lab-member's job j-1 were called back.",
    ),
]  # fmt: skip


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.act)
def test_each_use_case_leaves_one_act_by_who_did_it(world: World, one: Case):
    before = world.acts()
    one.does(world.boss, world)

    after = world.acts()
    assert after[: len(before)] == before
    (act,) = [left for left in after[len(before) :] if left.person == "boss"]
    assert (act.act, act.token, act.at_ms) == (one.act, world.token, world.nation.now_ms)
    assert act.subject.startswith(one.subject)
    assert one.sentence in act.sentence
    assert [found.seq for found in after] == list(range(1, len(after) + 1))


def test_every_operation_for_administrators_has_its_case(nation: Nation):
    administrators = {
        (method, path)
        for path, operations in nation.app.openapi()["paths"].items()
        for method, operation in operations.items()
        if method != "get" and operation.get("x-token-scope") == "admin"
    }
    assert len(administrators) > 5
    assert administrators <= {one.operation for one in CASES}


@pytest.mark.parametrize(
    "again",
    [
        lambda w: w.boss.grant_role("guest", PI),
        lambda w: w.boss.add_member("lab", MemberRequest(person="guest", role=Role.PI)),
        lambda w: w.boss.revoke_token(w.spent),
        lambda w: w.boss.cancel(w.ended),
        lambda w: w.boss.recall(w.ended),
        lambda w: w.member.cancel(w.job),
    ],
    ids=["granted", "member", "revoked", "cancelled", "nothing to recall", "one's own job"],
)
def test_what_changes_nothing_or_needs_no_right_leaves_none(
    world: World, again: Callable[[World], object]
):
    world.spent = world.boss.create_token(TokenRequest(label="spent")).token.id
    world.boss.revoke_token(world.spent)
    (world.ended,) = submit(world.member, spec(name="ended"))
    world.member.cancel(world.ended)
    before = world.acts()
    again(world)
    assert world.acts() == before


def test_an_act_that_is_refused_half_way_leaves_none(world: World):
    world.boss.revoke_role("admin", RoleGrant(Role.ADMIN))
    with world.nation.database.read() as connection:
        count = connection.exec_driver_sql("SELECT count(*) FROM acts").scalar_one()
    with pytest.raises(ApiError, match="only administrator"):
        world.boss.revoke_role("boss", RoleGrant(Role.ADMIN))
    assert len(world.boss.acts().acts) == count


def test_the_first_act_makes_the_first_administrator(world: World):
    first = world.acts()[0]
    assert (first.seq, first.person, first.act) == (1, "admin", "first-administrator")


def test_no_secret_and_no_name_or_address_is_kept(world: World):
    secret = world.boss.create_token(TokenRequest(label="confidential")).secret
    world.boss.create_person(Person(id="kim", name="Kim Minji", email="minji@example.kr"))
    kept = repr(world.acts())
    for word in (secret.rsplit("_", 1)[1], "Minji", "minji@example.kr"):
        assert word not in kept


def test_pages_are_newest_first_without_gap_or_repeat(world: World):
    seen, after = [], None
    while True:
        page = world.boss.acts(after=after, limit=3)
        seen += page.acts
        if (after := page.next) is None:
            break
    assert tuple(seen[::-1]) == world.acts()
    assert world.boss.acts(limit=len(seen)).next is None


@pytest.mark.parametrize("role", Role)
def test_only_who_oversees_may_read_it(nation: Nation, role: Role):
    nation.project("lab")
    nation.person("kim")
    scope = {Role.OPERATOR_ADMIN: "kakao", Role.AGENT: "nhn-national"}.get(role, "lab")
    national = role in {Role.ADMIN, Role.OFFICER, Role.AUDITOR}
    nation.admin.grant_role("kim", RoleGrant(role) if national else RoleGrant(role, scope))
    kim = nation.client(nation.token("kim", TokenScope.READ))
    if national:
        assert kim.acts().acts
        return
    with pytest.raises(ApiError, match="may not do this") as refused:
        kim.acts()
    assert refused.value.problem.status == 403


def copied(changed: str, verb: str = "INSERT") -> str:
    """The first act again, with another number or person."""
    return f"{verb} INTO acts SELECT {changed}, act, subject, sentence FROM acts WHERE seq = 1"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE acts SET person = 'guest' WHERE seq = 2",
        "UPDATE acts SET seq = 9999 WHERE seq = 2",
        "DELETE FROM acts WHERE seq = 2",
        "DELETE FROM acts",
        copied("2, at_ms, 'guest', token", "INSERT OR REPLACE"),
        copied("-1, at_ms, person, token"),
        copied("NULL, at_ms, 'nobody', token"),
    ],
)
def test_the_database_refuses_to_change_one(world: World, statement: str):
    if "OR REPLACE" in statement and world.nation.database.is_shared:
        pytest.skip("a statement of SQLite's own")
    before = world.acts()
    with (
        pytest.raises(DatabaseError, match=r"only added to|constraint"),
        world.nation.database.write() as connection,
    ):
        connection.exec_driver_sql(statement)
    assert world.acts() == before
