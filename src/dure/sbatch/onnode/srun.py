"""`srun` where there is no Slurm: a step's tasks on the nodes of the job."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from .hostnames import hostnames
from .node import NOTICES, POLL_S, Node, fail, tell, write
from .streams import Shown
from .tasks import Tasks

FLAGS = {"exclusive", "overlap", "label", "unbuffered", "oversubscribe", "overcommit", "exact"}
FLAGS |= {"no-kill", "quiet", "verbose", "whole", "contiguous", "disable-status"}
VALUED = {"account", "partition", "job-name", "time", "mem", "mem-per-cpu", "mem-per-gpu", "gres"}
VALUED |= {"cpus-per-task", "cpus-per-gpu", "cpu-bind", "gpu-bind", "mem-bind", "distribution"}
VALUED |= {"gpus", "gpus-per-node", "gpus-per-task", "mpi", "hint", "wait", "export", "output"}
VALUED |= {"error", "input", "chdir", "nodes", "ntasks", "ntasks-per-node", "nodelist", "threads"}
VALUED |= {"kill-on-bad-exit", "accel-bind", "network", "threads-per-core", "constraint", "qos"}
VALUED |= {"jobid", "reservation", "open-mode", "exclude", "relative", "cpu-freq", "propagate"}
BARE = {"kill-on-bad-exit": "1", "propagate": "ALL"}
"""Options of VALUED that may stand alone."""
LETTERS = {
    "n": "ntasks", "N": "nodes", "c": "cpus-per-task", "w": "nodelist", "l": "label", "o": "output",
    "e": "error", "i": "input", "D": "chdir", "J": "job-name", "t": "time", "p": "partition",
    "A": "account", "u": "unbuffered", "G": "gpus", "m": "distribution", "K": "kill-on-bad-exit",
    "s": "oversubscribe", "O": "overcommit", "v": "verbose", "Q": "quiet", "W": "wait",
    "x": "exclude", "r": "relative", "k": "no-kill", "C": "constraint", "q": "qos",
}  # fmt: skip


def srun_options(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Srun's options and the command behind them."""
    found: dict[str, str] = {}
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--"):
            name, value = LETTERS.get(word[1], word), word[2:]
            equals = value
            if name in FLAGS and value:
                left.insert(0, f"-{value}")
        if name == "tasks-per-node":
            name = "ntasks-per-node"
        if name in FLAGS:
            found[name] = value if equals and word.startswith("--") else ""
        elif name not in VALUED:
            fail(f"srun: {word} is not known outside of Slurm; leave it out there")
        elif equals or name in BARE:
            found[name] = value if equals else BARE[name]
        elif left:
            found[name] = left.pop(0)
        else:
            fail(f"srun: {word} has no value")
    return found, left


