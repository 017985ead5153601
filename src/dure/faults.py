"""Named points at which a process kills itself, so that tests can crash it between two writes.

With `DURE_CRASH_AT=agent.after-submit` in its environment, a process that reaches the point of that
name ends by SIGKILL: nothing is flushed, no handler runs. With `DURE_PAUSE_AT` it stops there by
SIGSTOP, once, until somebody lets it go on. Without the variables nothing happens.
"""

from __future__ import annotations

import os
import signal

CRASH_AT = "DURE_CRASH_AT"
PAUSE_AT = "DURE_PAUSE_AT"


def crash_point(name: str, *, when: bool = True) -> None:
    """Dies here when the environment names this point; `when` passes by what does not matter."""
    if when and os.environ.get(CRASH_AT) == name:
        os.kill(os.getpid(), signal.SIGKILL)
    if when and os.environ.get(PAUSE_AT) == name:
        del os.environ[PAUSE_AT]
        os.kill(os.getpid(), signal.SIGSTOP)
