"""The documents, and what is written in them: links, anchors, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_SHELLS = {"sh", "bash"}
_ENDS = {"|", "||", "&&", ";", "<", ">", ">>", "&"}


def documents() -> list[Path]:
    """Every document of the repository, by its path."""
    places = (ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"))
    return sorted(path for place in places for path in place)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> Iterator[str]:
    """The targets of a page's links and pictures."""
    for match in _LINK.finditer(prose(page)):
        yield match[1]


def anchors(page: Path) -> set[str]:
    """What a link may name after `#`, as forges make it from headings."""
    found = set()
    for match in _HEADING.finditer(prose(page)):
        kept = re.sub(r"[^\w\- ]", "", match[1].lower())
        found.add(kept.replace(" ", "-"))
    return found


def spans(page: Path) -> Iterator[str]:
    """What stands between backticks in prose."""
    for match in _SPAN.finditer(prose(page)):
        yield match[1]


def shell_commands(page: Path) -> Iterator[list[str]]:
    """The commands of a page's shell blocks, as words; what they are piped to is left out."""
    for match in _FENCE.finditer(page.read_text(encoding="utf-8")):
        if match[1] in _SHELLS:
            body = re.sub(r"<<'(\w+)'\n.*?^\1$", "", match[2], flags=re.MULTILINE | re.DOTALL)
            for line in body.replace("\\\n", " ").splitlines():
                yield from commands(line)


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    current: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in _ENDS:
            if current:
                yield current
            current, skip = [], word in {"<", ">", ">>"}
        elif skip:
            skip = False
        else:
            current.append(word)
