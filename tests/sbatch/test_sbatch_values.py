"""The values of sbatch's options: what is read is what was meant, and nothing else is read."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.draft import array_from_text
from dure.jobs import ARRAY_TASKS_MAX, DependencyKind
from dure.sbatch import values
from dure.sbatch.values import Gpus
from dure.units import WALLTIME_S_MAX

NUMBER = st.integers(1, 10**6 - 1)


@given(st.integers(1, WALLTIME_S_MAX))
def test_a_time_is_read_as_sbatch_reads_it_in_every_form_that_can_say_it(seconds):
    minutes, s = divmod(seconds, 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    forms = {f"{days}-{h}:{m}:{s}", f"{days}-{h:02}:{m:02}:{s:02}"}
    if hours < 10**6:
        forms.add(f"{hours}:{m:02}:{s:02}")
    if minutes < 10**6:
        forms.add(f"{minutes}:{s:02}")
    if not s:
        forms |= {f"{days}-{h}:{m}"} | ({str(minutes)} if minutes < 10**6 else set())
    if not s and not m:
        forms.add(f"{days}-{h}")
    assert {values.time_s(form) for form in forms} == {seconds}


@pytest.mark.parametrize("text", ["UNLIMITED", "infinite", "0", "-1", "2h", "1:2:3:4", "", "1-"])
def test_a_time_without_a_limit_or_a_form_is_refused(text):
    with pytest.raises(ValueError, match="time"):
        values.time_s(text)


@given(NUMBER, st.sampled_from("KMGTkmgt"))
def test_memory_is_rounded_up_to_whole_mib(number, unit):
    mib = values.memory_mib(f"{number}{unit}")
    kib = number * {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}[unit.upper()]
    assert 0 <= mib * 1024 - kib < 1024
    assert values.memory_mib(f"{number}{unit}B") == mib
    assert values.memory_mib(str(number)) == number


@given(st.sets(st.integers(0, 5_000), min_size=1, max_size=40), st.none() | st.integers(1, 99))
def test_an_array_is_the_set_of_its_indices_however_it_is_listed(indices, running):
    percent = f"%{running}" if running else ""
    read = array_from_text(",".join(map(str, sorted(indices, reverse=True))) + percent)
    assert read.indices == tuple(sorted(indices))
    assert read.max_running == running


@given(st.integers(0, 1_000), st.integers(0, 3_000), st.integers(1, 50))
def test_an_array_with_a_step_has_every_index_of_the_step(first, length, step):
    read = array_from_text(f"{first}-{first + length}:{step}")
    assert read.indices == tuple(range(first, first + length + 1, step))
    assert len(read.indices) <= ARRAY_TASKS_MAX


@pytest.mark.parametrize(
    ("text", "gpus", "others"),
    [
        ("gpu", Gpus(1), ()),
        ("gpu:4", Gpus(4), ()),
        ("gpu:a100", Gpus(1, "a100"), ()),
        ("gpu:a100:3", Gpus(3, "a100"), ()),
        ("gres/gpu=2", Gpus(2), ()),
        ("gpu:a100_3g.20gb:1", Gpus(1, "a100_3g.20gb"), ()),
        ("lscratch:200,gpu:v100x:2", Gpus(2, "v100x"), ("lscratch:200",)),
        ("none", None, ()),
    ],
)
def test_gres_is_gpus_and_what_else_it_lists(text, gpus, others):
    assert values.gres(text) == values.Gres(gpus, others)


@given(NUMBER, st.sampled_from(["", "h100:", "nvidia_h200_141gb:", "a100="]))
def test_gpus_are_a_number_of_a_type_or_of_any(number, type_):
    assert values.gpus("gpus", f"{type_}{number}") == Gpus(number, type_[:-1] or None)


@pytest.mark.parametrize("text", ["", "gpu", "a100:x", "-1", "h100:2,a100:1"])
def test_gpus_that_are_no_number_are_refused(text):
    with pytest.raises(ValueError, match="not a number of GPUs"):
        values.gpus("gpus", text)


@pytest.mark.parametrize(
    ("text", "name", "before_s", "to_shell"),
    [
        ("USR1", "USR1", 60, False),
        ("10", "USR1", 60, False),
        ("SIGTERM@120", "TERM", 120, False),
        ("B:USR2@90", "USR2", 90, True),
        ("RB:15@0", "TERM", 0, True),
        ("R:int@65535", "INT", 65_535, False),
    ],
)
def test_a_signal_has_a_name_a_time_and_whom_it_is_for(text, name, before_s, to_shell):
    read = values.signal(text)
    assert (read.name, read.before_s, read.to_shell) == (name, before_s, to_shell)


@pytest.mark.parametrize("text", ["USR9", "@60", "USR1@65536", "USR1@", "X:USR1", "99"])
def test_what_is_no_signal_is_refused(text):
    with pytest.raises(ValueError, match="signal"):
        values.signal(text)


def test_dependencies_are_jobs_of_the_kinds_that_are_known_and_the_rest_is_told():
    read = values.dependencies("afterok:12:13,afterany:j-14,15,aftercorr:9,singleton,afterok:7_2")
    ok, any_ = DependencyKind.AFTEROK, DependencyKind.AFTERANY
    assert read.after == ((ok, "j-12"), (ok, "j-13"), (any_, "j-14"), (any_, "j-15"))
    assert read.others == ("aftercorr:9", "singleton", "afterok:7_2")
    assert values.dependencies("afterok:1?afterok:2").others == ("afterok:1?afterok:2",)


@pytest.mark.parametrize(("text", "read"), [("2", (2, 2)), ("2-4", (2, 4)), ("1k", (1024, 1024))])
def test_nodes_are_a_number_or_a_range(text, read):
    assert values.nodes(text) == read


@pytest.mark.parametrize("text", ["", "0", "4-2", "a", "1-", "1-2-3"])
def test_nodes_that_are_none_are_refused(text):
    with pytest.raises(ValueError, match="nodes"):
        values.nodes(text)


@given(st.text(max_size=30))
def test_no_text_makes_a_reader_fail_otherwise_than_by_a_sentence(text):
    for reader in (
        values.time_s,
        values.memory_mib,
        values.nodes,
        values.gres,
        values.signal,
        values.dependencies,
        values.job_id,
        lambda one: values.gpus("gpus", one),
        lambda one: values.count("ntasks", one),
    ):
        with suppress(ValueError):
            reader(text)
