"""Recorded workloads on the production scheduler: what must hold, and how good it must be."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.errors import RefusedError
from dure.rehearsal import report, runs
from dure.rehearsal.baseline import Baseline, Mode
from dure.rehearsal.replay import Asked, Foresight, Replayed, replay
from dure.rehearsal.tables import Recorder
from dure.rehearsal.traces import dure, read
from dure.rehearsal.traces.trace import Trace, TraceJob, Within
from dure.scheduling.tuning import Tuning

POLICIES = (None, Baseline.FIFO, Baseline.BEST_EFFORT_SJF)
"""The production scheduler, and two published ones."""

GPUS = {"a": 24, "b": 16}
DAY_S = 86_400

JOBS = st.lists(
    st.tuples(
        st.sampled_from(sorted(GPUS)), st.integers(0, 900), st.integers(1, 900), st.integers(1, 16)
    ),
    min_size=1,
    max_size=25,
)
"""vc, submit_s, duration_s, gpus"""


def trace_of(jobs: list[tuple[str, int, int, int]], shift_s: int = 0) -> Trace:
    made = [
        TraceJob(f"j{number}", vc, "u", submit + shift_s, duration, gpus, "", duration + 7)
        for number, (vc, submit, duration, gpus) in enumerate(jobs)
    ]
    rows = list(enumerate(made, 2))
    return Trace({"a": 3, "b": 2}, {"jobs.csv": lambda: iter(rows)}, within=Within.OWN)


@given(JOBS, st.sampled_from(Mode), st.sampled_from(POLICIES), st.sampled_from(Foresight))
def test_every_job_ends_and_twice_the_same(
    jobs: list[tuple[str, int, int, int]], mode: Mode, policy: Baseline | None, known: Foresight
) -> None:
    asked = Asked(mode=mode, yardstick=policy, foresight=known)

    first, second = replay(trace_of(jobs), asked), replay(trace_of(jobs), asked)

    assert first.summary.jobs == len(jobs)
    assert first.digest == second.digest


@given(JOBS, st.sampled_from(Mode), st.integers(1, 20_000))
def test_the_date_of_a_trace_changes_nothing(
    jobs: list[tuple[str, int, int, int]], mode: Mode, days: int
) -> None:
    asked = Asked(mode=mode)

    early, late = replay(trace_of(jobs), asked), replay(trace_of(jobs, days * DAY_S), asked)

    assert (late.digest, late.end_ms) == (early.digest, early.end_ms)
    assert late.origin_ms - early.origin_ms == days * DAY_S * 1_000


@settings(max_examples=15, deadline=None)
@given(JOBS, st.sampled_from(Mode), st.sampled_from(POLICIES))
def test_tables_hold_each_job_once_and_no_more_gpus_than_there_are(
    tmp_path_factory: pytest.TempPathFactory,
    jobs: list[tuple[str, int, int, int]],
    mode: Mode,
    policy: Baseline | None,
) -> None:
    folder = tmp_path_factory.mktemp("run")
    asked = Asked(mode=mode, yardstick=policy)

    replayed, run = recorded(trace_of(jobs), asked, folder)

    table = run.table("jobs").collect()
    assert sorted(table["id"]) == sorted(f"j{number}" for number in range(len(jobs)))
    assert table["end_ms"].max() == replayed.end_ms
    assert replayed.digest == replay(trace_of(jobs), asked).digest
    gpus = run.table("gpus").collect()
    used = gpus.group_by("owner", "at_ms").agg(
        pl.col("gpus_ms").sum(), pl.col("capacity_ms").first()
    )
    assert used.filter(pl.col("gpus_ms") > pl.col("capacity_ms")).is_empty()
    ran_ms = sum(gpus_ * duration * 1_000 for _, _, duration, gpus_ in jobs)
    if not replayed.summary.preemptions:
        # A gang holds as many GPUs of each of its nodes.
        assert gpus["gpus_ms"].sum() >= ran_ms


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("policy", [None, Baseline.FIFO])
def test_any_replay_has_a_report(tmp_path: Path, mode: Mode, policy: Baseline | None) -> None:
    jobs = [("a", 0, 600, 16), ("a", 5, 600, 16), ("b", 9, 700, 8), ("b", 9, 700, 16)]

    _, run = recorded(trace_of(jobs), Asked(mode=mode, yardstick=policy), tmp_path)

    assert "</html>" in report.write(run).read_text(encoding="utf-8")


def recorded(trace: Trace, asked: Asked, folder: Path) -> tuple[Replayed, runs.Run]:
    recorder = Recorder(folder)
    replayed = replay(trace, asked, recorder)
    recorder.close(replayed.end_ms)
    return replayed, runs.write(folder, replayed.to_dict())


def test_federated_a_job_is_served_where_there_is_room_and_alone_it_waits() -> None:
    jobs = [("b", 0, 1_000, 16), ("b", 1, 1_000, 16)]

    waits = {
        mode: replay(trace_of(jobs), Asked(mode=mode)).summary.avg_wait_s
        for mode in (Mode.ISOLATED, Mode.FEDERATED)
    }

    assert waits == {Mode.ISOLATED: 999 / 2, Mode.FEDERATED: 0}


def test_what_a_recall_takes_counts_as_wait() -> None:
    """`b` borrows of `a` all day; then `a` wants all its GPUs."""
    jobs = [("b", 0, 90_000, 16), ("b", 1, 80_000, 16), ("a", 50_000, 30_000, 16)]
    asked = Asked(mode=Mode.FEDERATED, foresight=Foresight.TRUE, overhead_s=100)

    summary = replay(trace_of(jobs), asked).summary

    assert summary.preemptions == 1
    assert summary.per_operator["a"].avg_wait_s == 100
    assert summary.lost_gpu_h == pytest.approx(16 * 100 / 3_600)


def test_a_job_without_the_prediction_asked_for_is_named() -> None:
    job = TraceJob("j-7", "a", "u", 0, 1, 1)
    trace = Trace({"a": 1}, {"jobs.csv": lambda: iter([(2, job)])})

    with pytest.raises(RefusedError, match="predicted_s of job 'j-7' is missing"):
        replay(trace, Asked(foresight=Foresight.GIVEN))


# ---- Floors of quality, on real workloads --------------------------------------------------------


@cache
def figures(
    folder: Path,
    mode: Mode,
    foresight: Foresight,
    yardstick: Any = None,
    tuning: Tuning = Tuning(),  # noqa: B008  frozen
) -> Any:
    trace = read(folder, predictions=dure.csv_in(folder, "predicted_duration_s"))
    asked = Asked(mode=mode, foresight=foresight, yardstick=yardstick, tuning=tuning)
    return replay(trace, asked).summary


SLACK = 1.02
"""What the bound on waits may cost."""


@pytest.mark.parametrize(
    ("name", "foresight", "avg_jct_s"),
    [
        ("venus", Foresight.GIVEN, 5_896),
        ("venus", Foresight.TRUE, 5_856),
        ("itp", Foresight.GIVEN, 43_721),
        ("itp", Foresight.TRUE, 38_589),
    ],
)
def test_alone_jobs_end_as_soon_as_with_the_best_published_order(
    traces: Path, name: str, foresight: Foresight, avg_jct_s: float
) -> None:
    assert figures(traces / name, Mode.ISOLATED, foresight).avg_jct_s <= SLACK * avg_jct_s


@pytest.mark.parametrize(("name", "avg_wait_s"), [("venus", 243), ("itp", 470)])
def test_together_everybody_gains_and_nobody_loses(
    traces: Path, name: str, avg_wait_s: float
) -> None:
    folder = traces / name
    together = figures(folder, Mode.FEDERATED, Foresight.GIVEN)
    alone = [
        figures(folder, Mode.ISOLATED, Foresight.GIVEN, policy)
        for policy in (None, Baseline.QSSF, Baseline.BEST_EFFORT_QSSF)
    ]

    assert together.avg_wait_s <= avg_wait_s
    assert together.p999_wait_s <= min(one.p999_wait_s for one in alone[:1])
    for operator, ours in together.per_operator.items():
        best_s = min(one.per_operator[operator].avg_jct_s for one in alone)
        assert ours.avg_jct_s <= 1.01 * best_s, operator


@pytest.mark.parametrize("name", ["venus", "itp"])
def test_nobody_loses_by_estimates_of_our_own_either_where_a_guarantee_waits_for_no_borrower(
    traces: Path, name: str
) -> None:
    alone, together = (
        figures(traces / name, mode, Foresight.LEARNED, None, Tuning(min_runtime_s=0))
        for mode in (Mode.ISOLATED, Mode.FEDERATED)
    )
    assert together.avg_wait_s < alone.avg_wait_s
    for operator, ours in together.per_operator.items():
        assert ours.avg_jct_s <= 1.01 * alone.per_operator[operator].avg_jct_s, operator


@pytest.mark.parametrize(("name", "ask_every"), [("venus", 4), ("itp", 200)])
def test_starts_come_as_foretold(traces: Path, name: str, ask_every: int) -> None:
    asked = Asked(mode=Mode.FEDERATED, foresight=Foresight.LEARNED, ask_every=ask_every)
    found = replay(read(traces / name), asked).start_estimates
    assert found is not None
    assert found.waited > 20
    assert found.within_90 >= 0.85
    assert found.waited_within_90 >= 0.85
