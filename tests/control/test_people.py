"""What nobody may do for themselves."""

from __future__ import annotations

import pytest

from dure.client import ApiError
from dure.people import Role, RoleGrant, TokenScope
from dure.views import MemberRequest, TokenRequest
from nation import DAY_MS, Nation, spec, submit


def test_a_token_without_the_admin_scope_makes_none_that_outlives_it(nation: Nation):
    nation.person("kim")
    short = TokenRequest(label="short", person="kim", days=1)
    kim = nation.client(nation.admin.create_token(short).secret)
    made = kim.create_token(TokenRequest(label="renewed", days=366))

    assert made.token.expires_ms == nation.now_ms + DAY_MS


def test_an_officer_does_not_read_a_projects_data_by_joining_it(nation: Nation):
    nation.project("lab")
    nation.person("officer")
    nation.admin.grant_role("officer", RoleGrant(Role.OFFICER))
    officer = nation.client(nation.token("officer", TokenScope.READ, TokenScope.ADMIN))

    with pytest.raises(ApiError, match="cannot make themselves a member of lab"):
        officer.add_member("lab", MemberRequest(person="officer"))
    nation.person("kim")
    assert officer.add_member("lab", MemberRequest(person="kim", role=Role.PI)).members


def test_one_project_cannot_fill_the_queue(nation: Nation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("dure.service.submit.OPEN_TASKS_OF_PROJECT_MAX", 3)
    lab = nation.lab()
    submit(lab, spec(name="a"), spec(name="b"))

    with pytest.raises(ApiError, match="has 2 tasks that have not ended") as refused:
        submit(lab, spec(name="c"), spec(name="d"))
    assert refused.value.problem.status == 429
    submit(lab, spec(name="c"))
