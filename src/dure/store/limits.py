"""How much of a database one process takes, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of a connection pool and of its transactions."""

    connections: int = 40
    """So many at most; the API answers from as many threads."""
    wait_s: float = 30
    """How long to wait for a connection, for the other writers, or for a lock, before giving up."""
    idle_s: float = 30
    """PostgreSQL ends a writing transaction whose process has said nothing for so long: one that
    is paused must not keep every other from writing."""
