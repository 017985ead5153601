"""Batch scripts through a real federation: a control plane, NHN Cloud's site, its local engine."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dure import scenario
from dure.cli import run
from dure.cli.shell import Shell
from dure.federation import Federation, free_port, play
from plant import enrol_projects

pytestmark = pytest.mark.engine

KOREA = scenario.load(scenario.find("korea"))


@dataclass
class User:
    """Somebody with a shell, a home and a folder of scripts."""

    federation: Federation
    token: str
    folder: Path

    def dure(self, *argv: str, code: int = 0, **environ: str) -> str:
        """What a command writes to standard output."""
        out, err = io.StringIO(), io.StringIO()
        known = {"HOME": str(self.folder), "USER": "kim", "DURE_PROJECT": "lab"}
        known |= {"DURE_URL": self.federation.url, "DURE_TOKEN": self.token, **environ}
        shell = Shell(
            environ=known, folder=self.folder, stdin=io.StringIO(), stdout=out, stderr=err
        )
        assert run(argv, shell) == code, err.getvalue()
        return out.getvalue()

    def batch(self, text: str, *argv: str, code: int = 0, **environ: str) -> str:
        """A script, submitted and waited for; its job's number."""
        (self.folder / "job.sh").write_text(f"#!/bin/bash\n#SBATCH -t 2\n{text}")
        said = self.dure("sbatch", "--parsable", "-W", *argv, "job.sh", code=code, **environ)
        return said.strip()

    def log(self, job: str, *options: str) -> list[str]:
        return self.dure("logs", f"j-{job}", *options).splitlines()


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Federation, str]]:
    now_ms = time.time_ns() // 1_000_000
    nhn = [one for one in play(KOREA, now_ms, gpus=False) if "nhn" in one.cluster.cluster_id]
    data = tmp_path_factory.mktemp("federation")
    made = Federation(
        data=data, scenario=KOREA, port=free_port(), played=tuple(nhn), say=lambda _: None
    )
    with made:
        with made.administrator() as admin:
            token = enrol_projects(admin, now_ms)
        yield made, token


@pytest.fixture
def kim(federation: tuple[Federation, str], tmp_path: Path) -> User:
    return User(*federation, tmp_path)


def test_a_script_runs_once_in_the_folder_that_it_was_submitted_from(kim: User):
    (kim.folder / "data.txt").write_text("forty-two\n")
    job = kim.batch(
        "#SBATCH -J 'a b' -N 2 --gpus-per-node=2 -c 3 --mem=4G\n"
        "#SBATCH -o out/%x-%j-%N.log -e out/%4j.err\n"
        "#DURE --outputs=out\n"
        'echo "$SLURM_JOB_ID $SLURM_JOB_NAME $SLURM_NNODES $SLURM_NTASKS $SLURM_CPUS_PER_TASK"\n'
        'echo "$SLURM_GPUS_ON_NODE $SLURM_MEM_PER_NODE $SLURM_JOB_PARTITION $SLURM_RESTART_COUNT"\n'
        'cd "$SLURM_SUBMIT_DIR"; cat data.txt; echo "${#RANK} $1/$2"\n'
        "echo trouble >&2\n",
    )
    lines = kim.log(job)
    assert lines[0] == f"{job} a b 2 2 3"
    assert lines[1] == "2 4096 nhn-b200 "
    assert lines[2:4] == ["forty-two", "0 /"]
    assert "trouble" in lines
    assert kim.log(job, "--rank", "1") == []
    kim.dure("outputs", f"j-{job}")
    back = kim.folder / f"j-{job}-outputs"
    found = {path.name: path.read_text() for path in back.rglob("*.*")}
    assert set(found) == {f"a b-{job}-127.0.0.1.log", f"{int(job):04}.err"}
    assert found[f"{int(job):04}.err"] == "trouble\n"


