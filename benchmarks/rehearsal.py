"""How fast workloads are rehearsed: ours beside AccaSim, on the same jobs, in the same run.

    .venv/bin/python -m pip install accasim==1.1.3
    .venv/bin/python benchmarks/rehearsal.py [--rounds N] FOLDER...

A folder has `jobs.csv`, `nodes.json` and `predicted_duration_s.csv`. Each line is a run of its own,
whole: from the first row read to the last job's end. `loop` is what `dure rehearse trace` prints as
`wall_s`, its jobs/s beside it: reading the file is not in there. Of ours the median of N rounds (5)
is shown, of AccaSim one. The ratio is of whole runs' CPU time, which other work on the machine
moves least; FIFO and best effort are compared with AccaSim's FIFO, all else with its faster SJF.

AccaSim gets each virtual cluster as an SWF file with nodes of 8 processors, places by first fit and
writes no output. It spreads a job over any nodes, so its mean waits are near ours, not equal.
Without AccaSim its rows are left out.
"""

from __future__ import annotations

import argparse
import collections.abc
import importlib.util
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dure.rehearsal import traces
from dure.rehearsal.baseline import Baseline, Mode
from dure.rehearsal.replay import Asked, Foresight, replay
from dure.rehearsal.traces.trace import Trace

Run = Callable[[], tuple[float, float]]
"""Plays something; the mean wait and its loop's time, both in seconds."""


@dataclass(frozen=True, slots=True)
class Timed:
    """A run's mean wait and times, in seconds: its loop, the whole of it, and its CPU time."""

    wait_s: float
    loop_s: float
    wall_s: float
    cpu_s: float


def timed(run: Run) -> Timed:
    """Time a run."""
    began_s, cpu_s = time.perf_counter(), time.process_time()
    wait_s, loop_s = run()
    return Timed(wait_s, loop_s, time.perf_counter() - began_s, time.process_time() - cpu_s)


def median(run: Run, rounds: int) -> Timed:
    """The median of some rounds, each figure by itself."""
    all_ = [timed(run) for _ in range(rounds)]
    return Timed(
        all_[0].wait_s,
        statistics.median(one.loop_s for one in all_),
        statistics.median(one.wall_s for one in all_),
        statistics.median(one.cpu_s for one in all_),
    )


# ---- ours ----------------------------------------------------------------------------------------


def ours() -> Iterator[tuple[str, Asked]]:
    """What is measured of ours, by name."""
    for yardstick in (Baseline.FIFO, Baseline.SJF, Baseline.BEST_EFFORT):
        yield f"{yardstick}, isolated", Asked(yardstick=yardstick)
    for mode in (Mode.ISOLATED, Mode.FEDERATED):
        for foresight in (Foresight.GIVEN, Foresight.LEARNED):
            yield f"dure, {mode}, estimates {foresight}", Asked(mode=mode, foresight=foresight)


def played(trace: Trace, asked: Asked) -> tuple[float, float]:
    """Play a trace as `dure rehearse trace` does."""
    done = replay(trace, asked)
    return done.summary.avg_wait_s, done.wall_s


# ---- AccaSim -------------------------------------------------------------------------------------


def swf_files(trace: Trace, folder: Path) -> list[Path]:
    """Each virtual cluster's jobs as an SWF file, and its nodes beside it."""
    lines: dict[str, list[str]] = {vc: [] for vc in trace.nodes}
    for number, job in enumerate(trace.jobs(), 1):
        known = [number, job.submit_s, -1, job.duration_s, job.gpus, -1, -1, job.gpus]
        unknown = [job.duration_s, -1, 1, 1, 1, 1, 1, -1, -1, -1]
        lines[job.vc].append(" ".join(map(str, (*known, *unknown))))
    found = []
    for vc, rows in lines.items():
        if rows:
            found.append(folder / f"{vc}.swf")
            found[-1].write_text("\n".join(rows) + "\n", encoding="utf-8")
            system = {
                "groups": {"node": {"core": trace.gpus_per_node}},
                "resources": {"node": trace.nodes[vc]},
                "equivalence": {"processor": {"core": 1}},
            }
            found[-1].with_suffix(".json").write_text(json.dumps(system), encoding="utf-8")
    return found


