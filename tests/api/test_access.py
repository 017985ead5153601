"""Who may ask what: every operation of the OpenAPI document by every kind of caller (I8)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from api_bench import assert_refused, bearer, digest, raw, submission_json

from dure import codec
from dure.agent.wire import FileEntry, Manifest, SyncRequest
from dure.client import ApiError, Client
from dure.engines import EngineEnd
from dure.people import Role, RoleGrant, TokenScope
from dure.views import TokenRequest
from nation import DAY_MS, Nation, Site, spec, submission, submit

ALL = (TokenScope.READ, TokenScope.SUBMIT, TokenScope.ADMIN)
CONTENT = b"print('hello')\n"
SHA = hashlib.sha256(CONTENT).hexdigest()
_FRESH = count(1)


@dataclass(frozen=True)
class Ids:
    """The things that requests are about."""

    project: str
    job: str
    ended: str
    attempt: str
    allocation: str
    cluster: str
    person: str
    token: Callable[[], str]


class World:
    """Two projects, everybody's tokens, a job that runs and one that has ended with outputs."""

    def __init__(self, folder: Path) -> None:
        self.nation = nation = Nation(folder)
        self.site = site = Site(nation)
        other = Site(nation, cluster="kakao-national", pool="kakao-b200")
        self.member = nation.lab()
        file = folder / "train.py"
        file.write_bytes(CONTENT)
        manifest = Manifest((FileEntry("train.py", len(CONTENT), SHA),))
        self.workdir = workdir = self.member.register_workdir("lab", manifest).sha256
        self.member.upload("lab", SHA, file)
        job, ended = submit(
            self.member, spec(workdir=workdir), spec(name="ended", outputs="out", workdir=workdir)
        )
        site.start_all()
        order = site.orders[f"{ended}.0"]
        site.end(order, EngineEnd.COMPLETED, 0)
        site.reports[order.attempt_id] = replace(
            site.reports[order.attempt_id], outputs=site.register(order, manifest).sha256
        )
        site.round()
        assert self.member.outputs(ended)
        self.ids = Ids(
            project="lab",
            job=job,
            ended=ended,
            attempt=site.orders[f"{job}.0"].attempt_id,
            allocation="lab-hours",
            cluster=site.cluster,
            person="lab-member",
            token=self.spare_token,
        )
        self.none = Ids(
            project="nowhere",
            job="j-987654",
            ended="j-987654",
            attempt="a-nowhere",
            allocation="nowhere-hours",
            cluster="nowhere",
            person="nobody",
            token=lambda: "f" * 16,
        )
        self.tokens = self._tokens(other)
        self.narrow: dict[str, str] = {}

    def _tokens(self, other: Site) -> dict[str, str | None]:
        nation = self.nation
        stranger = nation.lab("other")
        nation.person("guest")
        people = {
            "stranger": bearer(stranger),
            "member": bearer(self.member),
            "colleague": bearer(nation.member("lab", "colleague")),
            "pi": bearer(nation.member("lab", "professor", Role.PI)),
        }
        for name, grant in {
            "officer": RoleGrant(Role.OFFICER),
            "auditor": RoleGrant(Role.AUDITOR),
            "operator": RoleGrant(Role.OPERATOR_ADMIN, "kakao"),
            "admin": RoleGrant(Role.ADMIN),
        }.items():
            nation.person(name + "-1")
            nation.admin.grant_role(name + "-1", grant)
            people[name] = nation.token(name + "-1", *ALL)
        return {
            **people,
            "agent": self.site.http.headers["Authorization"],
            "other-agent": other.http.headers["Authorization"],
        }

    def token_without(self, scope: str) -> str:
        """A token of an administrator for every use but this one."""
        if scope not in self.narrow:
            others = (other for other in TokenScope if other != scope)
            self.narrow[scope] = self.nation.token("admin-1", *others)
        return self.narrow[scope]

    def spare_token(self) -> str:
        """A token of lab's member that nobody uses."""
        request = TokenRequest(label="spare", person="lab-member")
        return self.nation.admin.create_token(request).token.id


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("access"))
    yield made
    made.nation.close()


# ---- what each operation is asked, and who may ---------------------------------------------------


