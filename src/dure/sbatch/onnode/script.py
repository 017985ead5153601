"""The batch script: its surroundings, its run, its signal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .node import NOTICES, POLL_S, Node, exit_code, fail, tell, write
from .streams import Tee, filled, opened
from .tasks import serve

RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""What Dure tells every node of a job, and a batch script does not expect: it would mislead it."""
OF_A_STEP = re.compile(
    r"SLURM_(STEP|SRUN|CPU_BIND|LAUNCH|DISTRIBUTION|GTIDS|LOCALID|NODEID|PROCID|TASK_PID|UMASK)"
)


def batch(own: Path) -> int:
    """Run the script on the first node, or serve it on another."""
    for number in NOTICES:
        signal.signal(number, lambda *_: None)  # the script's to heed; a handler ends with exec
    job = json.loads((own / "job.json").read_text())
    restarts = int(os.environ.get("DURE_ATTEMPT_NUMBER", "1")) - 1
    if restarts and not job["requeue"]:
        fail("the job was started before, and --no-requeue forbids a second time")
    native = "SLURM_JOB_ID" in os.environ
    node = Node()
    if native:
        return run_script(own, job, native_environment(job), node) if not node.rank else 0
    hosts = node.meet()
    if node.rank:
        return serve(node)
    env = environment(job, hosts, restarts)
    put_commands(own, env)
    try:
        return run_script(own, job, env, node)
    finally:
        write(node.shared / "end", "")


def ids() -> dict[str, str]:
    """The job's numbers. A task of an array has one of its own, as in Slurm; here it is made of
    the array's and its index.
    """
    job = os.environ.get("DURE_JOB_ID", "j-0").rpartition("-")[2]
    index = os.environ.get("DURE_TASK_INDEX", "0")
    number = str(int(job) * 10_000_000 + int(index))
    return {"array": job, "index": index, "task": number}


def environment(job: dict[str, Any], hosts: list[str], restarts: int) -> dict[str, str]:
    """The script's environment. Source: sbatch(1), "OUTPUT ENVIRONMENT VARIABLES"."""
    env = {k: v for k, v in os.environ.items() if k not in RANKS and not k.startswith("PET_")}
    number, nodes, now = ids(), ",".join(hosts), int(time.time())
    in_array = "SLURM_ARRAY_TASK_COUNT" in job["variables"]
    env.update(job["variables"])
    env.update(
        SLURM_JOB_ID=number["task"] if in_array else number["array"],
        SLURM_JOB_NAME=job["name"],
        SLURM_JOB_NODELIST=nodes,
        SLURM_NODELIST=nodes,
        SLURM_JOB_PARTITION=env.get("DURE_POOL", ""),
        SLURM_JOB_ACCOUNT=env.get("DURE_PROJECT", ""),
        SLURM_JOB_GPUS=env.get("CUDA_VISIBLE_DEVICES", ""),
        SLURM_CLUSTER_NAME="dure",
        SLURM_SUBMIT_DIR=str(Path.cwd()),
        SLURM_JOB_START_TIME=str(now),
        SLURM_JOB_END_TIME=str(now + job["walltime_s"]),
        SLURM_TMPDIR=env.get("TMPDIR") or tempfile.gettempdir(),
        SLURMD_NODENAME=hosts[0],
        SLURM_NODEID="0",
        SLURM_PROCID="0",
        SLURM_LOCALID="0",
        SLURM_TASK_PID=str(os.getpid()),
    )
    env["SLURM_JOBID"] = env["SLURM_JOB_ID"]
    if in_array:
        env.update(SLURM_ARRAY_JOB_ID=number["array"], SLURM_ARRAY_TASK_ID=number["index"])
    if restarts:
        env["SLURM_RESTART_COUNT"] = str(restarts)
    return env


def native_environment(job: dict[str, Any]) -> dict[str, str]:
    """On Slurm: its own, without what is of the step that this runs in; steps may overlap it."""
    env = {k: v for k, v in os.environ.items() if k not in RANKS and not k.startswith("PET_")}
    env = {k: v for k, v in env.items() if not OF_A_STEP.match(k)}
    asked = dict(job["variables"])
    asked.pop("SLURM_CPUS_ON_NODE")  # what it really has is Slurm's to say
    env.update(
        asked, SLURM_JOB_NAME=job["name"], SLURM_OVERLAP="1", SLURM_SUBMIT_DIR=str(Path.cwd())
    )
    if "SLURM_ARRAY_TASK_COUNT" in asked:
        env.setdefault("SLURM_ARRAY_JOB_ID", ids()["array"])
        env.setdefault("SLURM_ARRAY_TASK_ID", ids()["index"])
    return env


def put_commands(own: Path, env: dict[str, str]) -> None:
    """`srun` and `scontrol`, found before any others."""
    folder = own / "bin"
    folder.mkdir()
    for name in ("srun", "scontrol"):
        words = [sys.executable, "-I", str(own / "run.py"), name]
        file = folder / name
        file.write_text(f'#!/bin/sh\nexec {" ".join(map(shlex.quote, words))} "$@"\n')
        file.chmod(0o700)
    env["PATH"] = f"{folder}:{env.get('PATH', os.defpath)}"


def run_script(own: Path, job: dict[str, Any], env: dict[str, str], node: Node) -> int:
    """The script to its end, what it writes into the job's log and its files; its exit code."""
    script = own / "script"
    head = script.read_text().split("\n", 1)[0][2:].strip().split(None, 1)
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(Tee(1, opened(job["output"], env, append=job["append"])))
        err = (
            stack.enter_context(Tee(2, opened(job["error"], env, append=job["append"])))
            if job["error"]
            else None
        )
        child = subprocess.Popen(  # noqa: S603  the user's own script
            [*head, str(script), *job["args"]],
            stdin=stack.enter_context(Path(filled(job["input"] or os.devnull, env)).open("rb")),
            stdout=out.into,
            stderr=err.into if err else out.into,
            env=env,
        )
        tees = [tee for tee in (out, err) if tee]
        for tee in tees:
            os.close(tee.into)
        return exit_code(follow(child, tees, job, node))


def follow(child: subprocess.Popen[bytes], tees: list[Tee], job: dict[str, Any], node: Node) -> int:
    """Copy what it writes until it has ended; what it left behind may hold the pipe, and is not
    waited for. Give its signal when its time has come.
    """
    warn = job["signal"]
    warn_at = time.monotonic() + max(0, job["walltime_s"] - warn["before_s"]) if warn else None
    with selectors.DefaultSelector() as chosen:
        for tee in tees:
            chosen.register(tee.source, selectors.EVENT_READ, tee)
        while True:
            ended = child.poll() is not None
            ready = chosen.select(0 if ended else 5 * POLL_S) if chosen.get_map() else []
            if not chosen.get_map() and not ended:
                time.sleep(POLL_S)
            for key, _ in ready:
                if not key.data.copy():
                    chosen.unregister(key.fileobj)
            if ended and not ready:
                return child.returncode
            if warn and warn_at is not None and time.monotonic() >= warn_at:
                warn_at = None
                give(warn, child, node)


def give(warn: dict[str, Any], child: subprocess.Popen[bytes], node: Node) -> None:
    """What --signal asks for: to the batch shell alone, or to the steps alone."""
    number = getattr(signal, f"SIG{warn['name']}")
    if warn["to_shell"]:
        child.send_signal(number)
        return
    for step in node.shared.glob("step.*"):
        tell(step, number)
