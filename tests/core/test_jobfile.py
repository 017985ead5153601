"""Job files: what they say, and one sentence for everything that they cannot."""

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.draft import Draft, requests
from dure.errors import RefusedError
from dure.jobfile import parse
from dure.jobs import Array, Checkpoint, Dependency, DependencyKind, Notice, Resources, Tier

BASE = Path("/home/kim/work")
LEAST = "project: p\ntime: 10\nrun: python train.py\n"


def jobs(text, environ=None):
    drafts = parse(text, BASE, source="job.yaml")
    return requests(drafts, environ or {}, [None] * len(drafts))


def spec(text):
    (job,) = jobs(text)
    return job.spec


def refusal(text, environ=None):
    with pytest.raises(RefusedError) as caught:
        jobs(text, environ)
    return caught.value.reason.sentence


def test_a_whole_file():
    text = """
name: train
project: vision
allocation: vision-2027
num_nodes: 2
resources:
  accelerators: {H200: 8, "RTX PRO 6000": 8}
  cpus: 32+
  memory: 256+
envs: {EPOCHS: 10, LR: 1e400, FLAG: no, VERSION: 1.10}
secrets: {HF_TOKEN: null, WANDB: abc}
workdir: src
run: torchrun train.py
time: 2:00:00
array: 0-7%4
retries: 3
depends: {afterok: [j-1], afterany: j-2}
checkpoint: {dir: ckpt, signal: USR1, grace: 2m}
outputs: out
data: {class: national-core}
tier: spare
priority: 70
"""
    (draft,) = parse(text, BASE, source="job.yaml")
    assert draft.workdir == BASE / "src"
    (job,) = requests([draft], {"HF_TOKEN": "hf_x"}, ["ab" * 32])
    assert job.secrets == {"HF_TOKEN": "hf_x", "WANDB": "abc"}
    made = job.spec
    assert made.resources == Resources(
        nodes=2,
        gpus_per_node=8,
        gpu_models=("h200", "rtx-pro-6000"),
        cpus_per_node=32,
        memory_gib_per_node=256,
    )
    assert made.env == {"EPOCHS": "10", "LR": "1e400", "FLAG": "no", "VERSION": "1.10"}
    assert made.walltime_s == 7_200
    assert made.array == Array(tuple(range(8)), 4)
    assert made.checkpoint == Checkpoint(dir="ckpt", signal=Notice.USR1, grace_s=120)
    assert made.dependencies == (
        Dependency(DependencyKind.AFTEROK, "j-1"),
        Dependency(DependencyKind.AFTERANY, "j-2"),
    )
    assert (made.tier, made.priority, made.retries) == (Tier.SPARE, 70, 3)
    assert (made.data_class, made.outputs, made.workdir) == ("national-core", "out", "ab" * 32)
    assert (made.script, made.command) == ("torchrun train.py", ())


def test_what_is_left_out_keeps_the_defaults_and_the_name_is_the_file_s():
    made = spec(LEAST)
    assert made.name == "job"
    assert made.walltime_s == 600
    assert made.resources == Resources()


@pytest.mark.parametrize(
    ("written", "models", "count"),
    [
        ("H200:8", ("h200",), 8),
        ("H200", ("h200",), 1),
        ("8", (), 8),
        ("NVIDIA H200: 4", ("h200",), 4),
        ("[H200:8, b200:8]", ("h200", "b200"), 8),
        ("{H200: 8, B200: 8}", ("h200", "b200"), 8),
        ("{H200:8, B200:8}", ("h200", "b200"), 8),
        ("RTX_PRO-6000:2", ("rtx-pro-6000",), 2),
    ],
)
def test_accelerators(written, models, count):
    value = f"'{written}'" if ": " in written and written[0] != "{" else written
    made = spec(f"{LEAST}resources: {{accelerators: {value}}}").resources
    assert (made.gpu_models, made.gpus_per_node) == (models, count)


@pytest.mark.parametrize(
    ("written", "indices", "running"),
    [
        ("0-7%4", tuple(range(8)), 4),
        ("1,3,5-9:2%2", (1, 3, 5, 7, 9), 2),
        ("5", (5,), None),
        ("3,1-2,2", (1, 2, 3), None),
    ],
)
def test_arrays(written, indices, running):
    assert spec(f"{LEAST}array: {written}").array == Array(indices, running)


