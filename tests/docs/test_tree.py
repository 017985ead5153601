"""The repository holds only what we wrote, and nothing of the machine that we wrote it on."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from pages import ROOT

# In parts, or this file would be the first to be found.
HOSTS = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "extra-" + "index-url")
PATHS = re.compile(r"(?<![\w.}>)\]])/(?:work|home/(?!kim/)\w+|Users/\w+|root)/")


def tracked() -> list[Path]:
    """The files of the repository: those that git knows, where there is git."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
        ).stdout.decode()
        return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()]
    own = ("src", "tests", "docs", "scenarios", "scripts", "requirements")
    inside = [path for folder in own for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [*inside, *(path for path in ROOT.iterdir() if path.is_file())]


def _lines() -> list[tuple[str, str]]:
    found = []
    for path in tracked():
        if "__pycache__" in path.parts:
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            found.append((f"{path.relative_to(ROOT)}:{number}", line))
    return found


def test_no_registry_is_named():
    assert [where for where, line in _lines() if any(host in line for host in HOSTS)] == []


def test_no_path_of_a_machine_is_named():
    assert [(where, line) for where, line in _lines() if PATHS.search(line)] == []


def test_nothing_is_left_to_be_done():
    words = re.compile(r"\b(?:TO" + "DO|FIX" + r"ME|X" + r"XX)\b")

    assert [where for where, line in _lines() if words.search(line)] == []
