"""`dure sbatch` and `dure submit --sbatch`: what is reported, what is sent, what is refused."""

import json

import pytest

from dure.scheduling.world import Forecast, Option
from dure.views import Accepted, PoolView, Upload

SCRIPT = """#!/bin/bash
#SBATCH --job-name=train
#SBATCH --partition=gpu
#SBATCH --gres=gpu:h200:4
#SBATCH --time=1:00:00
#SBATCH --mail-type=END
#DURE --outputs=out
srun python train.py "$@"
"""


def pool(id_, operator, model):
    return PoolView(
        pool=id_, operator=operator, cluster=f"{operator}-1", gpu_model=model, gpus_per_node=8,
        gpus_in_service=8, nodes_up=1, gpus_up=8, gpus_used=0, silent=False,
    )  # fmt: skip


@pytest.fixture
def accepting(dure, plane, me, summary):
    (dure.folder / "job.sh").write_text(SCRIPT)
    pools = (pool("naver-h200", "naver-cloud", "h200"), pool("nhn-b200", "nhn-cloud", "b200"))
    option = Option(pool_id="naver-h200", operator_id="naver-cloud", gpu_model="h200",
                    starts_ms=0, hold=1)  # fmt: skip
    plane.on("GET", "/v1/whoami", me)
    plane.on("GET", "/v1/pools", pools)
    plane.on("GET", "/v1/allocations", ())
    plane.on("POST", "/v1/projects/vision/workdirs", Upload(sha256=64 * "a", missing=()))
    plane.on("POST", "/v1/plan", Forecast(options=(option,), exclusions=(), refusal=None))
    plane.on("POST", "/v1/jobs", Accepted((summary(),), repeated=False))
    return plane


def spec(plane):
    (job,) = plane.one("POST", "/v1/jobs").json["jobs"]
    return job["spec"]


def batch(plane):
    """What the job's nodes are told of it."""
    _, _, rest = spec(plane)["script"].partition('"$own/job.json" <<')
    return json.loads(rest.split("\n")[1])


def test_the_report_stands_on_stderr_and_the_number_alone_on_stdout(dure, accepting):
    done = dure("sbatch", "--no-workdir", "job.sh", "--epochs", "3")
    assert (done.code, done.out) == (0, "Submitted batch job 12\n")
    for said in ("line 3", "--partition=gpu", "cannot be kept", "sbatch.toml"):
        assert said in done.err
    assert "kept, " in done.err.splitlines()[-1]
    assert dure("sbatch", "--parsable", "-Q", "--no-workdir", "job.sh").out == "12\n"


def test_the_job_is_what_script_environment_and_command_line_ask_for(dure, accepting):
    dure.environ |= {"SBATCH_TIMELIMIT": "30", "SBATCH_PARTITION": "nhn-cloud", "TOKEN": "s3cret"}
    argv = ("-Q", "--no-workdir", "-p", "naver-h200", "--export=TOKEN,A=1", "-N2")
    assert dure("sbatch", *argv, "job.sh", "--epochs", "3").code == 0
    sent = spec(accepting)
    assert (sent["name"], sent["project"], sent["walltime_s"]) == ("train", "vision", 1_800)
    assert sent["resources"] == {
        "nodes": 2, "gpus_per_node": 4, "gpu_models": ["h200"], "pools": ["naver-h200"],
        "cpus_per_node": None, "memory_gib_per_node": None,
    }  # fmt: skip
    assert (sent["env"], sent["outputs"]) == ({"A": "1"}, "out")
    (job,) = accepting.one("POST", "/v1/jobs").json["jobs"]
    assert job["secrets"] == {"TOKEN": "s3cret"}
    told = batch(accepting)
    assert (told["args"], told["walltime_s"]) == (["--epochs", "3"], 1_800)
    assert SCRIPT in sent["script"]


def test_submit_takes_the_same_scripts_with_its_own_flags_over_them(dure, accepting):
    argv = ("--sbatch", "job.sh", "--time", "90m", "--gpus", "2", "--name", "mine", "--priority")
    done = dure("submit", *argv, "70", "--env", "B=2", "--", "--epochs", "3")
    assert done.code == 0, done.err
    sent = spec(accepting)
    assert (sent["name"], sent["walltime_s"], sent["priority"]) == ("mine", 5_400, 70)
    assert (sent["resources"]["gpus_per_node"], sent["env"]) == (2, {"B": "2"})
    assert sent["workdir"] == 64 * "a"
    assert "--gres=gpu:h200:4" in done.err
    assert batch(accepting)["walltime_s"] == 5_400
    assert batch(accepting)["args"] == ["--epochs", "3"]