def test_srun_starts_tasks_on_all_nodes_and_ends_with_the_worst_exit_code(kim: User):
    job = kim.batch(
        "#SBATCH -N 2 --ntasks-per-node=2 --gpus-per-task=1\n"
        "scontrol show hostnames\n"
        "srun -l sh -c 'echo $SLURM_PROCID/$SLURM_NTASKS.$SLURM_LOCALID.$SLURM_NODEID '"
        "$(pwd | wc -c)' $CUDA_VISIBLE_DEVICES' | cut -d' ' -f2,4 | sort\n"
        "srun -N1 -n1 echo alone\n"
        "srun -n2 sh -c 'exit $((SLURM_PROCID * 5))'; echo worst $?\n"
        "srun nowhere-to-be-found; echo none $?\n"
        "srun -w 127.0.0.2 -n1 sh -c 'echo $SLURMD_NODENAME'\n"
        "srun --multi-prog x || echo refused\n"
        "exit 3\n",
        code=3,
    )
    lines = [line for line in kim.log(job) if not line.startswith("srun:")]
    assert lines[:2] == ["127.0.0.1", "127.0.0.2"]
    assert [line.split()[0] for line in lines[2:6]] == ["0/4.0.0", "1/4.1.0", "2/4.0.1", "3/4.1.1"]
    assert {line.split()[1] for line in lines[2:6]} == {"0", "1"}
    assert lines[6:10] == ["alone", "worst 5", "none 127", "127.0.0.2"]
    assert lines[-1] == "refused"
    assert kim.dure("sacct", "-n", "-P", "-j", job, "-o", "state,exitcode,nnodes") == (
        "FAILED|3:0|2\n"
    )


def test_an_array_has_slurms_numbers_and_the_signal_comes_before_the_end(kim: User):
    job = kim.batch(
        "#SBATCH --array=2-6:2%2 --signal=B:USR1@118 --export=SECRET,A=1\n"
        "trap 'echo told; exit 0' USR1\n"
        'echo "$SLURM_ARRAY_JOB_ID $SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT '
        '$SLURM_ARRAY_TASK_MAX $SLURM_ARRAY_TASK_STEP $SECRET$A"\n'
        "for n in $(seq 300); do sleep 0.1; done; exit 1\n",
        SECRET="s3cret",
    )
    for index in (2, 4, 6):
        assert kim.log(job, "--task", str(index)) == [f"{job} {index} 3 6 2 s3cret1", "told"]
    assert [line.split()[0] for line in kim.dure("sacct", "-n", "-j", job).splitlines()] == [
        f"{job}_2", f"{job}_4", f"{job}_6",
    ]  # fmt: skip


def test_a_signal_without_b_reaches_the_steps_on_every_node_and_not_the_shell(kim: User):
    job = kim.batch(
        "#SBATCH -N 2 --gpus-per-node=1 --signal=USR1@118\n"
        "trap 'echo shell told' USR1\n"
        "srun sh -c \"trap 'echo step told; exit 0' USR1; for n in \\$(seq 300); do sleep 0.1; "
        'done; exit 1"\n'
        "echo step ended $?\n",
    )
    assert kim.log(job) == ["step told", "step told", "step ended 0"]


def test_a_job_waits_for_another_and_both_are_seen_in_the_queue(kim: User):
    (kim.folder / "long.sh").write_text("#!/bin/sh\n#SBATCH -t 5 -G 1\nsleep 60\n")
    first = kim.dure("sbatch", "--parsable", "-Q", "long.sh").strip()
    second = kim.dure("sbatch", "-Q", "-d", f"afterok:{first}", "long.sh").split()[-1]
    shown = kim.dure("squeue", "-h", "--me", "-o", "%i %t %r").splitlines()
    assert f"{second} PD Dependency" in shown
    assert any(line.startswith(f"{first} ") for line in shown)
    assert kim.dure("scancel", first, second) == ""
    deadline = time.monotonic() + 60
    while kim.dure("squeue", "-h", "--me"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    states = kim.dure("sacct", "-n", "-P", "-o", "state", "-j", f"{first},{second}").split()
    assert states == ["CANCELLED", "CANCELLED"]


def test_a_dry_run_and_a_script_that_cannot_be_kept_submit_nothing(kim: User):
    (kim.folder / "job.sh").write_text("#!/bin/sh\n#SBATCH -t 5 --hold\ntrue\n")
    before = kim.dure("jobs", "--output", "json")
    assert "Soonest start: now" in kim.dure("sbatch", "--dry-run", "job.sh")
    assert "Soonest start: now" in kim.dure("submit", "--sbatch", "job.sh", "--dry-run")
    kim.dure("sbatch", "job.sh", code=2)
    assert kim.dure("jobs", "--output", "json") == before
    assert kim.dure("sbatch", "--anyway", "-W", "job.sh").startswith("Submitted batch job ")
