"""Folders: what is read of them, and what a server may write into them."""

import hashlib
import os

import pytest

from dure import workdir
from dure.agent.wire import FileEntry
from dure.errors import RefusedError


def tree(folder, files):
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def paths(folder):
    return [entry.path for entry in workdir.collect(folder).manifest.files]


def test_a_folder_becomes_a_manifest_with_digests(tmp_path):
    tree(tmp_path, {"b": "b", "a/c": "c", "a.b": "b", "run.sh": "x"})
    (tmp_path / "run.sh").chmod(0o755)
    collected = workdir.collect(tmp_path)
    entries = {entry.path: entry for entry in collected.manifest.files}
    assert list(entries) == ["a.b", "a/c", "b", "run.sh"]
    assert entries["b"].sha256 == hashlib.sha256(b"b").hexdigest()
    assert [entry.executable for entry in entries.values()] == [False, False, False, True]
    assert collected.sources[entries["a/c"].sha256].read_text() == "c"


def test_gitignore_is_respected_at_every_depth(tmp_path):
    tree(
        tmp_path,
        {
            ".gitignore": "*.log\n/build/\n.venv\n",
            ".git/config": "x",
            "a.log": "x",
            "build/x": "x",
            ".venv/bin/python": "x",
            "sub/build/x": "x",
            "sub/.gitignore": "!keep.log\ndata/*\n!data/small\n",
            "sub/keep.log": "x",
            "sub/other.log": "x",
            "sub/data/large": "x",
            "sub/data/small": "x",
            "module/.git": "gitdir: elsewhere",
        },
    )
    assert paths(tmp_path) == [
        ".gitignore", "sub/.gitignore", "sub/build/x", "sub/data/small", "sub/keep.log",
    ]  # fmt: skip


def test_links_and_special_files_are_refused_unless_left_out(tmp_path):
    tree(tmp_path, {"a": "a"})
    for make in (
        lambda place: place.symlink_to("/etc/passwd"),
        lambda place: place.symlink_to("a"),
        lambda place: place.symlink_to("/etc", target_is_directory=True),
        os.mkfifo,
    ):
        make(tmp_path / "odd")
        with pytest.raises(RefusedError, match=r"workdir file 'odd' is (a link|no regular file)"):
            workdir.collect(tmp_path)
        (tmp_path / ".gitignore").write_text("odd\n")
        assert paths(tmp_path) == [".gitignore", "a"]
        (tmp_path / ".gitignore").unlink()
        (tmp_path / "odd").unlink()


def test_limits_are_refused_before_anything_is_read(tmp_path, monkeypatch):
    tree(tmp_path, {"a": "aaa", "b": "bbb", "c": "ccc"})
    monkeypatch.setattr(workdir, "_entry", lambda *_: pytest.fail("read a file"))
    for limit, value in (("FILES_MAX", 2), ("FILE_BYTES_MAX", 2), ("TREE_BYTES_MAX", 8)):
        with monkeypatch.context() as lower:
            lower.setattr(workdir, limit, value)
            with pytest.raises(RefusedError, match=r"\.gitignore\.$"):
                workdir.collect(tmp_path)


@pytest.mark.parametrize("name", ["a\nb", "a\\b", "a\x7f", os.fsdecode(b"a\xff")])
def test_names_that_no_manifest_carries_are_refused(tmp_path, name):
    (tmp_path / name).write_text("x")
    with pytest.raises(RefusedError, match="workdir file"):
        workdir.collect(tmp_path)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RefusedError, match="is not a folder"):
        workdir.collect(tmp_path / "none")


# ---- writing -------------------------------------------------------------------------------------


def entry(path, content=b"data", **changes):
    digest = hashlib.sha256(content).hexdigest()
    return FileEntry(**{"path": path, "size": len(content), "sha256": digest, **changes})


def fetch(folder, path, content=b"data", sent=None, **options):
    wanted = entry("x", content)
    return workdir.fetch(
        [(path, wanted)], lambda _: [content if sent is None else sent], folder, **options
    )


def test_files_are_written_and_not_fetched_twice(tmp_path):
    out = tmp_path / "new" / "out"
    assert fetch(out, "a/b/c") == 1
    assert (out / "a/b/c").read_bytes() == b"data"
    wanted = entry("a/b/c")
    assert workdir.fetch([("a/b/c", wanted)], lambda _: pytest.fail("fetched"), out) == 0


@pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", "a//b", ".", "a\\..\\x", "x\0"])
def test_no_path_leads_outside(tmp_path, path):
    out = tmp_path / "out"
    with pytest.raises(RefusedError, match="output"):
        fetch(out, path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["out"]


def test_no_link_is_followed(tmp_path):
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (outside / "file").write_text("mine")
    (out / "folder").symlink_to(outside, target_is_directory=True)
    (out / "file").symlink_to(outside / "file")
    with pytest.raises(RefusedError, match="not a plain folder"):
        fetch(out, "folder/file", overwrite=True)
    with pytest.raises(RefusedError, match="other content"):
        fetch(out, "file")
    assert fetch(out, "file", overwrite=True) == 1
    assert (outside / "file").read_text() == "mine"
    assert not (out / "file").is_symlink()


@pytest.mark.parametrize("sent", [b"dat", b"evil", b"data and then much more"])
def test_content_that_is_not_what_was_promised_is_not_kept(tmp_path, sent):
    with pytest.raises(RefusedError, match="not what its manifest says"):
        fetch(tmp_path, "a/x", sent=sent)
    assert [p.name for p in tmp_path.rglob("*")] == ["a"]


def test_another_file_is_replaced_only_when_asked(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(RefusedError, match="other content"):
        fetch(tmp_path, "x")
    assert (tmp_path / "x").read_text() == "mine"
    assert fetch(tmp_path, "x", overwrite=True) == 1
    (tmp_path / "folder").mkdir()
    with pytest.raises(RefusedError, match="is a folder here"):
        fetch(tmp_path, "folder", overwrite=True)
