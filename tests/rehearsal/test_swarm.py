"""A rehearsed month of two sites under a swarm of faults, watched by the scheduler's referee.

Each seed draws its own faults: nodes that fail, sites that are lost, recalls that drag, bursts of
submissions. The referee holds every decision to I2, I7 and I12 and accounts for every task (I1).
Rehearsals have no budgets; I3 is held against the core in tests/core.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dure import scenario
from dure.rehearsal import perform, stage
from dure.rehearsal import scenario as rehearsals
from dure.rehearsal.faults import Fault, NodeFailures, SiteOutage, SlowRecall, Span
from dure.rehearsal.record import NullRecord
from dure.rehearsal.workload import Arrival
from dure.scheduling.referee import Referee
from dure.scheduling.scheduler import Scheduler

HOUR = 3_600_000
DAY = 24 * HOUR
DAYS = 30
GPUS = 128
AUDIT_EVERY = 20
BURST = 60
SEALED = """
[[rules.data_class]]
id = "sealed"
name = "Data that stays with hill"

[[rules.rule]]
id = "sealed-with-hill"
data_classes = ["sealed"]
owners_allowed = ["hill"]
sentence = "sealed data stays with hill"
"""
SETTINGS = (
    "workload.hill-own.load=0.5",
    "workload.lake-own.load=0.3",
    "workload.lake-own.gpus_max=32",
    "workload.universities.load=0.5",
    "workload.universities.data_class=sealed",
    "workload.startups.jobs_per_day=30",
    "workload.startups.tier=spare",
    "policy.min_runtime_s=60",
    "policy.borrow_before_recall_s=0",
    "policy.patience_s=86400",
    "policy.wait_bound_s=172800",
)


@pytest.fixture(scope="module")
def nation(tmp_path_factory) -> rehearsals.Rehearsal:
    file = tmp_path_factory.mktemp("swarm") / "sealed.toml"
    text = scenario.find("two-sites").read_text(encoding="utf-8")
    file.write_text(text + SEALED, encoding="utf-8")
    return rehearsals.load(file, SETTINGS)


def swarm(nation: rehearsals.Rehearsal, seed: int) -> rehearsals.Rehearsal:
    """The month with this seed's faults."""
    chance = random.Random(seed)
    starts_ms = nation.span.starts_ms
    faults: list[Fault] = [
        NodeFailures(
            id="nodes",
            per_node_year=chance.choice([5, 20, 60]),
            repair_s=chance.choice([600, 7_200, 86_400]),
        )
    ]
    for number in range(chance.randrange(1, 5)):
        from_ms = starts_ms + chance.randrange(2 * DAY, 26 * DAY)
        until_ms = from_ms + chance.randrange(HOUR // 6, 2 * DAY)
        cluster = chance.choice(["hill-main", "lake-main"])
        faults += [
            SiteOutage(id=f"out-{number}", cluster=cluster, starts_ms=from_ms, ends_ms=until_ms),
            SlowRecall(
                id=f"slow-{number}",
                cluster=cluster,
                factor=20.0,
                starts_ms=from_ms - DAY,
                ends_ms=until_ms + DAY,
            ),
        ]
    span = Span(starts_ms=starts_ms, ends_ms=starts_ms + DAYS * DAY, seed=seed)
    return replace(nation, span=span, faults=tuple(faults))


class Watch(NullRecord):
    """Who was submitted, what bursts came besides, and how each job ended."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.submitted: list[Arrival] = []
        self.ended = []
        self._chance = random.Random(f"bursts {seed}")

    def passing(self, coming: Iterator[Arrival]) -> Iterator[Arrival]:
        for arrival in coming:
            burst = BURST if self._chance.random() < 0.002 else 0
            for copy in range(burst + 1):
                self.submitted.append(arrival._replace(id=f"{arrival.id}-{copy}"))
                yield self.submitted[-1]

    def job_ended(self, job) -> None:
        self.ended.append(job)
        super().job_ended(job)


@pytest.fixture
def referees(monkeypatch):
    """Whoever builds a stage gets a watched scheduler."""
    found: list[Referee] = []

    def watched(*args):
        found.append(Referee(Scheduler(*args), every=AUDIT_EVERY))
        return found[-1]

    monkeypatch.setattr(stage, "Scheduler", watched)
    return found


@pytest.mark.parametrize("seed", range(20))
def test_a_month_of_faults_breaks_no_rule(seed, nation, referees):
    watch = Watch(seed)
    performed = perform.perform(swarm(nation, seed), watch, watch.passing)

    [referee] = referees
    assert not list(referee.running())
    assert not referee.active
    assert Counter(job.id for job in watch.ended) == Counter(job.id for job in watch.submitted)
    assert {job.pool for job in watch.ended if job.kind.data_class == "sealed"} == {"hill-h100"}
    assert performed.summary.preemptions == sum(job.recalls for job in watch.ended) > 0
    assert performed.end_ms <= DAYS * DAY + drain_ms(watch)


def drain_ms(watch: Watch) -> int:
    """I11: how long what is left at the month's end may take, when nothing goes wrong any more.

    Twice the work on half the nodes, and the longest job: nothing idles that a job could have
    (Garey and Graham, SIAM J. Comput. 1975), and up to half the nodes may stay broken.
    """
    left = [job for job in watch.ended if job.end_ms > DAYS * DAY]
    work = sum(job.kind.gpus * job.duration_ms + job.lost_gpu_ms for job in left)
    return 4 * work // GPUS + max((job.duration_ms for job in left), default=0)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_is_a_month(seed, nation):
    """I10: the same seed gives the same jobs, the same ends and the same figures."""

    def digest(seed: int) -> str:
        watch = Watch(seed)
        return perform.perform(swarm(nation, seed), watch, watch.passing).digest

    assert digest(seed) == digest(seed) != digest(seed + 1)