def layout(asked: dict[str, str], hosts: list[str]) -> list[tuple[int, int]]:
    """(rank, tasks) for each node of a step: on the first nodes, as evenly as can be."""
    ranks = list(range(len(hosts)))
    if "nodelist" in asked:
        named = hostnames(asked["nodelist"])
        strange = [name for name in named if name not in hosts]
        if strange:
            fail(f"srun: {strange[0]} is no node of this job; they are {', '.join(hosts)}")
        ranks = [hosts.index(name) for name in named]
    first = int(asked.get("relative", 0))
    ranks = ranks[first:] if first < len(ranks) else ranks
    each = asked.get("ntasks-per-node")
    whole = not {"ntasks", "nodes", "nodelist"} & set(asked)
    default = os.environ.get("SLURM_NTASKS") if whole and not each else None
    tasks = int(asked.get("ntasks") or default or 0)
    nodes = int(asked.get("nodes", "0").partition("-")[0]) or min(len(ranks), tasks or len(ranks))
    if nodes > len(ranks):
        fail(f"srun: {nodes} nodes are asked for; the step may have {len(ranks)}")
    tasks = tasks or nodes * int(each or 1)
    nodes = min(nodes, tasks)
    more = tasks % nodes
    return [(ranks[i], tasks // nodes + (i < more)) for i in range(nodes)]


def srun(words: list[str]) -> int:
    """Start a step's tasks on the job's nodes; the highest of their exit codes."""
    asked, command = srun_options(words)
    if not command:
        fail("srun: there is no command")
    node = Node()
    hosts = os.environ["SLURM_JOB_NODELIST"].split(",")
    parts = layout(asked, hosts)
    step, number = new_step(node.shared)
    shared_env = step_environment(asked, parts, hosts, number)
    first = 0
    asks = {}
    for place, (rank, tasks) in enumerate(parts):
        asks[rank] = {
            "command": command,
            "folder": str(Path.cwd() / asked.get("chdir", "")),
            "env": shared_env,
            "tasks": [
                {
                    "SLURM_PROCID": str(first + local),
                    "SLURM_LOCALID": str(local),
                    "SLURM_NODEID": str(place),
                    "SLURMD_NODENAME": hosts[rank],
                }
                for local in range(tasks)
            ],
            "gpus_per_task": gpus_per_task(asked),
            "out": asked.get("output"),
            "err": asked.get("error"),
        }
        first += tasks
    for rank, ask in asks.items():
        if rank != node.rank:
            write(step / f"ask.{rank}", json.dumps(ask))
    for notice in (*NOTICES, signal.SIGHUP):
        signal.signal(notice, lambda n, _: tell(step, n))
    return stand_by(step, node, asks, asked)


def gpus_per_task(asked: dict[str, str]) -> int:
    """How many GPUs each task sees; 0: all of its node."""
    text = asked.get("gpus-per-task") or os.environ.get("SLURM_GPUS_PER_TASK") or "0"
    return int(text.rpartition(":")[2])


def new_step(shared: Path) -> tuple[Path, int]:
    """A folder of its own for a step, numbered from 0: whoever makes it has it."""
    number = 0
    while True:
        step = shared / f"step.{number}"
        try:
            step.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return step, number


def step_environment(
    asked: dict[str, str], parts: list[tuple[int, int]], hosts: list[str], number: int
) -> dict[str, str]:
    """What all tasks of a step have in their environment. Source: srun(1)."""
    env = dict(os.environ)
    if asked.get("export") == "NONE":
        env = {k: v for k, v in env.items() if k.startswith(("SLURM", "DURE_", "PATH", "NODE_"))}
    for part in asked.get("export", "").split(","):
        name, equals, value = part.partition("=")
        if equals:
            env[name] = value
    tasks = str(sum(count for _, count in parts))
    counts = ",".join(str(count) for _, count in parts)
    nodes = ",".join(hosts[rank] for rank, _ in parts)
    env.update(
        SLURM_STEP_ID=str(number), SLURM_STEPID=str(number), SLURM_STEP_NUM_TASKS=tasks,
        SLURM_STEP_NUM_NODES=str(len(parts)), SLURM_STEP_NODELIST=nodes, SLURM_NTASKS=tasks,
        SLURM_NPROCS=tasks, SLURM_STEP_TASKS_PER_NODE=counts, SLURM_TASKS_PER_NODE=counts,
        SLURM_LAUNCH_NODE_IPADDR=env.get("MASTER_ADDR", "127.0.0.1"),
    )  # fmt: skip
    if "cpus-per-task" in asked:
        env["SLURM_CPUS_PER_TASK"] = asked["cpus-per-task"]
    return env


def stand_by(step: Path, node: Node, asks: dict[int, Any], asked: dict[str, str]) -> int:
    """Run this node's tasks, show what the others' write, until all have ended."""
    label = "label" in asked
    mine = Tasks(step, node.rank, asks[node.rank], inherit=not label) if node.rank in asks else None
    shown = [
        Shown(step / f"{rank}.{local}.{kind}", stream, task["SLURM_PROCID"] if label else None)
        for rank, ask in asks.items()
        for local, task in enumerate(ask["tasks"])
        for kind, stream in (("out", 1), ("err", 2))
        if rank != node.rank or label
    ]
    others = [step / f"done.{rank}" for rank in asks if rank != node.rank]
    kill = asked.get("kill-on-bad-exit", "0") not in {"", "0"}
    killed = False
    while True:
        over = mine is None or mine.look()
        done = all(file.exists() for file in others)
        for one in shown:
            one.copy()
        codes = [c for file in others if file.exists() for c in json.loads(file.read_text())]
        codes += mine.codes() if mine else []
        if kill and not killed and any(codes):
            killed = True
            tell(step, signal.SIGTERM)
        if over and done:
            for one in shown:
                one.copy(last=True)
            return max(codes, default=0)
        time.sleep(POLL_S)
