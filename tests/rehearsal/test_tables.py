"""The tables of a rehearsal: exact integrals, bounded memory, equal digests."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.rehearsal import tables
from dure.rehearsal.record import OWN, Faulted, JobEnded, NullRecord, Recalled
from dure.rehearsal.tables import Recorder
from dure.rehearsal.timeline import FIRST_STEP_MS, STEPS_MAX, Timeline
from dure.rehearsal.workload import Kind

KIND = Kind(share="hana", operator="hana", project="p-1", user="kim", nodes=2, gpus_per_node=8)
FULL_MS = FIRST_STEP_MS * STEPS_MAX
CHANGES = st.lists(
    st.tuples(st.integers(0, 7 * FULL_MS), st.integers(-1_000, 1_000)), min_size=1, max_size=12
)


def job(number: int, *, wait_ms: int = 5_000) -> JobEnded:
    return JobEnded(
        id=f"j-{number}",
        kind=KIND,
        submit_ms=1_000 * number,
        first_start_ms=1_000 * number + wait_ms,
        end_ms=1_000 * number + wait_ms + 60_000,
        duration_ms=60_000,
        pool="hana-h100",
    )


def integral(changes: list[tuple[int, int]], start_ms: int, end_ms: int) -> int:
    return sum(delta * max(0, end_ms - max(start_ms, at_ms)) for at_ms, delta in changes)


@given(changes=CHANGES, rest_ms=st.integers(1, FULL_MS))
def test_integrals_over_every_step_are_exact(changes, rest_ms):
    timeline: Timeline[str] = Timeline()
    for at_ms, delta in changes:
        timeline.change("a", at_ms, delta)
    end_ms = max(at_ms for at_ms, _ in changes) + rest_ms
    timeline.reach(end_ms)
    found = timeline.integrals("a", end_ms).tolist()
    starts = timeline.starts_ms(end_ms).tolist()
    lengths = timeline.lengths_ms(end_ms).tolist()
    assert sum(lengths) == end_ms
    assert found == [
        integral(changes, start, start + length)
        for start, length in zip(starts, lengths, strict=True)
    ]


@given(changes=CHANGES, ends_ms=st.integers(1, 7 * FULL_MS))
def test_what_comes_after_the_end_leaves_what_was_before_as_it_is(changes, ends_ms):
    timeline: Timeline[str] = Timeline(ends_ms)
    for at_ms, delta in changes:
        timeline.change("a", at_ms, delta)
    timeline.reach(ends_ms)
    assert sum(timeline.integrals("a", ends_ms).tolist()) == integral(changes, 0, ends_ms)
    assert timeline.step_ms * STEPS_MAX <= 5 * max(ends_ms, FULL_MS)


@given(changes=CHANGES, seed=st.integers(0, 99))
def test_the_order_in_which_changes_are_told_does_not_matter(changes, seed):
    shuffled = random.Random(seed).sample(changes, len(changes))
    found = []
    for told in (changes, shuffled):
        timeline: Timeline[str] = Timeline()
        for at_ms, delta in told:
            timeline.change("a", at_ms, delta)
        timeline.reach(8 * FULL_MS)
        found.append(timeline.integrals("a", 8 * FULL_MS).tolist())
    assert found[0] == found[1]


def test_a_grid_never_has_more_steps_than_it_may():
    timeline: Timeline[str] = Timeline()
    for year in range(20):
        end_ms = year * 365 * 86_400_000
        timeline.change("a", end_ms, 1)
        assert len(timeline.starts_ms(end_ms)) <= STEPS_MAX
    assert timeline.step_ms % 86_400_000 == 0


def test_what_was_told_is_in_the_tables(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.capacity_changed(0, "hana", 16)
    recorder.capacity_changed(0, "idle", 8)
    recorder.use_changed(30_000, "hana", "duri", 8)
    recorder.use_changed(90_000, "hana", "duri", -8)
    recorder.queue_changed(0, "duri", 2, 16)
    recorder.share_changed(0, "hana", 0, 16)
    recorder.share_changed(60_000, "duri", 8, 48)
    recorder.lent("hana", "duri", 8, 30_000, 90_000)
    recorder.recalled(Recalled(90_000, "hana-h100", "duri", "hana", 8, 4_000, 1_500))
    recorder.faulted(Faulted(10_000, 20_000, "site-outage", "hana", 16))
    recorder.job_ended(job(1))
    recorder.close(150_000)

    def rows(name):
        return pl.read_parquet(tmp_path / f"{name}.parquet")

    assert rows("gpus").rows() == [
        (at_ms, step_ms, owner, borrower, gpus * step_ms, gpus, capacity * step_ms, capacity)
        for owner, borrower, uses, capacity in (
            ("hana", "duri", (4, 4, 0), 16),
            ("hana", OWN, (0, 0, 0), 16),
            ("idle", OWN, (0, 0, 0), 8),
        )
        for (at_ms, step_ms), gpus in zip(
            ((0, 60_000), (60_000, 60_000), (120_000, 30_000)), uses, strict=True
        )
    ]
    assert rows("queue")["gpus_ms"].sum() == 16 * 150_000
    assert rows("lending")["gpus_ms"].sum() == 8 * 60_000
    last = rows("fairness").filter(pl.col("at_ms") == 120_000).sort("share")
    assert last["entitled_fraction"].to_list() == [0.75, 0.25]
    assert last["used_fraction"].to_list() == [1.0, 0.0]
    assert rows("recalls")["beneficiary"].to_list() == ["hana"]
    assert rows("faults")["until_ms"].to_list() == [20_000]
    (ended,) = rows("jobs").to_dicts()
    assert (ended["operator"], ended["gpus"], ended["nodes"]) == ("hana", 16, 2)
    assert ended["wait_ms"] == 5_000


def test_tables_over_time_end_with_the_span_however_late_the_last_job_ends(tmp_path):
    recorder = Recorder(tmp_path, span_ms=90_000)
    recorder.capacity_changed(0, "hana", 16)
    recorder.use_changed(30_000, "hana", OWN, 8)
    recorder.use_changed(10**10, "hana", OWN, -8)
    recorder.lent("hana", "duri", 8, 60_000, 10**10)
    recorder.job_ended(job(10**7))
    recorder.close(10**10)
    gpus = pl.read_parquet(tmp_path / "gpus.parquet")
    assert gpus.select("at_ms", "step_ms", "gpus_ms").rows() == [
        (0, 60_000, 8 * 30_000),
        (60_000, 30_000, 8 * 30_000),
    ]
    assert pl.read_parquet(tmp_path / "lending.parquet")["gpus_ms"].sum() == 8 * 30_000
    assert len(pl.read_parquet(tmp_path / "jobs.parquet")) == 1


def test_a_run_without_events_has_all_its_tables(tmp_path):
    Recorder(tmp_path).close(0)
    names = {"jobs", "recalls", "faults", "gpus", "queue", "lending", "fairness"}
    assert {path.stem for path in tmp_path.iterdir()} == names
    assert all(pl.read_parquet(path).is_empty() for path in tmp_path.iterdir())


def test_rows_are_written_as_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_MAX", 10)
    recorder = Recorder(tmp_path)
    for number in range(35):
        recorder.job_ended(job(number))
    parts = sorted(tmp_path.glob("jobs.*.parquet"))
    assert [len(pl.read_parquet(part)) for part in parts] == [10, 10, 10]
    recorder.close(100_000)
    assert not list(tmp_path.glob("jobs.*.parquet"))[1:]
    assert pl.read_parquet(tmp_path / "jobs.parquet")["id"].to_list() == [
        f"j-{number}" for number in range(35)
    ]


def test_a_sample_takes_every_nth_job_across_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROWS_MAX", 10)
    recorder = Recorder(tmp_path, sample=7)
    for number in range(35):
        recorder.job_ended(job(number))
    recorder.close(100_000)
    assert pl.read_parquet(tmp_path / "jobs.parquet")["id"].to_list() == [
        "j-0", "j-7", "j-14", "j-21", "j-28",
    ]  # fmt: skip


@pytest.mark.parametrize("sample", [1, 3])
def test_the_digest_is_the_same_whatever_is_recorded(tmp_path, monkeypatch, sample):
    monkeypatch.setattr(tables, "ROWS_MAX", 10)
    recorder, null = Recorder(tmp_path, sample=sample), NullRecord()
    for number in range(25):
        recorder.job_ended(job(number))
        null.job_ended(job(number))
    summary = {"jobs": 25, "avg_wait_s": 5.0}
    digest = null.digest(summary)
    assert recorder.digest({**summary, "wall_s": 3.2, "settings": {"title": "x"}}) == digest
    assert null.digest({**summary, "avg_wait_s": 5.1}) != digest
    null.job_ended(job(25))
    assert null.digest(summary) != digest


def test_an_earlier_run_in_the_folder_is_replaced(tmp_path):
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "jobs.000007.parquet").write_bytes(b"cut off")
    Recorder(tmp_path).close(0)
    assert not (tmp_path / "summary.json").exists()
    assert not (tmp_path / "jobs.000007.parquet").exists()
