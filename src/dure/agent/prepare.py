"""Before an attempt starts: its files, its secrets, its folder, and the launch made of them."""

from __future__ import annotations

from pathlib import Path

import structlog

from dure.agent.cache import Cache, ContentError
from dure.agent.files import materialise
from dure.agent.uplink import Uplink
from dure.agent.wire import FileEntry, Manifest, Order
from dure.engines import Launch
from dure.removal import remove_tree

log = structlog.get_logger("dure.agent")


class Preparer:
    """Prepares attempts' folders. Each method may run in a thread of its own."""

    def __init__(self, uplink: Uplink, cache: Cache) -> None:
        self._uplink = uplink
        self._cache = cache

    def prepare(self, order: Order, folder: Path) -> dict[str, str]:
        """Makes the job's folder anew; returns its secrets, which stay in memory.

        Raises the uplink's errors, ContentError and OSError (no space, say).
        """
        secrets = self.secrets(order)
        workdir = self._fetch(order.attempt_id, order.workdir)
        checkpoint = self._fetch(order.attempt_id, order.checkpoint)
        remove_tree(folder)
        folder.mkdir(parents=True)
        self._write(order.attempt_id, workdir, folder)
        for inside in filter(None, (order.outputs_dir, order.checkpoint_dir)):
            (folder / inside).mkdir(parents=True, exist_ok=True)
        if order.checkpoint_dir is not None:
            self._write(order.attempt_id, checkpoint, folder / order.checkpoint_dir)
        return secrets

    def secrets(self, order: Order) -> dict[str, str]:
        """The secrets alone, for a folder that was prepared before the agent restarted."""
        return self._uplink.secrets(order.attempt_id)

    def _fetch(self, attempt_id: str, sha256: str | None) -> Manifest:
        """The manifest of that digest, its contents now in the cache."""
        if sha256 is None:
            return Manifest(())
        manifest = self._uplink.manifest(attempt_id, sha256)
        self._fill(attempt_id, manifest.files)
        return manifest

    def _fill(self, attempt_id: str, entries: tuple[FileEntry, ...]) -> None:
        for entry in entries:
            if not self._cache.holds(entry):
                self._cache.add(entry, self._uplink.fetch(attempt_id, entry))

    def _write(self, attempt_id: str, manifest: Manifest, folder: Path) -> None:
        """Writes a manifest's files; what the cache no longer has right is fetched once more."""
        spoilt = materialise(manifest, self._cache.path, folder)
        for entry in spoilt:
            log.warning("cache-spoilt", attempt_id=attempt_id, sha256=entry.sha256)
            self._cache.drop(entry)
        self._fill(attempt_id, spoilt)
        if again := materialise(Manifest(spoilt), self._cache.path, folder):
            raise ContentError(f"what the cache has for {again[0].path} does not stay right")


def launch_of(order: Order, secrets: dict[str, str], folder: Path) -> Launch:
    """What the engine is asked to run. Paths in the environment are absolute."""
    own = {
        "DURE_ATTEMPT_ID": order.attempt_id,
        "DURE_ATTEMPT_NUMBER": str(order.attempt_number),
        "DURE_JOB_ID": order.job_id,
        "DURE_JOB_NAME": order.job_name,
        "DURE_TASK_INDEX": str(order.task_index),
        "DURE_PROJECT": order.project,
        "DURE_POOL": order.pool_id,
    }
    if order.outputs_dir is not None:
        own["DURE_OUTPUTS_DIR"] = str(folder.absolute() / order.outputs_dir)
    if order.checkpoint_dir is not None:
        own["DURE_CHECKPOINT_DIR"] = str(folder.absolute() / order.checkpoint_dir)
    return Launch(
        attempt_id=order.attempt_id,
        project=order.project,
        pool_id=order.pool_id,
        nodes=order.nodes,
        gpus_per_node=order.gpus_per_node,
        walltime_s=order.walltime_s,
        notice=order.notice,
        grace_s=order.grace_s,
        command=order.command,
        script=order.script,
        env=order.env | secrets | own,
    )
