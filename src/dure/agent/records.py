"""What an agent must not forget: which attempts it handed to its engine, and how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dure import codec
from dure.agent.decide import Stage
from dure.agent.wire import AttemptReport, Order


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One attempt at this site. Its order has no secrets."""

    order: Order
    stage: Stage
    report: AttemptReport | None = None
    """Given once the stage is finished."""


class Records:
    """Records in memory and in one file each. A file is replaced whole.

    The files are not forced to the disk: one that a loss of power emptied is dropped, and the
    engine's own state tells.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records: dict[str, Record] = {}
        for path in sorted(folder.glob("*.json")):
            try:
                record = codec.read(Record, path.read_bytes())
            except ValueError:
                path.unlink()
                continue
            self._records[record.order.attempt_id] = record

    def __iter__(self) -> Iterator[Record]:
        return iter(tuple(self._records.values()))

    def get(self, attempt_id: str) -> Record | None:
        """The attempt's record, or None."""
        return self._records.get(attempt_id)

    def put(self, record: Record) -> None:
        """Keeps it, in place of an earlier one."""
        path = self._path(record.order.attempt_id)
        temporary = path.with_suffix(".new")
        temporary.touch(mode=0o600)
        temporary.write_bytes(codec.encode(record))
        temporary.replace(path)
        self._records[record.order.attempt_id] = record

    def remove(self, attempt_id: str) -> None:
        """Drops it, if it is there."""
        if self._records.pop(attempt_id, None) is not None:
            self._path(attempt_id).unlink(missing_ok=True)

    def _path(self, attempt_id: str) -> Path:
        return self._folder / f"{attempt_id}.json"