def accasim(files: list[Path], dispatcher: str) -> tuple[float, float]:
    """AccaSim's mean wait over all virtual clusters. Made in 2018, it wants what Python 3.10 has
    dropped.
    """
    collections.Mapping = collections.abc.Mapping  # type: ignore[attr-defined]
    from accasim.base import scheduler_class  # noqa: PLC0415  (may not be installed)
    from accasim.base.allocator_class import FirstFit  # noqa: PLC0415
    from accasim.base.simulator_class import Simulator  # noqa: PLC0415

    began_s = time.perf_counter()
    jobs, waited_s = 0, 0
    for file in files:
        simulator = Simulator(
            str(file),
            str(file.with_suffix(".json")),
            getattr(scheduler_class, dispatcher)(FirstFit()),
            scheduling_output=False,
            statistics_output=False,
            show_statistics=False,
            RESULTS_FOLDER_PATH=str(file.parent),
        )
        simulator.start_simulation()
        jobs += len(simulator.mapper.wtimes)
        waited_s += sum(simulator.mapper.wtimes)
    return waited_s / jobs, time.perf_counter() - began_s


@contextmanager
def quiet() -> Iterator[None]:
    """AccaSim logs every step that it takes."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


# ---- the table -----------------------------------------------------------------------------------


def table(folder: Path, rounds: int) -> None:
    """Print one trace's table."""
    trace = traces.read(folder)
    (file,) = folder.glob("predicted_duration_s.csv*")
    predicted = traces.read(folder, predictions=file)
    print(f"\n{folder.name}: {trace.count:,} jobs, {sum(trace.gpus().values()):,} GPUs, "
          f"{len(trace.nodes)} clusters\n")  # fmt: skip
    print("| | mean wait, s | loop, s | jobs/s | whole, s | CPU, s | jobs/CPU s | to AccaSim |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    of_fifo, of_sjf = yardsticks(trace)
    for what, asked in ours():
        source = predicted if asked.foresight is Foresight.GIVEN else trace
        beside = of_fifo if what.startswith(("fifo", "best-effort")) else of_sjf
        row(what, trace.count, median(partial(played, source, asked), rounds), beside)


def yardsticks(trace: Trace) -> tuple[float, float]:
    """Print AccaSim's rows; the CPU time of its FIFO and its SJF, 0 where it is not installed."""
    if importlib.util.find_spec("accasim") is None:
        return 0, 0
    took: list[float] = []
    with tempfile.TemporaryDirectory() as folder, quiet():
        files = swf_files(trace, Path(folder))
        for name in ("FirstInFirstOut", "ShortestJobFirst"):
            one = timed(partial(accasim, files, name))
            took.append(one.cpu_s)
            row(f"AccaSim {name}, isolated", trace.count, one, one.cpu_s)
    return took[0], took[1]


def row(what: str, jobs: int, one: Timed, beside_s: float) -> None:
    """Print one line."""
    ratio = f"{beside_s / one.cpu_s:,.1f}" if beside_s else ""
    print(f"| {what} | {one.wait_s:,.1f} | {one.loop_s:.2f} | {jobs / one.loop_s:,.0f} "
          f"| {one.wall_s:.2f} | {one.cpu_s:.2f} | {jobs / one.cpu_s:,.0f} | {ratio} |",
          flush=True)  # fmt: skip


def main() -> None:
    """Print one table a folder."""
    asked = argparse.ArgumentParser(description="How fast workloads are rehearsed.")
    asked.add_argument("folders", nargs="+", type=Path)
    asked.add_argument("--rounds", type=int, default=5)
    given = asked.parse_args()
    for folder in given.folders:
        table(folder, given.rounds)


if __name__ == "__main__":
    main()
