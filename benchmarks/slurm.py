"""What Dure adds to a Slurm cluster, beside the same cluster without it. Needs Slurm, and root.

    .venv/bin/python benchmarks/slurm.py rate [JOBS]      1,000 one-GPU jobs, bare and through Dure
    .venv/bin/python benchmarks/slurm.py delay [JOBS]     from submission to the first line of a job
    .venv/bin/python benchmarks/slurm.py poll [JOBS]      one look at a queue of 10,000

Control plane, agent and Slurm's daemons share this machine, so that each job costs all of them CPU
time of the same cores. Bare jobs are submitted as a shell loop would, one sbatch after another.
"""

from __future__ import annotations

import argparse
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from dure import scenario
from dure.client import Client
from dure.demo import cast, clusters
from dure.demo.cast import UNIVERSITY
from dure.demo.clusters.processes import until
from dure.demo.clusters.slurm import SlurmCluster
from dure.draft import Draft, requests
from dure.engines.slurm import SlurmSite
from dure.engines.slurm.commands import Commands
from dure.federation import Federation, Played, free_port, play
from dure.fleet import EngineKind
from dure.jobfile import parse
from dure.life import TERMINAL
from dure.views import Submission

CLUSTER = "nhn-national"
NODES = 64
JOBS_AT_ONCE = 100
BARE = ("sbatch", "--parsable", "--gres=gpu:b200:1", "--time=10", "--account=national")


def played() -> tuple[Played, ...]:
    """One cluster of 64 nodes of eight GPUs, on Slurm."""
    loaded = scenario.load(scenario.find("korea"))
    (one,) = (p for p in play(loaded, _now_ms(), gpus=False) if p.cluster.cluster_id == CLUSTER)
    slots = one.slots // one.cluster.nodes * NODES
    cluster = replace(one.cluster, nodes=NODES)
    return clusters.cast([EngineKind.SLURM], [replace(one, cluster=cluster, slots=slots)])


@contextmanager
def federation(cluster: SlurmCluster) -> Iterator[Client]:
    """A control plane and one agent, with everybody of the demo enrolled; a PI's client."""
    with TemporaryDirectory() as folder:
        made = Federation(
            data=Path(folder), scenario=scenario.load(scenario.find("korea")), port=free_port(),
            played=played(), say=print, real={CLUSTER: cluster},
        )  # fmt: skip
        with made, made.administrator() as admin:
            tokens = cast.enrol(admin, Path(folder) / "tokens", _now_ms())
            with Client(made.url, tokens[UNIVERSITY.id]) as client:
                yield client


def submit(client: Client, text: str) -> str:
    """One job file; the job's id."""
    (draft,) = parse(text, Path(), source="benchmark")
    asked = requests((draft.over(Draft(project=UNIVERSITY.id)),), {}, [None])
    (job,) = client.submit(Submission(asked), key=secrets.token_hex(8)).jobs
    return job.id


def rate(cluster: SlurmCluster, jobs: int) -> None:
    """Jobs that did nothing, from the first submission to the last end."""
    bare = _timed(lambda: _bare(cluster, jobs))
    print(f"bare: {jobs:,} jobs in {bare:.1f} s, {jobs / bare:.1f}/s")
    with federation(cluster) as client:
        ours = _timed(lambda: _through(client, jobs))
        print(
            f"Dure: {jobs:,} jobs in {ours:.1f} s, {jobs / ours:.1f}/s; {bare / ours:.0%} of bare"
        )
        for name, cpu_s in _cpu_s().items():
            print(f"    {name}: {cpu_s:.1f} s of CPU")


def _bare(cluster: SlurmCluster, jobs: int) -> None:
    for _ in range(jobs):
        cluster.ask(*BARE, "--output=/dev/null", "--wrap=true")
    until(lambda: not cluster.ask("squeue", "-h", "-t", "PD,R,CG").strip(), "the last of them")


