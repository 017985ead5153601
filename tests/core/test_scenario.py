"""Scenario files: Korea's plan as published, and one sentence for each mistake in a file."""

import re
import tomllib
from dataclasses import replace
from itertools import pairwise

import pytest

from dure import scenario, tomltable
from dure.errors import RefusedError
from dure.fleet import WavePhase, totals
from dure.policy import allowed_pools
from dure.units import instant_from_iso

NOW_MS = instant_from_iso("2026-11-23")
KOREA_TOML = scenario.find("korea")
KOREA = scenario.load(KOREA_TOML)

SMALL = """\
name = "Small"
version = "v1"

[[model]]
id = "h100"
name = "H100"
memory_gib = 80

[[operator]]
id = "op"
name = "Operator"

[[cluster]]
id = "c1"
operator = "op"
engine = "local"

[[pool]]
id = "p1"
cluster = "c1"
gpu_model = "h100"
gpus_per_node = 8
cpus_per_node = 112
memory_gib_per_node = 2048
interconnect = "infiniband-400g"
owner = "op"
owner_kind = "operator"
jurisdiction = "KR"

[[pool.wave]]
id = "w1"
gpus = 16
delivered = 2026-01-01
in-service = "2026-02-01T09:00:00+09:00"

[[pool.share]]
holder = "op"
gpus = 16

[rules]
version = "v1"

[[rules.data_class]]
id = "core"
name = "Core"

[[rules.rule]]
id = "r1"
data_classes = ["core"]
owners_allowed = ["op"]
sentence = "core data stays with op"

[tariff]
version = "v1"
[tariff.weights_milli]
h100 = 1_000
[tariff.tiers_milli]
standard = 1_000
[tariff.operator_prices_milli]
op = 1_000
[[tariff.season]]
id = "summer"
starts = 2026-07-01
ends = 2026-09-01
factor_milli = 1_200

[[local.cluster]]
id = "c1"
pool = "p1"
nodes = 2
"""


def read(tmp_path, text):
    file = tmp_path / "small.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return scenario.load(file)


def by(parts):
    return {total.id: total.gpus for total in parts}


# ---- Korea ---------------------------------------------------------------------------------------


def test_korea_has_300_000_gpus_at_the_end_of_2030():
    end = totals(KOREA.fleet, instant_from_iso("2030-12-31"))

    assert (end.gpus, end.in_service) == (300_000, 300_000)
    assert by(end.by_owner) == {
        "ministry": 50_000,
        "samsung": 50_000,
        "sk": 50_000,
        "hyundai": 50_000,
        "naver-cloud": 60_000,
        # what Korea had: 40,000
        "kisti": 8_496,
        "universities": 7_504,
        "other-companies": 24_000,
    }
    assert by(end.by_operator) == {
        "naver-cloud": 60_000 + 3_056 + 9_704,
        "nhn-cloud": 7_656,
        "kakao": 2_424,
        "naicc": 27_160,
        "samsung": 50_000,
        "sk": 50_000,
        "hyundai": 50_000,
        "kisti": 8_496,
        "universities": 7_504,
        "other-companies": 24_000,
    }
    assert by(end.by_model)["rtx-pro-6000"] == 50_000


@pytest.mark.parametrize(
    ("date", "gpus", "in_service", "ministry"),
    [
        ("2025-10-31", 31_504, 31_504, 0),
        ("2026-11-23", 78_840, 69_136, 22_840),
        ("2028-12-31", 183_840, 183_840, 37_840),
        ("2031-03-01", 300_000, 292_496, 50_000),  # the oldest are draining
        ("2032-01-01", 292_496, 292_496, 50_000),
    ],
)
def test_korea_grows_over_time(date, gpus, in_service, ministry):
    then = totals(KOREA.fleet, instant_from_iso(date))

    assert (then.gpus, then.in_service) == (gpus, in_service)
    assert by(then.by_owner).get("ministry", 0) == ministry


