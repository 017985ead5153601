"""`dure squeue`, `scancel`, `sacct`, `sinfo`, `sshare`: what a Slurm user expects to see."""

import httpx
import pytest

from dure.allocations import BudgetUnit
from dure.errors import Reason
from dure.jobs import JobSpec, Resources, Tier
from dure.life import EndCause, State
from dure.listing import RunLine, ShareLine, TaskLine, TaskPage
from dure.views import AttemptView, JobView, PoolView, TaskView

NOW_MS = 1_800_000_000_000  # 2027-01-15T08:00:00Z


def run(**changes):
    fields = {
        "number": 1, "operator": "nhn-cloud", "cluster": "nhn-national", "pool": "nhn-b200",
        "gpu_model": "b200", "nodes": (0, 1, 2, 5), "started_ms": NOW_MS - 3_723_000,
        "ended_ms": None, "cause": None, "gpu_ms": None,
    }  # fmt: skip
    return RunLine(**{**fields, **changes})


def task(job, index=0, state=State.RUNNING, **changes):
    fields = {
        "tasks": 1, "max_running": None, "name": "train", "project": "vision",
        "allocation": "a", "submitter": "kim", "tier": Tier.STANDARD, "priority": 50,
        "resources": Resources(nodes=4, gpus_per_node=8, cpus_per_node=16, memory_gib_per_node=64),
        "walltime_s": 7_200, "reason": None, "exit_code": None,
        "accepted_ms": NOW_MS - 4_000_000, "ended_ms": None, "expected_ms": None, "run": None,
    }  # fmt: skip
    return TaskLine(job=job, index=index, state=state, **{**fields, **changes})


WAITS = Reason("waiting-for-nodes", "Waits for 1 node.")
CAPPED = Reason("array-cap", "Its array runs at most 2 at a time.")
ONE = Resources(gpus_per_node=1)
TASKS = (
    task("j-14", state=State.WAITING, submitter="lee", resources=ONE),
    *(
        task("j-13", i, State.QUEUED, tasks=6, max_running=2, reason=CAPPED, resources=ONE)
        for i in (5, 3, 2)
    ),
    task("j-13", 1, State.QUEUED, tasks=6, max_running=2, reason=WAITS, resources=ONE,
         expected_ms=NOW_MS + 60_000),
    task("j-13", 0, tasks=6, max_running=2, resources=ONE, run=run(nodes=(7,))),
    task("j-12", run=run()),
)  # fmt: skip


@pytest.fixture
def queue(plane, me):
    plane.on("GET", "/v1/whoami", me)
    plane.on("GET", "/v1/tasks", TaskPage(TASKS, None))
    for path in ("pools", "shares"):
        plane.on("GET", f"/v1/{path}", httpx.Response(200, text="[]"))
    return plane


def rows(done):
    assert (done.code, done.err) == (0, "")
    return [line.split() for line in done.out.splitlines()]


def test_squeue_lists_the_queue_in_its_usual_columns(dure, queue):
    done = dure("squeue")
    assert done.out.splitlines()[0] == (
        "             JOBID PARTITION     NAME     USER ST       TIME  NODES NODELIST(REASON)"
    )
    assert rows(done)[1:] == [
        ["12", "nhn-b200", "train", "kim", "R", "1:02:03", "4", "nhn-b200-n[0-2,5]"],
        ["13_0", "nhn-b200", "train", "kim", "R", "1:02:03", "1", "nhn-b200-n7"],
        ["13_1", "any", "train", "kim", "PD", "0:00", "1", "(Resources)"],
        ["13_[2-3,5%2]", "any", "train", "kim", "PD", "0:00", "1", "(JobArrayTaskLimit)"],
        ["14", "any", "train", "lee", "PD", "0:00", "1", "(Dependency)"],
    ]
    assert queue.one("GET", "/v1/tasks").query["open_only"] == "true"


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["-u", "lee"], ["14"]),
        (["--user=kim,lee", "-t", "R"], ["12", "13_0"]),
        (["-t", "PENDING,CF", "-u", "kim"], ["13_1", "13_[2-3,5%2]"]),
        (["-r", "-t", "pd", "-u", "kim"], ["13_1", "13_2", "13_3", "13_5"]),
        (["-p", "nhn-b200"], ["12", "13_0"]),
        (["-M", "nhn-cloud"], ["12", "13_0"]),
        (["-M", "kakao"], []),
        (["-A", "speech"], []),
        (["-n", "train", "-q", "spare"], []),
        (["--start"], ["13_1", "13_[2-3,5%2]", "14"]),
    ],
)
def test_squeue_shows_only_what_was_asked_for(dure, queue, options, ids):
    assert [row[0] for row in rows(dure("squeue", "-h", *options))] == ids


