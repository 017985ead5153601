"""Whatever is sent: one sentence, and nothing changed (I9)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from api_bench import (
    assert_refused,
    bearer,
    cut_off,
    digest,
    raw,
    streamed,
    submission_json,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dure.api.requests import JSON_BYTES_MAX
from dure.client import Client
from nation import DAY_MS, Nation, Site, spec, submit

TEXT = json.dumps(submission_json())


class Place:
    """A nation with two projects, made once: no test here may change it."""

    def __init__(self, folder: Path) -> None:
        self.nation = Nation(folder)
        self.lab = self.nation.lab()
        other = self.nation.lab("other")
        (self.foreign_job,) = submit(other, spec(project="other"))
        self.before = digest(self.nation)

    def refuse(self, path: str, body: Any, *, by: Client | None = None, **more: Any) -> str:
        """Send it, see it refused with nothing changed; the sentence."""
        headers = {"Idempotency-Key": "k"} | more.pop("headers", {})
        token = bearer(by or self.lab)
        answer = raw(self.nation, "POST", path, token=token, body=body, headers=headers)
        sentence = assert_refused(answer, **more)
        self.assert_unchanged()
        return sentence

    def assert_unchanged(self) -> None:
        """No row is other than it was."""
        before, self.before = self.before, digest(self.nation)
        assert self.before == before


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("bad-input"))
    yield made
    made.nation.close()


# ---- JSON that is none, or not ours --------------------------------------------------------------

BODIES = {
    "empty": "",
    "no JSON": "walltime: 3600",
    "null": "null",
    "a list": "[]",
    "a string": '"x"',
    "a number": "7",
    "an empty object": "{}",
    "cut off": TEXT[:-1],
    "with a tail": TEXT + "{}",
    "a comma too many": TEXT.replace("3600,", "3600,,"),
    "single quotes": TEXT.replace('"', "'"),
    "byte order mark": "\ufeff" + TEXT,
    "invalid UTF-8": TEXT.encode().replace(b"train", b"tr\xff\xfein"),
    "UTF-16": TEXT.encode("utf-16"),
    "NUL bytes": b"\0" * 100,
    "NaN": TEXT.replace("3600", "NaN"),
    "Infinity": TEXT.replace("3600", "Infinity"),
    "minus Infinity": TEXT.replace("3600", "-Infinity"),
    "1e400": TEXT.replace("3600", "1e400"),
    "1e3": TEXT.replace("3600", "1e3"),
    "a float": TEXT.replace("3600", "3600.0"),
    "true for a number": TEXT.replace("3600", "true"),
    "a string for a number": TEXT.replace("3600", '"3600"'),
    "null for a number": TEXT.replace("3600", "null"),
    "4,000 digits": TEXT.replace("3600", "9" * 4_000),
    "100,000 digits": TEXT.replace("3600", "9" * 100_000),
    "deep lists": "[" * 200_000,
    "deep objects": '{"jobs":' * 200_000,
    "a lone surrogate": TEXT.replace("train", "\\ud800"),
    "a surrogate in a key": TEXT.replace('"walltime_s"', '"\\udfff"'),
    "a field twice": TEXT.replace('"walltime_s": 3600', '"walltime_s": 3600, "walltime_s": 60'),
    "jobs twice": TEXT[:-1] + f', "jobs": {json.dumps(submission_json()["jobs"])}}}',
    "a million elements": '{"jobs": [' + "0," * 1_000_000 + "0]}",
    "a million fields": '{"jobs": [' + '{"a":0},' * 200 + "{" + '"a":0,' * 1_000_000 + '"a":0}]}',
    "gzip": gzip.compress(TEXT.encode()),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_not_a_submission_changes_nothing(place: Place, body: str | bytes):
    place.refuse("/v1/jobs", body, status=422)


def test_a_compressed_body_is_not_unpacked(place: Place):
    packed = gzip.compress(TEXT.encode())
    place.refuse("/v1/jobs", packed, headers={"Content-Encoding": "gzip"}, status=422)


def test_the_field_and_the_value_are_named(place: Place):
    sentence = place.refuse("/v1/jobs", submission_json(walltime_s="2:00:00"))
    assert sentence == "jobs[0].spec.walltime_s is '2:00:00'; it must be a valid integer."
    sentence = place.refuse("/v1/jobs", submission_json(walltime=3600))
    assert sentence == "jobs[0].spec.walltime is not a field that Dure knows."


# ---- a job that cannot be ------------------------------------------------------------------------


def resources(**asked: Any) -> dict[str, Any]:
    return {"resources": asked}


SPECS: dict[str, tuple[dict[str, Any], str]] = {
    "no GPUs": (resources(gpus_per_node=0), "gpus_per_node is 0"),
    "fewer than none": (resources(gpus_per_node=-8), "gpus_per_node is -8"),
    "10^9 GPUs a node": (resources(gpus_per_node=10**9), "gpus_per_node is 1,000,000,000"),
    "10^19 GPUs a node": (resources(gpus_per_node=10**19), "gpus_per_node is 10,000,000,000"),
    "10^9 nodes": (resources(nodes=10**9), "nodes is 1,000,000,000"),
    "more nodes than any pool": (resources(nodes=100_000, gpus_per_node=8), "100,000 nodes"),
    "no node so large": (resources(gpus_per_node=16), "16 GPUs a node"),
    "no such model": (resources(gpu_models=["h300"]), "H300"),
    "a model twice": (resources(gpu_models=["b200", "b200"]), "gpu_models"),
    "no memory": (resources(memory_gib_per_node=0), "memory_gib_per_node is 0"),
    "no time": ({"walltime_s": 0}, "walltime_s is 0"),
    "less than no time": ({"walltime_s": -60}, "walltime_s is -60"),
    "10^12 seconds": ({"walltime_s": 10**12}, "walltime_s is 1,000,000,000,000"),
    "beyond the window": ({"walltime_s": 366 * 86_400}, "lab-hours"),
    "unknown data class": ({"data_class": "top-secret"}, "'top-secret'"),
    "a class that leaves nothing": (
        {"data_class": "national-core", "resources": {"gpu_models": ["rtx-pro-6000"]}},
        "rule",
    ),
    "more than its allocation": (
        resources(nodes=300, gpus_per_node=8, gpu_models=["b200"]),
        "lab-hours",
    ),
    "itself as dependency": (
        {"dependencies": [{"kind": "afterok", "job": "train"}]},
        "circle: train -> train",
    ),
    "unknown dependency": ({"dependencies": [{"kind": "afterok", "job": "j-99"}]}, "job j-99"),
    "unknown kind of dependency": (
        {"dependencies": [{"kind": "afternotok", "job": "j-1"}]},
        "'afternotok'",
    ),
    "no command": ({"command": []}, "command"),
    "command and script": ({"script": "true"}, "command or a script"),
    "a command line for words": ({"command": "python train.py"}, "command is 'python train.py'"),
    "an empty program": ({"command": ["", "x"]}, "empty first word"),
    "an empty array": ({"array": {"indices": []}}, "array"),
    "an array backwards": ({"array": {"indices": [2, 1]}}, "rise"),
    "10^9 as index": ({"array": {"indices": [10**9]}}, "1,000,000,000"),
    "unknown tier": ({"tier": "gold"}, "'gold'"),
    "another's allocation": ({"allocation": "other-hours"}, "allocation other-hours"),
    "no such workdir": ({"workdir": "0" * 64}, "workdir"),
    "a variable of ours": ({"env": {"RANK": "0"}}, "RANK"),
    "a variable of DURE_": ({"env": {"DURE_JOB": "0"}}, "DURE_JOB"),
    "outputs outside": ({"outputs": "../../etc"}, "'../../etc'"),
    "absolute outputs": ({"outputs": "/etc"}, "'/etc'"),
    "checkpoint outside": ({"checkpoint": {"dir": "a/../../b"}}, "'a/../../b'"),
}


@pytest.mark.parametrize(("changes", "named"), SPECS.values(), ids=SPECS.keys())
def test_a_job_that_cannot_be_is_refused_by_name(place: Place, changes: dict[str, Any], named: str):
    assert named in place.refuse("/v1/jobs", submission_json(**changes))


def test_a_circle_of_dependencies_is_named(place: Place):
    names = ("a", "b", "c")
    jobs = [
        submission_json(name=name, dependencies=[{"kind": "afterany", "job": after}])["jobs"][0]
        for name, after in zip(names, ("b", "c", "a"), strict=True)
    ]
    sentence = place.refuse("/v1/jobs", {"jobs": jobs}, status=422)
    assert sentence.count(" -> ") == 3


def test_one_bad_job_refuses_the_good_ones_beside_it(place: Place):
    good, bad = submission_json(name="good"), submission_json(name="bad", data_class="none")
    place.refuse("/v1/jobs", {"jobs": good["jobs"] + bad["jobs"]}, status=422)


def test_two_jobs_of_one_name_are_refused(place: Place):
    place.refuse("/v1/jobs", {"jobs": submission_json()["jobs"] * 2}, status=422)


def test_too_many_jobs_at_once_are_refused(place: Place):
    place.refuse("/v1/jobs", {"jobs": submission_json()["jobs"] * 101}, status=422)


def test_another_projects_job_as_dependency_is_one_that_does_not_exist(place: Place):
    def sentence(job: str) -> str:
        asked = submission_json(dependencies=[{"kind": "afterok", "job": job}])
        return place.refuse("/v1/jobs", asked, status=404).replace(job, "JOB")

    assert sentence(place.foreign_job) == sentence("j-999")


def test_secrets_are_checked_like_variables_and_never_shown(place: Place):
    for secrets in ({"RANK": "s3cret"}, {"A\nB": "s3cret"}, {"A": "s3cret\0"}, {"A": ["s3cret"]}):
        asked = submission_json()
        asked["jobs"][0]["secrets"] = secrets
        assert "s3cret" not in place.refuse("/v1/jobs", asked, status=422)


# ---- text that would be something else elsewhere -------------------------------------------------

TRICKS = {
    "newline": "a\nb",
    "trailing newline": "name\n",
    "carriage return": "a\rb",
    "directive": "x\n#SBATCH --wrap=id",
    "substitution": "$(touch x)",
    "backticks": "`touch x`",
    "semicolon": "a; touch x",
    "pattern": "%j",
    "template": "{{7*7}}",
    "markup": "<script>alert(1)</script>",
    "override": "abc\u202egpj.exe",
    "zero width": "a\u200bb",
    "formula": "=cmd()",
    "quote": "'; DROP TABLE jobs; --",
    "option": "--wrap=id",
    "NUL": "a\0b",
    "10 kB": "x" * 10_240,
    "empty": "",
    "blank": "   ",
    "path": "../../etc/passwd",
    "emoji": "🎉",
}
NAMES = ("name", "project", "allocation", "workdir", "data_class")


@pytest.mark.parametrize("trick", TRICKS.values(), ids=TRICKS.keys())
def test_names_and_ids_hold_no_tricks(place: Place, trick: str):
    for field in NAMES:
        place.refuse("/v1/jobs", submission_json(**{field: trick}), status=422)
    place.refuse("/v1/jobs", submission_json(env={trick: "x"}), status=422)
    place.refuse("/v1/jobs", submission_json(resources={"gpu_models": [trick]}), status=422)
    place.refuse("/v1/jobs", submission_json(**{trick or "x": 1}), status=422)
    place.refuse("/v1/jobs", submission_json(dependencies=[{"kind": "afterok", "job": trick}]))


@pytest.mark.parametrize("kind", ["trailing newline", "directive", "NUL", "override", "markup"])
def test_the_office_is_held_to_the_same(place: Place, kind: str):
    trick = TRICKS[kind]
    admin = place.nation.admin
    organisation = {"id": "x", "name": "X", "kind": "university"}
    project = {"id": "x", "organisation": "lab-org", "title": "X"}
    person = {"id": "x", "name": "X", "email": "x@example.kr"}
    allocation = {"id": "x", "project": "lab", "kind": "hours", "starts_ms": 0, "ends_ms": DAY_MS}
    allocation["credit_ucredit"] = 1
    for path, body, fields in (
        ("/v1/organisations", organisation, ("id", "name", "kind")),
        ("/v1/projects", project, ("id", "organisation", "title")),
        ("/v1/people", person, ("id", "name", "email")),
        ("/v1/allocations", allocation, ("id", "project", "kind", "gpu_model")),
        ("/v1/tokens", {"label": "x"}, ("label", "person", "scopes")),
        ("/v1/people/admin/roles", {"role": "pi", "scope": "lab"}, ("role", "scope")),
        ("/v1/projects/lab/members", {"person": "admin"}, ("person", "role")),
    ):
        for field in fields:
            place.refuse(path, body | {field: trick}, by=admin)


def test_free_text_travels_as_it_is(nation: Nation, site: Site):
    lab = nation.lab()
    words = tuple(text for text in TRICKS.values() if "\0" not in text)
    env = {f"V{at}": word for at, word in enumerate(words)}
    one, two = submit(
        lab,
        spec(name="words", command=("echo", *words), env=env),
        spec(name="script", command=(), script="\n".join(words)),
    )
    site.round()
    orders = site.orders
    assert orders[f"{one}.0"].command == ("echo", *words)
    assert orders[f"{one}.0"].env == env
    assert orders[f"{two}.0"].script == "\n".join(words)
    assert lab.job(one).spec.command == ("echo", *words)


# ---- the office's numbers ------------------------------------------------------------------------

AWARDS: dict[str, dict[str, Any]] = {
    "no credit": {"credit_ucredit": 0},
    "negative credit": {"credit_ucredit": -1},
    "no credit at all": {"credit_ucredit": None},
    "10^19 micro-credits": {"credit_ucredit": 10**19},
    "a window backwards": {"starts_ms": DAY_MS, "ends_ms": 0},
    "after the year 9999": {"ends_ms": 10**15},
    "a negative instant": {"starts_ms": -1},
    "too much subsidy": {"subsidy_milli": 1_001},
    "hours with GPUs": {"gpus": 8},
    "capacity without GPUs": {"kind": "capacity", "credit_ucredit": None, "gpu_model": "b200"},
    "an unknown model": {"kind": "capacity", "credit_ucredit": None, "gpus": 8, "gpu_model": "x"},
    "another model's pool": {
        "kind": "capacity",
        "credit_ucredit": None,
        "gpus": 8,
        "gpu_model": "h200",
        "pool": "nhn-b200",
    },
    "an id that is taken": {"id": "lab-hours"},
    "an unknown project": {"project": "nowhere"},
}


@pytest.mark.parametrize("changes", AWARDS.values(), ids=AWARDS.keys())
def test_an_award_that_cannot_be_is_refused(place: Place, changes: dict[str, Any]):
    body = {"id": "x", "project": "lab", "kind": "hours", "starts_ms": 0, "ends_ms": DAY_MS}
    place.refuse("/v1/allocations", body | {"credit_ucredit": 1} | changes, by=place.nation.admin)


@pytest.mark.parametrize("days", [0, -1, 367, 10**19, "90", 1.5])
def test_a_tokens_life_has_bounds(place: Place, days: Any):
    place.refuse("/v1/tokens", {"label": "x", "days": days}, status=422)


def test_awards_beyond_64_bits_in_sum_are_refused_with_the_book_in_order(nation: Nation):
    nation.project("lab")
    for round_ in range(10):
        body = {"id": f"a-{round_}", "project": "lab", "kind": "hours", "starts_ms": 0}
        body |= {"ends_ms": DAY_MS, "credit_ucredit": 10**18}
        before = digest(nation)
        answer = raw(nation, "POST", "/v1/allocations", token=nation.admin_token, body=body)
        if answer.status_code != 201:
            break
    assert round_ == 9
    assert "64 bits" in assert_refused(answer, status=409)
    assert digest(nation) == before
    nation.assert_book_in_order()


# ---- places in lists, and paths ------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs?limit=0",
        "/v1/jobs?limit=501",
        "/v1/jobs?limit=1e400",
        "/v1/jobs?limit=" + "9" * 5_000,
        "/v1/jobs?state=sleeping",
        "/v1/jobs?after=x",
        "/v1/jobs?after=j-" + "9" * 19,
        "/v1/jobs?project=%00",
        "/v1/jobs?project=%ED%A0%80",
        "/v1/jobs/j-%00",
        "/v1/jobs/j-%F0%9D%9F%99",  # a digit, but not an ASCII one
        "/v1/jobs/j-" + "1" * 5_000,
        "/v1/jobs/%2e%2e%2fpeople",
        "/v1/jobs/j-1/events?after=9223372036854775808",
        "/v1/jobs/j-1/logs?task=-1",
        "/v1/jobs/j-1/logs?rank=99999999",
        "/v1/usage?after=1.2.3",
        "/v1/usage?after=" + "9" * 30 + ".x",
        "/v1/usage?job=x",
        "/v1/statement?from_ms=-1",
        "/v1/lending?from_ms=-1",
        "/v1/statement?until_ms=253402300800000",
        "/v1/fleet?at_ms=NaN",
        "/v1/allocations/%0a",
        "/v1/nothing",
    ],
)
def test_a_bad_place_is_refused(place: Place, path: str):
    answer = raw(place.nation, "GET", path, token=bearer(place.lab))
    assert_refused(answer)


def test_a_method_that_is_not_there_is_refused_and_makes_no_series(place: Place):
    assert_refused(raw(place.nation, "PATCH", "/v1/jobs"), status=405)
    raw(place.nation, "MADEUP", "/v1/jobs")
    assert "MADEUP" not in raw(place.nation, "GET", "/metrics").text


# ---- size ----------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(place: Place):
    sent = []

    def pieces() -> Iterator[bytes]:
        sent.append(1)
        yield b"x"

    answer = place.nation.http.post(
        "/v1/jobs",
        content=pieces(),
        headers={"Authorization": bearer(place.lab), "Content-Length": str(100 * 1024**2)},
    )
    assert_refused(answer, status=413)
    place.assert_unchanged()


def test_a_body_of_100_mb_is_refused_when_the_limit_is_passed(place: Place):
    piece = b" " * 2**20
    read = []

    def pieces() -> Iterator[dict[str, Any]]:
        for _ in range(100):
            read.append(len(piece))
            yield {"type": "http.request", "body": piece, "more_body": True}

    status = streamed(place.nation, "POST", "/v1/jobs", bearer(place.lab), pieces())
    assert status == 413
    assert sum(read) <= JSON_BYTES_MAX + 2 * len(piece)
    place.assert_unchanged()


def test_a_body_that_is_cut_off_changes_nothing(place: Place):
    piece = TEXT[:100].encode()
    assert cut_off(place.nation, "POST", "/v1/jobs", bearer(place.lab), piece) == 400
    place.assert_unchanged()


# ---- the idempotency key -------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", " ", "x" * 129, "a b", "a\tb", "a\u00e9"])
def test_a_bad_idempotency_key_is_refused(place: Place, key: str):
    place.refuse("/v1/jobs", TEXT, headers={"Idempotency-Key": key.encode("latin-1")}, status=400)


def test_a_newline_in_the_key_reaches_nothing(place: Place):
    """A server's HTTP parser refuses it; what came through would be refused here."""
    place.refuse("/v1/jobs", TEXT, headers={"Idempotency-Key": b"a\nb"}, status=400)


