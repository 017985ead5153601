"""What decisions cost on the core alone, its state resident: full passes, events, mass starts.

    .venv/bin/python benchmarks/decisions.py

300,000 GPUs: 50 pools of ten operators, 40,000 nodes. Of every pool the national programme is
promised a half, its operator the rest; 500 of the programme's 5,000 projects are promised 16 GPUs
of one pool by name. The nation is full and 100,000 tasks wait, nine of ten of them the projects',
in eight shapes and five choices of GPU models.

- *pass*: five minutes later, what has reached its walltime has ended, and 1 % of what runs besides;
  every share's rank is renewed, every lane is looked at. A pass decides no more starts at once than
  one plan of the control loop holds; *all of an instant* are the passes until nothing is left.
- *end*, *submit*: one event to its decisions.
- *mass*: all that runs in every fifth pool ends at once.
- *scale*: ends and submissions of tasks on one node, at 360 GPUs and at 300,000, on as many pools
  and with as many tasks waiting for each GPU: their whole time by the decisions that follow. In the
  small nation most ends lead to none, as little fits where they were.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dure.jobs import Tier
from dure.rehearsal.stage import Place, Stage
from dure.rehearsal.workload import Kind
from dure.scheduling.floor import UNBOUNDED
from dure.scheduling.planner import AT_ONCE
from dure.scheduling.tuning import Tuning
from dure.scheduling.waiting import Task
from dure.shares import Share, ShareKind, Shares

HOUR_MS = 3_600_000
OPERATORS = tuple(f"op-{n}" for n in range(10))
POOLS = (("h100", 8, 875), ("h100", 8, 875), ("h200", 8, 875), ("b200", 8, 875), ("a100", 4, 500))
SHAPES = ((1, 1), (1, 2), (1, 4), (1, 8), (2, 8), (4, 8), (16, 8), (64, 8))
SHAPE_ODDS = (40, 15, 15, 20, 5, 3, 1.5, 0.5)
MODELS = ((), ("h100",), ("h200",), ("b200",), ("h200", "b200"))
MODEL_ODDS = (40, 20, 15, 15, 10)
PASS_S = 300
WALLTIMES_H = (1, 4, 12, 24, 72)
PROMISED_GPUS = 16


@dataclass(frozen=True, slots=True)
class Size:
    """How large a nation, a thousandth of the whole at a time, and how many tasks wait."""

    thousandths: int
    shapes: int = len(SHAPES)

    @property
    def pending(self) -> int:
        """Tasks that wait."""
        return 100 * self.thousandths

    @property
    def projects(self) -> int:
        """Projects of the national programme."""
        return 5 * self.thousandths


class Nation:
    """A nation with the core's state, and made-up tasks for it."""

    def __init__(self, size: Size, tuning: Tuning) -> None:
        self.size = size
        self.dice = random.Random(1)  # noqa: S311  a benchmark's data
        self.now_ms = 0
        self.places = [
            Place(pool=f"{operator}-{n}", owner=operator, gpu_model=model, gpus_per_node=per_node,
                  nodes=max(1, nodes * size.thousandths // 1_000))
            for operator in OPERATORS
            for n, (model, per_node, nodes) in enumerate(POOLS)
        ]  # fmt: skip
        self.stage = Stage(self.places, self._shares(), tuning, lambda _kind, _pool: True)
        for share, pool, gpus in self._promised():
            self.stage.promise(share, pool, gpus)
        self.scheduler = self.stage.scheduler
        self._kinds: dict[tuple[object, ...], Kind] = {}
        self._serial = 0
        self.running: list[Task] = []

    @property
    def gpus(self) -> int:
        """All there are."""
        return sum(place.nodes * place.gpus_per_node for place in self.places)

    def task(self) -> Task:
        """One more task, of somebody."""
        dice, size = self.dice, self.size
        if dice.random() < 0.9:
            share = f"national.p-{dice.randrange(size.projects)}"
        else:
            share = dice.choice(OPERATORS)
        shapes = SHAPES[: size.shapes]
        (shape,) = dice.choices(shapes, SHAPE_ODDS[: size.shapes])
        (models,) = dice.choices(MODELS, MODEL_ODDS)
        kind = self._kind(share, shape, models)
        self._serial += 1
        task = Task(self._serial, self.stage.line(kind), None)
        task.bound_ms = dice.choice(WALLTIMES_H) * HOUR_MS
        task.expected_ms = int(task.bound_ms * dice.uniform(0.1, 1))
        task.limited = True
        task.since_ms = self.now_ms
        return task

    def decide(self, most: int = UNBOUNDED) -> float:
        """Decide; how long that took, in seconds."""
        began_s = time.perf_counter()
        self.scheduler.decide(self.now_ms, most)
        took_s = time.perf_counter() - began_s
        self.running += self.scheduler.starts
        return took_s

    def settle(self) -> None:
        """Who was called back has left, as long as somebody is; each is queued again."""
        while recalled := [victim for victim, _ in self.scheduler.recalls]:
            gone = {victim.serial for victim in recalled}
            self.running = [task for task in self.running if task.serial not in gone]
            self.end(recalled)
            for victim in recalled:
                victim.notice_ms = None
                self.scheduler.submit(victim)
            self.decide()

    def end(self, tasks: Sequence[Task]) -> None:
        """These have ended."""
        for task in tasks:
            self.scheduler.ended(task, self.now_ms)

    def due(self) -> list[Task]:
        """Take what has reached its walltime out of what runs."""
        due = [task for task in self.running if task.release_ms <= self.now_ms]
        self.running = [task for task in self.running if task.release_ms > self.now_ms]
        return due

    def pass_on(self) -> None:
        """Five minutes later: ends, as a full pass finds them."""
        self.now_ms += PASS_S * 1_000
        self.end(self.due())
        self.end(self.some(len(self.running) // 100))

    def some(self, count: int) -> list[Task]:
        """Take so many out of what runs, any."""
        running, taken = self.running, []
        for _ in range(count):
            nth = self.dice.randrange(len(running))
            running[nth], running[-1] = running[-1], running[nth]
            taken.append(running.pop())
        return taken

    def pending(self) -> int:
        """How many tasks wait."""
        demands = self.scheduler.waiting()
        return sum(line.waiting for demand in demands for line in demand.lines)

    def top_up(self) -> None:
        """As many tasks wait as should."""
        for _ in range(self.size.pending - self.pending()):
            self.scheduler.submit(self.task())

    def _kind(self, share: str, shape: tuple[int, int], models: tuple[str, ...]) -> Kind:
        key = (share, shape, models)
        if key not in self._kinds:
            self._kinds[key] = Kind(
                share=share, operator=share.partition(".")[0], project=share, user=share,
                nodes=shape[0], gpus_per_node=shape[1], gpu_models=models, tier=Tier.STANDARD,
            )  # fmt: skip
        return self._kinds[key]

    def _promised(self) -> Iterator[tuple[str, str, int]]:
        """Whom how many GPUs of which pool are promised."""
        for nth, place in enumerate(self.places):
            half = place.nodes // 2 * place.gpus_per_node
            own = min(half // PROMISED_GPUS, self.size.projects // 10 // len(self.places))
            yield "national", place.pool, half - own * PROMISED_GPUS
            yield place.owner, place.pool, place.nodes * place.gpus_per_node - half
            for number in range(own):
                yield f"national.p-{nth * own + number}", place.pool, PROMISED_GPUS

    def _shares(self) -> Shares:
        """The tree; what is promised is told to the stage, pool by pool."""
        owners = [Share(id=operator, kind=ShareKind.OWNER) for operator in OPERATORS]
        programme = Share(id="national", kind=ShareKind.PROGRAMME)
        projects = [
            Share(id=f"national.p-{n}", kind=ShareKind.PROJECT, parent="national")
            for n in range(self.size.projects)
        ]
        return Shares((*owners, programme, *projects))


def full(size: Size, tuning: Tuning) -> Nation:
    """A nation whose every GPU is taken as far as can be, with as many waiting as should."""
    began_s = time.perf_counter()
    nation = Nation(size, tuning)
    while True:
        nation.top_up()
        took_s = nation.decide()
        if len(nation.scheduler.starts) < 0.01 * len(nation.running):
            break
        print(f"  {len(nation.scheduler.starts):,} placed at once in {took_s:.2f} s, "
              f"{len(nation.scheduler.starts) / took_s:,.0f}/s")  # fmt: skip
    events(nation, 5, " right after a mass start")
    for _ in range(6):  # the shortest reach their walltime, all that borrow their minimum runtime
        nation.now_ms += HOUR_MS // 3
        nation.end(nation.due())
        nation.top_up()
        nation.decide()
        nation.settle()
    gc.collect()
    gc.freeze()  # as the control loop does after its first cycle
    print(f"{nation.gpus:,} GPUs, {sum(p.nodes for p in nation.places):,} nodes, "
          f"{len(nation.running):,} tasks run, {nation.pending():,} wait in "
          f"{len(nation.scheduler.waiting()):,} demands; built in "
          f"{time.perf_counter() - began_s:.1f} s")  # fmt: skip
    return nation


def shown(what: str, times_s: Sequence[float], after: str = "") -> None:
    """Print the spread of some times."""
    ordered = sorted(times_s)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(f"{what:<36}{len(ordered):>6,} times: median {statistics.median(ordered) * 1e3:8.3f} ms, "
          f"p99 {p99 * 1e3:8.2f} ms, longest {ordered[-1] * 1e3:8.2f} ms {after}")  # fmt: skip


def passes(nation: Nation, count: int) -> None:
    """Full passes: 1 % has ended, ranks are renewed, every lane is looked at."""
    times_s, instants_s, starts = [], [], []
    for _ in range(count):
        nation.pass_on()
        for lane in nation.stage.lanes:
            nation.scheduler.nodes_changed(lane, lane.up)
        some_s, started = [nation.decide(AT_ONCE)], len(nation.scheduler.starts)
        recalls = list(nation.scheduler.recalls)
        while nation.scheduler.unfinished:
            some_s.append(nation.decide(AT_ONCE))
            started += len(nation.scheduler.starts)
            recalls += nation.scheduler.recalls
        times_s += some_s
        instants_s.append(sum(some_s))
        starts.append(started)
        nation.scheduler.recalls = recalls
        nation.settle()
        nation.top_up()
        nation.decide()
        nation.settle()
        gc.freeze()
    most = starts[instants_s.index(max(instants_s))]
    shown(f"pass, {AT_ONCE:,} starts at most", times_s)
    shown("all of an instant", instants_s,
          f"({sum(starts) // count:,} starts each, {most:,} in the longest)")  # fmt: skip


def fresh_passes(nation: Nation, count: int) -> None:
    """The same with all that wait taken out and put in again."""
    times_s = []
    for _ in range(count):
        nation.pass_on()
        demands = nation.scheduler.waiting()
        tasks = [task for demand in demands for line in demand.lines for task in line.tasks()]
        began_s = time.perf_counter()
        for task in tasks:
            nation.scheduler.withdraw(task)
        for task in tasks:
            nation.scheduler.submit(task)
        entered_s = time.perf_counter() - began_s
        times_s.append(entered_s + nation.decide())
        nation.settle()
        nation.top_up()
        nation.decide()
        nation.settle()
    shown("pass, every task entered anew", times_s)


def events(nation: Nation, count: int, when: str = "") -> float:
    """Ends and submissions in turn, a second apart, so that as much runs and waits as before; the
    seconds for each decision (start or recall) that follows from them.
    """

    def ends() -> None:
        nation.end(nation.some(1))

    def submits() -> None:
        nation.scheduler.submit(nation.task())

    both = [(_one(nation, ends), _one(nation, submits)) for _ in range(count)]
    took_s, decisions = 0.0, 0
    for what, each in zip(("end", "submit"), zip(*both, strict=True), strict=True):
        times_s = [took_s for took_s, _ in each]
        made = sum(made for _, made in each)
        shown(what + when, times_s, f"({made / count:.2f} decisions each)")
        took_s += sum(times_s)
        decisions += made
    return took_s / decisions


def _one(nation: Nation, happens: Callable[[], None]) -> tuple[float, int]:
    nation.now_ms += 1_000
    began_s = time.perf_counter()
    happens()
    told_s = time.perf_counter() - began_s
    took_s = told_s + nation.decide()
    made = len(nation.scheduler.starts) + len(nation.scheduler.recalls)
    nation.settle()
    return took_s, made


def mass(nation: Nation, count: int) -> None:
    """All that runs in every fifth pool ends at once."""
    rates = []
    for nth in range(count):
        nation.now_ms += 60_000
        lanes = {place.pool for place in nation.places[nth % 5 :: 5]}
        gone = [t for t in nation.running if t.lane is not None and t.lane.pool_id in lanes]
        nation.running = [
            t for t in nation.running if t.lane is None or t.lane.pool_id not in lanes
        ]
        nation.end(gone)
        took_s = nation.decide()
        rates.append(len(nation.scheduler.starts) / took_s)
        nation.settle()
        nation.top_up()
        nation.decide()
        nation.settle()
    print(f"{'mass':<36}{count:>6,} times: median {statistics.median(rates):,.0f} placements/s, "
          f"least {min(rates):,.0f}")  # fmt: skip


def scale() -> None:
    """Ends and submissions at two sizes, a round of each in turn."""
    small, large = (full(Size(size, shapes=4), Tuning()) for size in (1, 1_000))
    for nation in (small, large):
        events(nation, 200, " to warm up")
    found = [(events(small, 400), events(large, 400)) for _ in range(5)]
    each_ms = [statistics.median(one) * 1e3 for one in zip(*found, strict=True)]
    ratio = statistics.median(at_large / at_small for at_small, at_large in found)
    print(f"a decision at {small.gpus} and at {large.gpus:,} GPUs: "
          f"{each_ms[0]:.3f} and {each_ms[1]:.3f} ms; {ratio:.2f} times, in the mean")  # fmt: skip


def main() -> None:
    """Measure all."""
    nation = full(Size(1_000), Tuning(rank_period_s=PASS_S))
    events(nation, 200)
    passes(nation, 30)
    fresh_passes(nation, 5)
    mass(nation, 5)
    print()
    scale()


if __name__ == "__main__":
    main()
