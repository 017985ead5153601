"""The other verbs: what they ask, what people and programs read, how failures end."""

import hashlib
import json
from dataclasses import asdict, replace

import httpx
import pytest

from dure import ledger
from dure.agent.wire import FileEntry, Manifest
from dure.allocations import (
    Allocation,
    AllocationKind,
    BudgetUnit,
    Organisation,
    OrganisationKind,
    Project,
)
from dure.errors import Reason
from dure.jobs import JobSpec
from dure.journal import GENESIS, seal, to_json
from dure.lending import Lent
from dure.life import EndCause, State
from dure.metering import Factors
from dure.people import Person, Role, RoleGrant, TokenScope
from dure.views import (
    Act,
    ActPage,
    AllocationView,
    AttemptView,
    EventView,
    JobPage,
    JobView,
    LendingLine,
    LendingStatement,
    LogChunk,
    MemberView,
    NewToken,
    PersonView,
    PoolView,
    ProjectView,
    Start,
    Statement,
    StatementLine,
    TaskOutputs,
    TaskView,
    TaskWhy,
    TokenView,
    UsageLine,
    UsagePage,
    Why,
)

NOW_MS = 1_800_000_000_000

TOKEN = TokenView(
    id="t-1",
    person="kim",
    label="laptop",
    scopes=(TokenScope.READ,),
    created_ms=NOW_MS,
    expires_ms=NOW_MS + 1,
    revoked_ms=None,
)
ALLOCATION = AllocationView(
    allocation=Allocation(
        id="vision-2027",
        project="vision",
        kind=AllocationKind.HOURS,
        starts_ms=0,
        ends_ms=NOW_MS,
        credit_ucredit=1_500_000_000,
    ),
    unit=BudgetUnit.UCREDIT,
    limit=1_500_000_000,
    held=2_500_000,
    spent=500_000_000,
    available=997_500_000,
)
ATTEMPT = AttemptView(
    id="a-1",
    number=1,
    operator="nhn-cloud",
    cluster="nhn-1",
    pool="nhn-h200",
    gpu_model="h200",
    nodes=(0, 1),
    gpus=16,
    placed=Reason("best-fit", "NHN has the smallest gap that fits."),
    intended_ms=NOW_MS - 20_000,
    started_ms=NOW_MS - 15_000,
    ended_ms=NOW_MS - 5_000,
    cause=EndCause.ERRED,
    exit_code=3,
    detail="Rank 1 exited with 3.",
    gpu_ms=160_000,
    charge=44_444,
    dispute=None,
)


def job_view(summary, tasks=1):
    return JobView(
        summary=summary(tasks=tasks, state=State.FAILED),
        spec=JobSpec(name="train", project="vision", walltime_s=7_200, command=("x",)),
        unit=BudgetUnit.UCREDIT,
        counts={State.FAILED: tasks},
        gpu_ms=160_000,
        charge=44_444,
        tasks=tuple(
            TaskView(
                index=index,
                state=State.FAILED,
                reason=Reason("erred", "The command failed with exit code 3."),
                exit_code=3,
                attempts=(ATTEMPT,),
            )
            for index in range(tasks)
        ),
    )


def test_jobs_lists_a_page_and_says_how_to_go_on(dure, plane, summary):
    plane.on("GET", "/v1/jobs", JobPage((summary(),), next="c2"))
    done = dure("jobs", "--state", "queued", "--project", "vision", "--limit", "7")
    assert done.code == 0
    assert "j-12" in done.out
    assert "--after c2, or --all" in done.out
    query = plane.one("GET", "/v1/jobs").query
    assert query == {"project": "vision", "state": "queued", "limit": "7"}
    assert dure("jobs", "-o", "json").json["next"] == "c2"


def test_jobs_shows_who_when_and_for_how_long(dure, plane, summary):
    ended = summary(id="j-11", name="n" * 63, state=State.SUCCEEDED, ended_ms=NOW_MS - 50_000)
    plane.on("GET", "/v1/jobs", JobPage((summary(tasks=1_000), ended), next=None))
    done = dure("jobs")
    assert max(map(len, done.out.splitlines())) <= 100
    first = done.out.splitlines()[1].split()
    assert first == [
        "j-12",
        "train",
        "vision",
        "kim",
        "queued",
        "1,000",
        "1:00",
        "-",
        "-",
        "-",
    ]
    assert "10 s" in done.out


