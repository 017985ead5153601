"""What a live control cycle costs, database and all, in a nation that is full and has a queue.

    .venv/bin/python benchmarks/cycle.py [RUNNING] [WAITING] [--profile]

300,000 GPUs for 20,000 running tasks (smaller nations keep the ratio): 50 pools of ten operators,
which hold a half of each pool, the national programme the other. Projects are one for each 20 tasks
that wait, with an allocation each. The cycles are those of `dure serve`, on its database; only
the sites are played: what was started runs, and what should end is reported as ended.

- *quiet*: nothing has happened since the last cycle.
- *busy*: 1 % of what ran has ended, and as many jobs were submitted.
- *first*: a process that has just started, with everything to read and no board.

All times are of CPU: SQLite works in the process; what it waits for the disk is not counted. The
parts are those of `dure.control.cycle.tick`; what they leave of the whole is its settling and
other writing. `--profile` prints where a busy cycle's time goes, by cProfile.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import insert

from dure import codec, ledger
from dure.agent.wire import AttemptReport, SyncRequest
from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.control import cycle
from dure.control.cycle import Control, Report, tick
from dure.control.memory import Memory
from dure.engines import EngineEnd, NodeReport, Phase, PoolReport
from dure.fleet import (
    Cluster,
    EngineKind,
    Fleet,
    GpuModel,
    Operator,
    OwnerKind,
    PhaseStart,
    Pool,
    Share,
    Wave,
    WavePhase,
)
from dure.jobs import JobSpec, Resources, Tier
from dure.life import PLATFORM_RETRIES, State
from dure.metering import Tariff
from dure.policy import DataClass, Rules
from dure.scenario import Scenario
from dure.scheduling import Planner
from dure.scheduling.floor import UNBOUNDED
from dure.settings import Settings
from dure.store import attempts, projects, sites
from dure.store import ledger as ledger_store
from dure.store.attempts import Attempt
from dure.store.database import Database
from dure.store.migrate import migrate
from dure.store.schema import jobs as jobs_table
from dure.store.schema import people as people_table
from dure.store.schema import tasks as tasks_table

NOON_MS = 1_795_521_600_000
DAY_MS = 86_400_000
MODELS = ("h100", "h100", "h200", "b200", "a100")
SHAPES = ((1, 4), (1, 8), (2, 8), (4, 8), (8, 8))
SHAPE_ODDS = (15, 45, 20, 15, 5)
WANTED = ((), ("h100",), ("h200",), ("b200",), ("h200", "b200"))
WALLTIMES_H = (1, 4, 12, 24, 72)
GPUS_PER_TASK = 15
CYCLE_MS = 5_000
PARTS = ("snapshot", "violations", "commit", "give_notice", "foresee", "keep_reasons",
         "_end_what_is_over")  # fmt: skip


def scenario(nodes: int, count_: int) -> Scenario:
    """So many operators with five pools of so many nodes each."""
    operators = tuple(
        Operator(f"op-{n}", f"Operator {n}", (_cluster(f"op-{n}", nodes),)) for n in range(count_)
    )
    models = tuple(GpuModel(model, model, 80) for model in sorted(set(MODELS)))
    return Scenario(
        name="benchmark",
        fleet=Fleet("1", operators, models),
        rules=Rules(version="1", data_classes=(DataClass("public", "Public"),), rules=()),
        tariff=Tariff(
            version="1",
            weights_milli=tuple((model.id, 1_000) for model in models),
            tiers_milli=tuple((str(tier), 1_000) for tier in Tier),
            operator_prices_milli=tuple((operator.id, 1_000) for operator in operators),
        ),
        local=(),
    )


def _cluster(operator: str, nodes: int) -> Cluster:
    pools = tuple(
        Pool(
            id=f"{operator}-{n}", cluster_id=operator, operator_id=operator, gpu_model=model,
            gpus_per_node=8, cpus_per_node=128, memory_gib_per_node=1_024, interconnect="ib",
            owner=operator, owner_kind=OwnerKind.OPERATOR, jurisdiction="KR",
            waves=(Wave(id="first", gpus=nodes * 8, assumed=False,
                        phases=(PhaseStart(WavePhase.IN_SERVICE, 0),)),),
            shares=(Share(operator, nodes * 4, may_lend=True, may_borrow=True),
                    Share("national", nodes * 4, may_lend=True, may_borrow=True)),
        )
        for n, model in enumerate(MODELS)
    )  # fmt: skip
    return Cluster(id=operator, operator_id=operator, engine=EngineKind.LOCAL, pools=pools)


class Nation:
    """A control plane on a database of its own, and its ten sites."""

    def __init__(
        self, folder: Path, running: int, waiting: int, operators: int = 10, now_ms: int = NOON_MS
    ) -> None:
        self.dice = random.Random(1)  # noqa: S311  a benchmark's data
        self.now_ms = now_ms
        self.nodes = max(8, running * GPUS_PER_TASK // 8 // (5 * operators))
        self.waiting = waiting
        self.scenario = scenario(self.nodes, operators)
        self.database = Database(folder / "dure.sqlite")
        migrate(self.database)
        ids = count(1)
        self.control = Control(
            database=self.database,
            settings=Settings(queue_depth=1_000_000, lease_s=30 * 86_400, silent_after_s=3_600),
            up_since_ms=self.now_ms,
            new_attempt_id=lambda: f"a-{next(ids):020d}",
            planner=Planner(at_once=UNBOUNDED),
        )
        self.projects = self._enrol(max(20, waiting // 20))
        self._started: dict[str, int] = {}

    def begin_anew(self) -> None:
        """As after a restart of the process."""
        planner = Planner(at_once=UNBOUNDED)
        self.control = replace(self.control, memory=Memory(), planner=planner)

    def _enrol(self, projects_: int) -> list[str]:
        """One project in ten is an operator's own."""
        allocations = []
        with self.database.write() as connection:
            sites.load_scenario(connection, self.scenario, self.now_ms)
            connection.execute(insert(people_table).values(id="ada", name="Ada", created_ms=0))
            for id_ in ("uni", *(operator.id for operator in self.scenario.fleet.operators)):
                kind = OrganisationKind.UNIVERSITY
                projects.add_organisation(connection, Organisation(id=id_, name=id_, kind=kind))
            for n in range(projects_):
                organisation = f"op-{n // 10 % 10}" if n % 10 == 0 else "uni"
                project = Project(id=f"p-{n}", organisation=organisation, title=f"p-{n}")
                projects.add_project(connection, project)
                one = Allocation(
                    id=f"p-{n}-hours", project=f"p-{n}", kind=AllocationKind.HOURS,
                    starts_ms=self.now_ms - DAY_MS, ends_ms=self.now_ms + 365 * DAY_MS,
                    credit_ucredit=10**15,
                )  # fmt: skip
                projects.add_allocation(connection, one)
                granted = ledger.grant(one.id, one.unit, one.limit)
                ledger_store.post(connection, granted, self.now_ms)
                allocations.append(one.project)
        return allocations

    # ---- what happens ----------------------------------------------------------------------------

    def submit(self, count_: int) -> None:
        """So many more jobs of one task each, written as a submission writes them."""
        if not count_:
            return
        specs = [self._spec() for _ in range(count_)]
        with self.database.write() as connection:
            found = connection.execute(
                insert(jobs_table).returning(jobs_table.c.id, sort_by_parameter_order=True),
                [
                    {
                        "project": spec.project, "allocation": f"{spec.project}-hours",
                        "submitter": "ada", "name": spec.name, "spec": codec.encode_text(spec),
                        "state": State.QUEUED, "tasks": 1, "accepted_ms": self.now_ms,
                    }
                    for spec in specs
                ],
            )  # fmt: skip
            rows = [
                {
                    "job": row.id, "array_index": 0, "priority": spec.priority,
                    "state": State.QUEUED, "retries_left": 0,
                    "platform_retries_left": PLATFORM_RETRIES, "queued_ms": self.now_ms,
                }
                for row, spec in zip(found.all(), specs, strict=True)
            ]  # fmt: skip
            connection.execute(insert(tasks_table), rows)

    def _spec(self) -> JobSpec:
        dice = self.dice
        ((nodes, per_node),) = dice.choices(SHAPES, SHAPE_ODDS)
        return JobSpec(
            name=f"train-{dice.randrange(3)}",
            project=dice.choice(self.projects),
            walltime_s=dice.choice(WALLTIMES_H) * 3_600,
            command=("python", "train.py"),
            resources=Resources(
                nodes=min(nodes, self.nodes), gpus_per_node=per_node, gpu_models=dice.choice(WANTED)
            ),
        )

    def report(self, ending: int = 0) -> int:
        """Every site says that all it has runs, but for so many that have ended; how many run."""
        with self.database.write() as connection:
            open_ = attempts.open_attempts(connection)
            ended = {one.id for one in self.dice.sample(open_, ending)}
            by_cluster: dict[str, list[Attempt]] = defaultdict(list)
            for attempt in open_:
                by_cluster[attempt.cluster].append(attempt)
            for operator in self.scenario.fleet.operators:
                (cluster,) = operator.clusters
                nodes = tuple(NodeReport(n, 8, True) for n in range(self.nodes))
                request = SyncRequest(
                    cluster_id=cluster.id, engine="local", engine_answered=True,
                    pools=tuple(PoolReport(pool.id, nodes) for pool in cluster.pools),
                    attempts=tuple(self._said(a, ended) for a in by_cluster[cluster.id]),
                )  # fmt: skip
                attempts.note_accepted(
                    connection,
                    {a.id: "e" for a in by_cluster[cluster.id] if a.engine_id is None},
                )
                sites.store_report(connection, request, self.now_ms)
        return len(open_)

    def _said(self, attempt: Attempt, ended: set[str]) -> AttemptReport:
        started_ms = self._started.setdefault(attempt.id, self.now_ms)
        over = attempt.id in ended
        return AttemptReport(
            attempt_id=attempt.id, engine_id="e", phase=Phase.ENDED if over else Phase.RUNNING,
            started_ms=started_ms, ended_ms=self.now_ms if over else None,
            end=EngineEnd.COMPLETED if over else None, exit_code=0 if over else None,
        )  # fmt: skip

    def cycle(self, ending: int = 0, submitted: int = 0) -> tuple[float, Report]:
        """One cycle a little later; what it took, in seconds of CPU."""
        self.now_ms += CYCLE_MS
        self.report(ending)
        self.submit(submitted)
        began_s = time.process_time()
        report = tick(self.control, self.scenario, self.now_ms)
        took_s = time.process_time() - began_s
        assert not report.violations, report.violations[:3]
        assert not report.stuck, report.stuck[:3]
        return took_s, report

    def fill(self, running: int) -> None:
        """Submit until as many run as can, and as many wait as should."""
        self.submit(running + self.waiting)
        while True:
            took_s, report = self.cycle()
            print(f"  {report.placed:,} placed and committed in {took_s:.1f} s", flush=True)
            if report.placed < 0.005 * running:
                break
        self.submit(max(0, self.waiting - report.waiting))
        self.cycle()


