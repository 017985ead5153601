"""Removal against what a job can leave behind."""

from __future__ import annotations

import os

import pytest

from dure import removal
from dure.removal import move_away, remove_tree


def test_read_only_folders_links_and_pipes_are_removed_and_nothing_through_a_link(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    job = tmp_path / "job"
    inner = job / "go" / "pkg"  # as Go leaves its module cache
    inner.mkdir(parents=True)
    (inner / "x").touch()
    (inner / "link").symlink_to(outside)
    os.mkfifo(inner / "pipe")
    (job / "closed").mkdir(mode=0)
    for folder in (inner, inner.parent, job):
        folder.chmod(0o555)
    assert remove_tree(job)
    assert not job.exists()
    assert (outside / "kept").exists()


@pytest.mark.parametrize("kind", ["file", "link", "nothing"])
def test_what_is_no_folder_is_removed_too(tmp_path, kind):
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    elif kind == "link":
        place.symlink_to(tmp_path)
    assert remove_tree(place)
    assert list(tmp_path.iterdir()) == []


def test_no_depth_is_too_deep(tmp_path):
    (tmp_path / "job").mkdir()
    descriptor = os.open(tmp_path / "job", os.O_RDONLY)
    for _ in range(2_500):
        os.mkdir("a", dir_fd=descriptor)
        below = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(descriptor)
    assert remove_tree(tmp_path / "job")
    assert not (tmp_path / "job").exists()


def test_what_cannot_be_removed_is_said_and_the_rest_is_removed(tmp_path, monkeypatch, capsys):
    job = tmp_path / "job"
    job.mkdir()
    for name in "abc":
        (job / name).touch()
    real = os.unlink

    def unlink(name, **words):
        if name == "b":
            raise PermissionError(1, "not yours")
        real(name, **words)

    monkeypatch.setattr(removal.os, "unlink", unlink)
    assert not remove_tree(job)
    assert [left.name for left in job.iterdir()] == ["b"]
    assert "not-removed" in capsys.readouterr().out


def test_a_read_only_folder_can_be_moved_away(tmp_path):
    (tmp_path / "trash").mkdir()
    (tmp_path / "job").mkdir(mode=0o555)
    gone = move_away(tmp_path / "job", tmp_path / "trash")
    assert gone.parent == tmp_path / "trash"
    assert gone.is_dir()
    assert not (tmp_path / "job").exists()
