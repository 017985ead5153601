"""What happens in the demo: jobs are submitted, a node is broken, an owner asks for what it lent,
all is watched to its end.

Everything goes through the public API with the members' own tokens, except for breaking the node.
"""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self

from dure import workdir
from dure.client import ApiError, Client, UnreachableError
from dure.demo import cast, evidence
from dure.demo.cast import COMPANY, OWNER, STARTUP, UNIVERSITY, Player
from dure.demo.clusters.reaper import kill_trees, processes_of
from dure.demo.outcome import BORROWER, GANG, MOVER, NATIONAL, Break, Outcome
from dure.draft import Draft, requests
from dure.engines.local.fail import kill_node
from dure.errors import Reason
from dure.federation import Federation
from dure.fleet import EngineKind, OwnerKind
from dure.jobfile import parse
from dure.life import TERMINAL
from dure.scheduling.world import Forecast
from dure.views import AttemptView, JobView, LogChunk, Submission

WORK: Final = Path(__file__).parent / "work"
FILES: Final = (
    (COMPANY, WORK / "gang" / "job.yaml"),
    (STARTUP, WORK / "gang" / "borrower.yaml"),
    (STARTUP, WORK / "sweep" / "job.yaml"),
    (UNIVERSITY, WORK / "records" / "job.yaml"),
    (UNIVERSITY, WORK / "sweep" / "failing.yaml"),
    (STARTUP, WORK / "gang" / "too-much.yaml"),
)
"""Who submits what, in this order."""
OWNERS_FILE: Final = (OWNER, WORK / "sweep" / "owner.yaml")
"""What the owner submits later."""
MOVERS_FILE: Final = (UNIVERSITY, WORK / "gang" / "mover.yaml")
"""What is submitted last, where two clusters can run it."""

BREAK_AFTER_EPOCH: Final = 3
OWNER_COMES_AFTER_EPOCH: Final = 3
SITE_GOES_AFTER_EPOCH: Final = 3
BROKEN_RANK: Final = 1
TURN_S: Final = 0.3
WATCH_S_MAX: Final = 240.0
CANCEL_S_MAX: Final = 15.0


class Screen(Protocol):
    """Where the demo shows itself."""

    def say(self, sentence: str) -> None:
        """What the demo does now."""

    def show(self, jobs: tuple[JobView, ...]) -> None:
        """How the jobs are now."""


@dataclass(slots=True)
class EpochLog:
    """Follows a training's log through the API, in a thread, to know its last saved epoch."""

    client: Client
    job: str
    epoch: int = 0
    _text: str = ""
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._thread = threading.Thread(target=self._follow, daemon=True, name="epoch-log")
        self._thread.start()

    def _follow(self) -> None:
        with suppress(ApiError, UnreachableError, RuntimeError):  # closed, or the federation ended
            for chunk in self.client.follow_logs(self.job):
                self._read(chunk)

    def _read(self, chunk: LogChunk) -> None:
        *lines, self._text = (self._text + chunk.text).split("\n")
        self.epoch = max([self.epoch, *evidence.epochs(lines)])


