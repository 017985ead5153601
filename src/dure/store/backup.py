"""A data folder and its database, copied into a folder, and back.

The database comes first: files are only ever added, so that what it names is there when the files
are copied after it. It may run meanwhile.
"""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dure.errors import RefusedError
from dure.store import ledger, rows
from dure.store.database import Database

ROWS: Final = "database.jsonl.gz"
FILES: Final = ("secret.key", "admin.token", "settings.json")
FOLDERS: Final = ("blobs", "logs")
_INCOMING: Final = "incoming"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What was copied. `anchor` is `SEQ:HASH` of the last journal, for `dure audit --anchor`."""

    folder: str
    database: str
    schema: str
    at_ms: int
    anchor: str | None
    files: bool


def make(database: Database, data: Path, folder: Path, at_ms: int, *, files: bool) -> Backup:
    """Copy into a new folder; it appears whole or not at all.

    Raises:
        RefusedError: `folder-exists`; `older-database`, as `rows.header`.
    """
    if folder.exists():
        raise RefusedError("folder-exists", f"{folder} is there already; name a new folder.")
    draft = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True, mode=0o700)
    try:
        with database.read() as connection, gzip.open(draft / ROWS, "wt", encoding="utf-8") as to:
            said = rows.header(connection, at_ms)
            to.writelines(f"{line}\n" for line in rows.dump(connection, said))
        if files:
            _copy(data, draft)
        draft.replace(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _of(said, folder, database, files=files)


def restore(database: Database, data: Path, folder: Path) -> Backup:
    """Fill an empty database, and a data folder without files, from a backup; audit the book.

    Raises:
        RefusedError: `bad-backup`, also where the book does not end where it did; `data-not-empty`;
            and as `rows.load`.
    """
    kept = [name for name in (*FILES[:1], *FOLDERS) if (folder / name).exists()]
    if taken := [name for name in kept if (data / name).exists()]:
        raise RefusedError(
            "data-not-empty", f"{data} has {taken[0]} in it; restore into a new data folder."
        )
    try:
        with gzip.open(folder / ROWS, "rt", encoding="utf-8") as lines:
            said = rows.load(database, lines)
    except FileNotFoundError:
        raise RefusedError("bad-backup", f"{folder} holds no {ROWS}.") from None
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise RefusedError("bad-backup", f"{folder / ROWS} cannot be read: {error}.") from None
    anchor = (said.head_seq, said.head_hash) if said.head_seq else None
    with database.read() as connection:
        found = ledger.audit(connection, anchor).findings
    if found:
        raise RefusedError("bad-backup", f"The book is not in order: {found[0].sentence}")
    _copy(folder, data)
    return _of(said, folder, database, files=bool(kept))


def _copy(source: Path, target: Path) -> None:
    for name in FILES:
        if (source / name).exists() and not (target / name).exists():
            shutil.copy2(source / name, target / name)
    for name in FOLDERS:
        if (source / name).exists():
            shutil.copytree(source / name, target / name, ignore=shutil.ignore_patterns(_INCOMING))


def _of(said: rows.Header, folder: Path, database: Database, *, files: bool) -> Backup:
    return Backup(
        folder=str(folder),
        database=database.name,
        schema=said.schema,
        at_ms=said.at_ms,
        anchor=f"{said.head_seq}:{said.head_hash}" if said.head_seq else None,
        files=files,
    )