def test_squeue_prints_any_format_and_cuts_to_its_widths(dure, queue):
    done = dure("squeue", "-t", "R", "-o", "%.6i|%10P|%T/%.3u %b %l %L %C %V%%")
    assert done.out.splitlines() == [
        " JOBID|PARTITION |STATE/USE TRES_PER_NODE TIME_LIMIT TIME_LEFT CPUS SUBMIT_TIME%",
        "    12|nhn-b200  |RUNNING/kim gres/gpu:b200:8 2:00:00 57:57 64 2027-01-15T06:53:20%",
        "  13_0|nhn-b200  |RUNNING/kim gres/gpu:b200:1 2:00:00 57:57 0 2027-01-15T06:53:20%",
    ]
    done = dure("squeue", "-h", "-t", "R", "-O", "jobarrayid:6,state:.9,nodelist")
    assert done.out.splitlines()[0] == "12      RUNNINGnhn-b200-n[0-2,5]   "
    (first, *_) = dure("squeue", "--start", "-h", "-o", "%S").out.splitlines()
    assert first == "2027-01-15T08:01:00"


def test_squeue_asks_for_named_jobs_and_their_tasks(dure, queue):
    queue.on(
        "GET",
        "/v1/tasks",
        lambda asked: TaskPage(tuple(t for t in TASKS if t.job == asked.query["job"]), None),
    )
    assert [row[0] for row in rows(dure("squeue", "-h", "-j", "12,13_3"))] == ["12", "13_3"]


def test_squeue_reads_every_page(dure, queue):
    def page(asked):
        after = int(asked.query.get("after", 99))
        left = [one for at, one in enumerate(TASKS) if len(TASKS) - at < after]
        return TaskPage(tuple(left[:1]), len(TASKS) - TASKS.index(left[0]) if left[1:] else None)

    queue.on("GET", "/v1/tasks", page)
    assert len(rows(dure("squeue", "-h", "-r"))) == len(TASKS)


def ended(job, index, state, cause, code, **changes):
    changes = {"started_ms": NOW_MS - 90_000, "ended_ms": NOW_MS - 30_000, **changes}
    one = run(cause=cause, nodes=(0,), **changes)
    return task(job, index, state, tasks=9, resources=ONE, exit_code=code, run=one,
                ended_ms=NOW_MS - 30_000)  # fmt: skip


def test_sacct_tells_how_jobs_ended(dure, queue):
    found = (
        ended("j-9", 4, State.FAILED, EndCause.NODE_FAILED, None),
        ended("j-9", 3, State.TIMED_OUT, EndCause.WALLTIME_REACHED, 143),
        ended("j-9", 2, State.CANCELLED, EndCause.CANCELLED, 137),
        ended("j-9", 1, State.FAILED, EndCause.ERRED, 3),
        ended("j-9", 0, State.SUCCEEDED, EndCause.COMPLETED, 0),
        task("j-8", run=run()),
    )
    queue.on("GET", "/v1/tasks", TaskPage(found, None))
    assert rows(dure("sacct")) == [
        ["JobID", "JobName", "Partition", "Account", "AllocCPUS", "State", "ExitCode"],
        ["------------", *5 * ["----------"], "--------"],
        ["8", "train", "nhn-b200", "vision", "64", "RUNNING", "0:0"],
        ["9_0", "train", "nhn-b200", "vision", "0", "COMPLETED", "0:0"],
        ["9_1", "train", "nhn-b200", "vision", "0", "FAILED", "3:0"],
        ["9_2", "train", "nhn-b200", "vision", "0", "CANCELLED", "0:9"],
        ["9_3", "train", "nhn-b200", "vision", "0", "TIMEOUT", "0:15"],
        ["9_4", "train", "nhn-b200", "vision", "0", "NODE_FAIL", "0:0"],
    ]
    query = queue.one("GET", "/v1/tasks").query
    assert query["since_ms"] == str(NOW_MS - NOW_MS % 86_400_000)
    assert query["submitter"] == "kim"
    wanted = "jobid,state,elapsed,alloctres,end"
    assert dure("sacct", "-P", "-n", "-s", "CD", "-o", wanted).out == (
        "9_0|COMPLETED|00:01:00|billing=1,gres/gpu=1,node=1|2027-01-15T07:59:30\n"
    )
    assert dure("sacct", "-p", "-b", "-s", "F,NF").out.splitlines() == [
        "JobID|State|ExitCode|", "9_1|FAILED|3:0|", "9_4|NODE_FAIL|0:0|",
    ]  # fmt: skip
    assert (
        dure("sacct", "-n", "-X", "-s", "R", "-o", "state%-12,jobid%4").out == "RUNNING         8\n"
    )


