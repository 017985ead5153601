"""What a rehearsal measures, against plain arithmetic over all jobs."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.rehearsal.measure import Histogram, Measures, Summary

SECONDS = st.integers(0, 10**8)

JOBS = st.lists(
    st.tuples(
        st.sampled_from(["kakao", "naver", "nhn"]),
        st.integers(1, 1_024),
        SECONDS,
        SECONDS,
        st.integers(1, 10**7),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=60,
)
"""operator, gpus, submit_ms, wait_ms, duration_ms, recalls"""


def measured(jobs: list[tuple[str, int, int, int, int, int]]) -> Measures:
    measures = Measures()
    for operator, gpus, submit, wait, duration, recalls in jobs:
        measures.ended(
            operator, gpus, submit, submit + wait + duration, duration, recalls, recalls * 7
        )
    return measures


def summed(measures: Measures) -> Summary:
    return measures.summary({"nhn": 16 * measures.makespan_ms(), "sk": 1})


@given(st.lists(st.integers(0, 2**45), min_size=1), st.floats(0.001, 1))
def test_a_quantile_is_the_nearest_rank_within_a_thousandth(values: list[int], rank: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    true = sorted(values)[ceil(rank * len(values)) - 1]

    (found,) = histogram.quantiles(rank)

    assert abs(found - true) <= true / 1_000
    assert found == true or true >= 2_048


def test_quantiles_are_answered_in_the_order_asked() -> None:
    histogram = Histogram()
    for value in range(1, 1_001):
        histogram.add(value)

    assert histogram.quantiles(0.99, 0.5, 1.0) == (990, 500, 1_000)
    assert Histogram().quantiles(0.5) == (0,)


@given(JOBS)
def test_figures_are_those_of_plain_arithmetic(
    jobs: list[tuple[str, int, int, int, int, int]],
) -> None:
    measures = measured(jobs)
    summary = summed(measures)

    first = min(submit for _, _, submit, _, _, _ in jobs)
    last = max(submit + wait + duration for _, _, submit, wait, duration, _ in jobs)
    assert summary.jobs == len(jobs)
    assert summary.avg_wait_s == sum(job[3] for job in jobs) / len(jobs) / 1_000
    assert summary.avg_jct_s == sum(job[3] + job[4] for job in jobs) / len(jobs) / 1_000
    assert summary.makespan_s == (last - first) / 1_000
    assert summary.preemptions == sum(job[5] for job in jobs)
    assert summary.lost_gpu_h == 7 * summary.preemptions / 3_600_000
    assert summary.utilisation == sum(job[1] * job[4] for job in jobs) / (16 * (last - first) + 1)


@given(JOBS, st.randoms(use_true_random=False), st.integers(0, 60))
def test_order_and_division_of_the_jobs_change_nothing(
    jobs: list[tuple[str, int, int, int, int, int]], random: object, cut: int
) -> None:
    whole = summed(measured(jobs))
    random.shuffle(jobs)  # type: ignore[attr-defined]
    part = measured(jobs[:cut])
    part.merge(measured(jobs[cut:]))

    assert summed(part) == whole


@given(JOBS)
def test_an_operator_has_the_figures_that_its_jobs_have_alone(
    jobs: list[tuple[str, int, int, int, int, int]],
) -> None:
    summary = summed(measured(jobs))

    assert list(summary.per_operator) == sorted({job[0] for job in jobs} | {"nhn", "sk"})
    assert summary.per_operator["sk"].jobs == 0
    alone = summed(measured([job for job in jobs if job[0] == jobs[0][0]]))
    assert alone.avg_wait_s == summary.per_operator[jobs[0][0]].avg_wait_s
    assert alone.p99_wait_s == summary.per_operator[jobs[0][0]].p99_wait_s


def test_the_json_has_the_standard_fields_for_the_whole_and_each_operator() -> None:
    printed = summed(measured([("nhn", 8, 0, 1_500, 2_000, 0)])).to_dict()

    assert printed["avg_wait_s"] == 1.5
    assert printed["per_operator"]["nhn"]["avg_jct_s"] == 3.5
    assert set(printed) - {"per_operator"} == set(printed["per_operator"]["nhn"])


def test_a_job_that_ends_too_early_is_a_fault_of_the_rehearsal() -> None:
    with pytest.raises(ValueError, match="ends at 1500 at the earliest"):
        Measures().ended("nhn", 8, 500, 1_400, 1_000)