@dataclass(frozen=True)
class Ask:
    """A request: values of the path's parameters, query, body and headers."""

    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """Who is answered (2xx), who is told that they may not (403); to all others it is not there."""

    asks: Callable[[World, Ids], Ask]
    may: set[str]
    forbidden: set[str] = field(default_factory=set)


LAB = {"member", "colleague", "pi"}
OFFICE = {"officer", "admin"}
OVERSIGHT = OFFICE | {"auditor"}
PEOPLE = LAB | OVERSIGHT | {"stranger", "operator"}
AGENTS = {"agent", "other-agent"}


def fresh(prefix: str) -> str:
    return f"{prefix}-{next(_FRESH)}"


def plain(_world: World, _ids: Ids) -> Ask:
    return Ask()


def of_job(_world: World, ids: Ids) -> Ask:
    return Ask({"job": ids.job})


def of_ended(_world: World, ids: Ids) -> Ask:
    return Ask({"job": ids.ended, "index": "0", "sha256": SHA})


def of_attempt(_world: World, ids: Ids) -> Ask:
    return Ask({"attempt": ids.attempt, "sha256": SHA})


def submission_(_world: World, ids: Ids) -> Ask:
    return Ask(body=submission_json(project=ids.project), headers={"Idempotency-Key": fresh("k")})


def planned(_world: World, ids: Ids) -> Ask:
    return Ask(body=submission_json(project=ids.project)["jobs"][0]["spec"])


def award(_world: World, ids: Ids) -> Ask:
    body = {"id": fresh("a"), "project": ids.project, "kind": "hours", "credit_ucredit": 1}
    return Ask(body=body | {"starts_ms": 0, "ends_ms": DAY_MS})


def taken_back(world: World, _ids: Ids) -> Ask:
    world.nation.hours("other", name=fresh("a"))
    granted = max(journal.seq for journal in world.nation.admin.all_journals())
    return Ask({"seq": str(granted)}, body={"reason": "why"})


def new_member(_world: World, ids: Ids) -> Ask:
    return Ask({"project": ids.project}, body={"person": "colleague"})


def gone_member(world: World, ids: Ids) -> Ask:
    world.nation.admin.grant_role("guest", RoleGrant(Role.MEMBER, "lab"))
    return Ask({"project": ids.project, "person": "guest"})


def new_role(world: World, _ids: Ids) -> Ask:
    return Ask({"person": "colleague"}, body={"role": "member", "scope": "other"})


def gone_role(world: World, _ids: Ids) -> Ask:
    world.nation.admin.grant_role("colleague", RoleGrant(Role.PI, "other"))
    return Ask({"person": "colleague"}, query={"role": "pi", "scope": "other"})


def synced(world: World, ids: Ids) -> Ask:
    request = SyncRequest(
        cluster_id=ids.cluster, engine="local", engine_answered=False, pools=(), attempts=()
    )
    return Ask(body=json.loads(codec.encode(request)))


def key_offered(world: World, ids: Ids) -> Ask:
    public_key = world.site.identity.public_key
    return Ask(body={"cluster_id": ids.cluster, "public_key": public_key})


def named(**values: str) -> Callable[[World, Ids], Ask]:
    return lambda _world, _ids: Ask(dict(values))


def created(**body: str) -> Callable[[World, Ids], Ask]:
    return lambda _world, _ids: Ask(body={"id": fresh("x"), **body})


SEEN_BY = LAB | OVERSIGHT

