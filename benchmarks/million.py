"""Ten million made-up jobs on 300,000 GPUs: what a rehearsal of a nation costs.

    .venv/bin/python benchmarks/million.py [JOBS] [--profile]

Fifty pools of ten operators, 40,000 nodes. The national programme is promised a quarter of every
large pool, its operator the rest; all lend and borrow. Half of the operators have more work than
they own, the others less. The scenario is written to a file and played as `dure rehearse run` would
play it: the full `dure` policy with lending, recalls and reservations, estimates learned.
The span is as long as the jobs take to come, about a day for each 900,000.
"""

from __future__ import annotations

import cProfile
import pstats
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dure.rehearsal import scenario
from dure.rehearsal.perform import Performed, perform
from dure.rehearsal.scenario import Rehearsal
from dure.rehearsal.submissions import Generated, jobs_expected
from dure.rehearsal.workload import Arrival

STARTS = datetime(2026, 11, 23, tzinfo=UTC)
OPERATORS = tuple(f"op-{n}" for n in range(10))
LARGE = (("h100", 8, 875), ("h100", 8, 875), ("h200", 8, 875), ("b200", 8, 875))
SMALL = ("a100", 4, 500)
NATIONAL = (("university", "seren", 1.1, 400), ("institute", "kalos", 0.8, 100),
            ("startup", "philly", 1.0, 400), ("sme", "helios", 0.9, 100))  # fmt: skip


def text(days: float) -> str:
    """The scenario, so many days long."""
    ends = (STARTS + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")
    starts = STARTS.strftime("%Y-%m-%dT%H:%M:%SZ")
    prices = "\n".join(f"{operator} = 1_000" for operator in OPERATORS)
    return f"""
name = "million"
version = "million-1"
{"".join(_model(model) for model in ("a100", "h100", "h200", "b200"))}
{"".join(_operator(operator) for operator in OPERATORS)}
[rules]
version = "million-1"
[[rules.data_class]]
id = "open"
name = "Open data"
[tariff]
version = "million-1"
weights_milli = {{ a100 = 400, h100 = 1_000, h200 = 1_200, b200 = 2_700 }}
tiers_milli = {{ reserved = 1_500, standard = 1_000, spare = 500 }}
[tariff.operator_prices_milli]
{prices}
[[local.cluster]]
id = "op-0-c"
pool = "op-0-0"
nodes = 1
[rehearsal]
starts = {starts}
ends = {ends}
seed = 1
jobs_max = 1_000_000_000
{"".join(_programme(*row) for row in NATIONAL)}
{"".join(_own_work(n, operator) for n, operator in enumerate(OPERATORS))}
"""


def _model(model: str) -> str:
    return f'[[model]]\nid = "{model}"\nname = "{model}"\nmemory_gib = 80\n'


def _operator(operator: str) -> str:
    cluster = f"""
[[operator]]
id = "{operator}"
name = "{operator}"
[[cluster]]
id = "{operator}-c"
operator = "{operator}"
engine = "slurm"
"""
    large = (_pool(operator, f"{operator}-{n}", *shape) for n, shape in enumerate(LARGE))
    return cluster + "".join(large) + _pool(operator, f"{operator}-small", *SMALL)


def _pool(operator: str, pool: str, model: str, per_node: int, nodes: int) -> str:
    gpus = per_node * nodes
    national = nodes // 4 * per_node if per_node == 8 else 0
    shares = [(operator, gpus - national), ("national", national)]
    return f"""
[[pool]]
id = "{pool}"
cluster = "{operator}-c"
gpu_model = "{model}"
gpus_per_node = {per_node}
cpus_per_node = 112
memory_gib_per_node = 2048
interconnect = "infiniband-400g"
owner = "{operator}"
owner_kind = "operator"
jurisdiction = "KR"
[[pool.wave]]
id = "first"
gpus = {gpus}
assumed = true
in-service = 2026-01-01
""" + "".join(
        f'[[pool.share]]\nholder = "{holder}"\ngpus = {part}\nmay_lend = true\nmay_borrow = true\n'
        for holder, part in shares
        if part
    )


def _programme(group: str, like: str, load: float, projects: int) -> str:
    return f"""
[[share]]
id = "national.{group}"
parent = "national"
part_milli = 250
[[workload]]
id = "{group}"
source = "generate"
share = "national.{group}"
group = "{group}"
projects = {projects}
like = "{like}"
gpus_max = 512
load = {load}
data_class = "open"
gpus_per_node = 8
walltime_factor = 2.0
"""


def _own_work(number: int, operator: str) -> str:
    like = ("helios", "philly", "seren")[number % 3]
    load = 1.25 if number % 2 else 0.65
    return f"""
[[workload]]
id = "{operator}-own"
source = "generate"
share = "{operator}"
like = "{like}"
gpus_max = 128
load = {load}
data_class = "open"
gpus_per_node = 8
checkpoint_every_s = 1_800
"""


def _read(folder: Path, days: float) -> Rehearsal:
    file = folder / "million.toml"
    file.write_text(text(days), encoding="utf-8")
    return scenario.load(file)


def _jobs(rehearsal: Rehearsal) -> int:
    made_up = (one for one in rehearsal.workloads if isinstance(one, Generated))
    return sum(jobs_expected(one, scenario.setting(rehearsal)) for one in made_up)


def _rss_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _watched(jobs: Iterator[Arrival]) -> Iterator[Arrival]:
    """Say now and then how far it is, and how much memory it has had so far."""
    began = time.perf_counter()
    for number, job in enumerate(jobs, 1):
        yield job
        if number % 500_000 == 0:
            took_s = time.perf_counter() - began
            print(f"{number:>12,} jobs {took_s:>8.1f} s {_rss_mib():>6} MiB", flush=True)


def _told(performed: Performed) -> None:
    figures = performed.summary.to_dict()
    per_operator = figures.pop("per_operator")
    cpu = resource.getrusage(resource.RUSAGE_SELF)
    jobs = figures["jobs"]
    print(f"{jobs:,} jobs, wall {performed.wall_s:.1f} s, user CPU {cpu.ru_utime:.1f} s, "
          f"{jobs / performed.wall_s:,.0f} jobs/s, peak {_rss_mib()} MiB")  # fmt: skip
    print({key: round(value, 3) for key, value in figures.items()})
    for name, own in sorted(per_operator.items()):
        print(f"{name:<10}{own['jobs']:>12,} jobs, mean wait {own['avg_wait_s']:>9.1f} s, "
              f"in use {own['utilisation']:.2f}, recalled {own['preemptions']:,}")  # fmt: skip
    print(f"digest {performed.digest}")


def main() -> None:
    """Play it, print what it cost."""
    numbers = [int(word.replace("_", "")) for word in sys.argv[1:] if not word.startswith("-")]
    jobs = numbers[0] if numbers else 10_000_000
    with tempfile.TemporaryDirectory() as folder:
        a_day = _jobs(_read(Path(folder), 7)) / 7
        rehearsal = _read(Path(folder), jobs / a_day)
        gpus = sum(pool.nodes_in_service(rehearsal.span.starts_ms) * pool.gpus_per_node
                   for pool in rehearsal.nation.fleet.pools)  # fmt: skip
        print(f"{_jobs(rehearsal):,} jobs expected in {jobs / a_day:.1f} days on {gpus:,} GPUs")
        if "--profile" in sys.argv:
            profile = cProfile.Profile()
            performed = profile.runcall(perform, rehearsal, None, _watched)
            pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        else:
            performed = perform(rehearsal, None, _watched)
    _told(performed)


if __name__ == "__main__":
    main()