START = Start(
    at_ms=NOW_MS,
    expected_ms=NOW_MS + 20 * 60_000,
    likely_from_ms=NOW_MS + 5 * 60_000,
    likely_until_ms=NOW_MS + 50 * 60_000,
    surely_from_ms=NOW_MS - 60_000,
    surely_until_ms=NOW_MS + 20 * 3_600_000,
)


def test_jobs_says_where_why_and_when(dure, plane, summary):
    busy = Reason("gpus-busy", "Waits for 8 B200.")
    late = replace(START, expected_ms=NOW_MS - 1)
    waiting = summary(reason=busy, start=START)
    running = summary(id="j-11", state=State.RUNNING, pools=("nhn-b200",))
    plane.on("GET", "/v1/jobs", JobPage((waiting, running, summary(id="j-10", start=late)), None))
    rows = [row.split()[-3:] for row in dure("jobs").out.splitlines()[1:]]
    assert rows == [["-", "gpus-busy", "08:20Z"], ["nhn-b200", "-", "-"], ["-", "-", "soon"]]
    first = dure("jobs", "-o", "json").json["jobs"][0]
    assert first["start"] == asdict(START)
    assert first["reason"]["sentence"] == "Waits for 8 B200."


def test_why_and_show_say_when_it_starts_and_how_sure_that_is(dure, plane, summary):
    said = "starts about 08:20Z (one in two: 08:05Z to 08:50Z; nine in ten: 08:00Z to 01-16T04:00Z)"
    task = TaskWhy(index=4, state=State.QUEUED, reason=None, start=START)
    answer = Why(job="j-12", state=State.QUEUED, tasks=(task,), events=())
    plane.on("GET", "/v1/jobs/j-12/why", answer)
    assert f"It {said}." in dure("why", "j-12").out
    assert dure("why", "j-12", "-o", "json").json["tasks"][0]["start"] == asdict(START)
    plane.on("GET", "/v1/jobs/j-12/why", replace(answer, tasks=(task, replace(task, start=None))))
    assert f"Task 4 {said}." in dure("why", "j-12").out
    view = job_view(summary)
    plane.on("GET", "/v1/jobs/j-12", replace(view, summary=summary(start=START)))
    assert "starts about 08:20Z" in dure("show", "j-12").out


@pytest.mark.parametrize("output", ["table", "json"])
def test_jobs_all_follows_the_cursors(dure, plane, summary, output):
    def page(asked):
        assert asked.query["limit"] == "500"
        assert asked.query["state"] == "running"
        number = int(asked.query.get("after", "c0")[1:])
        return JobPage((summary(id=f"j-{9 - number}"),), f"c{number + 1}" if number < 3 else None)

    plane.on("GET", "/v1/jobs", page)
    done = dure("jobs", "--all", "--state", "running", "-o", output)
    assert done.code == 0
    assert [done.out.count(f"j-{number}") for number in (9, 8, 7, 6)] == [1] * 4
    assert "More" not in done.out
    if output == "json":
        assert done.json["next"] is None


@pytest.mark.parametrize("tasks", [1, 120])
def test_show_says_where_and_why_there_and_what_it_cost(dure, plane, summary, tasks):
    plane.on("GET", "/v1/jobs/j-12", job_view(summary, tasks))
    done = dure("show", "j-12")
    assert done.code == 0
    for said in ("failed", "nhn-cloud/nhn-h200", "smallest gap", "Rank 1 exited", "exit code 3"):
        assert said in done.out
    for said in ("0.0444 GPU-h", "0.044444 credits", "2:00:00", "45 s"):
        assert said in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    assert ("120: 120 failed" in done.out) == (tasks == 120)
    assert ("20 of 120 tasks" in done.out) == (tasks == 120)
    assert done.out.count("nhn-cloud/nhn-h200") == min(tasks, 20)
    whole = dure("show", "j-12", "--all").out
    assert whole.count("nhn-cloud/nhn-h200") == tasks
    assert "Shown are" not in whole
    assert dure("show", "j-12", "-o", "json").json["tasks"][0]["attempts"][0]["exit_code"] == 3


