"""The agent as a process, killed and started again, on the real local engine, over real HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest
from agent_bench import FakeControl, order, reply, tree

from dure import codec
from dure.agent.uplink import UplinkError, UplinkRefusedError
from dure.agent.wire import FileEntry, KeyOffer, Manifest, SyncRequest, Wish
from dure.engines import EngineEnd, Phase

pytestmark = pytest.mark.engine

DEADLINE_S = 30
PROGRAM = (sys.executable, "-m", "dure.agent")


def until(look):
    end = time.monotonic() + DEADLINE_S
    while not (found := look()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
    return found


class Handler(BaseHTTPRequestHandler):
    """`FakeControl` over HTTP."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self):
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        try:
            content, status = self.act(url, body), 200
        except UplinkError:
            content, status = b"", 503
        except (UplinkRefusedError, KeyError):
            content, status = b"", 404
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = answer  # noqa: N815  http.server's names

    def act(self, url, body):
        control = self.server.control
        assert self.headers["authorization"] == "Bearer dure-token"
        match url.path.removeprefix("/v1/agent/").split("/"):
            case ["key"]:
                control.enrol(codec.decode(KeyOffer, body))
                return b""
            case ["sync"]:
                return codec.encode(control.sync(codec.decode(SyncRequest, body)))
            case ["attempts", id_, "secrets"]:
                return json.dumps(control.secrets(id_)).encode()
            case ["attempts", id_, "logs", rank]:
                offset = int(parse_qs(url.query)["offset"][0])
                return json.dumps({"size": control.push_log(id_, int(rank), offset, body)}).encode()
            case ["attempts", id_, "manifests"]:
                return codec.encode(control.register(id_, codec.decode(Manifest, body)))
            case ["attempts", id_, "manifests", sha256]:
                return codec.encode(control.manifest(id_, sha256))
            case ["attempts", _, "blobs", sha256]:
                if self.command == "PUT":
                    assert FileEntry("x", len(body), sha256)
                    control.blobs[sha256] = body
                    return b""
                return control.blobs[sha256]
        raise AssertionError(self.path)


class Process:
    """A control plane in a thread, and an agent that a test may kill."""

    def __init__(self, root):
        self.root = root
        self.control = FakeControl()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.server.control = self.control
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        (root / "token").touch(mode=0o600)
        (root / "token").write_text("dure-token")
        pool = {"pool_id": "p", "nodes": 2, "gpus_per_node": 4}
        config = {
            "cluster_id": "c",
            "url": f"http://127.0.0.1:{self.server.server_port}",
            "token_file": "token",
            "root": "state",
            "engine": "local",
            "pools": [pool],
        }
        (root / "agent.json").write_text(json.dumps(config))
        self.agent = None

    def start(self, crash_at=None):
        environment = os.environ | {"DURE_TEST_TOKEN": "the agent's own"}
        if crash_at is not None:
            environment["DURE_CRASH_AT"] = crash_at
        with (self.root / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [*PROGRAM, "--config", self.root / "agent.json", "--log-format", "json"],
                env=environment,
                stderr=log,
            )

    def kill(self):
        self.agent.kill()
        self.agent.wait()

    def order(self, script, **changes):
        values = {"script": script, "command": ()} | changes
        self.control.reply = reply(order(**values), interval_s=0.05)

    def report(self):
        requests = self.control.requests
        return self.control.reports.get("a-1") if requests else None

    def reported(self, phase):
        return until(lambda: (r := self.report()) and r.phase is phase and r)

    @property
    def folder(self):
        return self.root / "state" / "work" / "a-1"

    def runs(self):
        path = self.folder / "runs"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def site(tmp_path):
    site = Process(tmp_path)
    yield site
    if site.agent is not None:
        site.kill()
    for process in psutil.process_iter():
        try:
            if str(tmp_path) in process.environ().get("HOME", ""):
                process.kill()
        except (psutil.Error, OSError):
            continue
    site.server.shutdown()
    site.server.server_close()


def test_a_job_travels_there_and_back(site):
    site.control.hidden = {"KEY": "hush-hush"}
    workdir = site.control.hold(data=b"41\n")
    site.order(
        'echo "${KEY:0:4} ${DURE_TEST_TOKEN:-none}"; echo $(($(cat data) + 1)) > out/answer',
        workdir=workdir,
        outputs_dir="out",
        nodes=(1,),
    )
    site.start()
    report = site.reported(Phase.ENDED)
    assert (report.end, report.exit_code) == (EngineEnd.COMPLETED, 0)
    outputs = site.control.manifests[report.outputs]
    assert outputs == tree(answer=b"42\n")
    assert site.control.blobs[outputs.files[0].sha256] == b"42\n"
    assert site.control.logs["a-1", 0] == b"hush none\n"
    kept = [p for p in site.root.rglob("*") if p.is_file() and b"hush-hush" in p.read_bytes()]
    assert kept == []
    assert b"dure-token" not in (site.root / "agent.log").read_bytes()

    site.control.reply = reply(closed=["a-1"], interval_s=0.05)
    until(lambda: not site.folder.exists())
    site.agent.send_signal(signal.SIGTERM)
    assert site.agent.wait(DEADLINE_S) == 0


