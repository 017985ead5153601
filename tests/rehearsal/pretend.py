"""A pretended run: a few hundred jobs of four operators, with lending, recalls and a lost site."""

from __future__ import annotations

import heapq
import random
from pathlib import Path

from dure.rehearsal import runs
from dure.rehearsal.measure import Measures
from dure.rehearsal.record import OWN, SITE_OUTAGE, Faulted, JobEnded, Recalled
from dure.rehearsal.runs import Run
from dure.rehearsal.tables import Recorder
from dure.rehearsal.workload import Kind

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
OWNERS = {"naicc": 512, "nhn-cloud": 384, "삼성 AI": 640, "kakao": 256}
GROUPS = ("university", "startup", "institute", "company")
SIZES = (1, 2, 8, 16, 64, 128)
DAYS = 30
LOST = Faulted(12 * DAY_MS, 15 * DAY_MS, SITE_OUTAGE, "nhn-cloud", 384)


def write(folder: Path, *, seed: int = 1, jobs: int = 800, isolated: bool = True) -> Run:
    """The whole folder but its report."""
    chance = random.Random(seed)
    recorder, measures = Recorder(folder), Measures()
    _capacity(recorder)
    ends_ms = 0
    for job, owner in sorted(_jobs(chance, jobs), key=lambda pair: pair[0].end_ms):
        _tell(recorder, job, owner, chance)
        measures.ended(
            job.kind.operator, job.kind.gpus, job.submit_ms, job.end_ms, job.duration_ms,
            job.recalls, job.lost_gpu_ms,
        )  # fmt: skip
        ends_ms = max(ends_ms, job.end_ms)
    recorder.close(ends_ms)
    capacity = {owner: gpus * ends_ms for owner, gpus in OWNERS.items()}
    summary = measures.summary(capacity).to_dict()
    if isolated:
        summary["isolated"] = _alone(summary, chance)
    summary |= {
        "wall_s": 1.0,
        "settings": {
            "title": "A month of four operators 두레",
            "mode": "federated",
            "policy": "dure",
            "seed": seed,
            "starts_ms": 1_798_761_600_000,
        },
    }
    summary["digest"] = recorder.digest(summary)
    return runs.write(folder, summary)


def _capacity(recorder: Recorder) -> None:
    for owner, gpus in OWNERS.items():
        recorder.capacity_changed(0, owner, gpus)
        recorder.share_changed(0, owner, 0, gpus)
    recorder.capacity_changed(LOST.at_ms, LOST.place, -LOST.gpus)
    recorder.capacity_changed(LOST.until_ms, LOST.place, LOST.gpus)
    recorder.faulted(LOST)


def _jobs(chance: random.Random, count: int) -> list[tuple[JobEnded, str]]:
    """Jobs and the owner of the pool that each ran on; at most what an owner has runs there."""
    free = dict(OWNERS)
    running: list[tuple[int, str, int]] = []
    made = []
    start_ms = 0
    for number, submit_ms in enumerate(
        sorted(chance.randrange(DAYS * DAY_MS) for _ in range(count))
    ):
        operator = chance.choice(list(OWNERS))
        kind = Kind(
            share=operator, operator=operator, project=f"{operator}-1", user="u",
            group=chance.choice(GROUPS), gpus_per_node=chance.choice(SIZES),
        )  # fmt: skip
        start_ms = max(submit_ms, start_ms)
        while True:
            while running and running[0][0] <= start_ms:
                _, owner, gpus = heapq.heappop(running)
                free[owner] += gpus
            away = LOST.place if LOST.at_ms - DAY_MS <= start_ms < LOST.until_ms else None
            found = [owner for owner in (operator, *OWNERS)
                     if free[owner] >= kind.gpus and owner != away]  # fmt: skip
            if found:
                break
            start_ms = running[0][0]
        duration_ms = int(chance.lognormvariate(17.6, 0.9))
        if found[0] == LOST.place and start_ms < LOST.at_ms:
            duration_ms = min(duration_ms, LOST.at_ms - start_ms)
        recalled = found[0] != operator and chance.random() < 0.2
        again_ms = 15 * 60_000 if recalled else 0
        end_ms = start_ms + duration_ms + again_ms
        free[found[0]] -= kind.gpus
        heapq.heappush(running, (end_ms, found[0], kind.gpus))
        job = JobEnded(
            id=f"j-{number}", kind=kind, submit_ms=submit_ms, first_start_ms=start_ms,
            end_ms=end_ms, duration_ms=duration_ms, pool=f"{found[0]}-h100",
            home=found[0] == operator, recalls=int(recalled),
            lost_gpu_ms=again_ms * kind.gpus,
            borrowed_gpu_ms=0 if found[0] == operator else kind.gpus * duration_ms,
        )  # fmt: skip
        made.append((job, found[0]))
    return made


def _tell(recorder: Recorder, job: JobEnded, owner: str, chance: random.Random) -> None:
    operator, gpus = job.kind.operator, job.kind.gpus
    recorder.queue_changed(job.submit_ms, operator, 1, gpus)
    recorder.queue_changed(job.first_start_ms, operator, -1, -gpus)
    borrower = OWN if job.home else operator
    for at_ms, delta in ((job.first_start_ms, gpus), (job.end_ms, -gpus)):
        recorder.use_changed(at_ms, owner, borrower, delta)
        recorder.share_changed(at_ms, operator, delta, 0)
    if not job.home:
        recorder.lent(owner, operator, gpus, job.first_start_ms, job.end_ms)
    if job.recalls:
        vacated_after_ms = chance.randrange(5_000, 60_000)
        at_ms = (job.first_start_ms + job.end_ms) // 2
        called = Recalled(at_ms, job.pool, operator, owner, gpus, job.lost_gpu_ms, vacated_after_ms)
        recorder.recalled(called)
    recorder.job_ended(job)


def _alone(summary: dict, chance: random.Random) -> dict:
    per_operator = {}
    for operator, figures in summary["per_operator"].items():
        wait_s = figures["avg_wait_s"] * 6 + chance.uniform(0, 30_000)
        jct_s = figures["avg_jct_s"] - figures["avg_wait_s"] + wait_s
        per_operator[operator] = {**figures, "avg_wait_s": wait_s, "avg_jct_s": jct_s}
    mean_s = sum(one["avg_wait_s"] for one in per_operator.values()) / len(per_operator)
    figures = {name: value for name, value in summary.items() if name != "per_operator"}
    return {
        **figures, "avg_wait_s": mean_s, "utilisation": 0.8 * summary["utilisation"],
        "makespan_s": 1.2 * summary["makespan_s"], "per_operator": per_operator,
    }  # fmt: skip
