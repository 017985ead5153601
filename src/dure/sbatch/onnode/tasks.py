"""The tasks of a step on one node, and a node that waits for such."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from .node import POLL_S, Node, exit_code, write
from .streams import filled

OF_A_NODE = ("CUDA_VISIBLE_DEVICES", "TMPDIR", "HOME", "NODE_RANK")


class Tasks:
    """A step's tasks on this node."""

    def __init__(self, step: Path, rank: int, ask: dict[str, Any], *, inherit: bool) -> None:
        self.step, self.told = step, 0
        devices = [d for d in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if d]
        own = {k: os.environ[k] for k in OF_A_NODE if k in os.environ}
        own.update({k: v for k, v in os.environ.items() if k.startswith("DURE_")})
        self.running = []
        for local, task in enumerate(ask["tasks"]):
            env = {**ask["env"], **own, **task}
            if ask["gpus_per_task"]:
                first = local * ask["gpus_per_task"]
                env["CUDA_VISIBLE_DEVICES"] = ",".join(
                    devices[first : first + ask["gpus_per_task"]]
                )
            self.running.append(self.start(ask, env, f"{rank}.{local}", inherit=inherit))

    def start(
        self, ask: dict[str, Any], env: dict[str, str], name: str, *, inherit: bool
    ) -> subprocess.Popen[bytes] | None:
        """One task; None where there is no such program, which it says itself."""
        with contextlib.ExitStack() as stack:

            def stream(kind: str) -> int | None:
                """Its own file, this process' stream (None), or a file that `srun` shows."""
                if inherit and not ask[kind]:
                    return None
                file = filled(ask[kind], env) if ask[kind] else self.step / f"{name}.{kind}"
                descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                stack.callback(os.close, descriptor)
                return descriptor

            out = stream("out")
            err = out if ask["out"] and not ask["err"] else stream("err")
            stdin = None if inherit and env["SLURM_PROCID"] == "0" else subprocess.DEVNULL
            words, folder = ask["command"], ask["folder"]
            try:
                return subprocess.Popen(  # noqa: S603  the script's own command
                    words, cwd=folder, env=env, stdin=stdin, stdout=out, stderr=err
                )
            except OSError as error:
                said = f"srun: {words[0]}: {os.strerror(error.errno or 0)}\n"
                os.write(2 if err is None else err, said.encode())
                return None

    def look(self) -> bool:
        """Pass on signals that are new; whether all have ended."""
        while (file := self.step / f"signal.{self.told}").exists():
            self.told += 1
            for task in self.running:
                if task is not None and task.poll() is None:
                    task.send_signal(int(file.read_text()))
        return all(task is None or task.poll() is not None for task in self.running)

    def codes(self) -> list[int]:
        """Exit codes of what has ended."""
        ended = [task for task in self.running if task is None or task.poll() is not None]
        return [127 if task is None else exit_code(task.returncode) for task in ended]


def serve(node: Node) -> int:
    """Run what the first node asks for, until the script has ended."""
    steps: dict[str, Tasks] = {}
    finished: list[str] = []
    while not (node.shared / "end").exists():
        for ask in sorted(node.shared.glob(f"step.*/ask.{node.rank}")):
            step = ask.parent
            if step.name not in steps and step.name not in finished:
                asked = json.loads(ask.read_text())
                steps[step.name] = Tasks(step, node.rank, asked, inherit=False)
        for name, tasks in list(steps.items()):
            if tasks.look():
                write(tasks.step / f"done.{node.rank}", json.dumps(tasks.codes()))
                del steps[name]
                finished.append(name)
        time.sleep(POLL_S)
    return 0
