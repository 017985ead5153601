"""The report of a rehearsal: complete, self-contained, and safe whatever things are called."""

from __future__ import annotations

from html.parser import HTMLParser

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pretend
from dure.errors import RefusedError
from dure.rehearsal import report, runs
from dure.rehearsal.measure import Measures
from dure.rehearsal.record import OWN, JobEnded
from dure.rehearsal.tables import Recorder
from dure.rehearsal.words import count, span
from dure.rehearsal.workload import Kind

NASTY = "</script><script>alert(1)</script><b>&amp;"


class Page(HTMLParser):
    """What a browser would see: tags, text outside scripts, and everything it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.texts: list[str] = []
        self.cells: list[str] = []
        self.policy = ""
        self._inside = ""
        self.feed(text)

    @property
    def text(self) -> str:
        return " ".join(self.texts).replace("\N{NO-BREAK SPACE}", " ")

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.append(tag)
        named = dict(attrs)
        if named.get("http-equiv") == "Content-Security-Policy":
            self.policy = named["content"]
        self.fetched += [
            value
            for name, value in attrs
            if name in {"src", "href", "srcset", "data"} and not value.startswith("#")
        ]

    def handle_endtag(self, tag):  # noqa: ARG002 (HTMLParser calls it so)
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in {"script", "style"}:
            self.texts.append(data)
        if self._inside in {"td", "th"}:
            self.cells.append(data.replace("\N{NO-BREAK SPACE}", " "))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return pretend.write(tmp_path_factory.mktemp("run"), jobs=1_000)


@pytest.fixture(scope="module")
def page(run):
    return Page(report.write(run).read_text(encoding="utf-8"))


def one_job(folder, **named):
    """A run of a single job, whose names are the caller's."""
    kind = Kind(**{"share": "s", "operator": "o", "project": "p", "user": "u", **named})
    recorder, measures = Recorder(folder), Measures()
    recorder.capacity_changed(0, kind.operator, 8)
    recorder.use_changed(0, kind.operator, OWN, 1)
    recorder.share_changed(0, kind.share, 1, 8)
    recorder.lent(kind.operator, kind.share, 1, 0, 60_000)
    recorder.job_ended(JobEnded("j", kind, 0, 0, 60_000, 60_000, "pool"))
    measures.ended(kind.operator, 1, 0, 60_000, 60_000)
    recorder.close(60_000)
    return runs.write(folder, measures.summary({kind.operator: 8 * 60_000}).to_dict())


def test_it_fetches_nothing_and_forbids_the_browser_to(page):
    assert page.fetched == []
    assert page.policy.startswith("default-src 'none'")
    assert "link" not in page.tags
    assert "iframe" not in page.tags


def test_it_answers_what_a_nation_asks(page):
    for asked in (
        "How full are the GPUs, with and without lending?",
        "Who waits how long?",
        "Who lends how much?",
        "Does anybody lose by joining?",
        "What does a lost site cost?",
    ):
        assert asked in page.text
    assert "nhn-cloud was away for 3 days from 2027-01-13: 27,648 GPU-h not served" in page.text
    assert {*pretend.GROUPS, *pretend.OWNERS} <= set(page.cells)


def test_its_figures_are_those_of_the_tables(run, page):
    lent = dict(
        run.table("lending").group_by("lender").agg(pl.col("gpus_ms").sum()).collect().rows()
    )
    for lender, gpus_ms in lent.items():
        row = page.cells.index(lender, page.cells.index("lent to others"))
        assert page.cells[row + 1] == count(gpus_ms / 3_600_000)
    assert f"{count(len(run.table('recalls').collect()))} jobs were called back" in page.text


def test_the_same_run_gives_the_same_page(run):
    assert report.html(run) == report.html(runs.read(run.folder))