def test_a_killed_agent_finds_its_job_again(site):
    site.order("echo ran >> runs; until [ -e go ]; do sleep 0.02; done; echo end; exit 3")
    site.start()
    before = site.reported(Phase.RUNNING)
    site.kill()
    site.control.requests.clear()
    site.start()
    assert site.reported(Phase.RUNNING) == before
    site.kill()
    (site.folder / "go").touch()
    site.start()
    report = site.reported(Phase.ENDED)
    assert (report.end, report.exit_code) == (EngineEnd.ERRED, 3)
    assert report.started_ms == before.started_ms
    assert site.runs() == "ran\n"
    assert site.control.logs["a-1", 0] == b"end\n"


@pytest.mark.parametrize(
    "point",
    [
        "agent.before-submit",
        "local.before-accept",
        "local.after-accept",
        "local.after-shim",
        "agent.after-submit",
        "agent.before-finish",
    ],
)
def test_killed_anywhere_a_command_runs_once(site, point):
    site.order("echo ran >> runs", nodes=(0, 1))
    site.start(crash_at=point)
    assert site.agent.wait(DEADLINE_S) == -signal.SIGKILL
    site.start()
    assert site.reported(Phase.ENDED).end is EngineEnd.COMPLETED
    assert site.runs() == "ran\nran\n"


@pytest.mark.parametrize("point", ["agent.before-submit", "local.before-accept"])
def test_killed_before_the_engine_had_it_and_then_cancelled_it_never_runs(site, point):
    site.order("echo ran >> runs", nodes=(0, 1))
    site.start(crash_at=point)
    assert site.agent.wait(DEADLINE_S) == -signal.SIGKILL
    site.order("echo ran >> runs", nodes=(0, 1), wish=Wish.STOP)
    site.start()
    report = site.reported(Phase.ENDED)
    assert (report.end, report.started_ms) == (EngineEnd.STOPPED, None)
    assert site.runs() == ""


def test_a_recalled_job_writes_its_checkpoint_and_goes_on_from_it(site):
    script = (
        "trap 'echo $step > ckpt/step; exit 0' TERM\n"
        "step=$(cat ckpt/step 2>/dev/null || echo 0); echo at $step\n"
        "[ $step = 7 ] && exit 0; step=7; touch ready; sleep 60 & wait"
    )
    site.order(script, checkpoint_dir="ckpt")
    site.start()
    until((site.folder / "ready").exists)
    site.order(script, checkpoint_dir="ckpt", wish=Wish.STOP)
    report = site.reported(Phase.ENDED)
    assert report.end is EngineEnd.STOPPED
    assert site.control.manifests[report.checkpoint] == tree(step=b"7\n")

    site.order(script, checkpoint_dir="ckpt", attempt_id="a-2", checkpoint=report.checkpoint)
    ended = until(lambda: (r := site.control.reports.get("a-2")) and r.phase is Phase.ENDED and r)
    assert ended.end is EngineEnd.COMPLETED
    assert site.control.logs["a-2", 0] == b"at 7\n"


def test_others_can_read_nothing_that_the_agent_keeps(site):
    state = site.root / "state"
    state.mkdir()
    state.chmod(0o755)
    workdir = site.control.hold(**{"data": b"41\n", "src/x": b"1"})
    site.order("mkdir out/d; echo 42 > out/d/answer", workdir=workdir, outputs_dir="out")
    before = os.umask(0)
    try:
        site.start()
    finally:
        os.umask(before)
    assert site.reported(Phase.ENDED).end is EngineEnd.COMPLETED
    found = [state, *state.rglob("*")]
    assert {"shim.log", "log", "x", "answer", "a-1.json"} <= {path.name for path in found}
    assert [path for path in found if path.stat().st_mode & 0o077] == []


def test_a_control_plane_that_goes_away_and_comes_back(site):
    site.order("until [ -e go ]; do sleep 0.02; done")
    site.start()
    site.reported(Phase.RUNNING)
    site.control.down = True
    (site.folder / "go").touch()
    until(lambda: (site.root / "agent.log").read_text().count("sync-failed") >= 2)
    site.control.down = False
    assert site.reported(Phase.ENDED).end is EngineEnd.COMPLETED