def test_show_says_on_whose_gpus_a_borrower_runs(dure, plane, summary):
    lenders = (Lent("samsung", 12), Lent("sk", 4))
    live = replace(ATTEMPT, cause=None, ended_ms=None, lenders=lenders)
    whole = job_view(summary)
    tasks = (replace(whole.tasks[0], state=State.RUNNING, attempts=(live,)),)
    plane.on("GET", "/v1/jobs/j-12", replace(whole, tasks=tasks))
    assert "On loan from samsung (12 GPUs), sk (4 GPUs)" in dure("show", "j-12").out


def test_show_picks_what_failed_and_what_runs_from_a_long_array(dure, plane, summary):
    states = [State.SUCCEEDED] * 100
    states[50:80] = [State.RUNNING] * 30
    states[77], states[90] = State.QUEUED, State.FAILED
    view = job_view(summary, 100)
    tasks = tuple(
        replace(task, state=state, attempts=() if state is State.QUEUED else task.attempts)
        for task, state in zip(view.tasks, states, strict=True)
    )
    view = replace(view, summary=summary(tasks=5_000), tasks=tasks)
    plane.on("GET", "/v1/jobs/j-12", view)
    done = dure("show", "j-12")
    rows = done.out.partition("exit\n")[2].splitlines()[:20]
    assert [int(row.split()[0]) for row in rows] == [*range(50, 69), 90]
    assert "Shown are 20 of 5,000 tasks" in done.out
    assert "--all shows 100." in done.out
    whole = dure("show", "j-12", "--all").out
    assert "77  -" in whole.replace("        -", "  -")
    assert "Shown are the first 100 of 5,000 tasks." in whole


def test_why_gives_the_reason_now_then_the_story(dure, plane):
    reason = Reason("waits", "Waits for 64 B200 in one pool; NHN has 48 free.")
    event = EventView(
        seq=1, at_ms=NOW_MS, job="j-12", task_index=0, attempt=None, state=State.QUEUED,
        reason=Reason("accepted", "Accepted."),
    )  # fmt: skip
    answer = Why(
        job="j-12", state=State.QUEUED, events=(event,),
        tasks=(TaskWhy(index=0, state=State.QUEUED, reason=reason),),
    )  # fmt: skip
    plane.on("GET", "/v1/jobs/j-12/why", answer)
    done = dure("why", "j-12")
    assert done.out.index("64 B200") < done.out.index("Accepted.")


@pytest.mark.parametrize("verb", ["cancel", "recall"])
def test_cancel_and_recall(dure, plane, summary, verb):
    plane.on("POST", f"/v1/jobs/j-12/{verb}", summary(state=State.CANCELLING))
    assert dure(verb, "j-12").out == "j-12 is cancelling.\n"
    assert dure(verb, "j-12", "--output", "json").json["state"] == "cancelling"


def test_logs_write_what_was_written(dure, plane):
    def stream(asked):
        assert asked.query == {"task": "2", "rank": "1", "follow": "true"}
        chunks = [
            LogChunk(task_index=2, attempt_number=number, rank=1, offset=0, end=3, text=text)
            for number, text in ((1, "하나\n"), (2, "[bold]two"))
        ]
        from pydantic_core import to_json as dump  # noqa: PLC0415

        lines = [f"id: {n}\ndata: {dump(one).decode()}\n\n" for n, one in enumerate(chunks)]
        text = "".join([*lines, "event: done\ndata: {}\n\n"])
        return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})

    plane.on("GET", "/v1/jobs/j-12/logs", stream)
    done = dure("logs", "-f", "j-12", "--task", "2", "--rank", "1")
    assert (done.code, done.out) == (0, "하나\n[bold]two")
    assert done.err == "-- attempt 2 --\n"
    lines = dure("logs", "-f", "j-12", "--task", "2", "--rank", "1", "-o", "json").out.splitlines()
    assert [json.loads(one)["text"] for one in lines] == ["하나\n", "[bold]two"]


# ---- outputs -------------------------------------------------------------------------------------


def offer(plane, files, index=0, sent=None):
    entries = []
    for path, content in files.items():
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(FileEntry(path, len(content), sha256))
        answer = httpx.Response(200, content=content if sent is None else sent)
        plane.on("GET", f"/v1/jobs/j-12/outputs/{index}/{sha256}", answer)
    return TaskOutputs(index=index, attempt="a-1", files=Manifest(tuple(entries)))


