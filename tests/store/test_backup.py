"""A backup of either database is restored into either, or refused; the book is posted anew."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from dure.cli import run
from dure.cli.shell import Shell
from dure.engines import EngineEnd
from dure.errors import RefusedError
from dure.store import backup, jobs
from dure.store import ledger as book
from dure.store.database import Database
from dure.store.leadership import leadership
from dure.store.metadata import metadata
from dure.store.migrate import migrate
from dure.store.where import DATABASE, VARIABLE
from nation import Nation, Site, found, spec, submission, submit
from postgres import Server

NOW_MS = 1_800_000_000_000


def contents(database: Database) -> dict[str, list[str]]:
    with database.read() as connection:
        return {
            table.name: sorted(map(repr, connection.execute(select(table)).all()))
            for table in metadata.sorted_tables
            if table is not leadership
        }


@pytest.fixture
def lived(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Nation]:
    """A nation in which jobs ran, wait, and hold secrets, on each database."""
    folder = tmp_path / "data"
    folder.mkdir()
    database = None
    if kind == "postgresql":
        server: Server = request.getfixturevalue("postgres")
        database = Database(server.url(server.create(server.template("nation", found))))
    nation = Nation(folder, database)
    lab, site = nation.lab(), Site(nation)
    done, _ = submit(lab, spec(), spec(name="한글"))
    site.start_all()
    site.end(site.orders[f"{done}.0"], EngineEnd.COMPLETED, 0)
    site.round()
    lab.submit(submission(spec(name="sealed"), secrets={"TOKEN": "hidden"}), key="sealed")
    nation.service.logs.append("a-1", 0, 0, b"said")
    yield nation
    nation.close()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.engine)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(tmp_path / "restored.sqlite")
    else:
        server: Server = request.getfixturevalue("postgres")
        made = Database(server.url(server.create()))
    yield made
    made.close()


def made_of(nation: Nation, folder: Path) -> Path:
    backup.make(nation.database, nation.folder, folder, NOW_MS, files=True)
    return folder


def test_what_is_restored_is_what_was_there(lived: Nation, target: Database, tmp_path: Path):
    kept = made_of(lived, tmp_path / "backup")
    again = tmp_path / "again"
    again.mkdir()

    backup.restore(target, again, kept)

    assert contents(target) == contents(lived.database)
    assert (again / "logs" / "a-1" / "0.log").read_bytes() == b"said"
    assert (again / "secret.key").read_bytes() == (lived.folder / "secret.key").read_bytes()
    with target.read() as connection:
        assert book.audit(connection).intact


def test_a_restored_nation_goes_on(
    lived: Nation, target: Database, tmp_path: Path, request: pytest.FixtureRequest
):
    """Also its rows are numbered on, and jobs that waited run."""
    kept = made_of(lived, tmp_path / "backup")
    again = tmp_path / "again"
    again.mkdir()
    backup.restore(target, again, kept)

    nation = Nation(again, target, first_id=1_000)
    nation.now_ms = lived.now_ms
    request.addfinalizer(nation.http.close)
    with target.read() as connection:
        before = jobs.state_counts(connection)
    nation.admin = nation.client(lived.admin_token)
    token = nation.token("lab-member")
    (new,) = submit(nation.client(token), spec(name="new"))
    assert new == "j-4"
    nation.tick()
    with target.read() as connection:
        assert sum(jobs.state_counts(connection).values()) == sum(before.values()) + 1
        assert book.audit(connection).intact


def changed(kept: Path, change: Callable[[list[str]], list[str]]) -> None:
    """A backup as somebody has changed it."""
    with gzip.open(kept / backup.ROWS, "rt", encoding="utf-8") as lines:
        text = change(lines.read().splitlines())
    with gzip.open(kept / backup.ROWS, "wt", encoding="utf-8") as to:
        to.write("\n".join(text))


def more_credit(lines: list[str]) -> list[str]:
    return [line.replace('"credit": ', '"credit": 9') for line in lines]


def a_journal_left_out(lines: list[str]) -> list[str]:
    gone = next(line for line in lines if line.startswith('["journals"'))
    return [line for line in lines if line != gone]


def another_head(lines: list[str]) -> list[str]:
    said = json.loads(lines[0])
    return [json.dumps({**said, "head_hash": "0" * 64}), *lines[1:]]


CHANGES = {
    "more credit": more_credit,
    "a journal left out": a_journal_left_out,
    "another head": another_head,
    "cut off": lambda lines: lines[:-9],
    "no header": lambda lines: lines[1:],
    "empty": lambda _: [],
    "a row of no table": lambda lines: [lines[0], '["x", {}]', *lines[1:]],
    "no JSON": lambda lines: [lines[0], "{", *lines[1:]],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_backup_that_was_changed_is_refused(lived: Nation, tmp_path: Path, change):
    kept = made_of(lived, tmp_path / "backup")
    changed(kept, change)
    again = tmp_path / "again"
    again.mkdir()
    target = Database(again / DATABASE)
    with pytest.raises(RefusedError) as refused:
        backup.restore(target, again, kept)
    assert refused.value.reason.code == "bad-backup"
    assert not (again / "secret.key").exists()
    target.close()


def test_a_backup_of_a_newer_dure_is_refused(lived: Nation, tmp_path: Path):
    kept = made_of(lived, tmp_path / "backup")
    changed(kept, lambda lines: [lines[0].replace('"schema": "', '"schema": "9'), *lines[1:]])
    target = Database(tmp_path / "new.sqlite")
    with pytest.raises(RefusedError, match="use the newer version"):
        backup.restore(target, tmp_path / "again", kept)
    target.close()


def test_an_empty_database_is_wanted(lived: Nation, target: Database, tmp_path: Path):
    kept = made_of(lived, tmp_path / "backup")
    migrate(target)
    with pytest.raises(RefusedError, match="name an empty one"):
        backup.restore(target, tmp_path / "again", kept)


def test_a_backup_does_not_take_the_place_of_another(lived: Nation, tmp_path: Path):
    kept = made_of(lived, tmp_path / "backup")
    with pytest.raises(RefusedError, match="name a new folder"):
        made_of(lived, kept)


# ---- at the command line -------------------------------------------------------------------------


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_federation_moves_from_sqlite_to_postgresql(
    lived: Nation,
    tmp_path: Path,
    postgres: Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def dure(*words: str) -> tuple[int, str]:
        code = run(words, Shell.of_process())
        said = capsys.readouterr()
        return code, said.out + said.err

    monkeypatch.chdir(tmp_path)
    code, said = dure("backup", "kept", "--data", "data", "-o", "json")
    assert code == 0, said
    anchor = json.loads(said)["anchor"]
    name = postgres.create()
    monkeypatch.setenv(VARIABLE, postgres.where(name))
    code, said = dure("restore", "kept", "--data", "again", "-o", "json")
    assert code == 0, said
    assert json.loads(said)["anchor"] == anchor
    code, said = dure("audit", "--data", "again", "--anchor", anchor)
    assert code == 0, said
    restored = Database(postgres.url(name))
    assert contents(restored) == contents(lived.database)
    restored.close()
    code, said = dure("restore", "kept", "--data", "third")
    assert (code, "name an empty one" in said) == (2, True)


@pytest.mark.parametrize("kind", ["sqlite"])
def test_a_restore_that_is_refused_leaves_no_database(
    lived: Nation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    kept = made_of(lived, tmp_path / "backup")
    changed(kept, CHANGES["cut off"])
    monkeypatch.chdir(tmp_path)
    assert run(["restore", "backup", "--data", "again"], Shell.of_process()) == 2
    assert list((tmp_path / "again").glob(f"{DATABASE}*")) == []
    assert run(["backup", "x", "--data", "none"], Shell.of_process()) == 2
    assert not (tmp_path / "none").exists()