ROWS: dict[tuple[str, str], Row] = {
    ("post", "/v1/jobs"): Row(submission_, LAB),
    ("get", "/v1/jobs"): Row(plain, PEOPLE),
    ("post", "/v1/plan"): Row(planned, SEEN_BY),
    ("get", "/v1/jobs/{job}"): Row(of_job, SEEN_BY),
    ("get", "/v1/jobs/{job}/why"): Row(of_job, SEEN_BY),
    ("get", "/v1/jobs/{job}/events"): Row(of_ended, SEEN_BY),
    ("get", "/v1/jobs/{job}/logs"): Row(of_ended, LAB),
    ("get", "/v1/jobs/{job}/outputs"): Row(of_ended, LAB),
    ("get", "/v1/jobs/{job}/outputs/{index}/{sha256}"): Row(of_ended, LAB),
    ("post", "/v1/jobs/{job}/cancel"): Row(
        of_ended, {"member", "pi", "admin"}, {"colleague", "officer", "auditor"}
    ),
    ("post", "/v1/jobs/{job}/recall"): Row(of_ended, OFFICE, LAB | {"auditor"}),
    ("get", "/v1/whoami"): Row(plain, PEOPLE),
    ("get", "/v1/organisations"): Row(plain, PEOPLE),
    ("post", "/v1/organisations"): Row(created(name="X", kind="sme"), OFFICE, PEOPLE - OFFICE),
    ("get", "/v1/projects"): Row(plain, PEOPLE),
    ("post", "/v1/projects"): Row(
        created(organisation="lab-org", title="X"), OFFICE, PEOPLE - OFFICE
    ),
    ("post", "/v1/projects/{project}/members"): Row(new_member, OFFICE | {"pi"}),
    ("delete", "/v1/projects/{project}/members/{person}"): Row(gone_member, OFFICE | {"pi"}),
    ("get", "/v1/people"): Row(plain, {"admin"}, PEOPLE - {"admin"}),
    ("post", "/v1/people"): Row(created(name="X"), OFFICE, PEOPLE - OFFICE),
    ("post", "/v1/people/{person}/roles"): Row(new_role, {"admin"}, PEOPLE - {"admin"}),
    ("delete", "/v1/people/{person}/roles"): Row(gone_role, {"admin"}, PEOPLE - {"admin"}),
    ("get", "/v1/tokens"): Row(plain, PEOPLE),
    ("post", "/v1/tokens"): Row(lambda _w, _i: Ask(body={"label": "mine"}), PEOPLE),
    ("delete", "/v1/tokens/{token}"): Row(
        lambda _w, ids: Ask({"token": ids.token()}), {"member", "admin"}
    ),
    # not the cluster whose agent is needed here: enrolling revokes its token
    ("post", "/v1/agents/{cluster}"): Row(
        lambda world, ids: Ask({"cluster": "sk-industrial" if ids is world.ids else ids.cluster}),
        {"admin"},
    ),
    ("get", "/v1/allocations"): Row(plain, PEOPLE),
    ("post", "/v1/allocations"): Row(award, OFFICE, PEOPLE - OFFICE),
    ("get", "/v1/allocations/{allocation}"): Row(
        lambda _w, ids: Ask({"allocation": ids.allocation}), SEEN_BY
    ),
    ("get", "/v1/usage"): Row(lambda _w, ids: Ask(query={"project": ids.project}), SEEN_BY),
    ("get", "/v1/statement"): Row(lambda _w, ids: Ask(query={"project": ids.project}), SEEN_BY),
    ("get", "/v1/lending"): Row(lambda _w, ids: Ask(query={"project": ids.project}), SEEN_BY),
    ("post", "/v1/ledger/journals/{seq}/reverse"): Row(taken_back, OFFICE, PEOPLE - OFFICE),
    ("get", "/v1/ledger/journals"): Row(plain, OVERSIGHT, PEOPLE - OVERSIGHT),
    ("get", "/v1/acts"): Row(plain, OVERSIGHT, PEOPLE - OVERSIGHT),
    ("get", "/v1/fleet"): Row(plain, PEOPLE),
    ("get", "/v1/pools"): Row(plain, PEOPLE),
    ("get", "/v1/sites"): Row(plain, PEOPLE),
    ("get", "/v1/tasks"): Row(lambda _w, ids: Ask(query={"project": ids.project}), SEEN_BY),
    ("get", "/v1/shares"): Row(plain, PEOPLE),
    ("get", "/v1/snapshot"): Row(plain, OFFICE, PEOPLE - OFFICE),
    ("post", "/v1/projects/{project}/workdirs"): Row(
        lambda _w, ids: Ask({"project": ids.project}, body={"files": []}), LAB
    ),
    ("put", "/v1/projects/{project}/blobs/{sha256}"): Row(
        lambda _w, ids: Ask({"project": ids.project, "sha256": SHA}, body=CONTENT), LAB
    ),
    ("post", "/v1/agent/sync"): Row(synced, {"agent"}),
    ("put", "/v1/agent/key"): Row(key_offered, {"agent"}),
    ("get", "/v1/agent/attempts/{attempt}/secrets"): Row(of_attempt, {"agent"}),
    ("get", "/v1/agent/attempts/{attempt}/blobs/{sha256}"): Row(of_attempt, {"agent"}),
    ("get", "/v1/agent/attempts/{attempt}/manifests/{sha256}"): Row(
        lambda w, ids: Ask({"attempt": ids.attempt, "sha256": w.workdir}), {"agent"}
    ),
    ("post", "/v1/agent/attempts/{attempt}/manifests"): Row(
        lambda w, ids: replace(of_attempt(w, ids), body={"files": []}), {"agent"}
    ),
    ("put", "/v1/agent/attempts/{attempt}/blobs/{sha256}"): Row(
        lambda w, ids: replace(of_attempt(w, ids), body=CONTENT), {"agent"}
    ),
    ("put", "/v1/agent/attempts/{attempt}/logs/{rank}"): Row(
        lambda _w, ids: Ask({"attempt": ids.attempt, "rank": "0"}, {"offset": "0"}, b"hello"),
        {"agent"},
    ),
}
OPEN = {("get", "/healthz"), ("get", "/metrics")}
"""For monitoring: no token, nothing of any project."""


