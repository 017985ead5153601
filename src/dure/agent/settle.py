"""After an attempt ended: the rest of its log, its outputs and its checkpoint go up; then its end
may be reported.
"""

from __future__ import annotations

from pathlib import Path

from dure.agent.files import CollectError, collect, opened
from dure.agent.logs import LogPusher
from dure.agent.uplink import Uplink, UplinkRefusedError
from dure.agent.wire import DETAIL_MAX, AttemptReport, Manifest, Order
from dure.engines import EngineEnd, Observation, Phase
from dure.views import Upload


class Settler:
    """Hands over what ended attempts left. Each settling may run in a thread of its own."""

    def __init__(self, uplink: Uplink, logs: LogPusher) -> None:
        self._uplink = uplink
        self._logs = logs

    def settle(
        self, observation: Observation, order: Order, folder: Path, log_paths: tuple[Path, ...]
    ) -> AttemptReport:
        """The attempt's last report. What cannot be handed over is said in its detail.

        Raises UplinkError or OSError: to be done again from the start; what is up already stays.
        """
        notes = [observation.detail] if observation.detail else []
        for rank, path in enumerate(log_paths):
            try:
                whole = self._logs.push(order.attempt_id, rank, path)
            except UplinkRefusedError:
                whole = False
            if not whole:
                notes.append(f"the log of rank {rank} was not taken whole")
        outputs = self._hand_over("outputs", order, order.outputs_dir, folder, notes)
        checkpoint = self._hand_over("checkpoint", order, order.checkpoint_dir, folder, notes)
        return report_of(
            observation, detail="; ".join(notes), outputs=outputs, checkpoint=checkpoint
        )

    def _hand_over(
        self, what: str, order: Order, inside: str | None, folder: Path, notes: list[str]
    ) -> str | None:
        """The digest of what was collected, brought and registered."""
        if inside is None:
            return None
        try:
            collected = collect(folder, inside)
            upload = self._bring(order.attempt_id, collected.manifest, folder, inside)
        except CollectError as error:
            notes.append(f"{what} were not collected: {error}")
            return None
        except UplinkRefusedError as error:
            notes.append(f"{what} were not taken: {error}")
            return None
        if collected.left_out:
            notes.append(
                f"{what}: {collected.left_out:,} links, special files or unfit names left out"
            )
        if upload.missing:
            notes.append(f"{what} were not taken: {len(upload.missing):,} contents did not arrive")
            return None
        return upload.sha256 if collected.manifest.files else None

    def _bring(self, attempt_id: str, manifest: Manifest, folder: Path, inside: str) -> Upload:
        """Registers a manifest, once the contents that its project lacks have been brought."""
        upload = self._uplink.register(attempt_id, manifest)
        if not upload.missing:
            return upload
        by_content = {entry.sha256: entry for entry in manifest.files}
        for entry in by_content.values():
            if entry.sha256 in upload.missing:
                with opened(folder, inside, entry.path) as content:
                    self._uplink.put(attempt_id, entry, content)
        return self._uplink.register(attempt_id, manifest)


def report_of(
    observation: Observation,
    *,
    detail: str | None = None,
    outputs: str | None = None,
    checkpoint: str | None = None,
) -> AttemptReport:
    """An observation as the control plane is told it."""
    return AttemptReport(
        attempt_id=observation.attempt_id,
        engine_id=observation.engine_id,
        phase=observation.phase,
        started_ms=observation.started_ms,
        ended_ms=observation.ended_ms,
        end=observation.end,
        exit_code=observation.exit_code,
        detail=fit(observation.detail if detail is None else detail, DETAIL_MAX),
        outputs=outputs,
        checkpoint=checkpoint,
    )


def unsettled(observation: Observation) -> AttemptReport:
    """An ended attempt whose files are still going up: not ended yet, for all but its site."""
    return AttemptReport(
        attempt_id=observation.attempt_id,
        engine_id=observation.engine_id,
        phase=Phase.ACCEPTED if observation.started_ms is None else Phase.RUNNING,
        started_ms=observation.started_ms,
    )


def never_started(attempt_id: str, end: EngineEnd, detail: str, now_ms: int) -> AttemptReport:
    """The report of an attempt that the engine was never given, and now never will be."""
    return AttemptReport(
        attempt_id=attempt_id,
        engine_id="",
        phase=Phase.ENDED,
        ended_ms=now_ms,
        end=end,
        detail=fit(detail, DETAIL_MAX),
    )


def fit(text: str, limit: int) -> str:
    """What a report can carry of any text."""
    clean = text.replace("\0", "").encode("utf-8", "replace").decode("utf-8")
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
