"""A rehearsal's folder: `summary.json`, the Parquet tables of `dure.rehearsal.tables`, a report.

The summary has the fields of `dure.rehearsal.measure.Summary`, what the machine did (`wall_s`,
`jobs_per_s`, `peak_rss_mib`), the `digest`, and where they are known:

- `settings`: what was asked for, such as `title`, `mode`, `policy`, `seed`; `starts_ms`, the
  instant of the rehearsal's time 0, and `ends_ms`, where a scenario says what span it is about;
  `jobs_sample`, when only every so many-th job is kept;
- `isolated`: the same figures, `per_operator` included, with every operator alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import polars as pl

from dure.errors import RefusedError
from dure.rehearsal.measure import Figures
from dure.text import shown

FIGURES: Final = tuple(field.name for field in fields(Figures))
TABLES: Final = (
    "jobs", "recalls", "faults", "gpus", "queue", "lending", "fairness", "operators",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Run:
    """What a rehearsal left behind."""

    folder: Path
    summary: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What was asked for."""
        settings: Mapping[str, Any] = self.summary.get("settings", {})
        return settings

    @property
    def title(self) -> str:
        """What people call the run: the settings' title, else its folder's name."""
        return str(self.settings.get("title") or self.folder.resolve().name)

    @property
    def sample(self) -> int:
        """How many jobs ended for each that the table of jobs has."""
        return int(self.settings.get("jobs_sample", 1))

    @property
    def has_span(self) -> bool:
        """Whether it is about a span of time, at whose end its tables over time end."""
        return "ends_ms" in self.settings

    @property
    def isolated(self) -> Mapping[str, Any] | None:
        """The figures with every operator alone, where the run was asked to compare."""
        return self.summary.get("isolated")

    def table(self, name: str) -> pl.LazyFrame:
        """One of `TABLES`, read as far as needed."""
        return pl.scan_parquet(self.folder / f"{name}.parquet")


def write(folder: Path, summary: Mapping[str, Any]) -> Run:
    """Add the summary and the table of operators to a folder that has a recorder's tables.

    The summary comes last: a folder that has one is whole.
    """
    isolated = summary.get("isolated")
    rows = []
    for operator, figures in sorted(summary["per_operator"].items()):
        row = {"operator": operator} | {name: figures[name] for name in FIGURES}
        if isolated:
            alone = isolated["per_operator"].get(operator, {})
            row |= {f"isolated_{name}": alone.get(name) for name in FIGURES}
        rows.append(row)
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "operators.parquet")
    text = json.dumps(summary, indent=2, ensure_ascii=False, sort_keys=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return Run(folder, summary)


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        RefusedError: `no-run`, the folder is not one that a rehearsal wrote to its end.
    """
    try:
        summary = json.loads((folder / "summary.json").read_bytes())
    except OSError:
        raise _no_run(folder, "it has no readable summary.json") from None
    except ValueError:
        raise _no_run(folder, "its summary.json is not JSON") from None
    if not isinstance(summary, dict):
        raise _no_run(folder, "its summary.json is not an object")
    if missing := [name for name in (*FIGURES, "per_operator") if name not in summary]:
        raise _no_run(folder, f"its summary.json has no field {missing[0]}")
    for name in TABLES:
        if not (folder / f"{name}.parquet").is_file():
            raise _no_run(folder, f"it has no {name}.parquet")
    return Run(folder, summary)


def _no_run(folder: Path, why: str) -> RefusedError:
    named = str(folder)
    return RefusedError(
        "no-run",
        f"{named if named.isprintable() else shown(named)} is no finished rehearsal: {why}; "
        "name a folder that dure rehearse wrote with --out.",
    )