def test_outputs_are_fetched_checked_and_not_fetched_again(dure, plane):
    plane.on("GET", "/v1/jobs/j-12/outputs", (offer(plane, {"a/model": b"m", "log": b"l"}),))
    done = dure("outputs", "j-12")
    assert done.code == 0
    assert (dure.folder / "j-12-outputs/a/model").read_bytes() == b"m"
    assert "2 files" in done.err
    before = len(plane.asked)
    assert "0 files" in dure("outputs", "j-12").err
    assert len(plane.asked) == before + 1


def test_an_array_s_outputs_lie_in_folders_of_their_own(dure, plane):
    found = (offer(plane, {"x": b"0"}, 0), offer(plane, {"x": b"1"}, 1))
    plane.on("GET", "/v1/jobs/j-12/outputs", found)
    assert dure("outputs", "j-12", "out").code == 0
    assert [(dure.folder / f"out/{n}/x").read_text() for n in (0, 1)] == ["0", "1"]
    assert dure("outputs", "j-12", "--list", "--task", "1", "-o", "json").json[0]["index"] == 1


@pytest.mark.parametrize("path", ["../../evil", "/tmp/evil", "a/../../evil", "a\\..\\evil"])
def test_a_server_that_names_a_path_outside_is_not_believed(dure, plane, path):
    files = [{"path": path, "size": 1, "sha256": "ab" * 32, "executable": False}]
    answer = [{"index": 0, "attempt": "a-1", "files": {"files": files}}]
    plane.on("GET", "/v1/jobs/j-12/outputs", httpx.Response(200, json=answer))
    done = dure("outputs", "j-12", "out")
    assert done.code == 1
    assert "evil" in done.err
    assert done.err.count("\n") == 1
    assert len(plane.asked) == 1
    assert list(dure.folder.iterdir()) == []


def test_content_with_another_digest_is_not_kept(dure, plane):
    plane.on("GET", "/v1/jobs/j-12/outputs", (offer(plane, {"x": b"good"}, sent=b"evil"),))
    done = dure("outputs", "j-12", "out")
    assert done.code == 2
    assert "not what its manifest says" in done.err
    assert list((dure.folder / "out").iterdir()) == []


# ---- accounts ------------------------------------------------------------------------------------


def test_acts_name_the_person_the_token_and_the_next_page(dure, plane):
    act = Act(
        seq=8, at_ms=NOW_MS, person="boss", token="00000000000000ab", act="role-granted",
        subject="person/kim", sentence="kim became officer of the nation.",
    )  # fmt: skip
    plane.on("GET", "/v1/acts", ActPage((act,), 8))
    done = dure("acts", "--after", "9", "--limit", "1")
    assert plane.one("GET", "/v1/acts").query == {"after": "9", "limit": "1"}
    assert "8  2027-01-15T08:00:00" in done.out
    assert "boss" in done.out
    assert "00000000000000ab" in done.out
    assert "More: --after 8" in done.out
    assert max(map(len, done.out.splitlines())) <= 100


def test_usage_and_statement(dure, plane):
    line = UsageLine(
        attempt="a-1", job="j-12", task_index=0, allocation="vision-2027", project="vision",
        operator="nhn-cloud", pool="nhn-h200", gpu_model="h200", started_ms=1, ended_ms=NOW_MS,
        cause=EndCause.COMPLETED, gpu_ms=3_600_000, unit=BudgetUnit.UCREDIT, charge=2_250_000,
        absorbed=False, factors=Factors(tariff_version="t", weight_milli=2_250), dispute=None,
        refund=None,
        journal=7,
    )  # fmt: skip
    plane.on("GET", "/v1/usage", UsagePage((line,), None))
    assert "2.25 credits" in dure("usage", "--job", "j-12").out
    plane.on("GET", "/v1/usage", UsagePage((replace(line, refund="A site's fault."),), None))
    assert "given back" in dure("usage").out
    sums = StatementLine(
        project="vision", allocation="vision-2027", operator="nhn-cloud", gpu_model="h200",
        attempts=1, gpu_ms=3_600_000, unit=BudgetUnit.UCREDIT, charge=2_250_000,
        absorbed_gpu_ms=0, disputed=1,
    )  # fmt: skip
    plane.on("GET", "/v1/statement", Statement(from_ms=0, until_ms=NOW_MS, lines=(sums,)))
    done = dure("statement", "--from", "2027-01-01", "--project", "vision")
    assert "1.0000 GPU-h" in done.out
    assert "0 GPU-h" in done.out
    assert "in dispute" in done.out
    assert plane.one("GET", "/v1/statement").query == {
        "project": "vision",
        "from_ms": "1798761600000",
    }


