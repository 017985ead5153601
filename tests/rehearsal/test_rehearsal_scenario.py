"""What of a scenario is for rehearsals: read, refused with its line, and turned by settings."""

import re
import tomllib
from dataclasses import fields

import pytest

from dure import scenario
from dure.errors import RefusedError
from dure.federation import play
from dure.fleet import WavePhase
from dure.rehearsal import document
from dure.rehearsal import scenario as rehearsals
from dure.rehearsal.faults import NodeFailures, SiteOutage, SlowRecall, happenings
from dure.rehearsal.submissions import jobs_expected
from dure.scheduling.tuning import Tuning
from dure.shares import ShareKind, cells, path
from dure.tomltable import Document, read_data
from dure.units import instant_from_iso

SMALL_TOML = scenario.find("two-sites")
TEXT = SMALL_TOML.read_text(encoding="utf-8")
SMALL = rehearsals.load(SMALL_TOML)
KOREA_TOML = scenario.find("korea")


def read(tmp_path, text, *settings):
    file = tmp_path / "small.toml"
    file.write_text(text, encoding="utf-8")
    return rehearsals.load(file, settings)


def workload(rehearsal, id_):
    [found] = [one for one in rehearsal.workloads if one.id == id_]
    return found


# ---- two sites -----------------------------------------------------------------------------------


def test_the_running_federation_reads_the_same_file_and_passes_by_what_is_for_rehearsals():
    assert scenario.load(SMALL_TOML) == SMALL.nation
    assert "load" not in scenario.to_json(SMALL.nation)


def test_only_the_running_federation_needs_to_know_what_plays_a_cluster_here(tmp_path):
    start, end = TEXT.index("[[local.cluster]]"), TEXT.index("# ---- For rehearsals")
    assert read(tmp_path, TEXT[:start] + TEXT[end:]).workloads == SMALL.workloads
    with pytest.raises(RefusedError) as refused:
        play(scenario.load(tmp_path / "small.toml"), SMALL.span.starts_ms, gpus=False)
    assert refused.value.reason.sentence == (
        "Scenario two-sites has no [[local.cluster]] to run here."
    )


def test_a_part_of_a_share_is_whole_nodes_of_each_of_its_parents_guarantees():
    found = cells(SMALL.shares, SMALL.nation.fleet.pools, SMALL.span.starts_ms)
    assert {(cell.share, cell.pool): cell.gpus for cell in found} == {
        ("hill", "hill-h100"): 32,
        ("lake", "lake-h100"): 64,
        ("national.startup", "hill-h100"): 8,
        ("national.university", "hill-h100"): 24,
    }


def test_projects_of_a_workload_are_shares_below_its_own():
    universities = workload(SMALL, "universities")
    assert len(universities.leaves) == 4
    assert path(SMALL.shares, universities.leaves[0]) == (
        "national.university.universities-1",
        "national.university",
        "national",
    )
    assert SMALL.shares.by_id[universities.leaves[0]].kind is ShareKind.PROJECT
    assert workload(SMALL, "lake-own").leaves == ("lake",)


def test_jobs_are_their_roots_for_reports_unless_the_workload_says_otherwise():
    assert workload(SMALL, "universities").terms.operator == "national"
    assert workload(SMALL, "lake-own").terms.operator == "lake"


def test_faults_come_as_the_file_says():
    assert [type(fault) for fault in SMALL.faults] == [NodeFailures, SiteOutage, SlowRecall]
    assert list(happenings(SMALL.faults, SMALL.nation.fleet.pools, SMALL.span))


# ---- settings ------------------------------------------------------------------------------------


def test_settings_come_before_what_the_file_says():
    turned = rehearsals.load(
        SMALL_TOML,
        [
            "policy.recalls_max=5",
            "workload.universities.load=0.9",
            "share.national.university.part_milli=500",
            "share.national.startup.part_milli=500",
            "rehearsal.ends=2026-11-25",
            "fault.nodes.per_node_year=1.5",
            "policy.name=plain",
        ],
    )
    assert turned.policy == rehearsals.Policy(name="plain", tuning=Tuning(recalls_max=5))
    assert workload(turned, "universities").load == 0.9
    assert sum(one.gpus for one in turned.shares.by_id["national.startup"].guarantees) == 16
    assert turned.span.ends_ms == instant_from_iso("2026-11-25")
    assert turned.faults[0].per_node_year == 1.5


