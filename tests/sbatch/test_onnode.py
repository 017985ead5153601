"""What batch jobs find on their nodes: names of nodes and files, and where srun's tasks lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.sbatch.onnode.hostnames import hostnames
from dure.sbatch.onnode.srun import layout, srun_options
from dure.sbatch.onnode.streams import filled

ENV = {
    "SLURM_JOB_ID": "128",
    "SLURM_JOB_NAME": "a/b",
    "SLURM_JOB_USER": "kim",
    "SLURMD_NODENAME": "n7.site.kr",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
}


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("job%J.out", "job128.0.out"),
        ("job%4j.out", "job0128.out"),
        ("job%j-%2t.out", "job128-03.out"),
        ("%x-%u-%N-%%", "a_b-kim-n7-%"),
        ("%A_%a", "128_4294967294"),
        ("%q%j\\", "%q%j"),
    ],
)
def test_file_names_are_filled_in_as_sbatch_does(pattern, name):
    assert filled(pattern, ENV) == name


def test_a_task_of_an_array_has_the_arrays_number_and_its_index():
    env = ENV | {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    assert filled("%A_%a %3a", env) == "12_3 003"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a", ["a"]),
        ("n[1-3,7],b", ["n1", "n2", "n3", "n7", "b"]),
        ("n[08-11]", ["n08", "n09", "n10", "n11"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("127.0.0.1,127.0.0.2", ["127.0.0.1", "127.0.0.2"]),
    ],
)
def test_lists_of_nodes_are_read_as_scontrol_does(text, names):
    assert hostnames(text) == names


@given(st.integers(1, 20), st.integers(1, 60))
def test_tasks_lie_as_evenly_as_can_be_on_the_first_nodes(nodes, tasks):
    hosts = [f"n{number}" for number in range(nodes)]
    parts = layout({"ntasks": str(tasks)}, hosts)
    counts = [count for _, count in parts]
    assert sum(counts) == tasks
    assert [rank for rank, _ in parts] == list(range(min(nodes, tasks)))
    assert max(counts) - min(counts) <= 1
    assert counts == sorted(counts, reverse=True)


def test_srun_reads_its_options_and_leaves_the_commands_own():
    asked, command = srun_options(["-lN2", "-n", "4", "--export=ALL", "-K", "python", "-n", "x"])
    assert asked == {
        "label": "", "nodes": "2", "ntasks": "4", "export": "ALL", "kill-on-bad-exit": "1",
    }  # fmt: skip
    assert command == ["python", "-n", "x"]


@pytest.mark.parametrize("word", ["--multi-prog", "--pty", "--container-image=x", "-Z"])
def test_srun_refuses_what_it_does_not_know(word, capsys):
    with pytest.raises(SystemExit):
        srun_options([word, "true"])
    assert "is not known outside of Slurm" in capsys.readouterr().err
