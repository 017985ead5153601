"""What the documents tell people to type can be typed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, cast

import pages
import pytest
import typer

from dure.cli import application

ROOT_COMMAND = cast("Any", typer.main.get_command(application()))
DURE = {"dure", "./dure", ".venv/bin/dure"}


def _typed() -> list[tuple[str, list[str]]]:
    return [
        (str(page.relative_to(pages.ROOT)), words)
        for page in pages.documents()
        for words in pages.shell_commands(page)
    ]


def _mentioned() -> list[tuple[str, list[str]]]:
    return [
        (str(page.relative_to(pages.ROOT)), words)
        for page in pages.documents()
        for span in pages.spans(page)
        if span.startswith(tuple(f"{name} " for name in DURE))
        for words in list(pages.commands(span))[:1]
    ]


def _ids(found: list[tuple[str, list[str]]]) -> list[str]:
    return [f"{page}: {' '.join(words)}"[:90] for page, words in found]


TYPED = [(page, words) for page, words in _typed() if words[0] in DURE]
MENTIONED = _mentioned()


def _leaf(words: list[str]) -> tuple[Any, list[str], Any]:
    """The command that words call, what they give it, and its context."""
    command, context, rest = ROOT_COMMAND, None, list(words[1:])
    path = "dure"
    while (inner := getattr(command, "commands", None)) is not None and rest:
        assert rest[0] in inner, f"there is no {path} {rest[0]}"
        context = command.context_class(command, info_name=path, parent=context)
        command, path = inner[rest[0]], rest[0]
        rest = rest[1:]
    return command, rest, context


@pytest.mark.parametrize(("page", "words"), TYPED, ids=_ids(TYPED))
def test_a_command_of_a_shell_block_is_understood(page: str, words: list[str]):
    command, rest, parent = _leaf(words)

    command.make_context(command.name, rest, parent=parent)


@pytest.mark.parametrize(("page", "words"), MENTIONED, ids=_ids(MENTIONED))
def test_a_command_of_a_sentence_exists_with_its_options(page: str, words: list[str]):
    command, rest, _ = _leaf(words)
    known = {name for one in getattr(command, "params", ()) for name in one.opts}
    own = rest[: rest.index("--")] if "--" in rest else rest

    assert {word.partition("=")[0] for word in own if word.startswith("-")} <= known | {"--help"}


def test_the_documents_do_tell_what_to_type():
    assert len(TYPED) > 40
    assert len(MENTIONED) > 40


@pytest.mark.parametrize("name", ["dure", "check", "scripts/setup", "scripts/lock", ".ci/run"])
def test_what_a_newcomer_runs_is_there(name: str):
    assert os.access(pages.ROOT / name, os.X_OK)


def test_the_readme_begins_with_the_two_commands():
    words = list(pages.shell_commands(pages.ROOT / "README.md"))

    assert ["./dure", "demo"] in words
    assert ["./check"] in words


def test_tests_that_the_documents_name_exist():
    named = {
        span
        for page in pages.documents()
        for span in pages.spans(page)
        if re.fullmatch(r"test_[a-z0-9_]+", span)
    }
    source = "".join(path.read_text() for path in (pages.ROOT / "tests").rglob("*.py"))
    defined = set(re.findall(r"def (test_\w+)", source))

    assert named <= defined, sorted(named - defined)
    assert len(named) > 20


def test_crash_points_of_the_journey_are_those_of_the_code():
    pattern = re.compile(r'crash_point\(\s*"([a-z.-]+)"')
    source = "".join(path.read_text() for path in (pages.ROOT / "src").rglob("*.py"))
    journey = (pages.ROOT / "docs" / "journey-of-a-job.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `([a-z.-]+)` \|", journey, re.MULTILINE)

    assert sorted(told) == sorted(set(pattern.findall(source)))


def test_job_files_of_the_documents_are_jobs(tmp_path: Path):
    from dure import jobfile  # noqa: PLC0415  the rest of this module needs the command line only

    blocks = [
        block
        for page in pages.documents()
        for block in re.findall(r"^```yaml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]

    for block in blocks:
        assert jobfile.parse(block, tmp_path)
    assert len(blocks) >= 3


def test_agent_configurations_of_the_documents_are_understood(tmp_path: Path):
    from dure.agent.config import load_config  # noqa: PLC0415  as above

    page = pages.ROOT / "docs" / "how-to" / "operator.md"
    blocks = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    file = tmp_path / "agent.toml"
    file.write_text("\n".join(blocks))

    config = load_config(file)
    assert (config.cluster_id, len(config.blackouts)) == ("nhn-national", 2)
