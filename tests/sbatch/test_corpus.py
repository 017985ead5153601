"""Scripts in the style of real ones, each with the report and the job that come of it.

`python tests/sbatch/test_corpus.py` writes the reports anew; read what changed before it is kept.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dure.sbatch import precedence, script
from dure.sbatch.places import Known, Tables
from dure.sbatch.translate import Submitted, Translation, translate
from dure.views import PoolView

CORPUS = Path(__file__).parent / "corpus"
SCRIPTS = sorted(path for path in CORPUS.iterdir() if path.suffix in {".sh", ".sbatch"})


def pool(id_: str, operator: str, model: str, gpus_per_node: int = 8) -> PoolView:
    return PoolView(
        pool=id_, operator=operator, cluster=f"{operator}-1", gpu_model=model,
        gpus_per_node=gpus_per_node, gpus_in_service=64, nodes_up=8, gpus_up=64, gpus_used=0,
        silent=False,
    )  # fmt: skip


KNOWN = Known(
    pools=(
        pool("kakao-b200", "kakao", "b200"),
        pool("naver-h200", "naver-cloud", "h200"),
        pool("nhn-b200", "nhn-cloud", "b200"),
        pool("sk-rtx", "sk", "rtx-pro-6000"),
        pool("universities-a100", "universities", "a100", 4),
    ),
    projects=("vision",),
    tables=Tables(gpu={"v100x": ("h200", "b200")}),
)


def translated(path: Path) -> Translation:
    read = script.read(path.read_text(encoding="utf-8"))
    chosen = precedence.choose(read.given, (), ())
    submitted = Submitted(name=path.name, folder=Path("/here"), user="kim", host="login1")
    return translate(read, chosen, submitted, KNOWN)


def told(path: Path) -> str:
    """The report and the job, as the corpus keeps them."""
    made = translated(path)
    lines = [
        f"{one.where or 'by default'}: {one.said}\n    {one.verdict}{'!' if one.stops else ''}"
        f"{f': {one.note}' if one.note else ''}"
        for one in made.report.lines
    ]
    spec = made.draft
    job = {
        name: value
        for name in (
            "name", "nodes", "gpus_per_node", "gpu_models", "pools", "cpus_per_node",
            "memory_gib_per_node", "walltime_s", "after_ok", "after_any", "retries", "signal",
            "grace_s", "checkpoint_dir", "outputs", "data_class", "env", "secrets",
        )
        if (value := getattr(spec, name))
    }  # fmt: skip
    kept = [f"{name} = {value}" for name, value in job.items()]
    if spec.array:
        kept.append(f"array = {spec.array.indices} at most {spec.array.max_running}")
    ntasks = re.search(r'"ntasks": (\d+)', spec.run or "")
    assert ntasks is not None
    return "\n".join([*lines, "", *kept, f"ntasks = {ntasks[1]}", "", made.report.summary, ""])


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_script_is_reported_on_and_translated_as_it_should_be(path: Path):
    assert told(path) == path.with_suffix(".report").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_nothing_that_a_script_says_is_left_out_of_its_report(path: Path):
    lines = translated(path).report.lines
    numbers = {one.where for one in lines}
    for number, text in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if text.startswith(("#SBATCH", "#DURE", "#PBS")):
            assert f"line {number}" in numbers, text
    assert all(one.note for one in lines if one.verdict != "kept")


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_a_translation_is_a_job(path: Path):
    from dataclasses import replace  # noqa: PLC0415

    made = replace(translated(path).draft, project="vision")
    spec = made.spec()
    assert spec.walltime_s > 0
    assert path.read_text(encoding="utf-8") in (spec.script or "")


def test_the_corpus_is_large_enough_and_knows_every_verdict():
    assert len(SCRIPTS) >= 30
    verdicts = {one.verdict for path in SCRIPTS for one in translated(path).report.lines}
    assert verdicts == {"kept", "translated", "pinned", "cannot be kept", "overridden"}
    assert json.dumps(sorted(verdicts))


if __name__ == "__main__":
    for script_ in SCRIPTS:
        script_.with_suffix(".report").write_text(told(script_), encoding="utf-8")