def test_setup_runs_before_in_the_same_shell_and_its_failure_ends_the_job(tmp_path):
    import subprocess  # noqa: PLC0415

    text = 'project: p\ntime: 1\nsetup: |\n  export A=1\n  {}\nrun: |\n  false\n  echo "ran $A"\n'
    fine = subprocess.run(
        ["sh", "-c", spec(text.format("true")).script], capture_output=True, text=True, check=False
    )
    assert (fine.returncode, fine.stdout) == (0, "ran 1\n")
    broken = subprocess.run(
        ["sh", "-c", spec(text.format("sh -c 'exit 7'")).script],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (broken.returncode, broken.stdout) == (7, "")


def test_a_command_from_the_flags_replaces_the_run_of_the_file_and_keeps_its_setup():
    (draft,) = parse(LEAST + "setup: pip install x\n", BASE)
    (job,) = requests([Draft(command=("python", "a b.py")).over(draft)], {}, [None])
    assert job.spec.script == "set -e\npip install x\nset +e\nexec python 'a b.py'\n"


def test_several_documents_may_depend_on_each_other_in_any_order():
    made = jobs(
        LEAST + "name: b\ndepends: {afterok: a}\n---\n" + LEAST + "name: a\n---\n# nothing\n"
    )
    assert [one.spec.name for one in made] == ["b", "a"]


def test_documents_without_names_are_numbered():
    assert [one.spec.name for one in jobs(f"{LEAST}---\n{LEAST}")] == ["job-1", "job-2"]


BAD = [
    ("memory: with unit", "resources: {memory: 256GB}", "memory '256GB'", "GiB"),
    ("cpus", "resources: {cpus: many}", "cpus 'many'", "32+"),
    ("time", "time: 2 hours", "time '2 hours'", "H:MM:SS"),
    ("unknown key", "num_node: 2", "'num_node'", "did you mean num_nodes"),
    ("unknown nested", "resources: {accelerator: H200}", "'accelerator'", "mean accelerators"),
    ("far from all", "zzz: 2", "'zzz'", "known are name"),
    ("twice", "retries: 1\nretries: 2", "'retries' stands twice", "keep one"),
    ("nan", "priority: .nan", "priority is '.nan'", "whole number"),
    ("infinite", "num_nodes: .inf", "num_nodes is '.inf'", "whole number"),
    ("1e400", "retries: 1e400", "retries is '1e400'", "whole number"),
    ("fraction", "num_nodes: 1.5", "num_nodes is '1.5'", "whole number"),
    ("quoted", "num_nodes: '2'", "num_nodes is '2'", "whole number"),
    ("true", "num_nodes: true", "num_nodes is 'true'", "whole number"),
    ("no nodes", "num_nodes: 0", "nodes is 0", "from 1 to"),
    ("no GPUs", "resources: {accelerators: H200:0}", "gpus_per_node is 0", "from 1 to"),
    ("10^9 GPUs", "resources: {accelerators: 'H200:1000000000'}", "accelerators", "H200:8"),
    ("part of a GPU", "resources: {accelerators: 'H200:0.5'}", "'H200:0.5'", "H200:8"),
    (
        "two counts",
        "resources: {accelerators: {H200: 8, B200: 4}}",
        "'H200:8, B200:4'",
        "one count",
    ),
    ("nested GPUs", "resources: {accelerators: {H200: [8]}}", "a list", "one text"),
    ("a list", "name: [a]", "name is a list", "one text"),
    ("no mapping", "resources: H200:8", "resources is 'H200:8'", "key: value"),
    ("array", "array: 0-x", "array '0-x'", "0-7%4"),
    ("array step", "array: 0-9:0", "array '0-9:0'", "0-7%4"),
    ("array backwards", "array: 9-0", "array '9-0'", "smaller index first"),
    ("array huge", "array: 0-999999999", "999,999,999", "at most"),
    ("array many", "array: 0-999999", "'0-999999'", "10,000 tasks"),
    ("array none at a time", "array: 0-7%0", "max_running is 0", "from 1"),
    ("signal", "checkpoint: {dir: c, signal: KILL}", "signal 'KILL'", "SIGTERM"),
    ("grace", "checkpoint: {dir: c, grace: 1:00}", "grace '1:00'", "90s"),
    ("no dir", "checkpoint: {signal: TERM}", "checkpoint has no dir", "name the folder"),
    ("outside", "checkpoint: {dir: ../x}", "'../x'", "without '..'"),
    ("outputs outside", "outputs: /etc", "'/etc'", "relative"),
    ("tier", "tier: gold", "tier 'gold'", "spare"),
    ("a tag", "name: !!python/object:os.system x", "python/object", "leave it out"),
    ("a directive", "x: 1\n---\n%YAML 1.1\n---\na: 1", "directive", "leave it out"),
    ("NUL", "name: a\0b", "'\\x00'", "take it out"),
    ("a surrogate", "name: \ud800", "\\ud800", "take it out"),
    ("name", 'name: "a\\n#SBATCH -p x"', "name 'a\\n#SBATCH", "letters, digits"),
    ("env name", "envs: {A-B: 1}", "env 'A-B'", "letters, digits and _"),
    ("env of ours", "envs: {RANK: 1}", "RANK is set by Dure", "another name"),
    ("env without value", "envs: {A: null}", "envs 'A' has no value", "--env"),
    ("env list", "envs: [A=1]", "envs is a list", "key: value"),
    ("secret unknown", "secrets: {HF: null}", "secrets 'HF'", "export it"),
    ("both", "command: [a, b]", "run and command", "keep one"),
    ("command text", "command: python train.py", "command is 'python train.py'", "list of words"),
    ("shebang", "setup: |\n  #!/bin/zsh\n  x", "'#!/bin/zsh'", "leave the #! line out"),
    ("unknown job", "depends: {afterok: prep}", "'prep'", "its id"),
    ("itself", "depends: {afterok: job}", "job -> job", "take one out"),
    ("no YAML", "a: [", "not YAML", "expected the node content"),
    ("alias", "name: *x", "*x stands for nothing", "named &x before"),
    ("merge key", "<<: {a: 1}", "'<<' is not a key", "known are"),
    ("key", "? [a]\n: b", "a key must be a text", "not a list"),
]


@pytest.mark.parametrize(("added", "value", "remedy"), [case[1:] for case in BAD],
                         ids=[case[0] for case in BAD])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence_with_field_value_and_remedy(added, value, remedy):
    kept = LEAST
    if added.startswith("time:"):
        kept = kept.replace("time: 10\n", "")
    said = refusal(kept + added)
    assert value in said
    assert remedy in said
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no job"),
        ("- a\n- b", "key: value"),
        ("project: p\nrun: x\n", "time is missing"),
        ("project: p\ntime: 1\n", "run is missing"),
        ("#!/bin/sh\necho", "this is a script"),
        ("time: 1\nrun: x", "project ''"),
        ("---\n".join([LEAST] * 101), "at most 100"),
        ("a: " + "[" * 40 + "]" * 40, "nested more than"),
        ("x: " + "y" * 1_100_000, "larger than"),
        (f"a: [{'x, ' * 20_001}]", "more than 20,000 values"),
        (f"{LEAST}name: a\n---\n{LEAST}name: a\n", "stands twice"),
    ],
)
def test_whole_files_that_are_refused(text, said):
    assert said in refusal(text)


