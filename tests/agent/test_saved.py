"""When a running attempt last wrote its checkpoint."""

from __future__ import annotations

import os
from pathlib import Path

from dure.agent.saved import ENTRIES_MAX, saved_ms


def write(path: Path, at_ms: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("weights")
    os.utime(path, ns=(at_ms * 1_000_000, at_ms * 1_000_000))


def test_the_latest_file_counts_however_deep_it_lies(tmp_path: Path):
    write(tmp_path / "ckpt" / "old", 5_000)
    write(tmp_path / "ckpt" / "rank-1" / "new", 9_000)
    write(tmp_path / "log", 20_000)
    assert saved_ms(tmp_path, "ckpt", after_ms=4_000) == 9_000


def test_what_was_laid_out_before_the_start_is_no_checkpoint(tmp_path: Path):
    write(tmp_path / "ckpt" / "resumed-from", 5_000)
    assert saved_ms(tmp_path, "ckpt", after_ms=5_000) is None


def test_no_folder_no_checkpoint(tmp_path: Path):
    assert saved_ms(tmp_path, "ckpt", after_ms=0) is None
    write(tmp_path / "ckpt", 5_000)
    assert saved_ms(tmp_path, "ckpt", after_ms=0) is None


def test_links_are_not_followed(tmp_path: Path):
    write(tmp_path / "elsewhere" / "file", 5_000)
    (tmp_path / "ckpt").mkdir()
    (tmp_path / "ckpt" / "file").symlink_to(tmp_path / "elsewhere" / "file")
    (tmp_path / "ckpt" / "folder").symlink_to(tmp_path / "elsewhere")
    assert saved_ms(tmp_path, "ckpt", after_ms=0) is None
    (tmp_path / "other").symlink_to(tmp_path / "elsewhere")
    assert saved_ms(tmp_path, "other", after_ms=0) is None


def test_a_huge_checkpoint_does_not_hold_the_site_up(tmp_path: Path):
    for number in range(ENTRIES_MAX + 5):
        write(tmp_path / "ckpt" / str(number), 5_000)
    assert saved_ms(tmp_path, "ckpt", after_ms=0) == 5_000