def test_a_missing_idempotency_key_is_refused(place: Place):
    answer = raw(place.nation, "POST", "/v1/jobs", token=bearer(place.lab), body=TEXT)
    assert "idempotency-key" in assert_refused(answer, status=400)
    place.assert_unchanged()


def test_the_same_key_for_another_job_is_refused(nation: Nation):
    lab = nation.lab()
    (first,) = submit(lab, spec(), key="once")
    before = digest(nation)
    answer = raw(
        nation,
        "POST",
        "/v1/jobs",
        token=bearer(lab),
        body=submission_json(name="other"),
        headers={"Idempotency-Key": "once"},
    )
    assert "once" in assert_refused(answer, status=422)
    assert digest(nation) == before
    assert submit(lab, spec(), key="once") == [first]


def test_a_key_is_its_owners_alone(nation: Nation):
    lab = nation.lab()
    second = nation.member("lab", "second")
    assert submit(lab, spec(), key="once") != submit(second, spec(), key="once")


def test_one_key_from_eight_threads_is_one_job(nation: Nation):
    lab = nation.lab()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: submit(lab, spec(), key="once"), range(8)))
    assert len({job for (job,) in answers}) == 1
    assert len(lab.jobs().jobs) == 1


# ---- anything ------------------------------------------------------------------------------------

SCALAR = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*TRICKS.values(), "lab", "b200", "j-1", "train", "lab-hours"])
)
JUNK = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = [*submission_json()["jobs"][0]["spec"], "x"]
NEAR = st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=3)


@given(changes=NEAR, secrets=st.none() | JUNK)
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_is_near_a_job_is_accepted_or_refused_in_a_sentence(
    place: Place, changes: dict[str, Any], secrets: Any
):
    asked = submission_json(**changes)
    asked["jobs"][0]["secrets"] = secrets
    body = json.dumps(asked)
    answer = raw(place.nation, "POST", "/v1/plan", token=bearer(place.lab), body=body)
    assert_refused(answer, status=422)
    spec_ = json.dumps(asked["jobs"][0]["spec"])
    answer = raw(place.nation, "POST", "/v1/plan", token=bearer(place.lab), body=spec_)
    if answer.status_code != 200:
        place.refuse("/v1/jobs", body)
