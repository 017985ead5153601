"""What is read once the jobs have ended: their outputs, their logs, the books."""

from __future__ import annotations

import csv
import hmac
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from dure import codec, ledger, workdir
from dure.agent.wire import FileEntry
from dure.audit import audit
from dure.client import Client, last_lines
from dure.demo.cast import Player
from dure.demo.clusters.slurm import SlurmCluster
from dure.demo.outcome import (
    BORROWER,
    FAILING,
    GANG,
    NATIONAL,
    SWEEP,
    Accounted,
    Books,
    Break,
    GangRun,
    Loan,
    Point,
    Secret,
)
from dure.federation import Federation
from dure.journal import JournalKind
from dure.views import JobView, UsageLine

LAST_LINES: Final = 4
RECALLED: Final = "recalled"

_EPOCH: Final = re.compile(r"\Aepoch (\d+): .*checkpoint written\Z")
_RESUMED: Final = re.compile(r"\Arank \d+ of \d+: resumed from epoch (\d+)\Z")
_TOOK_PART: Final = re.compile(r"\Arank (\d+) of \d+: (?:started anew|resumed from epoch \d+)\Z")
_READINGS: Final = Path(__file__).parent / "work" / "records" / "readings.csv"


def epochs(lines: Iterable[str]) -> list[int]:
    """The epochs whose checkpoint a gang's log says to be written."""
    return [int(found[1]) for line in lines if (found := _EPOCH.match(line))]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Reads what the ended jobs left, each as its project's PI."""

    clients: dict[str, Client]
    submitted: dict[str, Player]
    jobs: tuple[JobView, ...]

    def _job(self, name: str) -> tuple[Client, JobView] | None:
        for job in self.jobs:
            if job.summary.name == name:
                return self._client(job), job
        return None

    def _client(self, job: JobView) -> Client:
        return self.clients[self.submitted[job.summary.id].id]

    def _fetch(self, name: str, folder: Path) -> dict[int, Path]:
        """A job's outputs, each file checked against its digest: the folder of each task."""
        if (found := self._job(name)) is None:
            return {}
        client, job = found
        places = {}
        for one in client.outputs(job.summary.id):
            places[one.index] = folder / name / str(one.index)
            files = ((entry.path, entry) for entry in one.files.files)
            content = partial(_content, client, job.summary.id, one.index)
            workdir.fetch(files, content, places[one.index])
        return places

    def sweep(self, folder: Path) -> tuple[Point, ...]:
        """The results of the sweep that were fetched back."""
        return tuple(
            Point(index=index, **result)
            for index, place in sorted(self._fetch(SWEEP, folder).items())
            if (result := _read(place / "result.json"))
        )

    def gang(self, folder: Path, broken: Break | None) -> GangRun | None:
        """What the gang's log says of its way, and its result."""
        if self._job(GANG) is None:
            return None
        lines = self._lines(GANG, rank=0) + self._lines(GANG, rank=1)
        result = _read(self._fetch(GANG, folder).get(0, folder) / "result.json")
        ranks = {int(found[1]) for line in lines if (found := _TOOK_PART.match(line))}
        return GangRun(
            broken=broken,
            resumed_from_epoch=_resumed(lines),
            ranks_heard=tuple(sorted(ranks)),
            loss=result.get("loss"),
            accuracy=result.get("accuracy"),
        )

    def loan(self, epoch_seen: int | None) -> Loan | None:
        """What the borrower's events and log say of its recall."""
        if (found := self._job(BORROWER)) is None:
            return None
        client, job = found
        events = client.why(job.summary.id).events
        return Loan(
            epoch_seen=epoch_seen,
            notice=next((one for one in events if one.reason.code == RECALLED), None),
            resumed_from_epoch=_resumed(self._lines(BORROWER)),
        )

    def _lines(self, name: str, *, rank: int = 0) -> list[str]:
        if (found := self._job(name)) is None:
            return []
        client, job = found
        chunks = client.logs(job.summary.id, rank=rank)
        return "".join(chunk.text for chunk in chunks).splitlines()

    def failing_log(self) -> tuple[str, ...]:
        """The last lines of the failing job's log."""
        if (found := self._job(FAILING)) is None:
            return ()
        client, job = found
        return tuple(last_lines(tuple(client.logs(job.summary.id)), LAST_LINES))

    def secret(self, secret: str, folder: Path, data: Path) -> Secret:
        """Whether the secret reached its job, told by what only its holder can compute; and whether
        it stands in any answer of the API about the jobs, or in any file of the federation.
        """
        yields = _read(self._fetch(NATIONAL, folder).get(0, folder) / "yields.json")
        answers = list(self._answers())
        files = [path for path in sorted(data.rglob("*")) if path.is_file()]
        found = [name for name, content in answers if secret.encode() in content]
        found += [str(path.relative_to(data)) for path in files if _holds(path, secret.encode())]
        return Secret(
            reached=bool(yields) and yields.keys() == _pseudonyms(secret),
            answers_searched=len(answers),
            files_searched=len(files),
            found_in=tuple(found),
        )

    def _answers(self) -> Iterator[tuple[str, bytes]]:
        for job in self.jobs:
            client, id_ = self._client(job), job.summary.id
            yield f"job {id_}", codec.encode(client.job(id_))
            yield f"why {id_}", codec.encode(client.why(id_))
            yield f"outputs {id_}", codec.encode(client.outputs(id_))
            for task in job.tasks:
                for rank in range(job.spec.resources.nodes):
                    chunks = client.logs(id_, task=task.index, rank=rank)
                    text = "".join(chunk.text for chunk in chunks)
                    yield f"log of {id_}[{task.index}] rank {rank}", text.encode()


