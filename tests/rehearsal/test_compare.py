"""Two rehearsals side by side."""

from __future__ import annotations

import json

import pytest

import pretend
from dure.errors import RefusedError
from dure.rehearsal.compare import COLUMNS, compare, html


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for name, seed in (("a", 1), ("b", 2), ("again", 1)):
        made[name] = tmp_path_factory.mktemp(name)
        pretend.write(made[name], seed=seed, jobs=200)
    return made


def test_every_figure_stands_beside_the_other_with_difference_and_ratio(folders):
    compared = compare(folders["a"], folders["b"])
    summaries = [json.loads((folders[name] / "summary.json").read_text()) for name in "ab"]
    for pair in compared.whole:
        if pair.name != "lent_gpu_h":
            assert (pair.a, pair.b) == tuple(one[pair.name] for one in summaries)
        assert pair.difference == pair.b - pair.a
        assert pair.ratio is None or pair.ratio == pytest.approx(pair.b / pair.a)
        assert len(pair.cells()) == len(COLUMNS)
    assert set(compared.per_operator) == set(pretend.OWNERS)
    assert not compared.equal


def test_only_settings_that_differ_are_shown(folders):
    assert compare(folders["a"], folders["b"]).settings == (("seed", 1, 2),)


def test_equal_runs_are_said_to_be_equal(folders):
    compared = compare(folders["a"], folders["again"])
    assert compared.equal
    assert compared.settings == ()
    assert all(pair.difference == 0 for pair in compared.whole)


def test_it_can_be_written_as_json(folders):
    given = json.loads(json.dumps(compare(folders["a"], folders["b"]).to_dict()))
    assert given["settings"] == {"seed": {"a": 1, "b": 2}}
    assert set(given["avg_wait_s"]) == {"a", "b", "difference", "ratio"}
    assert set(given["per_operator"]) == set(pretend.OWNERS)


def test_the_page_shows_both(folders):
    page = html(compare(folders["a"], folders["b"]))
    assert "Two rehearsals side by side" in page
    assert page.count("<figure>") == 3
    assert "the outcomes differ" in page


def test_a_figure_that_was_zero_has_no_ratio(folders):
    (pair,) = [one for one in compare(folders["a"], folders["b"]).whole if one.name == "p50_wait_s"]
    assert (pair.a, pair.ratio) == (0, None)
    assert pair.cells()[-1] == "–"


def test_a_folder_that_is_no_run_is_refused(folders, tmp_path):
    with pytest.raises(RefusedError, match="is no finished rehearsal"):
        compare(folders["a"], tmp_path)
