"""The published schedulers: digit for digit on real workloads, and against a plain simulation."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dure.errors import RefusedError
from dure.rehearsal.baseline import Baseline, Mode, run
from dure.rehearsal.nodes import Clusters, Nodes
from dure.rehearsal.traces import dure, read
from dure.rehearsal.traces.trace import Rows, Trace, TraceJob, Within

PUBLISHED = {
    ("venus", "fifo"): ("16534.265", "10883.495"),
    ("venus", "sjf"): ("6272.793", "622.022"),
    ("venus", "qssf"): ("5895.810", "245.040"),
    ("venus", "best-effort"): ("5902.403", "251.633"),
    ("venus", "easy"): ("5855.754", "204.983"),
    ("itp", "fifo"): ("112446.968", "93724.684"),
    ("itp", "sjf"): ("40149.134", "21426.850"),
    ("itp", "qssf"): ("52031.597", "33309.313"),
    ("itp", "best-effort"): ("62631.655", "43909.371"),
}
"""Average completion and wait, as the simulators of Helios and Lucid print them."""


@pytest.mark.parametrize(("name", "policy"), PUBLISHED)
def test_averages_equal_the_published_simulators_to_every_digit(
    traces: Path, name: str, policy: str
) -> None:
    folder = traces / name
    trace = read(folder, predictions=dure.csv_in(folder, "predicted_duration_s"))

    summary = run(trace, Baseline(policy)).measures.summary({})

    printed = f"{summary.avg_jct_s:.3f}", f"{summary.avg_wait_s:.3f}"
    assert printed == PUBLISHED[name, policy]


JOBS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b"]),
        st.integers(0, 12),
        st.integers(0, 9),
        st.integers(1, 24),
        st.integers(-5, 9),
    ),
    max_size=25,
).map(lambda jobs: [("a", 0, 1, 1, 1), *jobs])  # a trace has a job at least
"""vc, submit_s, duration_s, gpus, predicted_s"""


def trace_of(jobs: list[tuple[str, int, int, int, int]], within: Within = Within.OWN) -> Trace:
    made = [
        TraceJob(f"j{number}", vc, "u", submit, duration, gpus, "", predicted)
        for number, (vc, submit, duration, gpus, predicted) in enumerate(jobs)
    ]

    def rows() -> Rows:
        return iter(list(enumerate(made, 2)))

    return Trace({"a": 3, "b": 2}, {"jobs.csv": rows}, within=within)


def predicted(job: TraceJob) -> int:
    assert job.predicted_s is not None
    return job.predicted_s


KEYS = {
    Baseline.FIFO: lambda _: 0,
    Baseline.SJF: lambda job: job.duration_s,
    Baseline.QSSF: lambda job: predicted(job) * job.gpus,
    Baseline.BEST_EFFORT: lambda _: 0,
    Baseline.BEST_EFFORT_SJF: lambda job: job.duration_s,
    Baseline.BEST_EFFORT_QSSF: lambda job: predicted(job) * job.gpus,
    Baseline.EASY: lambda job: job.duration_s,
    Baseline.EASY_PREDICTED: predicted,
}
STRICT = {Baseline.FIFO, Baseline.SJF, Baseline.QSSF}


class Plain:
    """A VC second by second, over a list of free GPUs: slow and plain."""

    def __init__(self, trace: Trace, vc: str, baseline: Baseline) -> None:
        self.jobs = [job for job in trace.jobs() if job.vc == vc]
        self.free = [8] * trace.nodes[vc]
        self.baseline = baseline
        self.starts: dict[int, int] = {}
        self.held: dict[int, dict[int, int]] = {}

    def played(self) -> list[int]:
        """Starts, in order of submission."""
        now = 0
        while len(self.starts) < len(self.jobs):
            ended = [number for number in self.held if self.end(number) == now]
            for number in ended:
                self.free = moved(self.free, self.held.pop(number), 1)
            if ended or any(job.submit_s == now for job in self.jobs):
                self.serve(now)
            now += 1
        return [self.starts[number] for number in range(len(self.jobs))]

    def end(self, number: int) -> int:
        return self.starts[number] + self.jobs[number].duration_s

    def expected(self, number: int, now: int) -> int:
        job = self.jobs[number]
        known = predicted(job) if self.baseline is Baseline.EASY_PREDICTED else job.duration_s
        return max(now + 1, self.starts.get(number, now) + max(1, known))

    def serve(self, now: int) -> None:
        came = [n for n, job in enumerate(self.jobs) if job.submit_s <= now]
        waiting = [n for n in came if n not in self.starts]
        promised = None
        for number in sorted(waiting, key=lambda n: KEYS[self.baseline](self.jobs[n])):
            gpus = self.jobs[number].gpus
            placed = placed_plainly(self.free, gpus)
            if placed and (promised is None or self.keeps(promised, placed, number, now)):
                self.starts[number] = now
                self.held[number] = placed
                self.free = moved(self.free, placed, -1)
            elif self.baseline in STRICT:
                return
            elif promised is None and "easy" in self.baseline:
                promised = self.promise(gpus, now)

    def promise(self, gpus: int, now: int) -> tuple[int, int]:
        """How many GPUs are promised, and for when."""
        by = now
        while placed_plainly(self.free_at(by, now), gpus) is None:
            by += 1
        return gpus, by

    def free_at(self, then: int, now: int) -> list[int]:
        free = self.free
        for number, placed in self.held.items():
            if self.expected(number, now) <= then:
                free = moved(free, placed, 1)
        return free

    def keeps(
        self, promised: tuple[int, int], placed: dict[int, int], number: int, now: int
    ) -> bool:
        gpus, by = promised
        then = self.free_at(by, now)
        if self.expected(number, now) > by:
            then = moved(then, placed, -1)
        return placed_plainly(then, gpus) is not None


def moved(free: list[int], placed: dict[int, int], sign: int) -> list[int]:
    return [gpus + sign * placed.get(node, 0) for node, gpus in enumerate(free)]


def placed_plainly(free: list[int], gpus: int) -> dict[int, int] | None:
    nodes = range(len(free))
    if gpus <= 8:
        fits = [node for node in nodes if free[node] >= gpus]
        return {min(fits, key=lambda node: free[node]): gpus} if fits else None
    sizes = [8] * (gpus // 8) + [gpus % 8] * (gpus % 8 > 0)
    most_free = sorted(nodes, key=lambda node: -free[node])
    if len(most_free) < len(sizes):
        return None
    placed = dict(zip(most_free, sizes, strict=False))
    return placed if all(free[node] >= size for node, size in placed.items()) else None


@given(JOBS, st.sampled_from(Baseline))
def test_a_run_is_that_of_a_plain_simulation(
    jobs: list[tuple[str, int, int, int, int]], baseline: Baseline
) -> None:
    # A job of no duration ends in the second it starts, which a simulation by seconds cannot show.
    trace = trace_of([(vc, at, 1 + runs, gpus, guess) for vc, at, runs, gpus, guess in jobs])
    summary = run(trace, baseline).measures.summary({})

    for vc in trace.nodes:
        submits = [job.submit_s for job in trace.jobs() if job.vc == vc]
        starts = Plain(trace, vc, baseline).played()
        wait = sum(starts) - sum(submits)
        if starts:
            assert summary.per_operator[vc].avg_wait_s == pytest.approx(wait / len(starts))


@given(JOBS, st.sampled_from(Baseline))
def test_every_job_ends_alone_together_and_in_one_big_pool(
    jobs: list[tuple[str, int, int, int, int]], baseline: Baseline
) -> None:
    trace = trace_of(jobs)

    for mode in Mode:
        outcome = run(trace, baseline, mode)
        assert outcome.measures.summary({}).jobs == trace.count
        assert outcome.digest == run(trace, baseline, mode).digest


@given(st.integers(1, 9), st.lists(st.integers(1, 40), max_size=20), st.randoms())
def test_nodes_given_back_are_as_they_were(count: int, sizes: list[int], random: object) -> None:
    nodes = Nodes(count, 8)
    held = [taken for gpus in sizes if (taken := nodes.take(gpus)) is not None]
    random.shuffle(held)  # type: ignore[attr-defined]
    for taken in held:
        nodes.give(taken)

    assert nodes.take(8 * count) is not None
    assert nodes.take(1) is None


def test_a_gang_takes_whole_nodes_and_the_most_free_for_the_rest() -> None:
    nodes = Nodes(3, 8)
    small = nodes.take(2)
    gang = nodes.take(12)

    assert small is not None
    assert small.node == 0
    assert gang is not None
    assert (gang.whole, gang.node, gang.gpus) == (0b010, 2, 4)
    assert nodes.take(8) is None


def test_a_job_that_nobody_predicted_is_named_to_qssf() -> None:
    job = TraceJob("j-7", "a", "u", 0, 1, 1)
    trace = Trace({"a": 1}, {"jobs.csv": lambda: iter([(2, job)])})

    with pytest.raises(RefusedError, match="predicted_s of job 'j-7' is missing"):
        run(trace, Baseline.QSSF)


def test_a_job_larger_than_its_vc_is_refused_rather_than_forgotten() -> None:
    trace = trace_of([("b", 0, 1, 24, 1), ("b", 0, 1, 1, 1)], within=Within.ANY)

    with pytest.raises(RefusedError, match="2 jobs wait for ever"):
        run(trace, Baseline.FIFO)
    for mode in (Mode.FEDERATED, Mode.ONE_POOL):
        assert run(trace, Baseline.FIFO, mode).measures.summary({}).jobs == 2


CLUSTERS = [3, 2]
SPANS = [(1 << 3) - 1, ((1 << 2) - 1) << 3]


@given(st.lists(st.integers(1, 40), max_size=20))
def test_a_job_runs_inside_one_cluster_wherever_that_is(sizes: list[int]) -> None:
    clusters = Clusters(CLUSTERS, 8)
    for gpus in sizes:
        fits = clusters.fits(gpus)
        taken = clusters.take(gpus)

        assert fits == (taken is not None)
        if taken is not None:
            held = taken.whole | (1 << taken.node if taken.gpus else 0)
            assert 8 * taken.whole.bit_count() + taken.gpus == gpus
            assert [held & ~span for span in SPANS].count(0) == 1
            assert held & SPANS[clusters.cluster_of(taken)]


def test_a_gang_takes_the_cluster_that_it_fills_best() -> None:
    clusters = Clusters(CLUSTERS, 8)

    gang, small = clusters.take(16), clusters.take(3)
    assert gang is not None
    assert small is not None
    assert clusters.cluster_of(gang) == 1
    assert clusters.cluster_of(small) == 0
    assert clusters.take(24) is None  # three whole nodes, but in no one cluster
    assert clusters.copy().take(16) is not None


def test_whoever_listens_hears_where_each_job_ran() -> None:
    trace = trace_of([("b", 0, 5, 16, 1), ("b", 1, 5, 16, 1)])
    heard: list[tuple[str, int, str]] = []

    for mode in Mode:
        run(
            trace,
            Baseline.FIFO,
            mode,
            ended=lambda job, end_s, at: heard.append((job.id, end_s, at)),
        )

    first, second = "j0", "j1"
    assert heard == [
        (first, 5, "b"), (second, 10, "b"),
        (first, 5, "b"), (second, 6, "a"),
        (first, 5, "all"), (second, 6, "all"),
    ]  # fmt: skip