def test_lending(dure, plane):
    lent = LendingLine(
        lender="samsung", borrower="national.vision", pool="samsung-b200", gpu_model="b200",
        attempts=2, gpu_ms=7_200_000,
    )  # fmt: skip
    plane.on("GET", "/v1/lending", LendingStatement(from_ms=0, until_ms=NOW_MS, lines=(lent,)))
    done = dure("lending", "--operator", "samsung", "--until", "2027-01-01")
    assert "samsung-b200/b200" in done.out
    assert "2.0000 GPU-h" in done.out
    assert plane.one("GET", "/v1/lending").query == {
        "operator": "samsung",
        "until_ms": "1798761600000",
    }


def test_allocations(dure, plane):
    plane.on("POST", "/v1/allocations", ALLOCATION)
    window = ("--project", "vision", "--from", "2027-01-01", "--until", "2027-07-01")
    assert dure("allocation", "create", "vision-2027", "--credits", "1500.5", *window).code == 0
    sent = plane.asked[-1].json
    assert (sent["kind"], sent["credit_ucredit"], sent["gpus"]) == ("hours", 1_500_500_000, None)
    capacity = ("--gpus", "64", "--gpu-model", "H200", "--pool", "nhn-h200", "--subsidy", "0.7")
    assert dure("allocation", "create", "a", *capacity, *window).code == 0
    sent = plane.asked[-1].json
    assert (sent["kind"], sent["gpus"], sent["gpu_model"]) == ("capacity", 64, "h200")
    assert sent["subsidy_milli"] == 700
    plane.on("GET", "/v1/allocations/vision-2027", ALLOCATION)
    assert "997.5 credits" in dure("allocation", "show", "vision-2027").out
    plane.on("GET", "/v1/allocations", (ALLOCATION,))
    assert "2.5 credits" in dure("allocation", "list").out
    asked = len(plane.asked)
    for wrong, said in (
        (("--credits", "lots", *window), "'lots' is not a number of credits"),
        (("--credits", "1", "--gpus", "1", *window), "either --credits or --gpus"),
        (("--gpus", "1", *window), "gpu_model is missing"),
        (("--credits", "1", "--subsidy", "1.5", *window), "--subsidy '1.5' is not a share"),
        (("--credits", "1", *window[:-1], "2026-01-01"), "must end after it starts"),
        (("--credits", "1", *window[:-1], "July"), "--until 'July' is not a date"),
    ):
        done = dure("allocation", "create", "a", *wrong)
        assert done.code == 2
        assert said in done.err
    assert len(plane.asked) == asked


def book():
    draft = ledger.grant("vision-2027", BudgetUnit.UCREDIT, 1_000)
    first = seal(draft, 1, NOW_MS, GENESIS)
    second = seal(ledger.grant("speech", BudgetUnit.GPU_MS, 5), 2, NOW_MS, first.hash)
    return first, second


def serve_book(plane):
    def page(asked):
        journals = [one for one in book() if one.seq > int(asked.query["after"])]
        text = f"[{','.join(map(to_json, journals))}]"
        for one in journals:  # the API writes a memo as the dataclass holds it
            pairs = json.dumps([list(pair) for pair in one.memo])
            memo = json.dumps(dict(one.memo), sort_keys=True, separators=(",", ":"))
            text = text.replace(f'"memo":{memo}', f'"memo":{pairs}')
        return httpx.Response(200, text=text)

    plane.on("GET", "/v1/ledger/journals", page)


def test_audit_over_the_api_recomputes_the_book(dure, plane):
    serve_book(plane)
    done = dure("audit")
    assert (done.code, done.err) == (0, "")
    assert "The book is intact." in done.out
    assert f"2:{book()[1].hash}" in done.out


def test_an_export_is_private_and_audits_as_the_book_does(dure, plane):
    serve_book(plane)
    file = dure.folder / "j.jsonl"
    file.write_text("an older copy")
    file.chmod(0o644)
    online = dure("audit", "--export", "j.jsonl", "-o", "json")
    assert (online.code, online.err) == (
        0,
        "j.jsonl holds the book up to journal 2; only you can read it.\n",
    )
    assert file.read_text() == "".join(f"{to_json(one)}\n" for one in book())
    assert file.stat().st_mode & 0o777 == 0o600
    plane.asked.clear()
    assert dure("audit", "--file", "j.jsonl", "-o", "json").json == online.json
    assert plane.asked == []


