"""Which options a script, an environment and a command line give, and which of them count."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.sbatch import options, precedence, script
from dure.sbatch.losses import COMMANDS, LOSSES
from dure.sbatch.options import OPTIONS, Takes


def said(text):
    return [(one.option, one.value, one.where) for one in script.read(text).given]


def test_directives_stand_before_the_first_command():
    read = script.read(
        "#!/bin/bash\n"
        "#SBATCH -N2 -J 'my job' --time=1:00 # an hour\n"
        "\n"
        "  # a comment, indented\n"
        "##SBATCH --nodes=9\n"
        "# SBATCH --nodes=8\n"
        "#PBS -l nodes=7\n"
        "#SBATCH --mem 4G\n"
        "#DURE --outputs=out\n"
        "set -e\n"
        "#SBATCH --qos=late\n"
    )
    assert [(one.option, one.value, one.where) for one in read.given] == [
        ("nodes", "2", "line 2"),
        ("job-name", "my job", "line 2"),
        ("time", "1:00", "line 2"),
        ("mem", "4G", "line 8"),
        ("outputs", "out", "line 9"),
    ]
    assert [(one.line, one.text) for one in read.ignored] == [
        (6, "# SBATCH --nodes=8"),
        (7, "#PBS -l nodes=7"),
        (11, "#SBATCH --qos=late"),
    ]


@pytest.mark.parametrize(
    ("words", "given_"),
    [
        (["--nodes=2"], [("nodes", "2")]),
        (["--nodes", "2"], [("nodes", "2")]),
        (["--node", "2"], None),
        (["--partit=a"], [("partition", "a")]),
        (["-N", "2", "-n4"], [("nodes", "2"), ("ntasks", "4")]),
        (["-HQ"], [("hold", None), ("quiet", None)]),
        (["-QN2"], [("quiet", None), ("nodes", "2")]),
        (["--exclusive"], [("exclusive", None)]),
        (["--exclusive=user"], [("exclusive", "user")]),
        (["--tasks-per-node=4"], [("ntasks-per-node", "4")]),
    ],
)
def test_both_spellings_and_beginnings_of_names_are_read(words, given_):
    if given_ is None:  # --node may be --nodes, --nodefile, --nodelist
        with pytest.raises(ValueError, match="--nodefile, --nodelist, --nodes"):
            options.read(words, "here")
        return
    found, rest = options.read([*words, "job.sh", "--nodes=9"], "here")
    assert [(one.option, one.value) for one in found] == given_
    assert rest == ("job.sh", "--nodes=9")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("echo hello\n", "does not look like a batch script"),
        ("#!/bin/sh\r\ntrue\r\n", "DOS line ends"),
        ("#!/bin/sh\n#SBATCH --nodse=2\n", "line 2: '--nodse' is no option here"),
        ("#!/bin/sh\n#SBATCH -N\n", "line 2: -N has no value"),
        ("#!/bin/sh\n#SBATCH --hold=now\n", "line 2: --hold takes no value"),
        ("#!/bin/sh\n#SBATCH nodes=2\n", "line 2: 'nodes=2' is no option; options begin with -"),
        ("#!/bin/sh\n#SBATCH hetjob\n", "line 2: heterogeneous jobs cannot be run"),
        ("#!/bin/sh\n#SBATCH -J 'a\n", "line 2: No closing quotation"),
        ("#!/bin/sh\n#SBATCH --outputs=a\n", "line 2: --outputs belongs into a #DURE line"),
        ("#!/bin/sh\n#DURE --time=1\n", "line 2: --time belongs into a #SBATCH line"),
        ("#!/bin/sh\n" + 40_000 * "a", "at most 32,768 are taken"),
    ],
)
def test_what_is_no_batch_script_is_refused_with_its_line(text, sentence):
    with pytest.raises(ValueError, match=r"line|script") as refused:
        script.read(text)
    assert sentence in str(refused.value)


def test_the_command_line_goes_over_the_environment_and_both_over_the_script():
    read = script.read("#!/bin/sh\n#SBATCH -t 1 -p a --mem=1G\n#SBATCH -t 2\n")
    environment = options.of_environment(
        {"SBATCH_TIMELIMIT": "3", "SBATCH_PARTITION": "b", "SBATCH_REQUEUE": "no", "HOME": "/x"}
    )
    line, _ = options.read(["-t", "4", "--mem-per-cpu=2G"], "command line")
    chosen = precedence.choose(read.given, environment, line)
    assert {name: (one.value, one.where) for name, one in chosen.given.items()} == {
        "time": ("4", "command line"),
        "partition": ("b", "SBATCH_PARTITION"),
        "mem-per-cpu": ("2G", "command line"),
    }
    assert sorted((one.text, by.text) for one, by in chosen.overridden) == [
        ("--mem=1G", "--mem-per-cpu=2G"),
        ("--partition=a", "--partition=b"),
        ("--time=1", "--time=2"),
        ("--time=2", "--time=3"),
        ("--time=3", "--time=4"),
    ]


@pytest.mark.parametrize("value", ["", "yes", "1", "17"])
def test_a_flag_of_the_environment_is_set_by_nothing_yes_or_a_number(value):
    (one,) = options.of_environment({"SBATCH_REQUEUE": value})
    assert (one.option, one.value) == ("requeue", None)


def test_every_option_of_sbatch_has_something_said_of_it():
    """Nothing is dropped silently: what no rule translates is among the losses."""
    by_rule = {
        "account", "allocation", "array", "chdir", "clusters", "constraint", "dependency", "error",
        "export", "gpu-model", "gres", "job-name", "kill-on-invalid-dep", "output", "partition",
        "pool", "project", "qos", "signal",
    }  # fmt: skip
    assert set(OPTIONS) - set(LOSSES) - set(COMMANDS) == by_rule
    assert not set(LOSSES) & set(COMMANDS)


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789._:/%@-", min_size=1, max_size=12)


@given(st.lists(st.tuples(st.sampled_from(sorted(OPTIONS)), WORD), max_size=12), st.data())
def test_options_written_long_or_short_come_back_as_they_were_given(wanted, data):
    words = []
    expected = []
    for name, value in wanted:
        option = OPTIONS[name]
        has_value = option.takes is not Takes.NOTHING
        expected.append((name, value if has_value else None))
        if not has_value:
            words.append(f"--{name}")
        elif option.takes is Takes.VALUE and data.draw(st.booleans()):
            words += [f"--{name}", value]
        elif option.letter and data.draw(st.booleans()):
            words.append(f"-{option.letter}{value}")
        else:
            words.append(f"--{name}={value}")
    found, rest = options.read(words, "here")
    assert [(one.option, one.value) for one in found] == expected
    assert rest == ()


@given(st.text("#SBATCH -=\n\"'ab1%:", max_size=80))
def test_no_script_makes_the_reader_fail_otherwise_than_by_a_sentence(text):
    with suppress(ValueError):
        script.read(f"#!/bin/sh\n{text}")
