"""Ray by itself: what other engines have no like of. A real cluster."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

import httpx
import pytest
from contract import until
from test_contract_ray import RayContractBench

from dure.engines import EngineEnd, Phase

pytestmark = [pytest.mark.engine, pytest.mark.xdist_group("ray")]


@pytest.fixture
def bench(tmp_path, ray_cluster) -> Iterator[RayContractBench]:
    bench = RayContractBench(tmp_path, ray_cluster)
    yield bench
    bench.close()


@pytest.mark.parametrize("point", ["ray.before-submit", "ray.after-submit"])
def test_killed_anywhere_in_submit_it_runs_once_or_not_yet(bench, point):
    bench.engine.close()
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.environ["DURE_CRASH_AT"] = point
            bench.engine = bench.open()
            bench.bash("a-1", "echo ran >> runs")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    bench.engine = bench.open()
    assert list(bench.seen()) == ([] if point == "ray.before-submit" else ["a-1"])
    bench.bash("a-1", "echo ran >> runs")
    assert bench.ended("a-1").end is EngineEnd.COMPLETED
    assert (bench.folder / "runs").read_text() == "ran\n"


def test_a_job_that_the_site_stops_in_ray_has_its_grace(bench):
    trap = "trap 'echo saved > checkpoint; exit 0' TERM"
    bench.bash("a-1", f"{trap}; echo up; while :; do sleep 0.1; done")
    bench.says("a-1", "up")
    bench.becomes("a-1", Phase.RUNNING)
    bench.engine._api.stop("a-1")
    assert bench.ended("a-1").end is EngineEnd.STOPPED
    assert (bench.folder / "checkpoint").read_text() == "saved\n"


def test_a_rank_whose_shim_is_killed_ends_the_gang(bench):
    bench.bash("a-1", "echo up; sleep 100", nodes=(0, 1))
    for rank in (0, 1):
        bench.says("a-1", "up", rank)
    bench.becomes("a-1", Phase.RUNNING)
    (rank,) = [rank for rank in bench.cluster.ranks("a-1") if rank.number == 1]
    rank.process.kill()
    seen = bench.ended("a-1")
    assert (seen.end, seen.detail) == (EngineEnd.NODE_FAILED, "rank 1 is lost: it was killed")


def test_the_token_is_asked_of_everyone_and_reaches_no_job(bench):
    assert httpx.get(f"{bench.cluster.dashboard}/api/jobs/").status_code == 401
    bench.submit("a-1", "env")
    bench.ended("a-1")
    assert bench.cluster.token not in bench.log("a-1")


def test_jobs_of_others_on_the_cluster_are_left_alone(bench):
    headers = {"Authorization": f"Bearer {bench.cluster.token}"}
    where = f"{bench.cluster.dashboard}/api/jobs/"
    theirs = {"entrypoint": "sleep 100", "submission_id": f"theirs-{bench.root.name}"}
    httpx.post(where, json=theirs, headers=headers).raise_for_status()
    until(lambda: theirs["submission_id"] in httpx.get(where, headers=headers).text)
    assert bench.seen() == {}
    httpx.post(f"{where}{theirs['submission_id']}/stop", headers=headers).raise_for_status()