@dataclass(slots=True)
class Story:
    """One run. Use it as a context manager: what still runs at its end is cancelled."""

    federation: Federation
    screen: Screen
    admin: Client
    clients: dict[str, Client]
    secret: str = field(default_factory=lambda: secrets.token_hex(24), repr=False)
    submitted: dict[str, Player] = field(default_factory=dict)
    """By job id, in the order of submission."""
    plan: Forecast | None = None
    refusal: Reason | None = None
    broken: Break | None = None
    lent_until_epoch: int | None = None
    """The borrower's last checkpointed epoch when the owner asked for its GPUs."""
    lost_site: str | None = None
    _logs: dict[str, EpochLog] = field(default_factory=dict)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def submit(self) -> None:
        """Upload each job's folder and submit it, as its project's PI."""
        for player, file in FILES:
            try:
                self._submit_file(player, file)
            except ApiError as no:
                self.refusal = Reason(no.problem.code, no.problem.detail)
                self.screen.say(f"Refused: {no.problem.detail}")
            self.screen.show(self.jobs())

    def _submit_file(self, player: Player, file: Path) -> None:
        (draft,) = parse(file.read_text(), file.parent, source=file.name)
        draft = draft.over(Draft(project=player.id))
        self.screen.say(f"{player.pi.name} of {player.organisation.name} submits {draft.name}")
        self._submit(player, draft)

    def _submit(self, player: Player, draft: Draft) -> None:
        client = self.clients[player.id]
        assert draft.workdir is not None, "every job of the demo has a folder"
        digest = workdir.upload(client, player.id, workdir.collect(draft.workdir))
        asked = requests((draft,), {"PSEUDONYM_KEY": self.secret}, [digest])
        if draft.name == NATIONAL:
            self.plan = client.plan(asked[0].spec)
        (job,) = client.submit(Submission(asked), key=f"demo-{uuid.uuid4()}").jobs
        self.submitted[job.id] = player
        if draft.name in {GANG, BORROWER, MOVER}:
            self._logs[draft.name] = EpochLog(client, job.id)
            self._logs[draft.name].start()

    def jobs(self) -> tuple[JobView, ...]:
        """How the submitted jobs are now."""
        return tuple(self.clients[who.id].job(job) for job, who in self.submitted.items())

    def watch(self) -> tuple[JobView, ...]:
        """Show the jobs until all have ended; on the way, break a node and let the owner come."""
        self.screen.say(f"Waiting for epoch {BREAK_AFTER_EPOCH} of the gang, to break a node then")

        def turn(jobs: tuple[JobView, ...]) -> None:
            self._break_when_due(jobs)
            self._let_owner_come_when_due()

        return self._watch(turn)

    def watch_move(self) -> tuple[JobView, ...]:
        """Submit the mover, and take the site away under it."""
        self._submit_file(*MOVERS_FILE)
        return self._watch(self._lose_site_when_due)

    def _watch(self, turn: Callable[[tuple[JobView, ...]], None]) -> tuple[JobView, ...]:
        deadline_s = time.monotonic() + WATCH_S_MAX
        while True:
            jobs = self.jobs()
            self.screen.show(jobs)
            turn(jobs)
            if all(job.summary.state in TERMINAL for job in jobs):
                return jobs
            if time.monotonic() > deadline_s:
                self.screen.say("The jobs take too long; the demo gives up")
                return jobs
            time.sleep(TURN_S)

    def _epoch(self, name: str) -> int:
        return self._logs[name].epoch if name in self._logs else 0

    def _let_owner_come_when_due(self) -> None:
        epoch = self._epoch(BORROWER)
        if self.lent_until_epoch is None and epoch >= OWNER_COMES_AFTER_EPOCH:
            self.screen.say(f"The borrower has saved epoch {epoch}: now the owner needs its GPUs")
            self.lent_until_epoch = epoch
            self._submit_file(*OWNERS_FILE)

    def _break_when_due(self, jobs: tuple[JobView, ...]) -> None:
        if self.broken or (epoch := self._epoch(GANG)) < BREAK_AFTER_EPOCH:
            return
        gang = next(job for job in jobs if job.summary.name == GANG)
        for attempt in gang.tasks[0].attempts:
            if attempt.cause is None and self._kill_node(attempt, BROKEN_RANK):
                self.broken = Break(
                    attempt=attempt.id,
                    rank=BROKEN_RANK,
                    cluster=attempt.cluster,
                    node=attempt.nodes[BROKEN_RANK],
                    epoch_seen=epoch,
                )
                self.screen.say(
                    f"Epoch {epoch} is saved: killed node {self.broken.node} of {attempt.pool}, "
                    f"rank {BROKEN_RANK}; the gang must resume by itself"
                )

    def _kill_node(self, attempt: AttemptView, rank: int) -> bool:
        """Whether there was anything to kill."""
        federation = self.federation
        if (real := federation.real.get(attempt.cluster)) is None:
            return kill_node(federation.engine_root(attempt.cluster), attempt.id, rank)
        real.lose_node(attempt.id, rank)
        return True

    def _lose_site_when_due(self, jobs: tuple[JobView, ...]) -> None:
        if self.lost_site or (epoch := self._epoch(MOVER)) < SITE_GOES_AFTER_EPOCH:
            return
        attempt = jobs[-1].tasks[0].attempts[-1]
        self.lost_site = attempt.cluster
        self.federation.lose_site(attempt.cluster)
        self.screen.say(
            f"Epoch {epoch} of {MOVER}: killed the whole site {attempt.cluster} of "
            f"{attempt.operator}, agent and cluster; when its lease is over the job may move"
        )

    def cancel(self) -> None:
        """Cancel what has not ended, and wait for it; the federation may be gone already."""
        with suppress(ApiError, UnreachableError):
            live = {j.summary.id for j in self.jobs() if j.summary.state not in TERMINAL}
            for job in live:
                self.clients[self.submitted[job].id].cancel(job)
            deadline_s = time.monotonic() + CANCEL_S_MAX
            while live and time.monotonic() < deadline_s:
                time.sleep(TURN_S)
                live = {j.summary.id for j in self.jobs() if j.summary.state not in TERMINAL}


