"""What a rehearsal answers: its figures, and what the machine did. JSON has it, and a run's
summary.
"""

from __future__ import annotations

import resource
from dataclasses import asdict
from typing import Any

from dure.rehearsal.measure import Summary
from dure.scheduling.estimate import EstimateError


def answer(
    summary: Summary, digest: str, wall_s: float, estimates: EstimateError | None = None
) -> dict[str, Any]:
    """The summary's fields, `wall_s`, `jobs_per_s`, `peak_rss_mib` of this process, the `digest`,
    and of our own estimates, where they were used, the `estimates`' error.
    """
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = summary.to_dict() | {
        "wall_s": round(wall_s, 3),
        "jobs_per_s": round(summary.jobs / wall_s) if wall_s else 0,
        "peak_rss_mib": round(peak_kib / 1_024, 1),
        "digest": digest,
    }
    return found if estimates is None else found | {"estimates": asdict(estimates)}
