"""`--output json` of every command: one JSON document, or JSON lines, and nothing beside it."""

import json

import httpx
import pytest
from pydantic_core import to_json
from typer.main import get_command

from dure import ledger
from dure.agent.wire import Manifest
from dure.allocations import (
    Allocation,
    AllocationKind,
    BudgetUnit,
    Organisation,
    OrganisationKind,
    Project,
)
from dure.cli import application
from dure.errors import Reason
from dure.jobs import JobSpec
from dure.journal import GENESIS, seal
from dure.life import State
from dure.people import Person, Role, RoleGrant, TokenScope
from dure.scheduling.world import Forecast, Option
from dure.views import (
    Accepted,
    Act,
    ActPage,
    AllocationView,
    JobPage,
    JobView,
    LendingStatement,
    LogChunk,
    MemberView,
    NewToken,
    PersonView,
    PoolView,
    ProjectView,
    SiteView,
    Statement,
    TaskOutputs,
    TokenView,
    UsagePage,
    Why,
)

NOW_MS = 1_800_000_000_000
LINES = {"logs"}
"""Commands that go on for as long as a job does: a document a line."""

ELSEWHERE = {
    "demo": "starts a federation; tests/demo reads its JSON",
    "up": "runs until Ctrl-C and takes no --output",
    "backup": "reads no API; tests/store/test_backup.py reads its JSON",
    "restore": "reads no API; tests/store/test_backup.py reads its JSON",
    "serve": "runs until Ctrl-C and takes no --output",
    "sbatch": "reads its words itself; tests/sbatch reads its --json",
    "squeue": "tests/cli/test_cli_slurm.py reads its --json",
    "scancel": "answers with its exit code only, as in Slurm",
    "sacct": "tests/cli/test_cli_slurm.py reads its --json",
    "sinfo": "tests/cli/test_cli_slurm.py reads its --json",
    "sshare": "tests/cli/test_cli_slurm.py reads its --json",
    "login": "answers on stderr only and takes no --output",
    "rehearse run": "tests/cli/test_cli_rehearse.py reads its JSON",
    "rehearse trace": "tests/cli/test_cli_rehearse.py reads its JSON",
    "rehearse compare": "tests/cli/test_cli_rehearse.py reads its JSON",
    "rehearse sweep": "tests/cli/test_cli_rehearse.py reads its JSON",
    "rehearse live": "tests/cli/test_cli_rehearse_live.py reads its JSON",
}

SAMPLES = {
    "submit": "--time 1 -o json -- true",
    "plan": "--time 1 -o json -- true",
    "jobs": "--all",
    "show": "j-12",
    "why": "j-12",
    "logs": "j-12",
    "cancel": "j-12",
    "recall": "j-12",
    "outputs": "j-12",
    "usage": "",
    "statement": "",
    "lending": "--operator samsung",
    "reverse": "3 --reason slow",
    "audit": "--export book.jsonl",
    "acts": "--after 9 --limit 5",
    "fleet": "--at 2030-12-31",
    "pools": "",
    "sites": "",
    "whoami": "",
    "allocation create": "a --project vision --credits 1 --from 2027-01-01 --until 2027-02-01",
    "allocation list": "",
    "allocation show": "a",
    "person create": "kim --name Kim",
    "person list": "",
    "person grant": "kim pi --for vision",
    "person revoke-role": "kim pi --for vision",
    "token create": "--label laptop",
    "token list": "",
    "token revoke": "t-1",
    "org create": "snu --name SNU --kind university",
    "org list": "",
    "project create": "vision --org snu --title Vision",
    "project list": "",
    "project show": "vision",
    "project add-member": "vision kim",
    "project remove-member": "vision kim",
    "agent enrol": "nhn-1",
}


def commands():
    def leaves(command, path=()):
        below = getattr(command, "commands", None)
        if below is None:
            yield " ".join(path)
        for name, one in (below or {}).items():
            yield from leaves(one, (*path, name))

    return list(leaves(get_command(application())))


def test_every_command_has_its_sample_here():
    assert {*SAMPLES, *ELSEWHERE} == set(commands())


def log(asked):
    chunk = LogChunk(task_index=0, attempt_number=2, rank=0, offset=0, end=4, text="\x1b[1m\n")
    text = f"id: 1\ndata: {to_json(chunk).decode()}\n\nevent: done\ndata: {{}}\n\n"
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


