from __future__ import annotations

import errno
import os
import socket

import pytest
from agent_bench import entry, tree
from hypothesis import given, settings
from hypothesis import strategies as st

from dure.agent import files
from dure.agent.cache import Cache, ContentError
from dure.agent.files import CollectError, collect, materialise, opened
from dure.agent.wire import Manifest


@pytest.fixture
def out(tmp_path):
    folder = tmp_path / "job" / "out"
    folder.mkdir(parents=True)
    return folder


def collected(out):
    return collect(out.parent, "out")


def test_regular_files_are_collected_in_the_order_of_their_paths(out):
    (out / "b" / "c").mkdir(parents=True)
    (out / "b" / "c" / "deep").write_bytes(b"1")
    (out / "b.txt").write_bytes(b"")
    (out / "a").write_bytes(b"22")
    (out / "a").chmod(0o755)
    assert collected(out).manifest == Manifest(
        (entry("a", b"22", executable=True), entry("b.txt", b""), entry("b/c/deep", b"1"))
    )


def test_links_pipes_sockets_and_odd_names_are_left_out(out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"not the job's")
    (out / "kept").write_bytes(b"kept")
    (out / "file-link").symlink_to(outside / "secret")
    (out / "folder-link").symlink_to(outside)
    (out / "dot-link").symlink_to("..")
    os.mkfifo(out / "pipe")
    (out / "new\nline").write_bytes(b"")
    (out / "back\\slash").write_bytes(b"")
    (out / os.fsdecode(b"\xff")).write_bytes(b"")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(out / "socket"))
    found = collected(out)
    assert found.manifest == tree(kept=b"kept")
    assert found.left_out == 8


def test_a_folder_that_is_a_link_is_not_followed(tmp_path):
    job = tmp_path / "job"
    job.mkdir()
    (job / "out").symlink_to("/etc")
    with pytest.raises(CollectError, match="out cannot be read"):
        collect(job, "out")


def test_a_folder_that_is_not_there_holds_nothing(tmp_path):
    assert collect(tmp_path, "out/deeper").manifest == Manifest(())


def test_too_much_is_refused_in_a_sentence(out, monkeypatch):
    for name in "abc":
        (out / name).write_bytes(b"12345")
    monkeypatch.setattr(files, "FILES_MAX", 2)
    with pytest.raises(CollectError, match="there are more than 2 files"):
        collected(out)
    monkeypatch.setattr(files, "FILES_MAX", 9)
    monkeypatch.setattr(files, "TREE_BYTES_MAX", 14)
    with pytest.raises(CollectError, match="more than 14 bytes together"):
        collected(out)
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 4)
    with pytest.raises(CollectError, match="'a' has 5 bytes; at most 4"):
        collected(out)


@pytest.mark.parametrize("vanished", ["b", "c"])
def test_what_vanishes_during_the_walk_takes_nothing_else_along(out, monkeypatch, vanished):
    for name in "abd":
        (out / name).write_bytes(name.encode())
    (out / "c").mkdir()
    real = os.lstat

    def lstat(name, **words):
        status = real(name, **words)
        if name == vanished:
            (out / name).unlink() if name == "b" else (out / name).rmdir()
        return status

    monkeypatch.setattr(files.os, "lstat", lstat)
    found = collected(out)
    assert {e.path for e in found.manifest.files} == {"a", "b", "d"} - {vanished}
    assert found.left_out == 1


def test_of_a_file_that_grows_meanwhile_what_it_had_is_taken(out, monkeypatch):
    (out / "a").write_bytes(b"12345")
    monkeypatch.setattr(files, "FILE_BYTES_MAX", 5)
    real = os.fstat

    def fstat(descriptor):
        status = real(descriptor)
        with (out / "a").open("ab") as file:
            file.write(b"and more")
        return status

    monkeypatch.setattr(files.os, "fstat", fstat)
    assert collected(out).manifest == tree(a=b"12345")


def test_a_tree_however_deep_is_left_out_below_a_depth(out):
    (out / "kept").write_bytes(b"kept")
    descriptor = os.open(out, os.O_RDONLY)
    for level in range(300):
        if level in {64, 65}:
            os.close(os.open("here", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        os.mkdir("a", dir_fd=descriptor)
        below = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    found = collected(out)
    assert [e.path for e in found.manifest.files] == ["a/" * 64 + "here", "kept"]
    assert found.left_out == 1


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EIO])
def test_what_may_pass_is_no_verdict_on_the_folder(out, monkeypatch, code):
    (out / "a").write_bytes(b"1")

    def lstat(_name, **_words):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "lstat", lstat)
    with pytest.raises(OSError, match=os.strerror(code)):
        collected(out)