def test_aliases_are_counted_each_time_they_are_used():
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert "more than 20,000 values" in refusal(bomb)
    assert spec(f"{LEAST}envs: {{A: &v 1, B: *v}}").env == {"A": "1", "B": "1"}


def test_a_circle_is_named():
    text = "---\n".join(
        f"{LEAST}name: {name}\ndepends: {{afterok: {after}}}\n"
        for name, after in (("a", "b"), ("b", "c"), ("c", "a"))
    )
    said = refusal(text)
    assert "circle" in said
    assert {"a", "b", "c"} <= set(said.replace(";", " ").split())


def test_lines_are_named():
    assert refusal("project: p\nrun: x\ntime: 2 hours\n").startswith("job.yaml line 3: time")


def test_a_secret_is_never_shown():
    text = f"{LEAST}secrets: {{A: hunter2}}\n"
    (draft,) = parse(text, BASE)
    assert "hunter2" not in repr(draft)
    for bad in (
        "secrets: {A: hunter2}\nenvs: {A: 1}",
        "secrets: {B-C: hunter2}",
        "secrets: {hunter2-x: null}",
        'secrets: {A: "hunter2\\0"}',
        "secrets: {A: [hunter2]}",
        "secrets: [A=hunter2]",
        "secrets: hunter2",
    ):
        assert "hunter2" not in refusal(f"{LEAST}{bad}\n"), bad


KEYS = [
    "name",
    "resources",
    "accelerators",
    "envs",
    "time",
    "array",
    "depends",
    "checkpoint",
    "run",
]
LEAVES = st.one_of(
    st.text(string.printable, max_size=12),
    st.sampled_from(["H200:8", "0-7%4", "2:00:00", "1e400", ".nan", "~", "'", "*a", "&a", "%"]),
    st.integers().map(str),
)
TREES = st.recursive(
    LEAVES,
    lambda below: st.one_of(
        st.lists(below, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(st.sampled_from(KEYS), below, max_size=3).map(
            lambda items: f"{{{', '.join(f'{key}: {value}' for key, value in items.items())}}}"
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.text(max_size=60), TREES, TREES.map(lambda tree: f"{LEAST}resources: {tree}")))
def test_no_text_raises_anything_but_a_refusal(text):
    try:
        jobs(text)
    except RefusedError as error:
        sentence = error.reason.sentence
    else:
        sentence = "Fine."
    assert sentence.endswith(".")
    assert "\n" not in sentence