def test_every_dial_of_the_scheduler_can_be_set():
    for dial in fields(Tuning):
        turned = rehearsals.load(SMALL_TOML, [f"policy.{dial.name}=7"])
        assert getattr(turned.policy.tuning, dial.name) == 7


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "policy.recall_max=5",
            r"policy\.recall_max is not a known key here; known are .*recalls_",
        ),
        ("policy.recalls_max=-1", r"policy\.recalls_max is -1; it must be at least 0"),
        ("policy.recalls_max=few", r"policy\.recalls_max is 'few'; write a whole number"),
        ("workload.x.load=1", r"there is no 'x' here; known are hill-own, lake-own, universities"),
        ("workload.hill-own.load=-1", r"workload\[hill-own\]\.load is -1; write a number above 0"),
        ("polcy.recalls_max=1", "polcy is not a known key here; known are .*policy"),
        ("name.x=1", "name is 'two-sites', nothing lies below it"),
        ("recalls_max", "write KEY=VALUE, such as policy.recalls_max=5"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_is_known(setting, sentence):
    with pytest.raises(RefusedError, match=sentence) as refused:
        rehearsals.load(SMALL_TOML, [setting])
    assert f"--set {setting}: " in str(refused.value)
    assert refused.value.reason.code == "bad-scenario"


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "stands_at", "sentence"),
    [
        (
            "part_milli = 250",
            "part_milli = 500",
            '[[share]]\nid = "national.startup"',
            "the shares below national are promised 40 GPUs of pool hill-h100 from 1970-01-01",
        ),
        (
            "part_milli = 250",
            "[[share.guarantee]]\ngpus = 9\ngpu_model = 'h100'",
            '[[share]]\nid = "national.startup"',
            "the shares below national are promised 33 GPUs of any pool",
        ),
        ('parent = "national"', 'parent = "nation"', 'parent = "nation"', "is 'nation'; write one"),
        ("gpus_max = 32", "gpus_max = 65", "gpus_max = 65", "gpus_max is 65; the largest that may"),
        ("load = 1.2", "lod = 1.2", "[[workload]]", "write either load or jobs_per_day"),
        ("load = 1.2", "load = 1.2\nlod = 1", "lod = 1", "lod is not a known key here; known are"),
        (
            "gpus_max = 32",
            "gpus_max = 2",
            "[[workload]]",
            "gpus_mean is 3.72; it must be from 1 to",
        ),
        (
            "run_median_s = 900",
            "run_median_s = 7_000",
            "[[workload]]",
            "run_median_s is 7000; it must be above 0 and at most run_mean_s, 2400",
        ),
        (
            "seed = 1",
            "seed = 1\njobs_max = 100",
            "[[workload]]",
            "jobs, most of them hill-own; rehearsal.jobs_max is 100: lower a load, raise",
        ),
        ("load = 1.2", "load = nan", "load = nan", "load is nan; write a number above 0"),
        ("load = 1.2", "load = inf", "load = inf", "load is inf; write a number above 0"),
        ("load = 1.2", "load = -1", "load = -1", "load is -1; write a number above 0"),
        ('like = "helios"', 'like = "x"', 'like = "x"', "write one of seren, kalos, philly"),
        ('share = "hill"', 'share = "hil"', 'share = "hil"', "share is 'hil'; write one of hill"),
        ('share = "hill"', "", "[[workload]]", "share is missing; only a trace's own"),
        ('data_class = "open"', 'data_class = "x"', 'data_class = "x"', "write one of open"),
        ('group = "university"', 'group = "u"', 'group = "u"', "write one of university, inst"),
        ("projects = 4", "projects = 1_000_000", "projects = 1_0", "projects is more than 100,000"),
        (
            'source = "generate"',
            'source = "trace"\npath = "none"',
            'path = "none"',
            "path is 'none', which is not there",
        ),
        ("ends = 2026-11-24", "ends = 2026-11-23", "ends = 2026-11-23", "ends is not after starts"),
        ("starts = 2026-11-23\n", "starts = 1969-01-01\n", "starts = 19", "a date from 1970 on"),
        ("repair_s = 7_200", "repair_s = -1", "repair_s = -1", "repair_s is -1; it must be at le"),
        ('cluster = "lake-main"\nf', 'cluster = "x"\nf', 'cluster = "x"', "write one of hill-main"),
        ('kind = "site-outage"', 'kind = "war"', 'kind = "war"', "write one of node-failures, s"),
        ("ends = 2026-11-23T16", "ends = 2026-11-23T14", "ends = 2026-11-23T14", "not after st"),
        ("recalls_max = 3", "recalls_max = 1.5", "recalls_max = 1.5", "write a whole number"),
        ('id = "hill-own"', 'id = "lake-own"', 'id = "lake-own"', "for the second time; ids are"),
        ("[rehearsal]", "[rehearsals]", None, "rehearsal is missing; write a table [rehearsal]"),
    ],
)
def test_a_mistake_is_answered_with_its_line_and_what_would_be_right(
    tmp_path, old, new, stands_at, sentence
):
    at = TEXT.index("# ---- For rehearsals")
    assert old in TEXT[at:]
    text = TEXT[:at] + TEXT[at:].replace(old, new, 1)
    with pytest.raises(RefusedError) as refused:
        read(tmp_path, text)

    said = str(refused.value)
    assert sentence in said
    assert "\n" not in said
    if stands_at is not None:
        found = text.index(stands_at, at)
        if "second time" in sentence:
            found = text.index(stands_at, found + 1)
        line = text[:found].count("\n") + 1
        assert said.startswith(f"small.toml:{line}: "), (said, line)


