"""Units read and written exactly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.units import (
    credits_text,
    duration,
    gpu_time_text,
    ucredit_from_text,
    walltime_s_from_text,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30", 1_800),
        ("30:15", 1_815),
        ("2:00:00", 7_200),
        ("1-6", 108_000),
        ("1-06:30", 109_800),
        ("1-06:30:15", 109_815),
        ("90s", 90),
        ("2h", 7_200),
        ("3d", 259_200),
    ],
)
def test_a_walltime_reads_as_slurm_reads_it(text: str, seconds: int):
    assert walltime_s_from_text(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "2 hours", "1:2:3:4", "-5", "1e3", "9999-0", "1h30m", "٣", "5\n5"]
)
def test_other_walltimes_are_refused_in_one_sentence(text: str):
    with pytest.raises(ValueError, match=r"\Atime [^\n]+\Z"):
        walltime_s_from_text(text)


@given(st.integers(0, 10**17))
def test_credits_read_back_what_was_written(ucredit: int):
    assert ucredit_from_text(credits_text(ucredit).replace(",", "")) == ucredit


@pytest.mark.parametrize("text", ["1e99999999", "nan", "1/3", "-1", "1.0000001", "", "1_0", " 1"])
def test_other_credits_are_refused(text: str):
    with pytest.raises(ValueError, match="not a number of credits"):
        ucredit_from_text(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "1:00"), (185, "3:05"), (7_200, "2:00:00"), (108_000, "1-06:00:00")],
)
def test_durations_read_as_people_write_them(seconds: float, text: str):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("gpu_ms", "text"),
    [
        (0, "0 GPU-h"),
        (1, "<0.1 GPU-s"),
        (50, "<0.1 GPU-s"),
        (51, "0.1 GPU-s"),
        (30_200, "30.2 GPU-s"),
        (35_999, "36.0 GPU-s"),
        (36_000, "0.0100 GPU-h"),
        (160_000, "0.0444 GPU-h"),
        (-30_200, "-30.2 GPU-s"),
        (5_952 * 3_600_000, "5,952.0000 GPU-h"),
        (2**63 - 1, "2,562,047,788,015.2155 GPU-h"),
    ],
)
def test_gpu_time_that_is_not_zero_does_not_read_as_zero(gpu_ms: int, text: str):
    assert gpu_time_text(gpu_ms) == text
