"""Sweeps: which runs there are, that who plays them does not matter, and what they come to."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from dure.errors import RefusedError
from dure.rehearsal import sweep
from dure.rehearsal.asking import Asking, ScenarioAsking, TraceAsking, asking
from dure.rehearsal.sweep import Played, Trial

HEADER = "job_id,vc,user,submit,duration,gpus,status\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Two VCs of two nodes; one of them is crowded."""
    folder = tmp_path / "trace"
    folder.mkdir()
    (folder / "nodes.json").write_text('{"a": 2, "b": 2}')
    rows = [f"j{n},a,u{n % 2},{60 * n},{3000 + 40 * n},{4 + 4 * (n % 4)},OK" for n in range(20)]
    rows += [f"k{n},b,u,{400 * n},900,8,OK" for n in range(5)]
    (folder / "jobs.csv").write_text(HEADER + "\n".join(rows) + "\n")
    return folder


def here(trials: Sequence[Trial]) -> Iterator[Played]:
    """Played by this process, the last first."""
    for place in reversed(range(len(trials))):
        found = sweep.play(trials[place])
        assert isinstance(found, dict)
        yield place, found


def timeless(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: run[key] for key in run if key != "wall_s"} for run in found["runs"]]


def test_every_combination_is_played_with_every_seed() -> None:
    trials = sweep.trials_of(ScenarioAsking(path="two-sites"), ["a=1,2", "b.c=x, y"], [4, 5])

    assert [trial.row() for trial in trials] == [
        {"a": a, "b.c": c, "seed": seed} for a in "12" for c in "xy" for seed in (4, 5)
    ]


def test_a_trace_has_no_seeds_but_modes_and_policies(trace: Path) -> None:
    asked = TraceAsking(path=trace)
    trials = sweep.trials_of(asked, ["mode=isolated,federated", "policy=fifo,dure"], [])

    assert len(trials) == 4
    with pytest.raises(RefusedError, match="a trace has no seed"):
        sweep.trials_of(asked, [], [1])
    with pytest.raises(RefusedError, match="right is one of isolated, federated, one-pool"):
        sweep.trials_of(asked, ["mode=alone"], [])


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", [3]), ("1..4", [1, 2, 3, 4]), ("7,1..2, 7", [7, 1, 2])]
)
def test_seeds_are_written_as_ranges(text: str, seeds: list[int]) -> None:
    assert sweep.seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "-1", "4..1", "1..", "1...3", "1..999999999", "١"])
def test_what_is_no_seed_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="write 1"):
        sweep.seeds_of(text)


def test_more_runs_than_anybody_means_are_refused_before_they_are_made() -> None:
    many = ",".join(map(str, range(200)))
    with pytest.raises(RefusedError, match="more than 10,000 runs"):
        sweep.trials_of(ScenarioAsking(path="x"), [f"a={many}", f"b={many}", f"c={many}"], [])


def test_processes_answer_what_one_process_does(trace: Path) -> None:
    trials = sweep.trials_of(TraceAsking(path=trace), ["recalls_max=0,2", "mode=isolated"], [])

    apart = sweep.results(trials, dict(sweep.on_all_cores(trials)))

    assert timeless(apart) == timeless(sweep.results(trials, dict(here(trials))))


def test_a_refusal_in_another_process_is_told_with_its_setting(trace: Path) -> None:
    trials = sweep.trials_of(TraceAsking(path=trace), ["recall_max=0"], [])

    with pytest.raises(RefusedError, match=r"^recall_max=0: --set 'recall_max': no such dial"):
        dict(sweep.on_all_cores(trials))


def test_results_have_the_spread_over_seeds(tmp_path: Path) -> None:
    trials = sweep.trials_of(ScenarioAsking(path="two-sites"), ["recalls_max=1"], [1, 2, 3])
    waits = [1.0, 2.0, 6.0]
    figures = dict.fromkeys(sweep.FIGURES, 0.0)
    played = {n: figures | {"avg_wait_s": wait} for n, wait in enumerate(waits)}

    found = sweep.results(trials, played)
    sweep.write(tmp_path / "out", found)

    [setting] = found["settings"]
    assert setting["n"] == 3
    assert setting["avg_wait_s"] == pytest.approx({"mean": 3, "sd": 7**0.5, "min": 1, "max": 6})
    [row] = pl.read_parquet(tmp_path / "out" / "settings.parquet").to_dicts()
    assert row["recalls_max"] == "1"
    assert row["avg_wait_s_mean"] == 3
    assert pl.read_parquet(tmp_path / "out" / "runs.parquet")["avg_wait_s"].to_list() == waits


def test_without_ray_its_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RefusedError, match=r"pip install 'dure\[sweep\]'"):
        sweep.on_ray("auto")


class Cluster:
    """A Ray cluster in one process, as far as a sweep sees it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.open = False

    def init(self, address: str, **_: bool) -> None:
        if address != self.address:
            raise ConnectionError(address)
        self.open = True

    def remote(self, function: Any) -> Any:
        return SimpleNamespace(remote=lambda trial: (function, trial))

    def wait(self, refs: list[Any], num_returns: int) -> tuple[list[Any], list[Any]]:
        return refs[-num_returns:], refs[:-num_returns]

    def get(self, ref: Any) -> Any:
        function, trial = ref
        return function(trial)

    def shutdown(self) -> None:
        self.open = False


def test_ray_answers_what_one_process_does(trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster("auto")
    monkeypatch.setitem(sys.modules, "ray", cluster)
    trials = sweep.trials_of(TraceAsking(path=trace), ["policy=dure,fifo,sjf"], [])

    found = sweep.results(trials, dict(sweep.on_ray("auto")(trials)))

    assert timeless(found) == timeless(sweep.results(trials, dict(here(trials))))
    assert not cluster.open
    for address in ("elsewhere", "127.0.0.1:1"):
        with pytest.raises(RefusedError, match=f"No Ray cluster answers at '{address}'"):
            sweep.on_ray(address)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("two-sites", ScenarioAsking),
        ("trace", TraceAsking),
        ("trace/jobs.csv", TraceAsking),
        ("nowhere", ScenarioAsking),
    ],
)
def test_a_path_is_a_scenario_or_a_trace(trace: Path, path: str, kind: type[Asking]) -> None:
    assert isinstance(asking(path, trace.parent), kind)