def _through(client: Client, jobs: int) -> None:
    ids = [
        submit(client, f"name: t\ncommand: [/bin/true]\narray: 0-{JOBS_AT_ONCE - 1}\n"
                       "resources: {accelerators: B200:1}\ntime: 10m\n")
        for _ in range(jobs // JOBS_AT_ONCE)
    ]  # fmt: skip
    while ids:
        ids = [id_ for id_ in ids if client.job(id_).summary.state not in TERMINAL]
        time.sleep(0.5)


def _cpu_s() -> dict[str, float]:
    """By the last words of each process of ours that runs now."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        times = process.cpu_times()
        words = [Path(word).name for word in process.cmdline()]
        found[" ".join(words[-7:])[:60]] = sum(times[:4])
    return found


def delay(cluster: SlurmCluster, jobs: int) -> None:
    """Idle cluster, one job at a time, bare and ours in turn: until it says when it began."""
    bare, ours = [], []
    with TemporaryDirectory(dir="/tmp") as folder, federation(cluster) as client:
        for number in range(jobs):
            said = Path(folder) / f"bare-{number}"
            began_s = time.time()
            cluster.ask(*BARE, "--output=/dev/null", f"--wrap=date +%s.%N > {said}")
            bare.append(_said_s(said) - began_s)
            said = Path(folder) / f"dure-{number}"
            time.sleep(secrets.randbelow(1000) / 1000)  # anywhere between two rounds
            began_s = time.time()
            submit(client, f"name: d\ncommand: [/bin/sh, -c, 'date +%s.%N > {said}']\n"
                           "resources: {accelerators: B200:1}\ntime: 10m\n")  # fmt: skip
            ours.append(_said_s(said) - began_s)
    print(f"bare: median {statistics.median(bare):.2f} s, longest {max(bare):.2f} s")
    print(f"Dure: median {statistics.median(ours):.2f} s, longest {max(ours):.2f} s")
    added = [one - other for one, other in zip(ours, bare, strict=True)]
    print(f"added: median {statistics.median(added):.2f} s, longest {max(added):.2f} s")


def _said_s(path: Path) -> float:
    until(lambda: path.exists() and path.read_text().endswith("\n"), str(path))
    return float(path.read_text())


def poll(cluster: SlurmCluster, jobs: int) -> None:
    """The agent's one query of the queue, and that of the nodes."""
    mark = "dure:benchmark"
    for number in range(jobs):
        words = (*BARE, "--hold", f"--comment={mark}", f"--job-name=a-{number}")
        cluster.ask(*words, "--output=/dev/null", "--wrap=true")
    site = SlurmSite(type="slurm", slurm_conf=str(cluster.conf))
    commands = Commands(site, mark)
    taken, told = [], []
    run = commands._run  # noqa: SLF001  what it read is counted, nowhere else said

    def counted(program: str, words: list[str]) -> str:
        text = run(program, words)
        told.append((program, len(text)))
        return text

    commands._run = counted  # type: ignore[method-assign]  # noqa: SLF001
    for _ in range(5):
        found: list[object] = []
        taken.append(_timed(lambda found=found: found.extend(commands.queue())))
        assert len(found) == jobs
    print(f"{jobs:,} jobs: {len(told) // 5} query, {told[-1][1]:,} bytes, median "
          f"{statistics.median(taken):.2f} s, longest {max(taken):.2f} s, decoded")  # fmt: skip


def _timed(act: Callable[[], object]) -> float:
    began_s = time.monotonic()
    act()
    return time.monotonic() - began_s


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    measures = {"rate": (rate, 1_000), "delay": (delay, 30), "poll": (poll, 10_000)}
    parser.add_argument("what", choices=measures)
    parser.add_argument("jobs", nargs="?", type=int)
    asked = parser.parse_args()
    measure, usual = measures[asked.what]
    with clusters.staged(played()) as real:
        cluster = real[CLUSTER]
        assert isinstance(cluster, SlurmCluster)
        measure(cluster, asked.jobs or usual)


if __name__ == "__main__":
    main()
