"""What an agent and the control plane say to each other.

`sync` is one idempotent call: observed against desired. Losing or repeating a message changes
nothing, because each side always states the whole present, never a change.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from dure.engines import EngineEnd, Launch, Phase, PoolReport
from dure.text import SHA256, check_relative_path, check_text, shown
from dure.units import INT64_MAX

FILES_MAX = 20_000
FILE_BYTES_MAX = 2 * 1024**3
TREE_BYTES_MAX = 20 * 1024**3
MANIFEST_BYTES_MAX = 16 * 1024**2
"""Of a manifest as JSON: it has room for FILES_MAX paths of 600 characters."""
ATTEMPT_ID_MAX = 80
DETAIL_MAX = 2_000
SIGNATURE_MAX = 100
DRIFTS_MAX = 100
DRIFT_MAX = 500


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A regular file of a tree: its path inside it, its size, the digest of its content."""

    path: str
    size: int
    sha256: str
    executable: bool = False

    def __post_init__(self) -> None:
        check_relative_path("path", self.path)
        if not 0 <= self.size <= FILE_BYTES_MAX:
            raise ValueError(
                f"size of {shown(self.path)} is {self.size:,}; it must be from 0 to "
                f"{FILE_BYTES_MAX:,} bytes"
            )
        if not SHA256.match(self.sha256):
            raise ValueError(f"sha256 {shown(self.sha256)} is not 64 lower-case hex digits")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A tree of regular files, in the order of their paths: no links, no devices, no archives."""

    files: tuple[FileEntry, ...]

    def __post_init__(self) -> None:
        if len(self.files) > FILES_MAX:
            raise ValueError(f"files has {len(self.files):,} entries; at most {FILES_MAX:,}")
        if sum(entry.size for entry in self.files) > TREE_BYTES_MAX:
            raise ValueError(f"files are larger than {TREE_BYTES_MAX:,} bytes together")
        paths = [entry.path for entry in self.files]
        if any(a >= b for a, b in pairwise(paths)):
            raise ValueError("files must be in the order of their paths, each path once")
        folders = {path[:at] for path in paths for at, c in enumerate(path) if c == "/"}
        if clash := folders & set(paths):
            raise ValueError(f"path {shown(min(clash))} is both a file and a folder")


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """One attempt as the site knows it. Repeated until the control plane has closed it."""

    attempt_id: str
    engine_id: str
    phase: Phase
    started_ms: int | None = None
    saved_ms: int | None = None
    """When it last wrote its checkpoint since it started; None: not known to have."""
    ended_ms: int | None = None
    end: EngineEnd | None = None
    exit_code: int | None = None
    detail: str = ""
    outputs: str | None = None
    """The digest of what was collected once it ended, as a manifest that was registered before."""
    checkpoint: str | None = None
    signature: str | None = None
    """The site's, of an end: see `dure.attestation`."""

    def __post_init__(self) -> None:
        check_text("attempt_id", self.attempt_id, limit=ATTEMPT_ID_MAX)
        if self.signature is not None:
            check_text("signature", self.signature, limit=SIGNATURE_MAX)
        check_text("engine_id", self.engine_id, limit=200)
        check_text("detail", self.detail, limit=DETAIL_MAX)
        for field in (self.started_ms, self.saved_ms, self.ended_ms, self.exit_code):
            if field is not None and abs(field) > INT64_MAX:
                raise ValueError("an instant or exit code does not fit 64 bits")
        if (self.phase is Phase.ENDED) != (self.end is not None):
            raise ValueError("end must be given exactly when the phase is ended")
        for name, digest in (("outputs", self.outputs), ("checkpoint", self.checkpoint)):
            if digest is not None and not SHA256.match(digest):
                raise ValueError(f"{name} {shown(digest)} is not 64 lower-case hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncRequest:
    """The whole present of one cluster, as its agent sees it."""

    cluster_id: str
    engine: str
    engine_answered: bool
    """False: the engine could not be asked; `attempts` and `pools` are then the last known."""
    pools: tuple[PoolReport, ...]
    attempts: tuple[AttemptReport, ...]
    denied: tuple[str, ...] = ()
    """Attempts that the engine once had, or may have had, and of which it now knows nothing."""
    drift: tuple[str, ...] = ()
    """Where the engine does other than was asked of it: a sentence each."""

    def __post_init__(self) -> None:
        if len(self.drift) > DRIFTS_MAX:
            raise ValueError(f"drift has {len(self.drift)} sentences; at most {DRIFTS_MAX}")
        for sentence in self.drift:
            check_text("drift", sentence, limit=DRIFT_MAX)
        for attempt_id in self.denied:
            check_text("denied", attempt_id, limit=ATTEMPT_ID_MAX)
        if self.denied and not self.engine_answered:
            raise ValueError("denied names attempts; an engine that did not answer denies nothing")
        if both := set(self.denied) & {report.attempt_id for report in self.attempts}:
            raise ValueError(f"attempt {shown(min(both))} is both reported and denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOffer:
    """The key that an agent will sign with: 32 bytes of Ed25519 in base64."""

    cluster_id: str
    public_key: str

    def __post_init__(self) -> None:
        check_text("public_key", self.public_key, limit=SIGNATURE_MAX)


class Wish(StrEnum):
    """What should become of an attempt."""

    RUN = "run"
    STOP = "stop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(Launch):
    """An attempt that should exist: what to launch, whose it is, and its files.

    Its `env` is without secrets: those are fetched apart, when it is first launched. `workdir` and
    `checkpoint` are the digests of manifests, which are fetched apart too.
    """

    wish: Wish
    accepted: bool
    """An engine is known to have accepted it: whoever has no record of it must not run it again."""
    job_id: str
    job_name: str
    task_index: int
    attempt_number: int
    workdir: str | None
    checkpoint_dir: str | None
    checkpoint: str | None
    outputs_dir: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReply:
    """Desired state: every attempt that should exist on this cluster, and how long to go on."""

    orders: tuple[Order, ...]
    closed: tuple[str, ...]
    """Reported attempts whose end is settled: the agent may forget them."""
    strangers: tuple[str, ...]
    """Reported attempts that the control plane does not know: leave them alone and say so."""
    lease_s: int
    """From the moment this sync was sent, each ordered attempt may go on for so long unseen."""
    interval_s: float
