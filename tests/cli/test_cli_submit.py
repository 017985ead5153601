"""`dure submit` and `dure plan`: what is sent, what is shown, what is refused before."""

import httpx
import pytest
from pydantic_core import to_json

from dure.errors import Reason
from dure.scheduling.world import Exclusion, Forecast, Option
from dure.views import Accepted, PoolView, Upload

FILE = """
name: prep
project: vision
time: 30m
run: python prep.py
---
name: train
project: vision
time: 2:00:00
resources: {accelerators: H200:8}
run: python train.py
secrets: {HF_TOKEN: null}
depends: {afterok: prep}
"""


@pytest.fixture
def accepting(plane, me, summary):
    plane.on("GET", "/v1/whoami", me)
    plane.on("POST", "/v1/jobs", Accepted((summary(),), repeated=False))
    return plane


def sent(plane):
    return plane.one("POST", "/v1/jobs").json["jobs"]


def test_flags_make_a_job(dure, accepting):
    done = dure(
        *("submit", "--gpus", "8", "--nodes", "2", "--time", "2:00:00", "--gpu-model", "H200"),
        *("--gpu-model", "RTX PRO 6000", "--env", "A=b=c", "--array", "0-3%2", "--memory", "256+"),
        *("--after-ok", "j-1", "--checkpoint-dir", "ckpt", "--signal", "usr1", "--grace", "90"),
        *("--key", "mine", "--", "python", "train.py", "--output", "json", "--", "x"),
    )
    assert (done.code, done.err) == (0, "")
    assert "j-12" in done.out
    (job,) = sent(accepting)
    spec = job["spec"]
    assert spec["command"] == ["python", "train.py", "--output", "json", "--", "x"]
    assert (spec["name"], spec["project"], spec["walltime_s"]) == ("python", "vision", 7_200)
    assert spec["resources"] == {
        "nodes": 2,
        "gpus_per_node": 8,
        "gpu_models": ["h200", "rtx-pro-6000"],
        "pools": [],
        "cpus_per_node": None,
        "memory_gib_per_node": 256,
    }
    assert spec["env"] == {"A": "b=c"}
    assert spec["array"] == {"indices": [0, 1, 2, 3], "max_running": 2}
    assert spec["dependencies"] == [{"kind": "afterok", "job": "j-1"}]
    assert spec["checkpoint"] == {"dir": "ckpt", "signal": "SIGUSR1", "grace_s": 90}
    assert accepting.one("POST", "/v1/jobs").headers["idempotency-key"] == "mine"


def test_each_submission_has_a_key_of_its_own(dure, accepting):
    for _ in range(2):
        assert dure("submit", "--time", "1", "--", "true").code == 0
    keys = {one.headers["idempotency-key"] for one in accepting.asked if one.method == "POST"}
    assert len(keys) == 2


def test_a_file_is_one_submission_and_flags_go_over_it(dure, accepting):
    (dure.folder / "job.yaml").write_text(FILE)
    dure.environ["HF_TOKEN"] = "hunter2"
    done = dure("submit", "job.yaml", "--time", "5", "--project", "speech", "--output", "json")
    assert done.code == 0
    assert done.json["jobs"][0]["id"] == "j-12"
    prep, train = sent(accepting)
    assert [one["spec"]["walltime_s"] for one in (prep, train)] == [300, 300]
    assert [one["spec"]["project"] for one in (prep, train)] == ["speech", "speech"]
    assert train["secrets"] == {"HF_TOKEN": "hunter2"}
    assert "hunter2" not in done.out + done.err
    assert [one.path for one in accepting.asked] == ["/v1/jobs"]


def test_a_file_comes_from_standard_input(dure, accepting):
    assert dure("submit", "-", stdin=FILE.partition("---")[0]).code == 0
    assert sent(accepting)[0]["spec"]["name"] == "prep"


def test_secrets_come_from_a_value_a_file_or_the_environment(dure, accepting):
    (dure.folder / "key").write_text("from-file\n")
    dure.environ["C"] = "from-env"
    done = dure(
        *("submit", "--time", "1", "--secret", "A=x=y", "--secret", "B=@key", "--secret", "C"),
        *("--", "true"),
    )
    assert done.code == 0
    assert sent(accepting)[0]["secrets"] == {"A": "x=y", "B": "from-file", "C": "from-env"}


