"""Step 1: what the sites' latest reports, and their silence, mean for each open attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from dure.agent.wire import AttemptReport, Wish
from dure.attestation import attestation
from dure.control.transition import Happened, possible_ms
from dure.engines import EngineEnd, Phase
from dure.errors import Reason
from dure.life import LIVE, Event, State
from dure.settings import Settings
from dure.store.attempts import Attempt
from dure.units import MS_PER_S, iso


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What is known of a cluster's site: when it last spoke, and what it said."""

    received_ms: int
    answered_ms: int
    answered: bool
    """Whether its engine answered for what it said last."""
    attempts: Mapping[str, AttemptReport]
    denied: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One open attempt's news, and what is to be kept of it where that is new."""

    attempt: Attempt
    happened: Happened | None
    missing_since_ms: int | None
    started_ms: int | None = None
    saved_ms: int | None = None


_END_EVENTS: Final[Mapping[EngineEnd, Event]] = {
    EngineEnd.COMPLETED: Event.COMPLETED,
    EngineEnd.ERRED: Event.ERRED,
    EngineEnd.WALLTIME_REACHED: Event.WALLTIME_REACHED,
    EngineEnd.STOPPED: Event.STOPPED,
    EngineEnd.NODE_FAILED: Event.NODE_FAILED,
    EngineEnd.START_FAILED: Event.START_FAILED,
}


def observe(
    attempt: Attempt, state: State, heard: Heard, settings: Settings, now_ms: int
) -> Observed:
    """What happened to an attempt. An end is believed on positive evidence only.

    An end that was reported stays true however long its site has been silent since.
    """
    report = heard.attempts.get(attempt.id)
    ended = report is not None and report.phase is Phase.ENDED
    if not ended and now_ms - heard.received_ms > settings.silent_after_s * MS_PER_S:
        return Observed(
            attempt=attempt,
            happened=_in_silence(attempt, state, heard, settings, now_ms),
            missing_since_ms=attempt.missing_since_ms,
            started_ms=attempt.started_ms,
            saved_ms=attempt.saved_ms,
        )
    if report is not None:
        started_ms = attempt.started_ms
        if started_ms is None and report.started_ms is not None:
            started_ms = possible_ms(attempt, report.started_ms, now_ms)
        return Observed(
            attempt=attempt,
            happened=reported(attempt, state, report),
            missing_since_ms=None if heard.answered else attempt.missing_since_ms,
            started_ms=started_ms,
            saved_ms=_saved_ms(attempt, report, now_ms),
        )
    return _unnamed(attempt, heard, settings)


def _saved_ms(attempt: Attempt, report: AttemptReport, now_ms: int) -> int | None:
    if report.saved_ms is None:
        return attempt.saved_ms
    return min(now_ms, possible_ms(attempt, report.saved_ms, now_ms))


def reported(attempt: Attempt, state: State, report: AttemptReport) -> Happened | None:
    """The event that a report means for a task in this state; None: nothing new.

    What we ordered to stop without a cancel or a recall was overdue: it reached its walltime.
    """
    if report.phase is Phase.ENDED:
        assert report.end is not None
        signed = attestation(attempt.cluster, report)
        asked = state in {State.CANCELLING, State.RECALLING}
        if report.end is EngineEnd.STOPPED and attempt.wish is Wish.STOP and not asked:
            report = replace(report, end=EngineEnd.WALLTIME_REACHED)
        return Happened(
            event=_END_EVENTS[report.end or EngineEnd.STOPPED],
            reason=_end_reason(report),
            report=report,
            attestation=signed,
        )
    if report.phase is Phase.RUNNING and state in {State.INTENDED, State.STARTING, State.UNKNOWN}:
        return Happened(event=Event.STARTED, reason=Reason("running", "runs"), report=report)
    if report.phase is Phase.ACCEPTED and state in {State.INTENDED, State.UNKNOWN}:
        return Happened(
            event=Event.ACCEPTED,
            reason=Reason("starting", "the engine has accepted it"),
            report=report,
        )
    return None


def _end_reason(report: AttemptReport) -> Reason:
    assert report.end is not None
    match report.end:
        case EngineEnd.COMPLETED:
            text = "completed with exit code 0"
        case EngineEnd.ERRED:
            text = f"failed with exit code {report.exit_code}"
        case EngineEnd.WALLTIME_REACHED:
            text = "ended at its walltime"
        case EngineEnd.STOPPED:
            text = "stopped as asked"
        case EngineEnd.NODE_FAILED:
            text = "its node failed; the platform absorbs this attempt"
        case EngineEnd.START_FAILED:
            text = "could not be started; the platform absorbs this attempt"
    detail = f" ({report.detail})" if report.detail else ""
    return Reason(report.end.value, text + detail)


def _in_silence(
    attempt: Attempt, state: State, heard: Heard, settings: Settings, now_ms: int
) -> Happened | None:
    """Its site is silent: it keeps everything until its lease has ended, and then is lost."""
    ends_ms = attempt.lease_until_ms + settings.lease_margin_s * MS_PER_S
    if now_ms > ends_ms and state in LIVE:
        text = (
            f"{attempt.cluster} has been silent since {iso(heard.received_ms)} and the lease "
            "ended; the platform absorbs this attempt"
        )
        return Happened(event=Event.LOST, reason=Reason("lease-ended", text))
    if state in {State.INTENDED, State.STARTING, State.RUNNING}:
        text = (
            f"{attempt.cluster} has been silent since {iso(heard.received_ms)}; "
            f"the attempt keeps its place until {iso(ends_ms)}"
        )
        return Happened(event=Event.SILENT, reason=Reason("cluster-silent", text))
    return None


def _unnamed(attempt: Attempt, heard: Heard, settings: Settings) -> Observed:
    """The site speaks and does not report an attempt: it may be preparing it, or deny it.

    Only its engine's word counts, and only when it is given twice, some time apart.
    """
    since_ms = attempt.missing_since_ms
    happened = None
    if heard.answered and attempt.id not in heard.denied:
        since_ms = None
    elif heard.answered and (since_ms is None or since_ms > heard.answered_ms):
        since_ms = heard.answered_ms  # for the first time, or before a clock was set back
    elif heard.answered and _confirmed(heard, since_ms, settings):
        text = (
            f"{attempt.cluster} has twice said that it knows no such attempt; "
            "the platform absorbs it"
        )
        happened = Happened(event=Event.LOST, reason=Reason("lost", text))
    return Observed(
        attempt=attempt,
        happened=happened,
        missing_since_ms=since_ms,
        started_ms=attempt.started_ms,
        saved_ms=attempt.saved_ms,
    )


def _confirmed(heard: Heard, since_ms: int | None, settings: Settings) -> bool:
    return (
        since_ms is not None
        and heard.answered_ms - since_ms >= settings.missing_confirm_s * MS_PER_S
    )