def end_all(federation: Federation) -> None:
    """Kill whatever the federation's engines still run; for a federation that has been stopped."""
    for played in federation.played:
        root = federation.engine_root(played.cluster.cluster_id)
        if played.engine is not EngineKind.LOCAL:
            kill_trees(processes_of(root))
            continue
        for place in root.glob("attempts/*/*/"):
            if place.name.isdigit():
                kill_node(root, place.parent.name, int(place.name))


@contextmanager
def begun(federation: Federation, screen: Screen, now_ms: int) -> Iterator[Story]:
    """The story on a federation that runs, with everybody enrolled."""
    with federation.administrator() as admin:
        tokens = cast.enrol(admin, federation.data / "tokens", now_ms)
        for player, allocation in zip(cast.PLAYERS, cast.allocations(now_ms), strict=True):
            kind, holds = player.organisation.kind, cast.terms(allocation)
            screen.say(f"Enrolled {player.organisation.name}, a {kind}: {holds}")
        clients = {who: Client(federation.url, token) for who, token in tokens.items()}
        try:
            with Story(federation, screen, admin, clients) as story:
                yield story
        finally:
            for client in clients.values():
                client.close()


def perform(story: Story) -> Outcome:
    """The whole story, and what was seen of it."""
    story.submit()
    jobs = story.watch()
    if sum(site.engine is EngineKind.SLURM for site in story.federation.played) > 1:
        jobs = story.watch_move()
    story.screen.say("Fetching results, reading the books, searching for the secret")
    federation = story.federation
    results = federation.data / "results"
    found = evidence.Evidence(story.clients, story.submitted, jobs)
    fleet = federation.scenario.fleet
    return Outcome(
        played=federation.played,
        agents=evidence.agents(federation, story.admin),
        government_pools=tuple(
            pool.id for pool in fleet.pools if pool.owner_kind is OwnerKind.GOVERNMENT
        ),
        jobs=jobs,
        refusal=story.refusal,
        plan=story.plan,
        sweep=found.sweep(results),
        gang=found.gang(results, story.broken),
        loan=found.loan(story.lent_until_epoch),
        lost_site=story.lost_site,
        accounted=evidence.accounted(federation, story.lost_site),
        failing_log=found.failing_log(),
        books=evidence.books(story.admin),
        secret=found.secret(story.secret, results, federation.data),
    )
