"""How patient the control plane is. Every limit has a name, a unit and its reason."""

from __future__ import annotations

from dataclasses import dataclass, field

from dure.scheduling.tuning import Tuning


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Intervals and limits of one installation."""

    cycle_s: float = 1.0
    """Between control cycles; a submission or a report starts one at once."""
    sync_interval_s: float = 5.0
    """What agents are asked to wait between syncs; a site may wait longer."""
    silent_after_s: float = 30.0
    """Without a sync for so long, a cluster takes nothing new and its attempts are unknown."""
    lease_s: int = 3_600
    """How long an attempt may go on unseen. It moves elsewhere only after that, so a longer lease
    rides out longer outages and a shorter one frees a lost site's jobs sooner."""
    lease_margin_s: int = 60
    """More patience on our side than on the site's: it stops its attempts before we move them."""
    missing_confirm_s: float = 10.0
    """An engine must deny an attempt twice, so far apart: Slurm saves its state every 5 s."""
    start_patience_s: int = 1_800
    """How long a site may take to fetch an attempt's files and have its engine accept it, before
    the attempt is taken back and tried elsewhere."""
    overdue_margin_s: int = 120
    """After walltime and grace, how long until we order an attempt to stop ourselves."""
    queue_depth: int = 5_000
    """How many queued tasks one cycle looks at."""
    foresee_every_s: float = 15.0
    """Between two looks ahead for start estimates, which run the whole queue forward: a look costs
    as much as many cycles, and people do not read estimates more often. After one that takes long
    the loop rests from looking ten times as long."""
    database: str = ""
    """Where a PostgreSQL is, `postgresql://USER@HOST/NAME`; empty: SQLite, in the data folder. The
    environment's DURE_DATABASE goes before. A password is better kept in a file (PGPASSFILE)."""
    database_connections: int = 40
    """So many of a process at most: the API answers from as many threads. All processes together
    must stay below the server's `max_connections`."""
    database_wait_s: float = 30.0
    """How long a request waits for a connection, or for other writers, before it is refused."""
    database_idle_s: float = 30.0
    """After so long a silence PostgreSQL ends a writing transaction: a process that is paused must
    not keep all others from writing."""
    leader_lease_s: float = 60.0
    """Of several processes on one PostgreSQL one leads; after so long without a sign of it another
    takes over (at once where it has ended). It must be longer than any control cycle."""
    tuning: Tuning = field(default_factory=Tuning)
    """The scheduler's dials, the same that rehearsals turn."""

    def __post_init__(self) -> None:
        for name, least, most in _BOUNDS:
            value = getattr(self, name)
            if not least <= value <= most:  # NaN is never between
                raise ValueError(f"{name} is {value}; it must be from {least} to {most}")
        if self.silent_after_s < 3 * self.sync_interval_s:
            raise ValueError(
                f"silent_after_s is {self.silent_after_s}; it must be at least three times "
                f"sync_interval_s, which is {self.sync_interval_s}"
            )


_BOUNDS = (
    ("cycle_s", 0.05, 60),
    ("sync_interval_s", 0.05, 600),
    ("silent_after_s", 1, 3_600),
    ("lease_s", 10, 30 * 24 * 3_600),
    ("lease_margin_s", 1, 3_600),
    ("missing_confirm_s", 1, 3_600),
    ("start_patience_s", 10, 24 * 3_600),
    ("overdue_margin_s", 1, 24 * 3_600),
    ("queue_depth", 1, 1_000_000),
    ("foresee_every_s", 0, 3_600),
    ("database_connections", 2, 1_000),
    ("database_wait_s", 0.1, 600),
    ("database_idle_s", 0.5, 600),
    ("leader_lease_s", 0.5, 3_600),
)
