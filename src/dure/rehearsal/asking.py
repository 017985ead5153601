"""What is asked of a rehearsal in words, and the rehearsal that this means.

Both askings are plain values: a sweep sends them to other processes, and what comes back is a plain
dictionary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from dure import scenario as scenarios
from dure.errors import RefusedError
from dure.rehearsal import scenario
from dure.rehearsal.baseline import Baseline, Mode
from dure.rehearsal.perform import perform
from dure.rehearsal.record import Record
from dure.rehearsal.replay import DURE, Asked, Foresight, Passing, replay
from dure.rehearsal.scenario import Rehearsal
from dure.rehearsal.submissions import Generated, jobs_expected
from dure.rehearsal.traces import Format, Trace, Within, read
from dure.rehearsal.traces.trace import TraceJob
from dure.scheduling.tuning import DIAL_MAX, Tuning
from dure.text import shown
from dure.units import INSTANT_MS_MAX

NO_LENDING: Final = "no-lending"
"""The production scheduler where every share keeps what it is promised to itself."""

TRACE_POLICIES: Final = (DURE, *(one.value for one in Baseline))
SCENARIO_POLICIES: Final = (DURE, NO_LENDING)
FORESIGHTS: Final = (Foresight.TRUE.value, Foresight.LEARNED.value)

_PREDICTED: Final = frozenset({Baseline.QSSF, Baseline.BEST_EFFORT_QSSF, Baseline.EASY_PREDICTED})
_DIALS: Final = tuple(dial.name for dial in fields(Tuning))


@dataclass(slots=True)
class Ready:
    """A rehearsal ready to be played.

    `jobs` is how many it has, where that is known before. `play` tells a record all that happens
    and returns the summary, as JSON has it, and when the last job ended (ms since time 0). A
    scenario's is about the first `span_ms`; a trace's is about all of it.
    """

    jobs: int | None
    play: Callable[[Record | None, Passing], tuple[dict[str, Any], int]]
    bad_rows: Mapping[str, Any] = field(default_factory=dict)
    span_ms: int = INSTANT_MS_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceAsking:
    """A trace to be replayed. `predictions` is a CSV file, `true` or `learned`; None: what the
    policy is usually given. `settings` are dials of the scheduler, such as `recalls_max=5`.
    """

    path: Path
    mode: Mode = Mode.FEDERATED
    policy: str = DURE
    predictions: str | None = None
    overhead_s: int = 60
    format: Format = Format.AUTO
    ask_every: int | None = None
    settings: tuple[str, ...] = ()

    def ready(self) -> Ready:
        """Read the trace.

        Raises:
            RefusedError: `bad-input`: there is no such policy or dial, or they do not go together;
                `bad-trace`: the trace or the predictions cannot be read.
        """
        yardstick = None if self.policy == DURE else Baseline(self._policy())
        asked = Asked(
            mode=self.mode,
            yardstick=yardstick,
            foresight=self._foresight(),
            tuning=self._tuning(yardstick),
            overhead_s=self.overhead_s,
            ask_every=self.ask_every,
        )
        trace = self._trace(yardstick)
        bad = {"counts": dict(trace.bad.counts), "examples": list(trace.bad.examples)}
        return Ready(trace.count, partial(self._play, trace, asked), bad)

    def alone(self) -> TraceAsking:
        """The same with every operator alone."""
        return replace(self, mode=Mode.ISOLATED)

    def with_settings(self, settings: Sequence[str]) -> TraceAsking:
        """The same with more settings; `mode`, `policy` and `predictions` are settings too.

        Raises:
            RefusedError: `bad-input`: there is no such mode.
        """
        made, dials = self, list(self.settings)
        for setting in settings:
            key, _, value = setting.partition("=")
            if key == "mode":
                made = replace(made, mode=Mode(one_of("mode", value, tuple(Mode))))
            elif key == "policy":
                made = replace(made, policy=value)
            elif key == "predictions":
                made = replace(made, predictions=value)
            else:
                dials.append(setting)
        return replace(made, settings=tuple(dials))

    def with_seed(self, seed: int) -> TraceAsking:
        """Nothing: a trace is what it is.

        Raises:
            RefusedError: `bad-input`, always.
        """
        raise RefusedError(
            "bad-input",
            f"--seeds {seed}: a trace has no seed, each run of it is the same; leave it out.",
        )

    def _policy(self) -> str:
        return one_of("policy", self.policy, TRACE_POLICIES)

    def _foresight(self) -> Foresight:
        if self.predictions in FORESIGHTS:
            return Foresight(self.predictions)
        return Foresight.LEARNED if self.predictions is None else Foresight.GIVEN

    def _tuning(self, yardstick: Baseline | None) -> Tuning:
        for_dure = [f"--set {setting}" for setting in self.settings]
        for_dure += ["--ask-every"] if self.ask_every is not None else []
        for_dure += ["--predictions learned"] if self.predictions == Foresight.LEARNED else []
        if yardstick is not None and for_dure:
            raise RefusedError(
                "bad-input", f"{for_dure[0]} goes with --policy dure only; leave it out."
            )
        return turned(Tuning(recall_s=self.overhead_s), self.settings)

    def _trace(self, yardstick: Baseline | None) -> Trace:
        within = Within.OWN if self.mode is Mode.ISOLATED else Within.ANY
        predicted = yardstick in _PREDICTED
        file = None
        if self.predictions is None and predicted:
            file = self._usual_predictions()
        elif self.predictions is not None and self.predictions not in FORESIGHTS:
            file = Path(self.predictions)
        trace = read(self.path, self.format, within=within, predictions=file)
        if predicted and file is None:
            trace.predict = _truly
        return trace

    def _usual_predictions(self) -> Path:
        folder = self.path if self.path.is_dir() else self.path.parent
        for name in ("predicted_duration_s.csv", "predicted_duration_s.csv.gz"):
            if (folder / name).is_file():
                return folder / name
        raise RefusedError(
            "no-prediction",
            f"--policy {self.policy} orders by predicted run times; give --predictions FILE, "
            "a CSV file of job_id and predicted_s.",
        )

    def _play(
        self, trace: Trace, asked: Asked, record: Record | None, passing: Passing
    ) -> tuple[dict[str, Any], int]:
        replayed = replay(trace, asked, record, passing)
        found = replayed.to_dict()
        title = f"{self.path.resolve().name}: {self.policy}, {self.mode.value}"
        found["settings"] = {"title": title} | found["settings"]
        return found, replayed.end_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioAsking:
    """A scenario to be rehearsed: a name or a TOML file. `settings` are keys of the file, such as
    `workload.startups.load=0.9`, or dials of the scheduler. One job in `ask_every`, if any, asks
    when it will start.
    """

    path: str
    policy: str | None = None
    seed: int | None = None
    ask_every: int | None = None
    settings: tuple[str, ...] = ()

    def ready(self) -> Ready:
        """Read the scenario.

        Raises:
            RefusedError: `bad-scenario`: something in it, or in a setting, is wrong; `bad-input`:
                there is no such policy.
        """
        settings = [_in_file(setting) for setting in self.settings]
        if self.seed is not None:
            settings.append(f"rehearsal.seed={self.seed}")
        if self.policy is not None:
            settings.append(f"policy.name={self.policy}")
        rehearsal = scenario.load(scenarios.find(self.path), settings)
        one_of("policy", rehearsal.policy.name, SCENARIO_POLICIES)
        play = partial(self._play, rehearsal)
        return Ready(_jobs(rehearsal), play, span_ms=rehearsal.span.length_ms)

    def alone(self) -> ScenarioAsking:
        """The same without lending."""
        return replace(self, policy=NO_LENDING)

    def with_settings(self, settings: Sequence[str]) -> ScenarioAsking:
        """The same with more settings."""
        return replace(self, settings=(*self.settings, *settings))

    def with_seed(self, seed: int) -> ScenarioAsking:
        """The same with another seed."""
        return replace(self, seed=seed)

    def _play(
        self, rehearsal: Rehearsal, record: Record | None, passing: Passing
    ) -> tuple[dict[str, Any], int]:
        lending = rehearsal.policy.name == DURE
        performed = perform(rehearsal, record, passing, lending=lending, ask_every=self.ask_every)
        settings = {
            "title": rehearsal.nation.name,
            "policy": rehearsal.policy.name,
            "seed": rehearsal.span.seed,
            "starts_ms": rehearsal.span.starts_ms,
            "ends_ms": rehearsal.span.ends_ms,
        }
        turned_here = (setting.partition("=") for setting in self.settings)
        settings |= {key: value for key, _, value in turned_here}
        return performed.to_dict() | {"settings": settings}, performed.end_ms


Asking = TraceAsking | ScenarioAsking


def asking(path: str, folder: Path) -> Asking:
    """What to rehearse: a scenario's name or TOML file, or anything else in a folder as a trace."""
    with suppress(RefusedError):
        if scenarios.find(path).suffix == ".toml":
            return ScenarioAsking(path=path)
    if (folder / path).exists():
        return TraceAsking(path=folder / path)
    return ScenarioAsking(path=path)