@pytest.mark.parametrize(
    ("pool_id", "operator_id", "model", "gpus", "national"),
    [
        ("naver-h200", "naver-cloud", "h200", 3_056, 2_296),
        ("nhn-b200", "nhn-cloud", "b200", 7_656, 6_120),
        ("kakao-b200", "kakao", "b200", 2_424, 2_040),
    ],
)
def test_the_first_13_136_are_split_as_published(pool_id, operator_id, model, gpus, national):
    pool = KOREA.fleet.pool(pool_id)

    assert (pool.operator_id, pool.gpu_model, pool.owner) == (operator_id, model, "ministry")
    assert pool.gpus_in(WavePhase.IN_SERVICE, NOW_MS) == gpus
    assert {share.holder: share.gpus for share in pool.shares} == {
        "national": national,
        operator_id: gpus - national,
    }


def test_every_wave_is_assumed_or_has_its_source_in_the_comment_above_it():
    text = KOREA_TOML.read_text(encoding="utf-8")
    blocks = re.split(r"^\[\[pool\.wave]]$", text, flags=re.MULTILINE)
    published = 0
    for before, wave in pairwise(blocks):
        row = tomllib.loads(wave.split("\n\n")[0])
        comment = before.rstrip("\n").rsplit("\n\n", 1)[-1]
        sourced = comment.startswith("#") and re.search(r"\([^)]*(\.(com|net|kr)|above)", comment)
        assert row.get("assumed", False) or sourced, row
        published += not row.get("assumed", False)

    assert len(blocks) - 1 == sum(len(pool.waves) for pool in KOREA.fleet.pools)
    assert published == 7


def test_the_clusters_played_locally_have_gpus_in_service_today():
    operators = {KOREA.fleet.cluster(local.cluster_id).operator_id for local in KOREA.local}
    assert operators == {"naver-cloud", "nhn-cloud", "kakao", "samsung", "sk", "hyundai"}
    for local in KOREA.local:
        in_service = KOREA.fleet.pool(local.pool_id).nodes_in_service(NOW_MS)
        assert 2 <= local.nodes <= 4 < in_service


def test_a_wave_in_burn_in_runs_nothing_yet():
    pool = KOREA.fleet.pool("naver-b200")

    assert pool.gpus_in(WavePhase.BURN_IN, NOW_MS) == 9_704
    assert pool.nodes_in_service(NOW_MS) == 0


def test_korean_national_core_data_stays_on_government_owned_hardware():
    allowed, excluded = allowed_pools(KOREA.rules, "national-core", KOREA.fleet.pools)

    assert {pool.owner for pool in allowed} == {"ministry", "kisti"}
    assert "samsung-b200" in {no.pool_id for no in excluded}
    assert all(no.rule_id == "national-core-data" for no in excluded)
    for data_class in ("public", "business", "personal"):
        assert not allowed_pools(KOREA.rules, data_class, KOREA.fleet.pools)[1]


