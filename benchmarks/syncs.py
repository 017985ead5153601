"""What agents cost a control plane: so many of them sync every two seconds with what they run.

    .venv/bin/python benchmarks/syncs.py [AGENTS] [RUNNING] [--seconds 30]

A nation whose clusters run RUNNING tasks is made as benchmarks/cycle.py makes it, on SQLite. Then
`dure serve` is started on it as a process of its own, with its control loop, and each agent is
played from here over HTTP: it says every two seconds what it runs, and has nothing new. Printed
are the latencies of syncs as the agents see them, and the server's CPU time, cycles included.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
from cycle import Nation

from dure import codec
from dure.agent.wire import AttemptReport, SyncRequest
from dure.client import Client
from dure.engines import NodeReport, Phase, PoolReport
from dure.store import attempts

EVERY_S = 2.0
WARM_UP_S = 60.0
"""The first cycles of a process read the nation; syncs may then be answered 503, and come again."""
UP_WITHIN_S = 60


def made(folder: Path, agents: int, running: int) -> dict[str, bytes]:
    """A nation in a folder; what each cluster's agent says of it."""
    nation = Nation(folder, running, 100, agents, time.time_ns() // 1_000_000 - 600_000)
    nation.fill(running)
    with nation.database.read() as connection:
        said: dict[str, list[AttemptReport]] = defaultdict(list)
        for one in attempts.open_attempts(connection):
            said[one.cluster].append(
                AttemptReport(
                    attempt_id=one.id, engine_id="e", phase=Phase.RUNNING,
                    started_ms=one.started_ms or one.intended_ms,
                )
            )  # fmt: skip
    nation.database.close()
    nodes = tuple(NodeReport(n, 8, True) for n in range(nation.nodes))
    return {
        operator.id: codec.encode(
            SyncRequest(
                cluster_id=operator.id, engine="local", engine_answered=True,
                pools=tuple(PoolReport(f"{operator.id}-{n}", nodes) for n in range(5)),
                attempts=tuple(said[operator.id]),
            )
        )
        for operator in nation.scenario.fleet.operators
    }  # fmt: skip


async def agent(
    port: int, request: bytes, after_s: float, until_s: float
) -> list[tuple[float, float, bool]]:
    """One agent's syncs: when each was sent, how long it took, in seconds, whether it was taken.

    On a connection of its own and by hand, for an HTTP library would cost this machine as much as
    the server that is measured.
    """
    took = []
    await asyncio.sleep(after_s)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    due_s = time.monotonic()
    while due_s < until_s:
        began_s = time.monotonic()
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            (length,) = re.findall(r"content-length: (\d+)", head)
            content = await reader.readexactly(int(length))
            status = int(head.split()[1])
        except (OSError, asyncio.IncompleteReadError):
            status = 503
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        if status not in {200, 503}:
            raise SystemExit(content)
        took.append((began_s, time.monotonic() - began_s, status == 200))
        due_s += EVERY_S
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
    writer.close()
    return took


def request_of(token: str, body: bytes) -> bytes:
    """A sync as it goes over the wire."""
    head = (
        "POST /v1/agent/sync HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def play(port: int, requests: list[bytes], server: psutil.Process, seconds: int) -> None:
    """All agents, spread over their interval; what that cost."""
    began_s = time.monotonic()
    until_s = began_s + WARM_UP_S + seconds
    playing = [
        asyncio.create_task(agent(port, request, EVERY_S * nth / len(requests), until_s))
        for nth, request in enumerate(requests)
    ]
    await asyncio.sleep(WARM_UP_S)
    cpu_s, from_s = _cpu_s(server), time.monotonic()
    own_s = _cpu_s(psutil.Process())
    await asyncio.sleep(seconds)
    cpu_s, wall_s = _cpu_s(server) - cpu_s, time.monotonic() - from_s
    own_s = _cpu_s(psutil.Process()) - own_s
    took = [sync for syncs in await asyncio.gather(*playing) for sync in syncs]
    then = [(s, taken) for at_s, s, taken in took if from_s <= at_s < from_s + wall_s]
    ms = sorted(s * 1e3 for s, _ in then)
    early = sum(not taken for at_s, _, taken in took if at_s < from_s)
    late = sum(not taken for _, taken in then)
    print(f"not answered, or with 503: {early:,} before, {late:,} then")
    print(f"{len(ms):,} syncs in {wall_s:.0f} s: median {statistics.median(ms):.1f} ms, "
          f"p99 {ms[int(0.99 * len(ms))]:.1f} ms, longest {ms[-1]:.1f} ms; "
          f"server {cpu_s / wall_s:.2f} cores, all agents {own_s / wall_s:.2f}")  # fmt: skip


def _cpu_s(server: psutil.Process) -> float:
    times = server.cpu_times()
    return times.user + times.system


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def served(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """`dure serve` on a nation's folder, once it answers."""
    command = [sys.executable, "-m", "dure", "serve", "--data", str(folder), "--port", str(port)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)  # noqa: S603  our own
    deadline_s = time.monotonic() + UP_WITHIN_S
    while time.monotonic() < deadline_s:
        try:
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return process
    process.kill()
    raise SystemExit((folder / "serve.log").read_text())


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("agents", nargs="?", type=int, default=200)
    parser.add_argument("running", nargs="?", type=int, default=20_000)
    parser.add_argument("--seconds", type=int, default=30)
    asked = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        bodies = made(folder, asked.agents, asked.running)
        port = _free_port()
        server = served(folder, port)
        try:
            url = f"http://127.0.0.1:{port}"
            with Client(url, (folder / "admin.token").read_text().strip()) as admin:
                tokens = {id_: admin.enrol_agent(id_).secret for id_ in bodies}
            print(f"{len(bodies)} agents, {sum(map(len, bodies.values())):,} bytes in all syncs")
            requests = [request_of(tokens[id_], body) for id_, body in bodies.items()]
            asyncio.run(play(port, requests, psutil.Process(server.pid), asked.seconds))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