def turned(tuning: Tuning, settings: Sequence[str]) -> Tuning:
    """The scheduler's dials after settings such as `recalls_max=5`.

    Raises:
        RefusedError: `bad-input`: there is no such dial, or its value is none that it can have.
    """
    for setting in settings:
        key, _, value = setting.partition("=")
        if key not in _DIALS:
            known = ", ".join(_DIALS)
            raise RefusedError("bad-input", f"--set {shown(key)}: no such dial; known are {known}.")
        if not value.isdecimal() or not value.isascii() or int(value[:11]) > DIAL_MAX:
            raise RefusedError(
                "bad-input", f"--set {key} is {shown(value)}; right is 0 to {DIAL_MAX}."
            )
        try:
            tuning = replace(tuning, **{key: int(value)})
        except ValueError as wrong:
            raise RefusedError("bad-input", f"--set {wrong}.") from None
    return tuning


def one_of(name: str, value: str, known: Sequence[str]) -> str:
    """A value that is known.

    Raises:
        RefusedError: `bad-input`: it is not.
    """
    if value not in known:
        raise RefusedError(
            "bad-input", f"{name} is {shown(value)}; right is one of {', '.join(known)}."
        )
    return value


def _in_file(setting: str) -> str:
    """Dials need not name their section."""
    return f"policy.{setting}" if setting.partition("=")[0] in _DIALS else setting


def _jobs(rehearsal: Rehearsal) -> int | None:
    """About how many jobs there will be; nothing where a trace brings some."""
    there = scenario.setting(rehearsal)
    total = 0
    for workload in rehearsal.workloads:
        if not isinstance(workload, Generated):
            return None
        total += jobs_expected(workload, there)
    return total


def _truly(jobs: Iterator[TraceJob]) -> Iterator[TraceJob]:
    """Jobs whose predictions come true."""
    return (job._replace(predicted_s=job.duration_s) for job in jobs)