class Parts:
    """What each part of a cycle takes, in seconds of CPU."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        for name in PARTS:
            setattr(cycle, name, self._timed(name, getattr(cycle, name)))
        Planner.plan = self._timed("plan", Planner.plan)  # type: ignore[method-assign]

    def _timed(self, name: str, does: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began_s = time.process_time()
            try:
                return does(*args)
            finally:
                self.spent_s[name] += time.process_time() - began_s

        return timed

    def of(self, times: int) -> str:
        """The mean of each, in ms."""
        spent = sorted(self.spent_s.items(), key=lambda one: -one[1])
        self.spent_s = defaultdict(float)
        return ", ".join(f"{name.strip('_')} {s / times * 1e3:,.0f}" for name, s in spent)


def measured(nation: Nation, parts: Parts, rounds: int) -> Iterator[str]:
    """A line for each kind of cycle."""
    running = nation.report()
    some = max(1, running // 100)

    def line(what: str, times_s: list[float], placed: int) -> str:
        return (
            f"{what:<8}{len(times_s):>3} times: median {statistics.median(times_s) * 1e3:7,.0f} ms,"
            f" longest {max(times_s) * 1e3:7,.0f} ms, {placed // len(times_s):,} placed each; "
            f"of them in ms: {parts.of(len(times_s))}"
        )

    parts.of(1)
    quiet = [nation.cycle() for _ in range(rounds)]
    yield line("quiet", [s for s, _ in quiet], sum(r.placed for _, r in quiet))
    busy = [nation.cycle(some, some) for _ in range(rounds)]
    yield line("busy", [s for s, _ in busy], sum(r.placed for _, r in busy))
    nation.begin_anew()
    took_s, report = nation.cycle()
    yield line("first", [took_s], report.placed)


def main() -> None:
    """Measure all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("running", nargs="?", type=int, default=20_000)
    parser.add_argument("waiting", nargs="?", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    asked = parser.parse_args()
    with TemporaryDirectory() as folder:
        began_s = time.process_time()
        nation = Nation(Path(folder), asked.running, asked.waiting)
        nation.fill(asked.running)
        running, (_, report) = nation.report(), nation.cycle()
        print(f"{nation.nodes * 400:,} GPUs, {running:,} tasks run, {report.waiting:,} wait, "
              f"{len(nation.projects):,} projects; "
              f"filled in {time.process_time() - began_s:.0f} s")  # fmt: skip
        if asked.profile:
            profile = cProfile.Profile()
            profile.enable()
            nation.cycle(running // 100, running // 100)
            profile.disable()
            pstats.Stats(profile).sort_stats("cumulative").print_stats(45)
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        for line in measured(nation, Parts(), asked.rounds):
            print(line, flush=True)


if __name__ == "__main__":
    main()