def test_it_shows_the_span_that_was_asked_for_however_late_the_last_job_ends(tmp_path):
    day_ms = 86_400_000
    recorder, measures = Recorder(tmp_path, span_ms=day_ms), Measures()
    recorder.capacity_changed(0, "o", 8)
    recorder.use_changed(0, "o", OWN, 2)
    recorder.use_changed(30 * day_ms, "o", OWN, -2)
    kind = Kind(share="o", operator="o", project="p", user="u")
    recorder.job_ended(JobEnded("j", kind, 0, 0, 30 * day_ms, 30 * day_ms, "pool"))
    recorder.close(30 * day_ms)
    measures.ended("o", 2, 0, 30 * day_ms, 30 * day_ms)
    starts_ms = 1_798_761_600_000
    settings = {"settings": {"starts_ms": starts_ms, "ends_ms": starts_ms + day_ms}}
    summary = measures.summary({"o": 8 * day_ms}).to_dict() | settings
    text = report.html(runs.write(tmp_path, summary))
    assert "25.0 % of 192 GPU-h in service in the 24 h from 2027-01-01 were used" in Page(text).text
    axes = '"range":["2027-01-01T00:00:00","2027-01-02T00:00:00"]'
    assert text.count(axes) == 2  # in use, of those in service


def test_what_a_holder_lends_to_its_own_is_not_lent(tmp_path):
    recorder, measures = Recorder(tmp_path), Measures()
    recorder.capacity_changed(0, "o", 8)
    recorder.use_changed(0, "o", "o", 2)
    recorder.lent("o", "o", 2, 0, 3_600_000)
    recorder.close(3_600_000)
    made = runs.write(tmp_path, measures.summary({"o": 8}).to_dict())
    page = Page(report.html(made))
    assert "25.0 % by their holders, 0.0 % through lending" in page.text
    assert "Who lends how much?" not in page.text


def test_a_trace_whose_clock_begins_at_zero_has_days_and_no_dates(tmp_path):
    made = one_job(tmp_path)
    shown = runs.write(tmp_path, {**made.summary, "settings": {"starts_ms": 0}})
    text = report.html(shown)
    assert "1970" not in Page(text).text
    assert '"text":"days since the start"' in text


def test_every_plot_has_a_sentence(page):
    assert page.tags.count("figure") == page.tags.count("figcaption") == 12


def test_names_of_users_stay_text(tmp_path):
    named = {"operator": NASTY, "share": NASTY, "group": NASTY, "project": NASTY}
    made = one_job(tmp_path, **named)
    text = report.html(made)
    assert "<script>alert" not in text
    assert NASTY in Page(text).text


def test_a_run_without_lending_recalls_or_faults_has_a_report(tmp_path):
    made = one_job(tmp_path)
    text = Page(report.html(made)).text
    assert "What does a lost site cost?" not in text
    assert "UTC" not in text


def test_a_run_in_which_nothing_happened_has_a_report(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.close(0)
    made = runs.write(tmp_path, Measures().summary({}).to_dict())
    assert "figure" not in Page(report.html(made)).tags


def test_what_was_written_is_read_back(run):
    assert runs.read(run.folder).summary == run.summary
    operators = run.table("operators").collect()
    assert operators["operator"].to_list() == sorted(pretend.OWNERS)
    assert operators["isolated_avg_jct_s"].null_count() == 0


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "summary.json").unlink(), "no readable summary.json"),
        (lambda folder: (folder / "summary.json").write_text("{"), "is not JSON"),
        (lambda folder: (folder / "summary.json").write_text("[]"), "is not an object"),
        (lambda folder: (folder / "summary.json").write_text("{}"), "has no field jobs"),
        (lambda folder: (folder / "queue.parquet").unlink(), "has no queue.parquet"),
    ],
)
def test_a_folder_that_is_no_run_is_refused(tmp_path, spoil, why):
    one_job(tmp_path)
    spoil(tmp_path)
    with pytest.raises(RefusedError) as refused:
        runs.read(tmp_path)
    assert refused.value.reason.code == "no-run"
    assert why in refused.value.reason.sentence
    assert tmp_path.name in refused.value.reason.sentence


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.4, "0.4 s"), (42, "42 s"), (186, "3.1 min"), (86_400, "24 h"),
     (3 * 86_400, "3 days"), (1_000 * 86_400, "1,000 days")],
)  # fmt: skip
def test_lengths_of_time_read_naturally(seconds, text):
    assert span(seconds) == text


@given(st.floats(0, 1e9))
def test_a_length_of_time_is_never_far_from_what_it_says(seconds):
    number, unit = span(seconds).split()
    size = {"s": 1, "min": 60, "h": 3_600, "days": 86_400}[unit]
    assert abs(float(number.replace(",", "")) * size - seconds) <= max(0.05 * size, 0.5)