def test_an_export_that_fails_leaves_what_was_there(dure, plane):
    file = dure.folder / "j.jsonl"
    file.write_text("an older copy")
    plane.refuse("GET", "/v1/ledger/journals", 403, "You may not read the ledger.")
    assert dure("audit", "--export", "j.jsonl").code == 2
    assert [one.name for one in dure.folder.iterdir()] == ["j.jsonl"]
    assert file.read_text() == "an older copy"
    done = dure("audit", "--export", "none/j.jsonl")
    assert (done.code, done.out) == (1, "")
    assert done.err == f"dure: {dure.folder}/none/j.jsonl: No such file or directory.\n"
    assert "exclude each other" in dure("audit", "--export", "x", "--file", "j.jsonl").err


def test_audit_of_a_file_finds_what_was_changed(dure):
    lines = [to_json(one) for one in book()]
    file = dure.folder / "ledger.jsonl"
    file.write_text("\n".join(lines) + "\n")
    assert dure("audit", "--file", "ledger.jsonl", "-o", "json").json["intact"] is True
    file.write_text("\n".join(lines).replace("1000", "9000") + "\n")
    done = dure("audit", "--file", "ledger.jsonl")
    assert done.code == 1
    assert "hash-mismatch" in done.out
    file.write_text(lines[0] + "\n")
    done = dure("audit", "--file", "ledger.jsonl", "--anchor", f"2:{book()[1].hash}")
    assert (done.code, "cut-off" in done.out) == (1, True)


def test_audit_offline_refuses_what_is_no_book(dure):
    assert "There is no" in dure("audit", "--data", "none").err
    (dure.folder / "dure.sqlite").write_text("not a database, and longer than a header " * 9)
    done = dure("audit", "--data", ".")
    assert done.code == 2
    assert "is not a database of Dure's" in done.err
    assert dure("audit", "--data", ".", "--file", "x").code == 2
    assert "--anchor 'x' is no anchor" in dure("audit", "--anchor", "x").err


# ---- people and projects -------------------------------------------------------------------------


def test_administration_says_what_it_was_told(dure, plane):
    kim = PersonView(person=Person(id="kim", name="Kim"), grants=(RoleGrant(Role.PI, "vision"),))
    lab = Organisation(id="snu", name="SNU", kind=OrganisationKind.UNIVERSITY)
    vision = ProjectView(
        project=Project(id="vision", organisation="snu", title="Vision"),
        organisation=lab,
        members=(MemberView("kim", Role.PI),),
    )
    no_content = httpx.Response(204)
    for method, path, answer in (
        ("POST", "/v1/people", kim),
        ("GET", "/v1/people", (kim,)),
        ("POST", "/v1/people/kim/roles", kim),
        ("DELETE", "/v1/people/kim/roles", no_content),
        ("POST", "/v1/organisations", lab),
        ("GET", "/v1/organisations", (lab,)),
        ("POST", "/v1/projects", vision),
        ("GET", "/v1/projects", (vision,)),
        ("POST", "/v1/projects/vision/members", vision),
        ("DELETE", "/v1/projects/vision/members/kim", no_content),
        ("GET", "/v1/tokens", (TOKEN,)),
        ("DELETE", "/v1/tokens/t-1", no_content),
    ):
        plane.on(method, path, answer)
    for argv, method, said in (
        ("person create kim --name Kim", "POST", {"id": "kim", "name": "Kim", "email": None}),
        ("person list", "GET", None),
        ("person grant kim pi --for vision", "POST", {"role": "pi", "scope": "vision"}),
        ("person revoke-role kim officer", "DELETE", None),
        (
            "org create snu --name SNU --kind university",
            "POST",
            {"id": "snu", "name": "SNU", "kind": "university"},
        ),
        ("org list", "GET", None),
        (
            "project create vision --org snu --title Vision",
            "POST",
            {"id": "vision", "organisation": "snu", "title": "Vision"},
        ),
        ("project list", "GET", None),
        ("project show vision", "GET", None),
        ("project add-member vision kim --role pi", "POST", {"person": "kim", "role": "pi"}),
        ("project remove-member vision kim", "DELETE", None),
        ("token list", "GET", None),
        ("token revoke t-1", "DELETE", None),
    ):
        for output in ("table", "json"):
            done = dure(*argv.split(), "--output", output)
            assert (done.code, done.err) == (0, "")
            assert done.out
            assert plane.asked[-1].method == method
            assert said is None or plane.asked[-1].json == said
    assert dure("project", "show", "other").err == (
        "dure: There is no project other that you may see.\n"
    )
    assert "does not fit the role" in dure("person", "grant", "kim", "pi").err
    assert "university" in dure("org", "create", "x", "--name", "X", "--kind", "club").err