def test_data_that_no_pool_may_take_fits_nowhere(tmp_path):
    rule = (
        '[[rules.rule]]\nid = "core"\ndata_classes = ["open"]\nowner_kinds_allowed = '
        '["government"]\nsentence = "s"\n\n[tariff]\n'
    )
    with pytest.raises(RefusedError, match=r"gpus_max is 32; the largest .*, none, takes 0"):
        read(tmp_path, TEXT.replace("[tariff]\n", rule, 1))


def test_a_trace_needs_no_share_for_its_clusters_say_it(tmp_path):
    (tmp_path / "jobs").mkdir()
    recorded = re.sub(
        r'id = "hill-own"\n.*?\n\n',
        'id = "hill-own"\nsource = "trace"\npath = "jobs"\ndata_class = "open"\n\n',
        TEXT,
        count=1,
        flags=re.DOTALL,
    )
    found = workload(read(tmp_path, recorded), "hill-own")
    assert found.path == tmp_path / "jobs"
    assert found.terms.share is None


def test_a_holders_dials_can_be_turned(tmp_path):
    capped = read(tmp_path, TEXT + '\n[[share]]\nid = "lake"\nlimit_gpus = 8\nmay_lend = false\n')
    lake = capped.shares.by_id["lake"]
    assert (lake.limit_gpus, lake.may_lend, lake.guarantees[0].gpus) == (8, False, 64)


# ---- Korea ---------------------------------------------------------------------------------------


def test_korea_is_rehearsed_through_2030_with_every_holder_at_work():
    korea = rehearsals.load(KOREA_TOML)
    fleet = korea.nation.fleet

    assert korea.span.ends_ms == instant_from_iso("2031-01-01")
    roots = {path(korea.shares, one.terms.share)[-1] for one in korea.workloads}
    assert roots == set(korea.shares.by_id) & {s.holder for p in fleet.pools for s in p.shares}
    groups = {one.terms.group for one in korea.workloads} - {""}
    assert groups == {"university", "institute", "startup", "sme", "company", "government"}
    end = cells(korea.shares, fleet.pools, korea.span.ends_ms - 1)
    assert sum(cell.gpus for cell in end) == sum(
        pool.gpus_in(WavePhase.IN_SERVICE, korea.span.ends_ms - 1) for pool in fleet.pools
    )
    outages = [fault for fault in korea.faults if isinstance(fault, SiteOutage)]
    assert [(one.ends_ms - one.starts_ms) // 86_400_000 for one in outages] == [7]


def test_koreas_jobs_are_few_enough_to_be_rehearsed():
    korea = rehearsals.load(KOREA_TOML)
    setting = rehearsals.setting(korea)
    jobs = sum(jobs_expected(one, setting) for one in korea.workloads)
    assert 500_000 < jobs < min(8_000_000, korea.jobs_max)


def test_every_key_of_the_shipped_scenarios_is_explained():
    page = (KOREA_TOML.parents[1] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    for file in (SMALL_TOML, KOREA_TOML):
        data = tomllib.loads(file.read_text(encoding="utf-8"))
        tables = [data["rehearsal"], *data["share"], *data["workload"], *data["fault"]]
        keys = {key for table in tables for key in table}
        assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


@pytest.mark.parametrize("name", ["korea", "two-sites"])
def test_a_scenario_written_as_a_document_reads_back_as_it_was(name):
    before = scenario.load(scenario.find(name))
    again = read_data(Document(name, document.of_scenario(before)), scenario.read)
    assert again == before


def test_a_tree_that_cannot_be_is_blamed_on_the_first_row_that_makes_it_so(tmp_path):
    row = '[[share]]\nid = "national.{0}"\nparent = "national"\npart_milli = 600\n'
    with pytest.raises(RefusedError, match=r"share\[national\.x2\].*promise no more than that"):
        read(tmp_path, KOREA_TOML.read_text() + row.format("x2") + row.format("x3"))
