"""One rehearsal again and again, over seeds and settings: on all cores, or on a Ray cluster.

The runs are apart from each other, so the results do not depend on who plays them, or in which
order they end.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import polars as pl

from dure.errors import Reason, RefusedError
from dure.rehearsal.asking import Asking
from dure.rehearsal.runs import FIGURES
from dure.text import shown

RUNS_MAX: Final = 10_000
_SEEDS: Final = re.compile(r"\A([0-9]{1,18})(?:\.\.([0-9]{1,18}))?\Z")
_KEPT: Final = (*FIGURES, "digest", "wall_s")


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a sweep: what is asked, and what makes it differ from the others."""

    asking: Asking
    setting: tuple[str, ...]
    seed: int | None

    def row(self) -> dict[str, Any]:
        """Its settings by key, and its seed."""
        pairs = (setting.partition("=") for setting in self.setting)
        return {key: value for key, _, value in pairs} | {"seed": self.seed}


Played = tuple[int, dict[str, Any]]
"""The place of a run among all, and its figures."""

Engine = Callable[[Sequence[Trial]], Iterator[Played]]
"""Plays runs and yields each as it ends."""


def trials_of(asking: Asking, each: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """A run for every seed of every combination of settings, such as `recalls_max=1,3`.

    Raises:
        RefusedError: `bad-input`: a setting has no values, a trace is given seeds, or there are
            more than `RUNS_MAX` runs.
    """
    choices = [_choices(one) for one in each]
    if prod(map(len, choices)) * max(1, len(seeds)) > RUNS_MAX:
        raise RefusedError(
            "bad-input", f"This asks for more than {RUNS_MAX:,} runs; sweep less at once."
        )
    made = [(asking.with_settings(setting), setting) for setting in product(*choices)]
    if not seeds:
        return [Trial(one, setting, None) for one, setting in made]
    return [Trial(one.with_seed(seed), setting, seed) for one, setting in made for seed in seeds]


def seeds_of(text: str) -> list[int]:
    """Seeds such as `1..8` or `1,5,7..9`, each once.

    Raises:
        RefusedError: `bad-input`: they are not written so, or too many.
    """
    seeds: dict[int, None] = {}
    for part in text.split(","):
        found = _SEEDS.match(part.strip())
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not first <= last < first + RUNS_MAX:
            raise RefusedError("bad-input", f"--seeds {shown(part)}; write 1..8 or 1,5,7..9.")
        seeds |= dict.fromkeys(range(first, last + 1))
    return list(seeds)


def _choices(each: str) -> list[str]:
    key, _, values = each.partition("=")
    found = [f"{key}={value.strip()}" for value in values.split(",") if value.strip()]
    if not key or not found:
        raise RefusedError("bad-input", f"--set-each {shown(each)}; write KEY=VALUE,VALUE.")
    return found


# ---- Who plays them ------------------------------------------------------------------------------


def on_all_cores(runs: Sequence[Trial]) -> Iterator[Played]:
    """Play runs in as many processes as this one has cores.

    Raises:
        RefusedError: one of them was refused.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    pool = ProcessPoolExecutor(
        min(len(runs), cores or 1),
        mp_context=multiprocessing.get_context("spawn"),
    )
    try:
        with _deaf_children():
            places = {pool.submit(play, run): place for place, run in enumerate(runs)}
        for future in as_completed(places):
            yield places[future], _figures(future.result(), runs[places[future]])
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def on_ray(address: str) -> Engine:
    """Play runs on the Ray cluster at an address; `auto` is the one that this machine belongs to.
    Its machines need dure, and the scenario or trace at the same path.

    Raises:
        RefusedError: `no-ray`: Ray is not installed, or no cluster is there.
    """
    try:
        import ray  # noqa: PLC0415 (an extra that only this needs)
    except ImportError:
        raise RefusedError(
            "no-ray", "--engine ray needs Ray; install it with pip install 'dure[sweep]'."
        ) from None
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False)
    except (OSError, RuntimeError, ValueError):
        raise RefusedError(
            "no-ray", f"No Ray cluster answers at {shown(address)}; start one, or say --address."
        ) from None

    def engine(runs: Sequence[Trial]) -> Iterator[Played]:
        remote = ray.remote(play).remote
        try:
            places = {remote(run): place for place, run in enumerate(runs)}
            while places:
                (ended, *_), _ = ray.wait(list(places), num_returns=1)
                place = places.pop(ended)
                yield place, _figures(ray.get(ended), runs[place])
        finally:
            ray.shutdown()

    return engine


def _knock(address: str) -> None:
    """Ray itself tries for minutes to reach HOST:PORT before it gives up."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def play(run: Trial) -> dict[str, Any] | Reason:
    """Play one run; its figures, or why it was refused."""
    try:
        found, _ = run.asking.ready().play(None, iter)
    except RefusedError as refused:
        return refused.reason
    return {name: found[name] for name in _KEPT}


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Ctrl-C reaches a whole group of processes; those started in here do not hear it, so that who
    started them ends them.
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _figures(found: dict[str, Any] | Reason, run: Trial) -> dict[str, Any]:
    if isinstance(found, Reason):
        where = ", ".join(run.setting)
        raise RefusedError(found.code, f"{where}: {found.sentence}" if where else found.sentence)
    return found


# ---- What came of it -----------------------------------------------------------------------------


def results(runs: Sequence[Trial], found: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """`runs`: settings, seed and figures of each; `settings`: of each combination, every figure's
    `mean`, `sd` (of a sample; 0 of one run), `min` and `max` over its seeds.
    """
    rows = [run.row() | dict(found[place]) for place, run in enumerate(runs)]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for run, row in zip(runs, rows, strict=True):
        groups.setdefault(run.setting, []).append(row)
    return {"settings": [_spread(group) for group in groups.values()], "runs": rows}


def _spread(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What rows of one setting come to: keys of the setting, `n`, and the spread of each figure."""
    keys = {key: rows[0][key] for key in rows[0] if key not in {"seed", *_KEPT}}
    spread: dict[str, Any] = {}
    for name in FIGURES:
        values = [row[name] for row in rows]
        spread[name] = {
            "mean": fmean(values),
            "sd": stdev(values) if len(values) > 1 else 0.0,
            "min": min(values),
            "max": max(values),
        }
    return keys | {"n": len(rows)} | spread


def write(folder: Path, found: Mapping[str, Any]) -> None:
    """Write `runs.parquet`, `settings.parquet` (`avg_wait_s_mean` and so on) and `sweep.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = [_flat(setting) for setting in found["settings"]]
    pl.DataFrame(found["runs"], infer_schema_length=None).write_parquet(folder / "runs.parquet")
    pl.DataFrame(flat, infer_schema_length=None).write_parquet(folder / "settings.parquet")
    text = json.dumps(found, indent=2, ensure_ascii=False)
    (folder / "sweep.json").write_text(text + "\n", encoding="utf-8")


def _flat(setting: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in setting.items():
        flat |= (
            {f"{key}_{what}": one for what, one in inner.items()}
            if key in FIGURES
            else {key: inner}
        )
    return flat