@pytest.mark.parametrize(
    ("argv", "path"),
    [
        ("token create --label laptop --scope read --days 7", "/v1/tokens"),
        ("agent enrol nhn-1", "/v1/agents/nhn-1"),
    ],
)
def test_a_new_secret_stands_alone_on_stdout(dure, plane, argv, path):
    plane.on("POST", path, NewToken(token=TOKEN, secret="dure_s3cret"))
    done = dure(*argv.split())
    assert (done.code, done.out) == (0, "dure_s3cret\n")
    assert "shown this once" in done.err
    assert dure(*argv.split(), "-o", "json").json["secret"] == "dure_s3cret"


@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_secret_goes_to_a_file_that_login_reads(dure, plane, me, mode, warned):
    plane.on("POST", "/v1/tokens", NewToken(token=TOKEN, secret="dure_s3cret"))
    plane.on("GET", "/v1/whoami", me)
    file = dure.folder / "kim.token"
    file.touch(mode)
    file.chmod(mode)
    with file.open("w") as stdout:
        done = dure("token", "create", "--label", "laptop", stdout=stdout)
    assert done.code == 0
    assert file.read_text() == "dure_s3cret\n"
    assert ("chmod 600" in done.err) is warned
    assert dure("login", "http://plane", stdin=file.read_text()).code == 0
    assert plane.asked[-1].headers["authorization"] == "Bearer dure_s3cret"


def test_pools_and_fleet(dure, plane):
    pool = PoolView(
        pool="nhn-h200", operator="nhn-cloud", cluster="nhn-1", gpu_model="h200",
        gpus_per_node=8, gpus_in_service=64, nodes_up=8, gpus_up=64, gpus_used=16, silent=True,
    )  # fmt: skip
    plane.on("GET", "/v1/pools", (pool,))
    assert "silent" in dure("pools").out
    dure.environ.clear()
    totals = dure("fleet", "--at", "2030-12-31", "--output", "json").json
    assert totals["gpus"] == 300_000
    assert "300,000 GPUs on 2030-12-31" in dure("fleet", "--at", "2030-12-31").out
    assert dure("fleet", "--at", "soon").code == 2
    assert dure("fleet", "--scenario", "atlantis").code == 2


# ---- configuration and failures ------------------------------------------------------------------


def test_login_tries_the_token_and_only_its_owner_can_read_it(dure, plane, me):
    plane.on("GET", "/v1/whoami", me)
    dure.environ = {"XDG_CONFIG_HOME": str(dure.folder / "cfg")}
    assert "dure login" in dure("whoami").err
    done = dure("login", "http://plane", "--project", "vision", stdin="tok3n\n")
    assert (done.code, done.out) == (0, "")
    assert "tok3n" not in done.err
    file = dure.folder / "cfg/dure/config.toml"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "kim" in dure("whoami").out
    assert plane.asked[-1].headers["authorization"] == "Bearer tok3n"
    dure.environ["DURE_TOKEN"] = "other"
    assert dure("whoami", "-o", "json").json["person"] == "kim"
    assert plane.asked[-1].headers["authorization"] == "Bearer other"