def test_sacct_with_duplicates_hides_no_attempt(dure, queue, summary):
    last = ended("j-9", 0, State.SUCCEEDED, EndCause.COMPLETED, 0, number=2)
    first = AttemptView(
        id="a-1", number=1, operator="kakao", cluster="k", pool="kakao-b200", gpu_model="b200",
        nodes=(3,), gpus=1, placed=WAITS, intended_ms=0, started_ms=NOW_MS - 500_000,
        ended_ms=NOW_MS - 400_000, cause=EndCause.RECALLED, exit_code=143, detail=None, gpu_ms=1,
        charge=0, dispute=None,
    )  # fmt: skip
    whole = TaskView(
        index=0, state=State.SUCCEEDED, reason=None, exit_code=0, attempts=(first, first)
    )
    queue.on("GET", "/v1/tasks", TaskPage((last,), None))
    spec = JobSpec(name="t", project="vision", walltime_s=1, command=("x",))
    view = JobView(
        summary=summary(), spec=spec, unit=BudgetUnit.UCREDIT, counts={}, gpu_ms=0, charge=0,
        tasks=(whole,),
    )  # fmt: skip
    queue.on("GET", "/v1/jobs/j-9", view)
    done = dure("sacct", "-D", "-n", "-P", "-o", "jobid,partition,state,exitcode,elapsedraw")
    assert done.out.splitlines() == [
        "9_0|kakao-b200|PREEMPTED|0:15|100",
        "9_0|nhn-b200|COMPLETED|0:0|60",
    ]


@pytest.mark.parametrize(
    ("since", "ms"),
    [
        ("now-2hours", NOW_MS - 7_200_000),
        ("07:30", NOW_MS - 30 * 60_000),
        ("2027-01-14", NOW_MS - 32 * 3_600_000),
        ("2027-01-15T07:59:59", NOW_MS - 1_000),
    ],
)
def test_sacct_begins_when_it_is_told_to(dure, queue, since, ms):
    assert dure("sacct", "-S", since).code == 0
    assert queue.one("GET", "/v1/tasks").query["since_ms"] == str(ms)


def test_scancel_cancels_jobs_tasks_and_what_a_filter_finds(dure, queue, summary):
    for job in ("j-12", "j-13", "j-14"):
        queue.on("POST", f"/v1/jobs/{job}/cancel", summary(id=job))
    assert dure("scancel", "12", "13_5").out == ""
    assert dure("scancel", "--me", "-t", "R").code == 0
    assert dure("scancel", "-u", "lee").code == 0
    cancelled = [(a.path[9:13], a.query.get("task")) for a in queue.asked if a.method == "POST"]
    assert cancelled == [
        ("j-12", None), ("j-13", "5"), ("j-13", "0"), ("j-12", "0"), ("j-14", "0"),
    ]  # fmt: skip


def test_scancel_goes_on_after_a_job_that_there_is_not(dure, queue, summary):
    queue.on("POST", "/v1/jobs/j-12/cancel", summary())
    done = dure("scancel", "99", "12")
    assert (done.code, done.out) == (2, "")
    assert len([a for a in queue.asked if a.method == "POST"]) == 2