def send(world: World, operation: tuple[str, str], token: str | None, ids: Ids) -> httpx.Response:
    method, template = operation
    ask = ROWS[operation].asks(world, ids)
    path = str(httpx.URL(template.format(**ask.path), params=ask.query or None))
    answer = raw(
        world.nation, method.upper(), path, token=token, body=ask.body, headers=ask.headers
    )
    assert answer.status_code < 500, answer.text
    return answer


def operations(world: World) -> set[tuple[str, str]]:
    document = world.nation.app.openapi()
    return {(m, path) for path, found in document["paths"].items() for m in found}


def test_every_operation_has_a_row(world: World):
    assert operations(world) == set(ROWS) | OPEN


@pytest.mark.parametrize("operation", ROWS, ids=" ".join)
def test_each_caller_gets_what_the_row_says(world: World, operation: tuple[str, str]):
    row = ROWS[operation]
    for caller, token in world.tokens.items():
        answer = send(world, operation, token, world.ids)
        agents_own = operation[1].startswith("/v1/agent/")
        if caller in row.may:
            assert answer.is_success, (caller, answer.text)
        elif caller in row.forbidden or (caller in AGENTS) != agents_own:
            assert answer.status_code == 403, (caller, answer.text)
        else:
            assert answer.status_code == 404, (caller, answer.text)


@pytest.mark.parametrize("operation", ROWS, ids=" ".join)
def test_what_is_not_yours_looks_like_what_is_not_there(world: World, operation: tuple[str, str]):
    for caller in ("stranger", "operator", "other-agent"):
        token = world.tokens[caller]
        theirs = send(world, operation, token, world.ids)
        if theirs.status_code != 404:
            continue
        nothing = send(world, operation, token, world.none)
        assert nothing.status_code == 404
        assert _anonymous(theirs, world.ids) == _anonymous(nothing, world.none)


def _anonymous(answer: httpx.Response, ids: Ids) -> tuple[str, list[tuple[str, str]]]:
    """The answer's text and headers without the id that was asked for."""
    text = answer.text
    last = str(answer.request.url.path).rsplit("/", 1)[-1]
    for id_ in (ids.project, ids.ended, ids.job, ids.attempt, ids.allocation, ids.cluster, last):
        text = text.replace(f" {id_} ", " ID ")
    headers = [(name, value) for name, value in answer.headers.items() if name != "content-length"]
    return text, headers


