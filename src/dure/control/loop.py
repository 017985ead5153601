"""The thread that goes round: a cycle when something happened, and at least every `cycle_s`."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from dure.control.cycle import Control, Report, begin_anew, tick
from dure.scenario import Scenario
from dure.store.leadership import DeposedError
from dure.units import MS_PER_S

RETRY_S_MAX: Final = 30.0
DOUBLINGS_MAX: Final = 8
CLOCK_STEP_MS: Final = 5_000
SEARCH_EVERY: Final = 1_000
"""Cycles between two searches of all memory for garbage: a quarter of an hour or more."""

_LOG = structlog.get_logger("dure.control")


class ControlLoop(threading.Thread):
    """Runs cycles until it is stopped. A failed cycle changed nothing, and is tried again."""

    def __init__(
        self,
        control: Control,
        scenario: Callable[[], Scenario],
        now_ms: Callable[[], int],
        after: Callable[[Report | None, float], None],
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(name="dure-control", daemon=True)
        self._control = control
        self._scenario = scenario
        self._now_ms = now_ms
        self._after = after
        self._leads = leads
        self._led = True
        self._cycles = 0
        self._awake = threading.Event()
        self._stopping = threading.Event()
        self._clocks = (now_ms(), time.monotonic())

    def wake(self) -> None:
        """Start a cycle at once, unless the last one failed: then it is not hurried."""
        self._awake.set()

    def stop(self) -> None:
        """Finish the cycle under way, and end."""
        self._stopping.set()
        self._awake.set()
        self.join()

    def run(self) -> None:
        """Go round."""
        failures = 0
        while not self._stopping.is_set():
            self._awake.clear()
            failures = 0 if self._cycle() else failures + 1
            if failures:
                wait_s = self._control.settings.cycle_s * 2 ** min(failures, DOUBLINGS_MAX)
                self._stopping.wait(min(RETRY_S_MAX, wait_s))
            elif not self._stopping.is_set():
                self._awake.wait(self._control.settings.cycle_s)

    def _cycle(self) -> bool:
        """One cycle; whether it went through."""
        began_s = time.monotonic()
        try:
            if not self._leads():
                self._led = False
                return True
            now_ms = self._steady_now_ms()
            self._begin_to_lead(now_ms)
            report = tick(self._control, self._scenario(), now_ms)
            if report.unfinished:
                self._awake.set()
            self._settle_down()
            self._after(report, time.monotonic() - began_s)
        except DeposedError:
            _LOG.warning("deposed")
            self._led = False
            return True
        except Exception:  # noqa: BLE001  outlives any one cycle; the next does what was left
            _LOG.exception("cycle-failed")
            self._control.planner.forget()
            self._after(None, time.monotonic() - began_s)
            return False
        for violation in report.violations:
            _LOG.error("plan-violation", code=violation.code, sentence=violation.sentence)
        for stuck in report.stuck:
            _LOG.error("attempt-stuck", attempt=stuck.attempt, fault=stuck.fault)
        return True

    def _settle_down(self) -> None:
        """What a cycle leaves in memory stays, as a rule, so it is no longer searched for garbage:
        at 300,000 GPUs each such search would stop everything for most of a second. Now and then
        all of it is searched once, between two cycles.
        """
        self._cycles += 1
        if self._cycles % SEARCH_EVERY == 1:
            gc.unfreeze()
            gc.collect()
        gc.freeze()

    def _begin_to_lead(self, now_ms: int) -> None:
        """Where another led before: what was known is old, and nobody has been silent to us yet."""
        if not self._led:
            self._led = True
            self._cycles = 0
            self._control.planner.forget()
            self._control = replace(self._control, up_since_ms=now_ms)

    def _steady_now_ms(self) -> int:
        """Now; where the wall clock was set, begin anew as after a restart.

        Else a step forward would look like the silence of every site and the end of every lease.
        """
        now_ms, steady_s = self._now_ms(), time.monotonic()
        before_ms, before_s = self._clocks
        self._clocks = (now_ms, steady_s)
        step_ms = (now_ms - before_ms) - (steady_s - before_s) * MS_PER_S
        if abs(step_ms) > CLOCK_STEP_MS:
            _LOG.warning("clock-was-set", step_ms=round(step_ms))
            self._control = begin_anew(self._control, now_ms)
        return now_ms