def test_a_b200_weighs_two_and_a_quarter_h200():
    weights = dict(KOREA.tariff.weights_milli)

    assert weights["b200"] * 1_000 == weights["h200"] * 2_250
    assert weights["h100"] == 1_000
    assert set(dict(KOREA.tariff.tiers_milli)) == {"reserved", "standard", "spare"}


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_is_read_with_its_dates_and_defaults(tmp_path):
    small = read(tmp_path, SMALL)

    (wave,) = small.fleet.pool("p1").waves
    assert [start.at_ms for start in wave.phases] == [
        instant_from_iso("2026-01-01"),
        instant_from_iso("2026-02-01"),
    ]
    assert not wave.assumed
    assert small.tariff.seasons[0].factor_milli == 1_200
    assert small.local == (scenario.LocalCluster("c1", "p1", 2),)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            "gpus = 16\ndel",
            'gpus = "16"\ndel',
            "pool[p1].wave[w1].gpus is '16'; write a whole number",
        ),
        ("gpus = 16\ndel", "gpus = true\ndel", "pool[p1].wave[w1].gpus is True; write a whole"),
        ("gpus = 16\ndel", "gpus = nan\ndel", "pool[p1].wave[w1].gpus is nan; write a whole"),
        ("gpus = 16\ndel", "gpus = 9223372036854775808\ndel", "wave[w1].gpus is beyond 64 bits"),
        ("gpus = 16\ndel", "gpus = 0\ndel", "pool[p1].wave[w1]: gpus is 0; it must be from 1"),
        ("gpus = 16\ndel", "gpus = 12\ndel", "pool[p1]: wave w1 has 12 GPUs, which is no whole"),
        ("gpus = 16\ndel", "gpus = 8\ndel", "pool[p1]: the shares of pool p1 promise 16 GPUs"),
        ("gpus = 16\ndel", "del", "pool[p1].wave[w1].gpus is missing; write a whole number"),
        ("gpus = 16\ndel", "gpu = 1\ngpus = 16\ndel", "pool[p1].wave[w1].gpu is not a known key"),
        ("2026-01-01", '"soon"', "pool[p1].wave[w1].delivered is 'soon'; write a date such as"),
        ("2026-01-01", "12:00:00", "wave[w1].delivered is datetime.time(12, 0); write a date"),
        ("2026-01-01", "2027-01-01", "pool[p1].wave[w1]: wave w1 is in-service no later than"),
        ('cluster = "c1"', 'cluster = "c9"', "pool[p1].cluster is 'c9'; write one of c1"),
        (
            'operator = "op"',
            'operator = "o\\nx"',
            "cluster[c1].operator is 'o\\nx'; write one of op",
        ),
        ('engine = "local"', 'engine = "pbs"', "cluster[c1].engine is 'pbs'; write one of local,"),
        ('gpu_model = "h100"', 'gpu_model = "x"', "pool[p1].gpu_model is 'x'; write one of h100"),
        ('owner_kind = "operator"', 'owner_kind = "me"', "write one of government, operator"),
        ('id = "p1"', 'id = "P 1"', "pool[1]: pool id 'P 1' is not an id; use"),
        ('["core"]', '["cor"]', "rules: rule r1 names data class 'cor'; known are core"),
        ('["core"]', "[1]", "rules.rule[r1].data_classes is [1]; write a list of texts"),
        ('owners_allowed = ["op"]', 'owners_allowed = ["x"]', "rule r1 names owner 'x'; the fleet"),
        ('owners_allowed = ["op"]', 'operators_denied = ["x"]', "rule r1 names operator 'x'"),
        ("h100 = 1_000", "h900 = 1_000", "tariff.weights_milli names gpu model 'h900'; the fleet"),
        ("h100 = 1_000", "", "tariff.weights_milli leaves out h100"),
        ("op = 1_000", "", "tariff.operator_prices_milli leaves out op"),
        ("op = 1_000", "op = 1.0", "tariff.operator_prices_milli.op is 1.0; write a whole number"),
        ("ends = 2026-09-01", "ends = 2026-07-01", "tariff.season[summer]: season 'summer' ends"),
        ('pool = "p1"', 'pool = "p9"', "local cluster c1 names pool 'p9'; the cluster has p1"),
        ("nodes = 2", "nodes = 0", "local.cluster[c1]: nodes is 0; it must be from 1 to 64"),
        ("[rules]", "[rulez]", "rules.version"),
        ('name = "Small"', "", "name is missing; write a text in quotes"),
        ('name = "Small"', 'name = "Small', "the file is not TOML"),
        (
            "[[operator]]",
            "[operator]",
            "operator is {'id': 'op', 'name': 'Operator'}; write tables",
        ),
    ],
)
def test_a_mistake_is_answered_with_its_path_in_one_sentence(tmp_path, old, new, sentence):
    assert old in SMALL
    with pytest.raises(RefusedError) as refused:
        read(tmp_path, SMALL.replace(old, new, 1))

    said = str(refused.value)
    assert refused.value.reason.code == "bad-scenario"
    assert re.match(r"small\.toml(:\d+)?: ", said)
    assert sentence in said
    assert said.endswith(".")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("old", "new", "stands_at"),
    [
        ("gpus = 16\ndel", "gpus = 0.5\ndel", "gpus = 0.5"),
        ("gpus = 16\ndel", "gpu = 16\ndel", "[[pool.wave]]"),  # the table that lacks it
        ('engine = "local"', 'engine = "x"', 'engine = "x"'),
        ("h100 = 1_000", "h900 = 1_000", "[tariff]"),
        ('id = "p1"', 'id = """\n1\n"""', "[[pool]]"),
        ("memory_gib = 80", 'memory_gib = """\ngpus = 1\n"""', 'memory_gib = """'),
        ('owners_allowed = ["op"]', "owners_allowed = [ # ]\n1]", "owners_allowed = [ # ]"),
        ('"core data stays with op"', '"""\n[x]\ny = 1"""\n"s" = 3', '"s" = 3'),
        ("nodes = 2", "nodes = 0", "[[local.cluster]]"),
    ],
)
def test_a_mistake_is_answered_with_its_line(tmp_path, old, new, stands_at):
    text = SMALL.replace(old, new, 1)
    with pytest.raises(RefusedError) as refused:
        read(tmp_path, text)

    line = text[: text.index(stands_at)].count("\n") + 1
    assert str(refused.value).startswith(f"small.toml:{line}: ")


