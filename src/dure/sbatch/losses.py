"""Options that say nothing to Dure, each with the reason and what to do instead.

`stops`: without it the job would do something else, so that its owner must say that it may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from dure.sbatch.report import Verdict


class Said(NamedTuple):
    """What becomes of an option."""

    verdict: Verdict
    note: str
    stops: bool = False


def kept(note: str = "") -> Said:
    """It means the same."""
    return Said(Verdict.KEPT, note)


def translated(note: str) -> Said:
    """It means the same, said otherwise, or a little more or less."""
    return Said(Verdict.TRANSLATED, note)


def lost(note: str, *, stops: bool = False) -> Said:
    """It has no effect."""
    return Said(Verdict.LOST, note, stops)


_LAYOUT: Final = "where tasks lie inside a node is left to the site"
_SITE: Final = "it is a site's own setting, and the job may run at any"
_MAIL: Final = "no mail is sent; follow it with dure logs -f, or wait with --wait"
_RIGHTS: Final = "a job runs as the account that its site gives it"
_METERED: Final = "GPU time is metered in any case; nothing else is recorded"

LOSSES: Final[Mapping[str, Said]] = {
    "begin": lost("a job begins as soon as it may; submit it then, from cron say", stops=True),
    "hold": lost("jobs are not held back; submit it when it may run", stops=True),
    "licenses": lost("licences are a site's own; pin the job to it with --pool", stops=True),
    "container": lost("start the container inside the script, with apptainer say", stops=True),
    "bb": lost("there are no burst buffers; put the data into the folder", stops=True),
    "bbf": lost("there are no burst buffers; put the data into the folder", stops=True),
    "export-file": lost("name the variables with --export=NAME=VALUE", stops=True),
    "gpus-per-socket": lost("ask with --gpus-per-node", stops=True),
    "deadline": lost("no deadline ends it; --time bounds it once it runs"),
    "time-min": lost("the whole --time is asked for"),
    "exclusive": lost("nobody shares its GPUs, but others may run on the node's other ones"),
    "oversubscribe": lost("GPUs are never shared"),
    "overcommit": lost("each task has its CPUs"),
    "nodelist": lost("Dure names pools, not nodes; --pool pins it to one"),
    "nodefile": lost("Dure names pools, not nodes; --pool pins it to one"),
    "exclude": lost("Dure leaves out nodes that fail, not nodes by name"),
    "reservation": lost("a site's reservations are its own; a capacity allocation is Dure's"),
    "mail-type": lost(_MAIL),
    "mail-user": lost(_MAIL),
    "comment": lost("it is not stored; the job's name is"),
    "wckey": lost("it is not stored; the job's name is"),
    "nice": lost("who is next follows from shares and age"),
    "priority": lost("who is next follows from shares and age"),
    "no-kill": lost("a node's failure ends all nodes of the job, which then runs again"),
    "tmp": lost("how large a node's TMPDIR is, is left to the site"),
    "acctg-freq": lost(_METERED),
    "profile": lost(_METERED),
    "uid": lost(_RIGHTS),
    "gid": lost(_RIGHTS),
    "get-user-env": lost("the job's HOME is its own; set in the script what it needs"),
    "propagate": lost("limits are the site's"),
    **{
        name: lost(_LAYOUT)
        for name in (
            "core-spec", "cores-per-socket", "cpu-freq", "distribution", "extra-node-info",
            "gpu-bind", "gpu-freq", "gres-flags", "hint", "mem-bind", "ntasks-per-core",
            "ntasks-per-socket", "sockets-per-node", "thread-spec", "threads-per-core",
        )
    },
    **{
        name: lost(_SITE)
        for name in (
            "batch", "cluster-constraint", "contiguous", "delay-boot", "mcs-label", "network",
            "power", "prefer", "reboot", "spread-job", "switches", "use-min-nodes",
        )
    },
}  # fmt: skip

COMMANDS: Final[Mapping[str, Said]] = {
    "parsable": kept("only the number is written to standard output"),
    "quiet": kept("the report is not shown"),
    "verbose": kept(),
    "test-only": kept("nothing is submitted"),
    "wait": kept("the command ends with the job, and with its exit code"),
    "wrap": kept("made into a script"),
    "ignore-pbs": kept(),
    "requeue": kept(
        "after a failure of the platform it runs again; --retries=N: after its own too"
    ),
    "no-requeue": kept("should the platform start it again, it ends at once with exit code 1"),
    "wait-all-nodes": kept("all nodes start together in any case"),
    "open-mode": kept("each attempt has files of its own"),
    "input": kept(),
    "ntasks": kept(),
    "ntasks-per-node": kept(),
    "ntasks-per-gpu": kept(),
    "cpus-per-task": kept(),
    "cpus-per-gpu": kept(),
    "mincpus": kept(),
    "nodes": kept(),
    "gpus": kept(),
    "gpus-per-node": kept(),
    "gpus-per-task": kept(),
    "mem": kept(),
    "mem-per-cpu": kept(),
    "mem-per-gpu": kept(),
    "time": kept(),
    "retries": kept("after its own failures"),
    "data-class": kept(),
    "outputs": kept("what is below it is kept when the job ends: dure outputs JOB"),
    "checkpoint-dir": kept("a later attempt finds it again"),
    "workdir": kept("uploaded, and the folder in which the script starts"),
    "no-workdir": kept("the script starts in an empty folder"),
}
"""Options that are kept as they are, unless something more exact is said of them."""
