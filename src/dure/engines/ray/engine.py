"""A Ray cluster as an engine: two HTTP queries a round, whatever the number of jobs.

The attempt's id is the job's submission id, which Ray takes but once, and metadata marks the job as
this cluster's of Dure. Jobs run as the user that Ray's nodes run as: who shares the pool shares
that account.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dure.engines import (
    EngineError,
    Launch,
    LaunchRefusedError,
    Observation,
    PoolReport,
    gang_rank,
    layout,
)
from dure.engines.local import shim
from dure.engines.ray import attempts
from dure.engines.ray.answers import pool_report
from dure.engines.ray.api import Api
from dure.engines.ray.attempts import STOP_MARGIN_S, Asked, Attempt
from dure.engines.ray.site import RayPool, RaySite
from dure.faults import crash_point
from dure.removal import move_away, remove_tree
from dure.text import SLUG, shown

FIRST_LEASE_MS: Final = 60_000
"""How long a job may go on before its first `extend`, should its agent die in between."""

_PROGRAMS: Final = (
    Path(shim.__file__),
    Path(gang_rank.__file__),
    *(Path(__file__).with_name(name) for name in ("driver.py", "rank.py")),
)
"""What runs on the nodes. The driver is not imported here: it needs Ray."""

_TYPE_SHARE: Final = 0.001
"""What a bundle asks of `accelerator_type:NAME`, as Ray's own accelerator_type option does."""


