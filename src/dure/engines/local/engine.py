"""One machine as an engine: it starts attempts on slots and asks files how they are.

Jobs run as the agent's own user, without a container: a local pool is for people who trust each
other with that account. All state is on disk; a killed agent finds its attempts again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from dure.engines import (
    EngineError,
    Launch,
    LaunchRefusedError,
    NodeReport,
    Observation,
    PoolReport,
)
from dure.engines.layout import lay_out
from dure.engines.local import attempts, shim
from dure.engines.local.attempts import Accepted, Attempt
from dure.engines.local.devices import Devices, LocalPool, Nvml, node_slots
from dure.faults import crash_point
from dure.removal import move_away, remove_tree
from dure.text import shown

FIRST_LEASE_MS: Final = 60_000
"""How long a new attempt may run before its first `extend`, should its agent die in between."""

_PORTS: Final = range(20_000, 32_000)  # below Linux's ephemeral ports (ip_local_port_range)
_ATTEMPT_ID: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,79}\Z")
_SYSTEM_PATH: Final = "/usr/local/bin:/usr/bin:/bin"


class LocalEngine:
    """Implements `dure.engines.Engine` with process groups. One at a time drives a root folder.

    An administrator drains a node by making the file `nodes/POOL/ORDINAL.down` in the root.
    """

    def __init__(self, root: Path, pools: Iterable[LocalPool], *, nvml: Nvml | None = None) -> None:
        self._root = root.absolute()
        self._nvml = nvml
        self._slots: dict[str, tuple[tuple[str, ...], ...]] = {}
        """By pool, the slots of its nodes when it last had any."""
        self._pools = {pool.pool_id: pool for pool in pools}
        if sum(pool.devices is Devices.NVML for pool in self._pools.values()) > 1:
            raise ValueError("devices is nvml in two pools; a machine's GPUs can be in one only")
        self._attempts_folder = self._root / "attempts"
        self._trash = self._root / "trash"
        for folder in (self._root, self._attempts_folder, self._trash):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = shim.try_lock(self._root / "engine.lock")
        if self._lock is None:
            raise EngineError(f"another agent drives the engine in {self._root}")
        for left in self._trash.iterdir():
            remove_tree(left)
        self._attempts = attempts.load(self._attempts_folder)
        self._server: subprocess.Popen[bytes] | None = None
        self._end_unaccounted()

    def close(self) -> None:
        """Lets go of the folder. What runs goes on."""
        if self._server is not None and self._server.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._server.stdin.close()
            self._server.wait()
            self._server = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_unaccounted(self) -> None:
        """Ends what an earlier agent of this folder started and nothing on disk tells of, the disk
        having been emptied: it must not hold GPUs beside another attempt.
        """
        if not attempts.sweep(
            self._root, lambda env: env.get(attempts.ATTEMPT_MARK) not in self._attempts
        ):
            self.close()
            raise EngineError(f"what unknown attempts of {self._root} left running does not end")

    def submit(self, launch: Launch, folder: Path) -> str:
        """See `Engine.submit`. Ranks are nodes; each gets its slots and the ranks' variables."""
        attempt = self._attempts.get(launch.attempt_id)
        if attempt is None:
            attempt = self._accept(launch, folder)
            crash_point("local.after-accept")
        self._start_shims(attempt)
        return attempt.accepted.attempt_id

    def observe(self) -> tuple[Observation, ...]:
        """See `Engine.observe`. Also gives shims to accepted ranks that have none."""
        try:
            for attempt in self._attempts.values():
                if attempt.ended is None:
                    self._start_shims(attempt)
            return tuple(attempt.observe() for attempt in self._attempts.values())
        except OSError as error:
            raise EngineError(f"the engine's folder cannot be read: {error}") from error

    def drift(self) -> tuple[str, ...]:
        """See `Engine.drift`. All that runs here is started by this engine alone."""
        return ()

    def stop(self, attempt_id: str) -> None:
        """See `Engine.stop`. Unknown and ended attempts are left as they are."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.ended is None:
            stop = attempt.folder / shim.STOP
            if not stop.exists():
                shim.write_once(stop, {"cause": shim.ASKED})

    def extend(self, attempt_id: str, lease_until_ms: int) -> None:
        """See `Engine.extend`."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.ended is None:
            _set_lease(attempt.folder, lease_until_ms - time.time_ns() // 1_000_000)

    def forget(self, attempt_id: str) -> None:
        """See `Engine.forget`. Raises EngineError while the attempt is live."""
        attempt = self._attempts.get(attempt_id)
        if attempt is not None and attempt.ended is None:
            raise EngineError(f"attempt {attempt_id} is live and cannot be forgotten")
        if not _ATTEMPT_ID.match(attempt_id):
            return
        with contextlib.suppress(FileNotFoundError):  # one that was not accepted has one at times
            gone = move_away(self._attempts_folder / attempt_id, self._trash)
            remove_tree(gone)
        self._attempts.pop(attempt_id, None)

    def capacity(self) -> tuple[PoolReport, ...]:
        """See `Engine.capacity`. GPUs are counted anew each time."""
        return tuple(
            PoolReport(
                pool,
                tuple(
                    NodeReport(ordinal, len(slots), up=up)
                    for ordinal, (slots, up) in enumerate(self._nodes(pool))
                ),
            )
            for pool in self._pools
        )

    def log_path(self, attempt_id: str, rank: int) -> Path:
        """See `Engine.log_path`."""
        return self._attempts_folder / attempt_id / str(rank) / shim.LOG

    def _nodes(self, pool_id: str) -> tuple[tuple[tuple[str, ...], bool], ...]:
        """The slots of each of the pool's nodes, and whether it is up.

        A node whose GPUs NVML no longer finds has those that it had, and is down.
        """
        found = node_slots(self._pools[pool_id], self._nvml)
        if found:
            self._slots[pool_id] = found
        drained = self._root / "nodes" / pool_id
        return tuple(
            (slots, bool(found) and not (drained / f"{ordinal}.down").exists())
            for ordinal, slots in enumerate(self._slots.get(pool_id, ()))
        )

    def _accept(self, launch: Launch, folder: Path) -> Attempt:
        if not _ATTEMPT_ID.match(launch.attempt_id):
            raise LaunchRefusedError(f"attempt id {shown(launch.attempt_id)} cannot name a folder")
        accepted = Accepted(
            attempt_id=launch.attempt_id,
            pool_id=launch.pool_id,
            nodes=launch.nodes,
            slots=self._choose_slots(launch),
            port=self._choose_port(),
            accepted_ms=time.time_ns() // 1_000_000,
            boot_id=attempts.boot_id(),
        )
        place = self._attempts_folder / launch.attempt_id
        try:
            _write_launch(place, launch, accepted, folder)
            crash_point("local.before-accept")
            attempt = attempts.accept(place, accepted)
        except OSError as error:
            remove_tree(place)  # with the secrets that it may hold already
            raise EngineError(f"attempt {launch.attempt_id} cannot be written: {error}") from error
        self._attempts[launch.attempt_id] = attempt
        return attempt

    def _choose_slots(self, launch: Launch) -> tuple[tuple[str, ...], ...]:
        """Free slots for each rank on the node that it was given."""
        try:
            return self._free_slots(launch)
        except LaunchRefusedError:  # an attempt may have ended since it was last looked at
            for attempt in self._attempts.values():
                attempt.observe()
            return self._free_slots(launch)

    def _free_slots(self, launch: Launch) -> tuple[tuple[str, ...], ...]:
        if launch.pool_id not in self._pools:
            raise LaunchRefusedError(f"this cluster has no pool {shown(launch.pool_id)}")
        pool = launch.pool_id
        nodes = self._nodes(pool)
        taken = self._taken(pool)
        chosen = []
        for ordinal in launch.nodes:
            if not 0 <= ordinal < len(nodes):
                raise LaunchRefusedError(f"pool {pool} has no node {ordinal}")
            slots, up = nodes[ordinal]
            if not up:
                raise LaunchRefusedError(f"node {ordinal} of pool {pool} is down")
            free = [slot for slot in slots if (ordinal, slot) not in taken]
            if len(free) < launch.gpus_per_node:
                raise LaunchRefusedError(
                    f"node {ordinal} of pool {pool} has {len(free)} of its {len(slots)} "
                    f"GPUs free; the attempt needs {launch.gpus_per_node}"
                )
            chosen.append(tuple(free[: launch.gpus_per_node]))
            taken.update((ordinal, slot) for slot in chosen[-1])
        return tuple(chosen)

    def _taken(self, pool_id: str) -> set[tuple[int, str]]:
        """Slots of the pool that live attempts hold, as (ordinal, slot)."""
        taken: set[tuple[int, str]] = set()
        for attempt in self._attempts.values():
            accepted = attempt.accepted
            if accepted.pool_id == pool_id and attempt.ended is None:
                for ordinal, slots in zip(accepted.nodes, accepted.slots, strict=True):
                    taken.update((ordinal, slot) for slot in slots)
        return taken

    def _choose_port(self) -> int:
        """A port that is free now and that no live attempt here was given."""
        used = {a.accepted.port for a in self._attempts.values() if a.ended is None}
        start = secrets.randbelow(len(_PORTS))  # other agents of this machine choose too
        for offset in range(len(_PORTS)):
            port = _PORTS[(start + offset) % len(_PORTS)]
            if port not in used and _is_free(port):
                return port
        raise EngineError("no port is free for the ranks to meet at")

    def _start_shims(self, attempt: Attempt) -> None:
        for rank in attempt.waiting_ranks():
            asked, _ = attempt.asked.get(rank, (0, 0.0))
            attempt.asked[rank] = (asked + 1, time.monotonic())
            self._ask_for_shim(attempt.folder, rank)
            crash_point("local.after-shim")

    def _ask_for_shim(self, folder: Path, rank: int) -> None:
        """One line to the shim server; an unheard one is asked again by the next observe."""
        if self._server is None or self._server.poll() is not None:
            self._server = self._start_server()
        assert self._server.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._server.stdin.write(json.dumps([str(folder), rank]).encode() + b"\n")

    def _start_server(self) -> subprocess.Popen[bytes]:
        """Its environment is empty: nothing of the agent's, tokens say, can reach a job."""
        with (self._root / "shim.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603  our own interpreter and file
                [sys.executable, "-I", "-S", shim.__file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                bufsize=0,
                env={},
                cwd="/",
                start_new_session=True,
            )


def _write_launch(place: Path, launch: Launch, accepted: Accepted, folder: Path) -> None:
    """All that the shims read. `place` starts anew: an unaccepted launch may have left its own."""
    argv = lay_out(place, launch)
    (place / shim.LEASE).touch(mode=0o600)
    _set_lease(place, FIRST_LEASE_MS)
    content = {
        "argv": argv,
        "folder": str(folder.absolute()),
        "walltime_s": launch.walltime_s,
        "notice": launch.notice.value,
        "grace_s": launch.grace_s,
        "environments": [
            _environment(launch, accepted, rank, place / str(rank))
            for rank in range(len(launch.nodes))
        ],
    }
    shim.write_once(place / shim.LAUNCH, content)


def _environment(launch: Launch, accepted: Accepted, rank: int, place: Path) -> dict[str, str]:
    """A clean environment, the user's variables over it, and what the ranks need over both."""
    world = str(len(launch.nodes))
    base = {
        "PATH": f"{Path(sys.executable).parent}:{_SYSTEM_PATH}",
        "HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # or a job's log would come at its end
    }
    ranks = {
        attempts.ATTEMPT_MARK: launch.attempt_id,
        attempts.ROOT_MARK: str(place.parents[2]),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(accepted.port),
        "WORLD_SIZE": world,
        "RANK": str(rank),
        "NODE_RANK": str(rank),
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "CUDA_VISIBLE_DEVICES": ",".join(accepted.slots[rank]),
        # torchrun reads PET_X for its option --x, so a bare `torchrun train.py` starts one
        # process for each GPU of each node (torch.distributed.argparse_util).
        "PET_NNODES": world,
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": str(launch.gpus_per_node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(accepted.port),
    }
    return base | launch.env | ranks


def _set_lease(place: Path, length_ms: int) -> None:
    """The lease is the file's mtime: one call to renew it, one to read it, never half written."""
    until_ns = max(shim.boot_ms() + length_ms, 0) * 1_000_000
    os.utime(place / shim.LEASE, ns=(until_ns, until_ns))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