def test_a_file_exchanged_for_a_link_is_not_read(out):
    (out / "a").symlink_to("/etc/passwd")
    with pytest.raises(OSError, match="symbolic"), opened(out.parent, "out", "a"):
        pass


def test_materialise_does_not_write_through_links(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    job = tmp_path / "job"
    job.mkdir()
    (job / "src").symlink_to(outside)
    (job / "file").symlink_to(outside / "file")
    content = tmp_path / "content"
    content.write_bytes(b"x")
    for path in ("src/evil", "file"):
        with pytest.raises(OSError, match=r"Not a directory|symbolic"):
            materialise(Manifest((entry(path, b"x"),)), lambda _: content, job)
    assert list(outside.iterdir()) == []


PATHS = st.lists(st.sampled_from(["a", "b", "c.txt", "한글"]), min_size=1, max_size=3)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.dictionaries(PATHS.map("/".join), st.tuples(st.binary(max_size=9), st.booleans())))
def test_what_is_materialised_is_what_is_collected(tmp_path_factory, wanted):
    top = tmp_path_factory.mktemp("tree")
    entries = tuple(
        entry(path, content, executable=executable)
        for path, (content, executable) in sorted(wanted.items())
    )
    try:
        manifest = Manifest(entries)
    except ValueError:  # a path both a file and a folder
        return
    cache = Cache(top / "cache")
    for one in entries:
        cache.add(one, [wanted[one.path][0]])
    materialise(manifest, cache.path, top / "job" / "work")
    assert collect(top / "job", "work").manifest == manifest


@pytest.mark.parametrize("chunks", [[b"righ"], [b"right", b"!"], [b"wrong"], []])
def test_the_cache_keeps_only_what_was_announced(tmp_path, chunks):
    cache, wanted = Cache(tmp_path), entry("data", b"right")
    with pytest.raises(ContentError, match="what came for data is not the 5 bytes"):
        cache.add(wanted, chunks)
    assert not cache.holds(wanted)
    assert list(tmp_path.iterdir()) == []
    cache.add(wanted, [b"ri", b"ght"])
    assert cache.holds(wanted)


@pytest.mark.parametrize("spoil", ["empty", "altered", "link", "pipe", "gone"])
def test_what_is_no_longer_right_in_the_cache_is_not_handed_on(tmp_path, spoil):
    cache = Cache(tmp_path / "cache")
    good, bad = entry("a", b"good"), entry("b", b"right")
    cache.add(good, [b"good"])
    cache.add(bad, [b"right"])
    place = cache.path(bad)
    if spoil == "altered":
        place.write_bytes(b"wrong")
    elif spoil == "empty":  # as a loss of power may leave it
        place.write_bytes(b"")
    else:
        place.unlink()
        if spoil == "link":
            place.symlink_to("/etc/passwd")
        elif spoil == "pipe":
            os.mkfifo(place)
    assert cache.holds(bad) == (spoil == "altered")
    assert materialise(Manifest((good, bad)), cache.path, tmp_path / "job") == (bad,)
    cache.drop(bad)
    cache.add(bad, [b"right"])
    assert materialise(Manifest((bad,)), cache.path, tmp_path / "job") == ()
    assert collect(tmp_path, "job").manifest == Manifest((good, bad))


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    cache, wanted, sizes = Cache(tmp_path), entry("data", b"right"), []

    def fsync(descriptor):
        assert not cache.path(wanted).exists()
        sizes.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    cache.add(wanted, [b"right"])
    assert sizes == [5]


def test_the_cache_drops_what_was_asked_for_longest_ago(tmp_path):
    cache = Cache(tmp_path, bytes_max=2)
    kept = [entry(name, name.encode()) for name in "abc"]
    for age, one in enumerate(kept):
        cache.add(one, [one.path.encode()])
        os.utime(cache.path(one), (age, age))
    cache.holds(kept[0])
    cache.trim()
    assert [one.path for one in kept if cache.holds(one)] == ["a", "c"]