def test_sinfo_shows_pools_as_partitions_and_their_nodes_by_state(dure, plane):
    def pool(id_, **changes):
        fields = {
            "pool": id_, "operator": id_.split("-")[0], "cluster": f"{id_}-c", "gpu_model": "b200",
            "gpus_per_node": 8, "gpus_in_service": 64, "nodes_up": 7, "gpus_up": 56,
            "gpus_used": 20, "silent": False, "nodes_idle": 4, "nodes_full": 1,
        }  # fmt: skip
        return PoolView(**{**fields, **changes})

    quiet = {"nodes_up": 0, "nodes_idle": 0, "nodes_full": 0, "silent": True}
    plane.on("GET", "/v1/pools", (pool("nhn-b200"), pool("kakao-b200-late", **quiet)))
    assert dure("sinfo").out.splitlines() == [
        "PARTITION       AVAIL  TIMELIMIT  NODES  STATE NODELIST",
        "nhn-b200           up   infinite      1  alloc nhn-b200",
        "nhn-b200           up   infinite      2    mix nhn-b200",
        "nhn-b200           up   infinite      4   idle nhn-b200",
        "nhn-b200           up   infinite      1    unk nhn-b200",
        "kakao-b200-late  down   infinite      8    unk kakao-b200-late",
    ]
    assert dure("sinfo", "-s", "-h", "-M", "nhn").out.split()[3] == "3/4/1/8"
    assert dure("sinfo", "-h", "-t", "idle", "-o", "%R %D %G").out == "nhn-b200 4 gpu:b200:8\n"
    assert dure("sinfo", "-p", "nhn-b200", "--json").json["sinfo"][0]["state"] == "allocated"


def test_sshare_shows_how_shares_stand_level_by_level(dure, plane):
    def share(id_, parent, entitled, used):
        return ShareLine(
            share=id_, parent=parent, weight_milli=1_000, entitled_ppm=entitled, used_ppm=used,
            held_ppm=0, used_credit_s=900, gpus_held=16,
        )  # fmt: skip

    lines = (share("national", None, 800_000, 1_000_000), share("national.vision", "national",
             250_000, 500_000))  # fmt: skip
    plane.on("GET", "/v1/shares", lines)
    out = dure("sshare").out.splitlines()
    assert out[0].split() == [
        "Account", "User", "RawShares", "NormShares", "RawUsage", "EffectvUsage", "FairShare",
    ]  # fmt: skip
    assert out[3].startswith(" vision ")
    assert out[3].split() == ["vision", "1000", "0.250000", "900", "0.500000", "0.250000"]
    assert dure("sshare", "-n", "-P", "-A", "vision", "-o", "share,levelfs,gpusheld").out == (
        "national.vision|0.500000|16\n"
    )


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["squeue", "-o", "%i %&"], None),
        (["squeue", "-o", "%Y"], "format %Y is not known here; known are %A, %C,"),
        (["squeue", "-O", "jobid:x"], "Format 'jobid:x' is not known here"),
        (["squeue", "--nodlist=x"], "'--nodlist' is no option here; see --help"),
        (["squeue", "-i"], "'-i' is no option here"),
        (["squeue", "12"], "'12' is one too many"),
        (["squeue", "-j", "x"], "'x' is not a job; write 12, j-12 or 12_3"),
        (["squeue", "-t", "SLEEPING"], "state 'SLEEPING' is none; known are CANCELLED,"),
        (["sacct", "-o", "jobid,maxrss"], "format 'maxrss' is not known here"),
        (["sacct", "-S", "yesterday-ish"], "time 'yesterday-ish' is not a time"),
        (["scancel"], "No job is named; write scancel 12, or --me."),
        (["scancel", "-s", "USR1", "12"], "signal 'USR1' cannot be sent to a job"),
        (["sinfo", "-o", "%q"], "format %q is not known here"),
        (["sshare", "-o", "account,grptresmins"], "format 'grptresmins' is not known here"),
    ],
)
def test_bad_input_gets_one_sentence(dure, queue, argv, said):
    done = dure(*argv)
    if said is None:
        assert done.code == 0
        return
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("command", ["squeue", "sacct", "sinfo", "sshare"])
def test_json_is_one_document(dure, queue, command):
    done = dure(command, "--json")
    assert done.code == 0
    if command in {"squeue", "sacct"}:
        first = done.json["jobs"][0]
        assert (first["job_id"], first["job_state"], first["node_count"]) == (12, "RUNNING", 4)
        assert done.json["jobs"][3]["array_task_string"] == "2-3,5"


@pytest.mark.parametrize("command", ["sbatch", "squeue", "scancel", "sacct", "sinfo", "sshare"])
def test_help_is_to_be_had(dure, command):
    done = dure(command, "--help")
    assert done.code == 0