def test_a_folder_is_uploaded_once_for_all_jobs_and_only_what_is_missing(dure, accepting):
    source = dure.folder / "src"
    source.mkdir()
    (source / "a.py").write_text("a")
    (source / "b.py").write_text("b")
    (source / "x.log").write_text("x")
    (source / ".gitignore").write_text("*.log\n")
    job = "project: vision\ntime: 1\nrun: x\nworkdir: src\n"
    (dure.folder / "job.yaml").write_text(f"{job}---\n{job}")
    missing = []

    def register(asked):
        files = {one["path"]: one["sha256"] for one in asked.json["files"]}
        assert set(files) == {".gitignore", "a.py", "b.py"}
        missing.append(files["b.py"])
        accepting.on("PUT", f"/v1/projects/vision/blobs/{files['b.py']}", httpx.Response(204))
        return Upload(sha256="ab" * 32, missing=(files["b.py"],))

    accepting.on("POST", "/v1/projects/vision/workdirs", register)
    done = dure("submit", "job.yaml")
    assert (done.code, done.err) == (0, "")
    (put,) = [one for one in accepting.asked if one.method == "PUT"]
    assert (put.path.rpartition("/")[2], put.body) == (missing[0], b"b")
    assert [one["spec"]["workdir"] for one in sent(accepting)] == ["ab" * 32] * 2