class RayEngine:
    """Implements `dure.engines.Engine`. One at a time drives a root folder, which the cluster's
    nodes see at the same path. Raises EngineError where there is no Ray, or one that it refuses.
    """

    def __init__(
        self, root: Path, site: RaySite, pools: Iterable[RayPool], cluster_id: str
    ) -> None:
        self._root = root.absolute()
        self._site = site
        self._pools = {pool.pool_id: pool for pool in pools}
        self._api = Api(site, cluster_id, _token(site))
        self._api.check()
        self._folders = {name: self._root / name for name in ("attempts", "trash")}
        self._lock: int | None = layout.take(self._folders, _PROGRAMS)
        self._attempts = attempts.load(self._folders["attempts"])

    def close(self) -> None:
        """See `Engine.close`."""
        self._api.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def submit(self, launch: Launch, folder: Path) -> str:
        """See `Engine.submit`. Ray takes an attempt's id once, so asking again starts no second."""
        known = self._attempts.get(launch.attempt_id)
        if known is None:
            known = self._write(launch, folder)
        elif known.asked.taken:
            return known.engine_id
        elif known.asked.session != self._api.session():
            raise EngineError("Ray was asked before, in a session that has ended since")
        crash_point("ray.before-submit")
        try:
            programs = self._root / "programs" / "dure" / "engines" / "ray"
            words = (programs / "driver.py", known.folder, programs / "rank.py")
            self._api.submit(launch.attempt_id, *words)
        except LaunchRefusedError:
            self._drop(launch.attempt_id)
            raise
        crash_point("ray.after-submit")
        known.take()
        return known.engine_id

    def observe(self) -> tuple[Observation, ...]:
        """See `Engine.observe`. A job that its session's list lacks is left out, which denies it;
        a list without any of those that Ray had taken is no answer.
        """
        session, now_ms = self._api.session(), time.time_ns() // 1_000_000
        jobs = self._api.jobs()
        for attempt_id in jobs.keys() - self._attempts.keys():
            if SLUG.match(attempt_id):
                place = self._folders["attempts"] / attempt_id
                asked = Asked(attempt_id=attempt_id, nodes=1, grace_s=0, session=session)
                self._attempts[attempt_id] = Attempt(place, asked)
        open_ = [a for a in self._attempts.values() if a.ended is None]
        if not jobs and any(a.asked.taken and a.asked.session == session for a in open_):
            raise EngineError("Ray lists no job at all, though it had taken some")
        for attempt in open_:
            job = jobs.get(attempt.asked.attempt_id)
            if job is not None:
                attempt.look(job, now_ms)
            elif attempt.asked.session != session:
                attempt.lose(now_ms)
            else:
                attempt.seen = None
        for attempt_id, attempt in tuple(self._attempts.items()):
            if attempt.seen is None and not attempt.folder.exists():  # Ray alone knew of it
                del self._attempts[attempt_id]
        return tuple(a.seen for a in self._attempts.values() if a.seen is not None)

    def drift(self) -> tuple[str, ...]:
        """See `Engine.drift`: Ray starts no job again by itself."""
        return ()

    def stop(self, attempt_id: str) -> None:
        """See `Engine.stop`. Its ranks give notice and grace; what outlasts that Ray ends."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None or attempt.ended is not None:
            return
        # Without its folder nobody would look for a stop there.
        waited_s = attempt.ask_to_stop() if attempt.folder.exists() else math.inf
        if waited_s > attempt.asked.grace_s + STOP_MARGIN_S:
            self._api.stop(attempt_id)

    def extend(self, attempt_id: str, lease_until_ms: int) -> None:
        """See `Engine.extend`."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.ended is None and attempt.folder.exists():
            try:
                _write_lease(attempt.folder, lease_until_ms)
            except OSError as error:
                sentence = f"the lease of {attempt_id} cannot be written: {error}"
                raise EngineError(sentence) from error

    def forget(self, attempt_id: str) -> None:
        """See `Engine.forget`. Raises EngineError while the attempt is live."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            return
        if attempt.ended is None and attempt.asked.taken:
            raise EngineError(f"attempt {attempt_id} is live and cannot be forgotten")
        self._api.delete(attempt_id)
        self._drop(attempt_id)

    def capacity(self) -> tuple[PoolReport, ...]:
        """See `Engine.capacity`."""
        nodes = self._api.nodes()
        return tuple(pool_report(pool, nodes) for pool in self._pools.values())

    def log_path(self, attempt_id: str, rank: int) -> Path:
        """See `Engine.log_path`."""
        return self._folders["attempts"] / attempt_id / str(rank) / shim.LOG

    def _write(self, launch: Launch, folder: Path) -> Attempt:
        bundle = self._bundle(launch)
        session = self._api.session()
        place = self._folders["attempts"] / launch.attempt_id
        try:
            own = {"path": self._site.path, "bundle": bundle, "world": len(launch.nodes)}
            layout.write_launch(place, launch, folder, own)
            _write_lease(place, time.time_ns() // 1_000_000 + FIRST_LEASE_MS)
            asked = Asked(
                attempt_id=launch.attempt_id,
                nodes=len(launch.nodes),
                grace_s=launch.grace_s,
                session=session,
            )
            attempt = attempts.note(place, asked)
        except OSError as error:
            remove_tree(place)  # with the secrets that it may hold already
            raise EngineError(f"attempt {launch.attempt_id} cannot be written: {error}") from error
        self._attempts[launch.attempt_id] = attempt
        return attempt

    def _bundle(self, launch: Launch) -> dict[str, float]:
        """What the attempt takes of each of its nodes. Raises LaunchRefusedError."""
        if not SLUG.match(launch.attempt_id):
            raise LaunchRefusedError(f"attempt id {shown(launch.attempt_id)} cannot name a job")
        pool = self._pools.get(launch.pool_id)
        if pool is None:
            raise LaunchRefusedError(f"this cluster has no pool {shown(launch.pool_id)}")
        if launch.gpus_per_node > pool.gpus_per_node:
            raise LaunchRefusedError(
                f"nodes of pool {pool.pool_id} have {pool.gpus_per_node} GPUs; "
                f"{launch.gpus_per_node} are asked for"
            )
        wanted: dict[str, float] = {"GPU": launch.gpus_per_node}
        if pool.cpus_per_gpu:
            wanted["CPU"] = pool.cpus_per_gpu * launch.gpus_per_node
        if pool.gpu_type is not None:
            wanted[f"accelerator_type:{pool.gpu_type}"] = _TYPE_SHARE
        return wanted

    def _drop(self, attempt_id: str) -> None:
        place = self._folders["attempts"] / attempt_id
        if place.exists():
            remove_tree(move_away(place, self._folders["trash"]))
        self._attempts.pop(attempt_id, None)


def _write_lease(place: Path, until_ms: int) -> None:
    shim.write_over(place / shim.LEASE, {"until_ms": until_ms}, durable=False)


def _token(site: RaySite) -> str | None:
    """The cluster's token. Raises EngineError where its file is open to others, or empty."""
    if site.token_file is None:
        return None
    path = Path(site.token_file)
    try:
        mode, token = path.stat().st_mode, path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise EngineError(f"Ray's token file {path} cannot be read: {error}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise EngineError(f"Ray's token file {path} can be read by others; make its mode 0600")
    if not token:
        raise EngineError(f"Ray's token file {path} is empty")
    return token