def test_a_token_that_is_refused_is_not_stored(dure, plane):
    dure.environ = {"HOME": str(dure.folder)}
    plane.refuse("GET", "/v1/whoami", 401, "This token is not valid.")
    done = dure("login", "http://plane", stdin="bad\n")
    assert (done.code, done.err) == (2, "dure: This token is not valid.\n")
    assert list(dure.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DURE_URL": "ftp://x", "DURE_TOKEN": "t"}, "'ftp://x' is not an address"),
        ({"DURE_URL": "http://[", "DURE_TOKEN": "t"}, "is not an address"),
        ({"DURE_URL": "http://x:99999", "DURE_TOKEN": "t"}, "is not an address"),
        ({"DURE_URL": "http://a@b", "DURE_TOKEN": "t"}, "is not an address"),
        ({"DURE_URL": "http://x", "DURE_TOKEN": "hun\nter2"}, "copy it again"),
        ({"DURE_URL": "http://x"}, "No token is known"),
        ({"DURE_TOKEN": "t"}, "No control plane is known"),
    ],
)
def test_what_cannot_be_used_is_said(dure, environ, said):
    dure.environ = {"HOME": str(dure.folder), **environ}
    done = dure("jobs")
    assert done.code == 2
    assert said in done.err
    assert "hun" not in done.err


@pytest.mark.parametrize("text", ["url = 1", "x = 'y'", "not toml", "\udcff"])
def test_a_broken_configuration_is_one_sentence(dure, text):
    dure.environ = {"HOME": str(dure.folder)}
    file = dure.folder / ".config/dure/config.toml"
    file.parent.mkdir(parents=True)
    file.write_text(text, errors="surrogateescape")
    done = dure("jobs")
    assert (done.code, done.err.count("\n")) == (2, 1)


def test_the_api_s_no_is_shown_as_it_stands_with_its_exit_code(dure, plane):
    plane.refuse("GET", "/v1/jobs/j-9", 404, "There is no job j-9 that you may see.", "not-found")
    done = dure("show", "j-9")
    assert (done.code, done.out) == (2, "")
    assert done.err == "dure: There is no job j-9 that you may see.\n"
    done = dure("show", "j-9", "-o", "json")
    assert json.loads(done.err)["code"] == "not-found"
    assert json.loads(done.err)["status"] == 404
    plane.on("GET", "/v1/jobs/j-9", httpx.Response(502, text="<html>"))
    assert dure("show", "j-9").code == 1


def test_ids_cannot_lead_to_other_paths(dure, plane):
    dure("show", "../tokens?x=1#y")
    assert plane.asked[0].path == "/v1/jobs/..%2Ftokens%3Fx%3D1%23y"


def raising(error):
    def handle(request):
        raise error

    return httpx.MockTransport(handle)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (httpx.ConnectError("refused"), 1, "did not answer"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 1, ""),
        (PermissionError(13, "Permission denied", "x"), 1, "x: Permission denied."),
        (RuntimeError("[/bold] oops"), 1, "a fault in dure: RuntimeError: [/bold] oops"),
    ],
)
def test_no_failure_shows_a_traceback(dure, error, code, said):
    dure.transport = raising(error)
    done = dure("jobs")
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.err.count("\n") == (1 if said else 0)


@pytest.mark.parametrize("body", ["", "[]", '{"jobs": 1}', '{"jobs": [], "next": null, "x": NaN'])
def test_an_answer_that_is_none_is_one_sentence(dure, plane, body):
    plane.on("GET", "/v1/jobs", httpx.Response(200, text=body))
    done = dure("jobs")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "pydantic" not in done.err


def test_what_a_server_says_cannot_move_the_cursor(dure, plane):
    plane.refuse("GET", "/v1/jobs", 400, "a\x1b[2Jb\nc")
    assert dure("jobs").err == "dure: a\ufffd[2Jb\ufffdc\n"


def test_every_command_has_help(dure, capsys):
    from typer.main import get_command  # noqa: PLC0415

    from dure.cli import application  # noqa: PLC0415

    def leaves(command, path=()):
        below = getattr(command, "commands", None)
        if below is None:
            yield path, command
        for name, one in (below or {}).items():
            yield from leaves(one, (*path, name))

    found = list(leaves(get_command(application())))
    assert len(found) > 25
    for path, command in found:
        assert command.help, path
        runs_on = command.callback.__module__ == "dure.cli.federation" or path == ("login",)
        # They take Slurm's options: --json for programs, and --output is where a job's own goes.
        slurms = path[0] in {"sbatch", "squeue", "scancel", "sacct", "sinfo", "sshare"}
        options = {name for one in command.params for name in one.opts}
        assert runs_on or slurms or "--output" in options, path
    assert dure("--help").code == 0
    assert "submit" in capsys.readouterr().out
    assert dure().code == 2