@pytest.fixture
def nation(plane, me, summary):
    """A control plane that answers everything, with text that a terminal could stumble over."""
    job = summary(name="[red]모델", state=State.FAILED)
    reason = Reason("erred", 'It said "no"\nand [/bold] \x1b[2J.')
    allocation = Allocation(
        id="a", project="vision", kind=AllocationKind.HOURS, starts_ms=0, ends_ms=NOW_MS,
        credit_ucredit=1,
    )  # fmt: skip
    balance = AllocationView(
        allocation=allocation, unit=BudgetUnit.UCREDIT, limit=1, held=0, spent=0, available=1
    )
    token = TokenView(
        id="t-1", person="kim", label="laptop", scopes=(TokenScope.READ,), created_ms=NOW_MS,
        expires_ms=NOW_MS + 1, revoked_ms=None,
    )  # fmt: skip
    kim = PersonView(person=Person(id="kim", name="Kim"), grants=(RoleGrant(Role.PI, "vision"),))
    lab = Organisation(id="snu", name="SNU", kind=OrganisationKind.UNIVERSITY)
    vision = ProjectView(
        project=Project(id="vision", organisation="snu", title="Vision"),
        organisation=lab,
        members=(MemberView("kim", Role.PI),),
    )
    spec = JobSpec(name="train", project="vision", walltime_s=7_200, command=("x",))
    whole = JobView(
        summary=job, spec=spec, unit=BudgetUnit.UCREDIT, counts={State.FAILED: 1}, gpu_ms=1,
        charge=1, tasks=(),
    )  # fmt: skip
    option = Option(pool_id="p", operator_id="sk", gpu_model="h200", starts_ms=None, hold=1)
    pool = PoolView(
        pool="p", operator="sk", cluster="c", gpu_model="h200", gpus_per_node=8,
        gpus_in_service=8, nodes_up=0, gpus_up=0, gpus_used=0, silent=True,
    )  # fmt: skip
    site = SiteView(
        cluster="c", operator="sk", engine="slurm", received_ms=None, silent=False,
        engine_answered=True, attempts=3, public_key=None, drift=("\x1b[2J[/bold]",),
        strangers=("a-1",), late=("a-2",),
    )  # fmt: skip
    act = Act(
        seq=8, at_ms=NOW_MS, person="kim", token="t-1", act="journal-reversed",
        subject="journal/3", sentence="\x1b[2J[/bold]",
    )  # fmt: skip
    secret = NewToken(token=token, secret="dure_s3cret")
    gone = httpx.Response(204)
    reversal = seal(ledger.grant("a", BudgetUnit.UCREDIT, 1), 4, NOW_MS, GENESIS)
    for method, path, answer in (
        ("GET", "/whoami", me),
        ("POST", "/jobs", Accepted((job,), repeated=True)),
        ("POST", "/plan", Forecast(options=(option,), exclusions=(), refusal=reason)),
        ("GET", "/jobs", JobPage((job,), None)),
        ("GET", "/jobs/j-12", whole),
        ("GET", "/jobs/j-12/why", Why(job="j-12", state=State.FAILED, tasks=(), events=())),
        ("GET", "/jobs/j-12/logs", log),
        ("POST", "/jobs/j-12/cancel", job),
        ("POST", "/jobs/j-12/recall", job),
        ("GET", "/jobs/j-12/outputs", (TaskOutputs(index=0, attempt="a", files=Manifest(())),)),
        ("GET", "/usage", UsagePage((), None)),
        ("GET", "/statement", Statement(from_ms=0, until_ms=NOW_MS, lines=())),
        ("GET", "/lending", LendingStatement(from_ms=0, until_ms=NOW_MS, lines=())),
        ("POST", "/ledger/journals/3/reverse", reversal),
        ("GET", "/ledger/journals", httpx.Response(200, text="[]")),
        ("GET", "/acts", ActPage((act,), 8)),
        ("GET", "/pools", (pool,)),
        ("GET", "/sites", (site,)),
        ("POST", "/allocations", balance),
        ("GET", "/allocations", (balance,)),
        ("GET", "/allocations/a", balance),
        ("POST", "/people", kim),
        ("GET", "/people", (kim,)),
        ("POST", "/people/kim/roles", kim),
        ("DELETE", "/people/kim/roles", gone),
        ("POST", "/tokens", secret),
        ("GET", "/tokens", (token,)),
        ("DELETE", "/tokens/t-1", gone),
        ("POST", "/organisations", lab),
        ("GET", "/organisations", (lab,)),
        ("POST", "/projects", vision),
        ("GET", "/projects", (vision,)),
        ("POST", "/projects/vision/members", vision),
        ("DELETE", "/projects/vision/members/kim", gone),
        ("POST", "/agents/nhn-1", secret),
    ):
        plane.on(method, f"/v1{path}", answer)
    return plane


def argv(command):
    words = [*command.split(), *SAMPLES[command].split()]
    return words if "-o" in words else [*words, "-o", "json"]


@pytest.mark.parametrize("command", SAMPLES)
def test_json_stands_alone_on_stdout(dure, nation, command):
    done = dure(*argv(command))
    assert done.code == 0, done.err
    for document in done.out.splitlines() if command in LINES else [done.out]:
        assert isinstance(json.loads(document), dict | list)


@pytest.mark.parametrize("command", [one for one in SAMPLES if one != "fleet"])
def test_a_no_is_json_on_stderr_and_nothing_on_stdout(dure, plane, command):
    dure.transport = httpx.MockTransport(
        lambda _: httpx.Response(
            403,
            json={"type": "", "title": "", "status": 403, "detail": "No\n.", "code": "forbidden"},
        )
    )
    done = dure(*argv(command))
    assert (done.code, done.out) == (2, "")
    assert json.loads(done.err)["code"] == "forbidden"