# ---- tokens that are no good ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def bad_tokens(world: World) -> dict[str, str | None]:
    nation = world.nation
    good = nation.admin.create_token(TokenRequest(label="good", scopes=ALL))
    revoked = nation.admin.create_token(TokenRequest(label="bad", scopes=ALL))
    nation.admin.revoke_token(revoked.token.id)
    expired = nation.admin.create_token(TokenRequest(label="old", scopes=ALL, days=1))
    with nation.database.write() as connection:
        connection.exec_driver_sql(
            "UPDATE tokens SET expires_ms = ? WHERE id = ?", (nation.now_ms, expired.token.id)
        )
    return {
        "anonymous": None,
        "garbage": "garbage",
        "empty": "Bearer ",
        "no secret": f"dure_{good.token.id}_",
        "another's secret": f"dure_{good.token.id}_{revoked.secret.rsplit('_', 1)[1]}",
        "the stored hash": f"dure_{good.token.id}_{_stored(nation, good.token.id)}",
        "one character off": good.secret[:-1] + ("A" if good.secret[-1] != "A" else "B"),
        "longer": good.secret + "A",
        "revoked": revoked.secret,
        "expired": expired.secret,
        "SQL": f"dure_' OR 1=1 --_{good.secret.rsplit('_', 1)[1]}",
        "10 kB": "dure_" + "x" * 10_240,
    }


def _stored(nation: Nation, token: str) -> str:
    with nation.database.read() as connection:
        query = "SELECT secret_sha256 FROM tokens WHERE id = ?"
        return str(connection.exec_driver_sql(query, (token,)).scalar_one())


@pytest.mark.parametrize("operation", ROWS, ids=" ".join)
def test_a_bad_token_opens_nothing(
    world: World, bad_tokens: dict[str, str | None], operation: tuple[str, str]
):
    for name in ("anonymous", "garbage", "revoked", "expired"):
        answer = send(world, operation, bad_tokens[name], world.none)
        assert answer.status_code == 401, (name, answer.text)


def test_every_bad_token_gets_the_same_answer(world: World, bad_tokens: dict[str, str | None]):
    answers = [raw(world.nation, "GET", "/v1/whoami", token=token) for token in bad_tokens.values()]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}
    assert len({answer.text for answer in answers}) == 1


def test_other_schemes_and_doubtful_headers_are_no_token(world: World):
    secret = world.nation.admin_token
    for header in (f"Basic {secret}", secret, f"Bearer {secret} x", f"Bearer\u00a0{secret}"):
        headers = {"Authorization": header.encode("latin-1")}
        answer = world.nation.http.get("/v1/whoami", headers=headers)
        assert_refused(answer, status=401)


@pytest.mark.parametrize("operation", ROWS, ids=" ".join)
def test_a_token_is_good_for_its_scopes_only(world: World, operation: tuple[str, str]):
    method, path = operation
    document = world.nation.app.openapi()
    needed = document["paths"][path][method]["x-token-scope"]
    answer = send(world, operation, world.token_without(needed), world.none)
    assert answer.status_code == 403
    if method != "head":
        assert f"not for {needed}" in assert_refused(answer)


# ---- tokens --------------------------------------------------------------------------------------


def test_a_secret_is_nowhere_on_disk(nation: Nation):
    secret = nation.admin_token.rsplit("_", 1)[1].encode()
    nation.lab()
    kept = [file for file in nation.folder.rglob("*") if file.is_file()]
    assert kept
    assert not any(secret in file.read_bytes() for file in kept)
    assert all("secret" not in codec.encode_text(view) for view in nation.admin.tokens())


def test_a_token_cannot_make_a_stronger_one(nation: Nation):
    lab = nation.lab()
    weak = nation.client(nation.token("lab-member", TokenScope.READ))
    before = digest(nation)
    for scopes in ((TokenScope.SUBMIT,), ALL, (TokenScope.AGENT,)):
        with pytest.raises(ApiError, match="cannot be made") as caught:
            weak.create_token(TokenRequest(label="more", scopes=scopes))
        assert caught.value.problem.status == 403
    assert digest(nation) == before
    made = lab.create_token(TokenRequest(label="less", scopes=(TokenScope.READ,)))
    assert made.token.person == "lab-member"


def test_an_administrators_weak_token_does_not_administer(nation: Nation):
    nation.person("second")
    nation.admin.grant_role("second", RoleGrant(Role.ADMIN))
    weak = nation.client(nation.token("admin", TokenScope.READ, TokenScope.SUBMIT))
    theirs = nation.admin.create_token(TokenRequest(label="x", person="second")).token.id
    before = digest(nation)
    with pytest.raises(ApiError, match="not for admin"):
        weak.create_token(TokenRequest(label="more", person="second", scopes=ALL))
    with pytest.raises(ApiError, match="not for admin"):
        weak.revoke_token(theirs)
    assert digest(nation) == before