def test_an_unknown_key_is_answered_with_those_that_are_known(tmp_path):
    with pytest.raises(RefusedError, match="known are engine, id, operator"):
        read(tmp_path, SMALL.replace('engine = "local"', 'engine = "local"\nengin = 1'))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"\xff", "the file is not UTF-8 at byte 0"),
        (b"", "name is missing"),
        (b"x = " + b"[" * 100_000, "the file is not TOML"),
        (b"x = 1" + b"0" * 10_000, "the file is not TOML"),
        (b"#" * (tomltable.FILE_BYTES_MAX + 1), "the file is larger than 4,194,304 bytes"),
    ],
)
def test_what_is_no_scenario_file_at_all_is_refused(tmp_path, text, sentence):
    with pytest.raises(RefusedError, match=sentence):
        read(tmp_path, text)


def test_two_stand_ins_for_one_cluster_are_refused(tmp_path):
    with pytest.raises(RefusedError, match=r"cluster\[c1\]\.id is 'c1' for the second time"):
        read(tmp_path, SMALL + SMALL[SMALL.index("[[local.cluster]]") :])


def test_find_takes_a_name_or_a_path_and_names_those_it_knows(tmp_path):
    assert scenario.find("korea").name == "korea.toml"
    mine = tmp_path / "mine.toml"
    mine.write_text(SMALL, encoding="utf-8")
    assert scenario.find(str(mine)) == mine
    for missing in ("atlantis", str(tmp_path / "none.toml"), "a\0b", "x" * 5_000, ""):
        with pytest.raises(RefusedError, match=r"There is no scenario .*; .*korea"):
            scenario.find(missing)


def test_a_file_that_vanished_is_refused(tmp_path):
    with pytest.raises(RefusedError, match=r"none\.toml: the file cannot be read: No such"):
        scenario.load(tmp_path / "none.toml")


# ---- canonical JSON ------------------------------------------------------------------------------


def test_the_canonical_form_is_read_back_to_the_same_scenario():
    text = scenario.to_json(KOREA)

    assert scenario.from_json(text) == KOREA
    assert scenario.to_json(scenario.from_json(text)) == text
    assert scenario.to_json(replace(KOREA, name="Other")) != text


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('"gpus":3056', '"gpus":"3056"', "gpus: Input should be a valid integer"),
        ('"gpus":3056', '"gpus":3057', "has 3,057 GPUs, which is no whole number of nodes"),
        ('"gpus":3056', '"extra":1,"gpus":3056', "extra: Unexpected keyword argument"),
        ("{", "", "the document: Invalid JSON"),
    ],
)
def test_a_damaged_canonical_form_is_refused(old, new, sentence):
    text = scenario.to_json(KOREA)
    assert old in text
    with pytest.raises(RefusedError, match=sentence):
        scenario.from_json(text.replace(old, new, 1))