def test_a_script_comes_from_standard_input_or_a_command(dure, accepting):
    assert dure("sbatch", "-Q", "--no-workdir", stdin=SCRIPT).code == 0
    assert batch(accepting)["name"] == "train"
    accepting.asked.clear()
    assert dure("sbatch", "-Q", "--no-workdir", "-t5", "--wrap", "nvidia-smi -L").code == 0
    assert spec(accepting)["name"] == "wrap"
    assert "#!/bin/sh\n# Made by --wrap.\n\nnvidia-smi -L\n" in spec(accepting)["script"]


def test_names_of_the_old_cluster_are_looked_up_in_the_users_table(dure, accepting):
    folder = dure.folder.parent / "home" / ".config" / "dure"
    folder.mkdir(parents=True)
    table = '[partition]\ngpu = ["nhn-b200"]\n[gpu]\nh200 = ["b200"]\n[account]\nold = "vision"\n'
    (folder / "sbatch.toml").write_text(table)
    done = dure("sbatch", "--no-workdir", "-A", "old", "job.sh")
    assert done.code == 0
    asked = spec(accepting)["resources"]
    assert (asked["pools"], asked["gpu_models"]) == (["nhn-b200"], ["b200"])
    for said in ("to nhn-b200", "of b200", "project vision"):
        assert said in done.err
    for wrong, says in (("partitions = 1", "'partitions'"), ("[gpu]\na = 1", "gpu.a must be")):
        (folder / "sbatch.toml").write_text(wrong)
        refused = dure("sbatch", "--no-workdir", "job.sh")
        assert refused.code == 2
        assert says in refused.err


def test_json_holds_the_report_and_the_job_or_the_forecast(dure, accepting):
    done = dure("sbatch", "--json", "--no-workdir", "job.sh")
    assert (done.code, done.err) == (0, "")
    assert done.json["job"]["id"] == "j-12"
    verdicts = {line["said"]: line["verdict"] for line in done.json["report"]["lines"]}
    assert verdicts["--job-name=train"] == "kept"
    assert verdicts["--mail-type=END"] == "cannot be kept"
    accepting.asked.clear()
    for argv in (["sbatch", "--json", "--dry-run", "job.sh"], ["sbatch", "--json", "--test-only",
                 "job.sh"], ["plan", "--sbatch", "job.sh", "-o", "json"]):  # fmt: skip
        dry = dure(*argv).json
        assert dry["job"] is None
        assert dry["forecast"]["options"][0]["pool_id"] == "naver-h200"
    assert all(one.path != "/v1/jobs" for one in accepting.asked)


def test_what_matters_and_cannot_be_kept_keeps_a_script_from_being_submitted(dure, accepting):
    done = dure("sbatch", "--no-workdir", "--begin=now+1hour", "-d", "singleton", "job.sh")
    assert (done.code, done.out) == (2, "")
    said = done.err.splitlines()[-1]
    assert "Nothing was submitted" in said
    assert "--begin=now+1hour" in said
    assert "--dependency=singleton" in said
    assert all(one.path != "/v1/jobs" for one in accepting.asked)
    assert dure("sbatch", "--no-workdir", "--begin=now+1hour", "--anyway", "job.sh").code == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["none.sh"], "batch script 'none.sh' cannot be read: No such file"),
        (["--tmie=1", "job.sh"], "'--tmie' is no option here"),
        (["-t", "soon", "job.sh"], "time 'soon' is not a time; write minutes"),
        (["-t", "0", "job.sh"], "time '0' is no limit"),
        (["--gpus=3", "job.sh"], "gpus is 3, but 1 nodes of 4 GPUs have 4"),
        (["--mem=lots", "job.sh"], "memory 'lots' is not a size"),
        (["--array=9-0", "job.sh"], "array '9-0' goes backwards"),
        (["--export=NOPE", "job.sh"], "secrets 'NOPE' has no value"),
        (["--wrap", "true", "job.sh"], "'job.sh' is one too many; --wrap is the script"),
        (["plain.sh"], "its first line must be #!"),
        (["timeless.sh"], "time is missing"),
        (["--key", "", "job.sh"], "--key must be"),
        (["-D", "nowhere", "job.sh"], "is not a folder"),
        (["-o", "logs/", "job.sh"], "output 'logs/' is a folder; name a file"),
    ],
)
def test_bad_input_gets_one_sentence_and_nothing_is_submitted(dure, accepting, argv, said):
    (dure.folder / "plain.sh").write_text("echo hello\n")
    (dure.folder / "timeless.sh").write_text("#!/bin/sh\ntrue\n")
    done = dure("sbatch", "-Q", *argv)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.startswith("dure: ")
    assert done.err.count("\n") == 1
    assert all(one.path != "/v1/jobs" for one in accepting.asked)