def test_nobody_but_an_administrator_makes_tokens_for_others(nation: Nation):
    nation.lab()
    pi = nation.member("lab", "professor", Role.PI)
    with pytest.raises(ApiError, match=r"manage.people"):
        pi.create_token(TokenRequest(label="x", person="lab-member"))


def test_a_revoked_token_is_dead_at_once(nation: Nation):
    lab = nation.lab()
    made = lab.create_token(TokenRequest(label="laptop"))
    laptop = nation.client(made.secret)
    assert laptop.whoami().person == "lab-member"
    lab.revoke_token(made.token.id)
    lab.revoke_token(made.token.id)
    with pytest.raises(ApiError, match="revoked"):
        laptop.whoami()


def test_a_token_dies_on_the_millisecond(nation: Nation):
    lab = nation.lab()
    made = lab.create_token(TokenRequest(label="day", days=1))
    client = nation.client(made.secret)
    nation.now_ms = made.token.expires_ms - 1
    client.whoami()
    nation.now_ms += 1
    with pytest.raises(ApiError, match="expired"):
        client.whoami()


def test_a_role_that_is_taken_away_is_gone_at_once(nation: Nation):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    nation.admin.remove_member("lab", "lab-member")
    for ask in (lab.job, lab.why, lab.cancel):
        with pytest.raises(ApiError, match="There is no job"):
            ask(job)
    with pytest.raises(ApiError, match="There is no project"):
        lab.submit(submission(spec()), key="again")


def test_the_last_administrator_stays(nation: Nation):
    before = digest(nation)
    with pytest.raises(ApiError, match="only administrator"):
        nation.admin.revoke_role("admin", RoleGrant(Role.ADMIN))
    assert digest(nation) == before
    nation.person("second")
    nation.admin.grant_role("second", RoleGrant(Role.ADMIN))
    nation.admin.revoke_role("second", RoleGrant(Role.ADMIN))


# ---- agents --------------------------------------------------------------------------------------


def test_enrolling_an_agent_again_revokes_its_token(nation: Nation):
    first = Site(nation)
    first.sync()
    second = Site(nation)
    second.sync()
    answer = first.http.get("/v1/agent/attempts/a-1/secrets")
    assert answer.status_code == 401


def test_an_operator_enrols_agents_of_its_own_clusters(nation: Nation):
    nation.person("op")
    nation.admin.grant_role("op", RoleGrant(Role.OPERATOR_ADMIN, "nhn-cloud"))
    operator: Client = nation.client(nation.token("op", *ALL))
    made = operator.enrol_agent("nhn-national")
    assert made.token.scopes == (TokenScope.AGENT,)
    with pytest.raises(ApiError, match="There is no cluster kakao-national"):
        operator.enrol_agent("kakao-national")


def test_a_site_changes_nothing_of_another_sites_attempts(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    order = site.orders[f"{job}.0"]
    liar = Site(nation, cluster="kakao-national", pool="kakao-b200")
    liar.end(order, EngineEnd.COMPLETED, 0)
    reply = liar.sync()
    nation.tick()
    assert reply.strangers == (order.attempt_id,)
    assert reply.orders == reply.closed == ()
    assert lab.job(job).summary.state == "running"


def test_secrets_come_to_the_open_attempts_agent_and_nobody_else(nation: Nation, site: Site):
    lab = nation.lab()
    asked = submission(spec(), secrets={"KEY": "s3cret-value"})
    (job,) = (summary.id for summary in lab.submit(asked, key="k").jobs)
    site.start_all()
    order = site.orders[f"{job}.0"]
    path = f"/v1/agent/attempts/{order.attempt_id}/secrets"
    answer = site.http.get(path)
    assert answer.json() == {"KEY": "s3cret-value"}
    assert answer.headers["cache-control"] == "no-store"
    everything = (lab.job(job), lab.why(job), nation.admin.jobs(), order)
    assert not any("s3cret-value" in codec.encode_text(value) for value in everything)

    site.end(order, EngineEnd.COMPLETED, 0)
    site.round()
    assert site.http.get(path).status_code == 404
    kept = [file for file in nation.folder.rglob("*") if file.is_file()]
    assert not any(b"s3cret-value" in file.read_bytes() for file in kept)