def _resumed(lines: Iterable[str]) -> int | None:
    """From which epoch a training went on, if it did."""
    return min((int(found[1]) for line in lines if (found := _RESUMED.match(line))), default=None)


def _content(client: Client, job: str, index: int, entry: FileEntry) -> Iterator[bytes]:
    return client.output(job, index, entry.sha256)


def _read(file: Path) -> dict[str, Any]:
    """A result that a job wrote; empty where there is none."""
    if not file.is_file():
        return {}
    found = json.loads(file.read_bytes())
    return found if isinstance(found, dict) else {}


def _pseudonyms(secret: str) -> set[str]:
    with _READINGS.open(encoding="utf-8", newline="") as file:
        machines = {row["machine"] for row in csv.DictReader(file)}
    key = secret.encode()
    return {hmac.digest(key, name.encode(), "sha256").hex()[:16] for name in machines}


def _holds(path: Path, sought: bytes) -> bool:
    try:
        return sought in path.read_bytes()
    except FileNotFoundError:  # a site has just removed it
        return False


def books(admin: Client) -> Books:
    """The accounts, and the ledger added up again from its journals."""
    journals = tuple(admin.all_journals())
    settles = [one for one in journals if one.kind == JournalKind.SETTLE]
    return Books(
        allocations=admin.allocations(),
        usage=tuple(_usage(admin)),
        audit=audit(journals),
        posted_gpu_ms=sum(ledger.bill_of(one).gpu_ms for one in settles),
        lending=admin.lending().lines,
    )


def _usage(admin: Client) -> Iterator[UsageLine]:
    after: str | None = None
    while True:
        page = admin.usage(after=after)
        yield from page.lines
        if (after := page.next) is None:
            return


def accounted(federation: Federation, lost: str | None) -> tuple[Accounted, ...]:
    """What the Slurm clusters that are left say themselves of each attempt."""
    return tuple(
        Accounted(attempt=attempt, gpu_s=gpu_s)
        for cluster_id, cluster in federation.real.items()
        if isinstance(cluster, SlurmCluster) and cluster_id != lost
        for attempt, gpu_s in sorted(cluster.gpu_s_by_job().items())
    )


def agents(federation: Federation, admin: Client) -> tuple[tuple[str, int], ...]:
    """Operators whose site reports nodes, and the process of its agent."""
    up = {pool.cluster for pool in admin.pools() if pool.nodes_up}
    pids = {
        child.name.removeprefix("agent-"): child.process.pid
        for child in federation.children
        if child.process is not None and child.ended() is None
    }
    return tuple(
        (played.operator, pids[played.cluster.cluster_id])
        for played in federation.played
        if played.cluster.cluster_id in up & pids.keys()
    )
