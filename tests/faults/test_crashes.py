"""kill -9 of the control plane or an agent at any point loses no accepted job, runs none twice and
leaves no hold behind (I1, I2, I3, I11).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dure.jobs import Resources, Tier
from dure.life import EndCause, State
from dure.store import ledger
from dure.store.database import Database
from dure.store.where import DATABASE
from plant import NODES, Plant, eventually

pytestmark = pytest.mark.engine

CONTROL_POINTS = (
    "submit.before-commit",
    "submit.after-commit",
    "cycle.planned",
    "cycle.before-committed",
    "cycle.committed",
    "sync.before-commit",
    "cycle.before-settled",
    "cycle.settled",
)
RECALL_POINTS = ("cycle.before-recalled", "cycle.recalled")
AGENT_POINTS = (
    "agent.before-submit",
    "local.before-accept",
    "local.after-accept",
    "local.after-shim",
    "agent.after-submit",
    "agent.before-finish",
)


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant"))
    made.start_control()
    made.enrol()
    made.start_agent()
    yield made
    made.stop()


def assert_book_in_order(plant: Plant) -> None:
    """The chain is whole, every journal balances, and no attempt's hold is left."""
    with plant.member as client:
        assert client.allocation("lab-hours").held == 0
    database = Database(plant.federation.data / DATABASE)
    with database.read() as connection:
        assert ledger.audit(connection).findings == ()
        open_attempts = connection.exec_driver_sql(
            "SELECT count(*) FROM attempts WHERE closed_ms IS NULL"
        ).scalar()
    database.close()
    assert open_attempts == 0


def test_every_crash_point_of_the_code_is_tried():
    source = Path(__file__).parents[2] / "src" / "dure"
    named = {
        name
        for path in source.rglob("*.py")
        for name in re.findall(r'crash_point\("([^"]+)"', path.read_text())
    }

    # tests/engines/test_slurm.py and test_ray.py
    slurm_points = {"slurm.before-sbatch", "slurm.after-sbatch"}
    ray_points = {"ray.before-submit", "ray.after-submit"}
    points = {*CONTROL_POINTS, *RECALL_POINTS, *AGENT_POINTS, *slurm_points, *ray_points}
    assert named == points


@pytest.mark.parametrize("point", CONTROL_POINTS)
def test_a_control_plane_killed_there_goes_on(plant: Plant, point: str):
    plant.kill("control")
    plant.start_control(crash_at=point)
    name = f"control-{point.replace('.', '-')}"
    crashing = plant.processes["control"]
    (job,) = plant.submit(plant.spec(name), key=name)

    view = plant.ended(job)
    assert view.summary.state is State.SUCCEEDED
    assert plant.runs_of(name) == 1
    assert len(view.tasks[0].attempts) == 1
    assert crashing.poll() is not None
    assert_book_in_order(plant)


@pytest.mark.parametrize("point", RECALL_POINTS)
def test_a_control_plane_killed_while_it_calls_back_gives_notice_once(plant: Plant, point: str):
    name = f"lent-{point.replace('.', '-')}"
    borrower = replace(
        plant.spec(name, "[ $DURE_ATTEMPT_NUMBER -gt 1 ] || sleep 60"),
        resources=Resources(nodes=NODES, gpus_per_node=8, gpu_models=("b200",)),
        tier=Tier.SPARE,
    )
    (lent,) = plant.submit(borrower, key=name)
    eventually(lambda: plant.runs_of(name) == NODES, "the borrower runs")
    plant.kill("control")
    plant.start_control(crash_at=point)
    crashing = plant.processes["control"]
    own = replace(plant.spec(f"own-{name}"), project="own")
    (owned,) = plant.submit(own, key=f"own-{name}")

    assert plant.ended(owned).summary.state is State.SUCCEEDED
    view = plant.ended(lent)
    assert crashing.poll() is not None
    assert view.summary.state is State.SUCCEEDED
    assert [run.cause for run in view.tasks[0].attempts] == [EndCause.RECALLED, EndCause.COMPLETED]
    with plant.member as client:
        codes = [event.reason.code for event in client.why(lent).events]
    assert codes.count("recalled") == 1
    assert plant.runs_of(name) == 2 * NODES
    lenders = plant.lenders_of(view.tasks[0].attempts[0].id)
    assert lenders == ["national.company", "national.startup", "nhn-cloud"]
    assert_book_in_order(plant)


@pytest.mark.parametrize("point", AGENT_POINTS)
def test_an_agent_killed_there_finds_its_way_again(plant: Plant, point: str):
    plant.kill("agent")
    plant.start_agent(crash_at=point)
    crashing = plant.processes["agent"]
    name = f"agent-{point.replace('.', '-')}"
    (job,) = plant.submit(plant.spec(name), key=name)
    plant.await_crash("agent")

    view = plant.ended(job)
    assert crashing.poll() is not None
    assert view.summary.state is State.SUCCEEDED
    assert plant.runs_of(name) == 1
    assert_book_in_order(plant)


def test_jobs_outlive_everything_that_started_them(plant: Plant):
    (job,) = plant.submit(plant.spec("outlive", "sleep 2; echo done"), key="outlive")
    eventually(lambda: plant.runs_of("outlive") == 1, "it runs")
    plant.kill("agent")
    plant.kill("control")
    plant.start_control()
    plant.start_agent()

    view = plant.ended(job)
    assert view.summary.state is State.SUCCEEDED
    assert plant.runs_of("outlive") == 1
    with plant.member as client:
        assert "done" in "".join(chunk.text for chunk in client.logs(job))


def test_kills_at_random_moments_lose_nothing_and_run_nothing_twice(plant: Plant):
    dice = random.Random(20261123)
    names = [f"storm-{n}" for n in range(12)]
    jobs = [plant.submit(plant.spec(name), key=name)[0] for name in names]
    for _ in range(6):
        victim = dice.choice(["control", "agent"])
        plant.processes[victim].kill()
        plant.processes[victim].wait()
        plant.revive()

    for job, name in zip(jobs, names, strict=True):
        assert plant.ended(job).summary.state is State.SUCCEEDED
        assert plant.runs_of(name) == 1
    assert_book_in_order(plant)
