"""Generated workloads: like what was published, the same for the same seed, flat in memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.rehearsal.generate import (
    DAY_MS,
    PUBLISHED,
    RUN_MAX_S,
    Batch,
    Demand,
    Profile,
    arrivals,
    batches,
    gpu_sizes,
    jobs_per_day,
    trace_jobs,
)
from dure.rehearsal.workload import Kind

WEEK_MS = 7 * DAY_MS


def made(demand: Demand, ends_ms: int, *, seed: int = 7, batch_jobs: int = 50_000) -> Batch:
    parts = list(batches(demand, np.random.default_rng(seed), ends_ms, batch_jobs=batch_jobs))
    return Batch(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


@pytest.mark.parametrize("name", PUBLISHED)
def test_jobs_have_the_published_means_and_medians(name: str) -> None:
    like = PUBLISHED[name]
    jobs = made(Demand(like=like, jobs_per_day=((0, 50_000),)), 2 * WEEK_MS)

    run_s = jobs.duration_ms / 1_000
    assert run_s.mean() == pytest.approx(like.run_mean_s, rel=0.03)
    assert np.median(run_s) == pytest.approx(like.run_median_s, rel=0.03)
    assert jobs.gpus.mean() == pytest.approx(like.gpus_mean, rel=0.03)
    assert jobs.gpus.max() == like.gpus_max
    assert run_s.max() <= RUN_MAX_S
    assert len(jobs.gpus) == pytest.approx(14 * 50_000, rel=0.01)


@settings(max_examples=20)
@given(st.integers(0, 2**32), st.integers(1, 3_000), st.integers(1, 3 * DAY_MS))
def test_jobs_depend_on_the_seed_alone_and_not_on_the_batch_nor_the_end(
    seed: int, batch_jobs: int, ends_ms: int
) -> None:
    demand = Demand(like=PUBLISHED["kalos"], jobs_per_day=((0, 400), (DAY_MS, 800)), users=9)
    whole = made(demand, 3 * DAY_MS, seed=seed)
    parts = made(demand, ends_ms, seed=seed, batch_jobs=batch_jobs)

    kept = whole.submit_ms < ends_ms
    for column, same in zip(whole, parts, strict=True):
        assert (column[kept] == same).all()
    assert (np.diff(whole.submit_ms) >= 0).all()


def test_another_seed_makes_other_jobs() -> None:
    demand = Demand(like=PUBLISHED["seren"], jobs_per_day=((0, 1_000),))

    assert list(made(demand, DAY_MS, seed=1).submit_ms) != list(
        made(demand, DAY_MS, seed=2).submit_ms
    )


def test_the_rate_follows_its_steps() -> None:
    steps = ((WEEK_MS, 5_000.0), (2 * WEEK_MS, 20_000.0), (3 * WEEK_MS, 0.0))
    jobs = made(Demand(like=PUBLISHED["seren"], jobs_per_day=steps), 4 * WEEK_MS)

    weeks = np.bincount(jobs.submit_ms // WEEK_MS, minlength=4)
    assert weeks[0] == weeks[3] == 0
    assert weeks[1] == pytest.approx(35_000, rel=0.03)
    assert weeks[2] == pytest.approx(140_000, rel=0.03)


def test_days_are_busier_than_nights_and_working_days_than_others() -> None:
    steps = ((0, 20_000.0),)
    jobs = made(Demand(like=PUBLISHED["seren"], jobs_per_day=steps, first_hour=24), 4 * WEEK_MS)

    hours = np.bincount(jobs.submit_ms // 3_600_000 % 24)
    assert hours.argmax() in range(12, 19)
    assert hours.argmin() in range(7)
    assert hours.max() > 2 * hours.min()
    days = np.bincount(jobs.submit_ms // DAY_MS % 7)
    assert set(days.argsort()[:2]) == {4, 5}  # a week that starts on Tuesday


def test_a_load_is_what_the_jobs_ask_for() -> None:
    like = PUBLISHED["philly"]
    rate = jobs_per_day(like, gpus=50_000, load=0.8)
    jobs = made(Demand(like=like, jobs_per_day=((0, rate),)), 2 * WEEK_MS)

    asked = float((jobs.gpus * jobs.duration_ms).sum())
    assert asked / (50_000 * 2 * WEEK_MS) == pytest.approx(0.8, rel=0.05)


@given(st.floats(1, 64), st.integers(0, 11))
def test_gpus_are_powers_of_two_with_the_mean_asked_for(mean: float, power: int) -> None:
    gpus_max = 2**power
    like = Profile(run_mean_s=2, run_median_s=1, gpus_mean=min(mean, gpus_max), gpus_max=gpus_max)

    sizes, upto = gpu_sizes(like)

    assert sizes.tolist() == [2**k for k in range(power + 1)]
    assert np.diff(upto, prepend=0) @ sizes == pytest.approx(like.gpus_mean, rel=1e-6)


def test_few_users_submit_most_and_differ_in_how_long_they_run() -> None:
    demand = Demand(like=PUBLISHED["helios"], jobs_per_day=((0, 50_000),), users=20)
    jobs = made(demand, 4 * DAY_MS)

    by_user = np.bincount(jobs.user)
    assert len(by_user) == 20
    assert by_user[0] / by_user[9] == pytest.approx(10, rel=0.15)
    logs = np.log(jobs.duration_ms)
    means = np.array([logs[jobs.user == user].mean() for user in range(20)])
    between = (by_user * (means - logs.mean()) ** 2).sum() / len(logs) / logs.var()
    assert between == pytest.approx(demand.user_variance, abs=0.05)


def test_trace_jobs_and_arrivals_are_the_same_jobs() -> None:
    demand = Demand(like=PUBLISHED["kalos"], jobs_per_day=((0, 500),), users=3)
    asked = []

    def kind(user: int, gpus: int) -> Kind:
        asked.append((user, gpus))
        return Kind(
            share="national",
            operator="nhn",
            project="p",
            user=f"u{user}",
            nodes=max(1, gpus // 8),
            gpus_per_node=min(gpus, 8),
        )

    came = list(arrivals(demand, np.random.default_rng(3), 5 * DAY_MS, kind))
    jobs = list(trace_jobs(demand, np.random.default_rng(3), 5 * DAY_MS, vc="nhn"))

    assert [(a.at_ms // 1_000, a.kind.gpus, a.kind.user) for a in came] == [
        (job.submit_s, job.gpus, job.user) for job in jobs
    ]
    assert all(job.duration_s >= 1 for job in jobs)
    assert len(asked) == len(set(asked)) <= 3 * 11
    assert len({job.id for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"users": 0}, "users is 0; it must be 1 or more"),
        ({"user_variance": 1.5}, "user_variance is 1.5; it must be from 0 to 1"),
        ({"jobs_per_day": ((0, -1.0),)}, "jobs_per_day is negative"),
        ({"jobs_per_day": ((5, 1.0), (0, 1.0))}, "jobs_per_day has steps out of order"),
        (
            {"like": Profile(run_mean_s=1, run_median_s=2, gpus_mean=1, gpus_max=1)},
            "run_median_s is 2; it must be above 0 and at most run_mean_s, 1",
        ),
        (
            {"like": Profile(run_mean_s=2, run_median_s=1, gpus_mean=9, gpus_max=8)},
            "gpus_mean is 9; it must be from 1 to gpus_max, 8",
        ),
    ],
)
def test_a_demand_that_cannot_be_is_refused(how: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Demand(**{"like": PUBLISHED["pai"], "jobs_per_day": (), **how})  # type: ignore[arg-type]