def test_nothing_is_uploaded_for_a_job_that_is_wrong(dure, plane, me):
    plane.on("GET", "/v1/whoami", me)
    (dure.folder / "a.py").write_text("a")
    done = dure("submit", "--time", "1", "--nodes", "0", "--workdir", ".", "--", "true")
    assert done.code == 2
    assert [one.path for one in plane.asked] == ["/v1/whoami"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--", "true"], "time is missing; say how long"),
        (["--time", "2 hours", "--", "x"], "time '2 hours' is not a walltime; write minutes"),
        (["--time", "1", "--memory", "256GB", "--", "x"], "memory '256GB' is not a number of GiB"),
        (["--time", "1", "--gpus", "0", "--", "x"], "gpus_per_node is 0; it must be from 1"),
        (["--time", "1", "--gpus", "eight", "--", "x"], "'--gpus'"),
        (["--time", "1", "--nodes", "1000000000", "--", "x"], "nodes is 1,000,000,000; it must"),
        (["--time", "1", "--env", "A", "--", "x"], "--env 'A' has no value; write NAME=VALUE"),
        (["--time", "1", "--env", "RANK=1", "--", "x"], "env RANK is set by Dure"),
        (["--time", "1", "--secret", "NOPE", "--", "x"], "secrets 'NOPE' has no value"),
        (["--time", "1", "--secret", "sk-hunter2", "--", "x"], "secrets need a variable's name"),
        (["--time", "1", "--secret", "A=@none", "--", "x"], "cannot be read"),
        (["--time", "1", "--name", "a\nb", "--", "x"], "name 'a\\nb' is not a name"),
        (["--time", "1", "--after-ok", "prep", "--", "x"], "names 'prep'"),
        (["--time", "1", "--array", "9-0", "--", "x"], "goes backwards"),
        (["--time", "1", "--key", "", "--", "x"], "--key must be"),
        (["--time", "1", "--tier", "gold", "--", "x"], "'--tier'"),
        (["--time", "1", "--workdir", "none", "--", "x"], "is not a folder"),
        (["--time", "1", "--", "a\0b"], "NUL"),
        (["--time", "1", "--"], "no command after --"),
        (["--time", "1"], "nothing to run"),
        (["--tmie", "1", "--", "x"], "No such option: --tmie"),
        (["none.yaml"], "'none.yaml' cannot be read: No such file"),
        (["python", "train.py"], "'train.py' is one argument too many; a command goes after --"),
        (["train.py"], "'train.py' is a program and a job file is YAML; a command goes after --:"),
        (["none.sh", "--gpus", "1"], "'none.sh' is a program and a job file is YAML"),
        (["run"], "key: value lines, name: train say; a job file is YAML, and a command goes"),
        (["bad.yaml"], "bad.yaml line 1: 'nmae' is not a key; did you mean name."),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_submitted(dure, accepting, argv, said):
    (dure.folder / "bad.yaml").write_text("nmae: x\n")
    (dure.folder / "train.py").write_text("import torch\nprint(torch)\n")
    (dure.folder / "run").write_text("echo hello\n")
    for verb in ("submit", "plan"):
        if verb == "plan" and ("--key" in argv or "--workdir" in argv):
            continue
        done = dure(verb, *argv)
        assert (done.code, done.out) == (2, "")
        assert said in done.err
        assert done.err.startswith("dure: ")
        assert done.err.count("\n") == 1
        assert "hunter2" not in done.err
    assert all(one.path == "/v1/whoami" for one in accepting.asked)


def test_a_caller_with_several_projects_is_asked_which(dure, plane, me):
    from dataclasses import replace  # noqa: PLC0415

    from dure.people import Role, RoleGrant  # noqa: PLC0415

    plane.on("GET", "/v1/whoami", replace(me, grants=(*me.grants, RoleGrant(Role.PI, "speech"))))
    done = dure("submit", "--time", "1", "--", "true")
    assert done.code == 2
    assert "--project; you are in speech, vision." in done.err


def test_an_unknown_outcome_says_how_to_repeat_safely(dure, me):
    def handle(request):
        if request.method == "POST":
            raise httpx.ReadTimeout("no answer")
        return httpx.Response(200, content=to_json(me))

    dure.transport = httpx.MockTransport(handle)
    done = dure("submit", "--time", "1", "--key", "k-1", "--", "true")
    assert done.code == 1
    assert "--key k-1" in done.err


def test_plan_shows_options_exclusions_and_refusal_and_commits_nothing(dure, plane, me):
    forecast = Forecast(
        options=(
            Option(
                pool_id="nhn-h200",
                operator_id="nhn-cloud",
                gpu_model="h200",
                starts_ms=1_800_000_060_000,
                hold=2_500_000,
                likely_from_ms=1_800_000_000_000,
                likely_until_ms=1_800_000_120_000,
                surely_from_ms=1_800_000_000_000,
                surely_until_ms=1_800_000_540_000,
            ),
        ),
        exclusions=(
            Exclusion(
                pool_id="kakao-b200",
                operator_id="kakao",
                reason=Reason("rule", "National-core data stays on government GPUs."),
            ),
        ),
        refusal=Reason("allocation-exhausted", "Allocation a has 1 credit left; this needs 2.5."),
    )
    plane.on("GET", "/v1/whoami", me)
    plane.on("POST", "/v1/plan", forecast)
    plane.on("GET", "/v1/allocations", ())
    done = dure("plan", "--time", "1", "--workdir", "nowhere", "--", "true")
    assert done.code == 0
    for said in (
        "nhn-cloud",
        "in 1:00",
        "08:02Z",
        "08:09Z",
        "Excluded",
        "government GPUs",
        "1 credit left",
    ):
        assert said in done.out
    assert max(map(len, done.out.splitlines())) <= 100
    whole = dure("plan", "--time", "1", "-o", "json", "--", "true").json
    assert whole[0]["forecast"]["refusal"]["code"] == "allocation-exhausted"
    assert {one.path for one in plane.asked} == {"/v1/whoami", "/v1/plan", "/v1/allocations"}


def test_plan_says_why_a_start_is_not_foreseen(dure, plane, me):
    def view(pool, up=0, service=64, *, silent=False):
        return PoolView(
            pool=pool, operator="nhn-cloud", cluster="c", gpu_model="h200", gpus_per_node=8,
            gpus_in_service=service, nodes_up=up, gpus_up=8 * up, gpus_used=0, silent=silent,
        )  # fmt: skip

    pools = (
        view("quiet", silent=True),
        view("bare-1"),
        view("bare-2"),
        view("small", up=1),
        view("later", service=0),
        view("busy", up=8),
    )
    options = tuple(
        Option(pool_id=one.pool, operator_id="nhn-cloud", gpu_model="h200", starts_ms=None, hold=1)
        for one in pools
    )
    plane.on("GET", "/v1/whoami", me)
    plane.on("GET", "/v1/allocations", ())
    plane.on("GET", "/v1/pools", pools)
    plane.on("POST", "/v1/plan", Forecast(options=options, exclusions=(), refusal=None))
    done = dure("plan", "--time", "1", "--nodes", "2", "--", "true")
    assert done.out.count("not foreseen") == 6
    assert done.out.splitlines()[7:] == [
        "Not foreseen, as its site is silent: quiet.",
        "Not foreseen, as no site reports it: bare-1, bare-2.",
        "Not foreseen, as fewer than 2 of its nodes are up: small.",
        "Not foreseen, as none of its GPUs is in service yet: later.",
    ]
