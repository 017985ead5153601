"""What a rehearsal answers: its figures, and what the machine did. JSON has it, and a run's
summary.
"""

from __future__ import annotations

import resource
from dataclasses import asdict
from typing import Any

from dure.rehearsal.calibration import Calibrated
from dure.rehearsal.measure import Summary
from dure.scheduling.estimate import EstimateError


def answer(
    summary: Summary,
    digest: str,
    wall_s: float,
    estimates: EstimateError | None = None,
    start_estimates: Calibrated | None = None,
) -> dict[str, Any]:
    """The summary's fields, `wall_s`, `jobs_per_s`, `peak_rss_mib` of this process, the `digest`;
    of our own estimates, where they were used, the `estimates`' error; and how often
    `start_estimates` came true, where jobs asked for them.
    """
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = summary.to_dict() | {
        "wall_s": round(wall_s, 3),
        "jobs_per_s": round(summary.jobs / wall_s) if wall_s else 0,
        "peak_rss_mib": round(peak_kib / 1_024, 1),
        "digest": digest,
    }
    if estimates is not None:
        found["estimates"] = asdict(estimates)
    if start_estimates is not None:
        found["start_estimates"] = asdict(start_estimates)
    return found
