"""A job's spec refuses what cannot be right, in one sentence, wherever it is made."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure import codec
from dure.errors import RefusedError
from dure.jobs import Array, Checkpoint, JobSpec, Resources


def plain(**changes: object) -> JobSpec:
    given_ = {"name": "a", "project": "p", "walltime_s": 60, "command": ("x",)} | changes
    return JobSpec(**given_)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "a\n#SBATCH --qos=high"}, "name"),
        ({"name": ""}, "name"),
        ({"project": "../p"}, "project"),
        ({"walltime_s": 0}, "walltime_s is 0; it must be from 1"),
        ({"walltime_s": 10**12}, "walltime_s"),
        ({"command": ()}, "either a command or a script"),
        ({"script": "x"}, "either a command or a script"),
        ({"command": ("",)}, "empty first word"),
        ({"command": ("a\0",)}, "NUL"),
        ({"command": ("\ud800",)}, "surrogate"),
        ({"env": {"A B": "x"}}, "env 'A B'"),
        ({"env": {"RANK": "0"}}, "env RANK is set by Dure"),
        ({"env": {"DURE_X": "0"}}, "set by Dure"),
        ({"outputs": "/etc"}, "outputs"),
        ({"outputs": "a/../../b"}, "outputs"),
        ({"workdir": "abc"}, "workdir"),
        ({"priority": 101}, "priority is 101"),
        ({"retries": -1}, "retries"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, object], says: str):
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as refused:
        plain(**changes)

    assert says in str(refused.value)


@pytest.mark.parametrize("gpus", [0, -1, 10**9, 10**19])
def test_gpus_are_bounded(gpus: int):
    with pytest.raises(ValueError, match=r"gpus_per_node is .*; it must be from 1 to 1,024"):
        Resources(gpus_per_node=gpus)


@pytest.mark.parametrize("indices", [(), (1, 1), (2, 1), (-1,), (10**7,)])
def test_array_indices_rise(indices: tuple[int, ...]):
    with pytest.raises(ValueError, match="array"):
        Array(indices)


def test_a_checkpoint_stays_in_the_jobs_folder():
    with pytest.raises(ValueError, match="not a path inside"):
        Checkpoint(dir="../../etc")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_no_json_makes_decoding_fail_otherwise_than_with_a_sentence(value: object):
    text = json.dumps({"name": "a", "project": "p", "walltime_s": 1, "command": value})
    said = "."
    try:
        codec.decode(JobSpec, text)
    except RefusedError as refused:
        said = refused.reason.sentence

    assert said.endswith(".")
    assert "\n" not in said


def test_what_is_encoded_reads_back_equal():
    spec = plain(
        array=Array((0, 2, 4), 2), checkpoint=Checkpoint(dir="c"), env={"A": "é\u202e"}, retries=3
    )

    assert codec.decode(JobSpec, codec.encode(spec)) == spec
