"""Which pools may run work on which data, and the sentence for each no."""

from dataclasses import replace

import pytest

from dure.errors import RefusedError
from dure.fleet import OwnerKind, PhaseStart, Pool, Wave, WavePhase
from dure.policy import Allowed, DataClass, Excluded, Rule, Rules, allowed_pools, verdict

STATE_KR = Pool(
    id="state-kr",
    cluster_id="nhn-national",
    operator_id="nhn-cloud",
    gpu_model="b200",
    gpus_per_node=8,
    cpus_per_node=112,
    memory_gib_per_node=2048,
    interconnect="infiniband-400g",
    owner="ministry",
    owner_kind=OwnerKind.GOVERNMENT,
    jurisdiction="KR",
    waves=(Wave(id="w", gpus=8, assumed=True, phases=(PhaseStart(WavePhase.IN_SERVICE, 0),)),),
)
SAMSUNG = replace(
    STATE_KR, id="samsung", operator_id="samsung", owner="samsung", owner_kind=OwnerKind.OPERATOR
)
ABROAD = replace(STATE_KR, id="abroad", operator_id="elsewhere", jurisdiction="SG")
POOLS = (STATE_KR, SAMSUNG, ABROAD)

RULES = Rules(
    "v1",
    tuple(
        DataClass(id_, id_) for id_ in ("public", "personal", "national-core", "rival", "fenced")
    ),
    (
        Rule(
            id="stay",
            data_classes=("personal", "national-core"),
            jurisdictions_allowed=("KR",),
            sentence="this data stays in Korea",
        ),
        Rule(
            id="state-only",
            data_classes=("national-core",),
            owner_kinds_allowed=(OwnerKind.GOVERNMENT,),
            sentence="core data needs government-owned hardware",
        ),
        Rule(
            id="no-rival",
            data_classes=("rival",),
            operators_denied=("samsung",),
            sentence="a rival must not hold this data",
        ),
        Rule(
            id="named-owner",
            data_classes=("fenced",),
            owners_allowed=("samsung",),
            sentence="it stays with its owner",
        ),
    ),
)


@pytest.mark.parametrize(
    ("data_class", "allowed"),
    [
        ("public", ["state-kr", "samsung", "abroad"]),
        ("personal", ["state-kr", "samsung"]),
        ("national-core", ["state-kr"]),
        ("rival", ["state-kr", "abroad"]),
        ("fenced", ["samsung"]),
    ],
)
def test_every_rule_that_names_the_class_must_allow_the_pool(data_class, allowed):
    may, may_not = allowed_pools(RULES, data_class, POOLS)

    assert [pool.id for pool in may] == allowed
    assert {no.pool_id for no in may_not} == {pool.id for pool in POOLS} - set(allowed)


@pytest.mark.parametrize(
    ("data_class", "pool", "rule_id", "fact"),
    [
        ("personal", ABROAD, "stay", "it stands in SG, and this data stays in Korea."),
        ("national-core", ABROAD, "stay", "it stands in SG"),
        ("national-core", SAMSUNG, "state-only", "its hardware belongs to samsung (operator), and"),
        ("rival", SAMSUNG, "no-rival", "it is run by samsung, and a rival"),
        ("fenced", STATE_KR, "named-owner", "its hardware belongs to ministry, and"),
    ],
)
def test_a_no_names_the_pool_the_rule_and_the_fact(data_class, pool, rule_id, fact):
    no = verdict(RULES, data_class, pool)

    assert isinstance(no, Excluded)
    assert (no.pool_id, no.rule_id, no.reason.code) == (pool.id, rule_id, "excluded-by-rule")
    assert no.reason.sentence.startswith(f"Pool {pool.id} is excluded by rule '{rule_id}': {fact}")
    assert no.reason.sentence.endswith(".")


def test_a_yes_is_a_value_too():
    assert verdict(RULES, "public", ABROAD) == Allowed("abroad")


def test_an_unknown_class_is_refused_even_where_there_is_no_pool():
    for ask in (
        lambda: verdict(RULES, "Public", STATE_KR),
        lambda: allowed_pools(RULES, "Public", ()),
    ):
        with pytest.raises(RefusedError) as refused:
            ask()
        assert refused.value.reason.code == "unknown-data-class"
        assert str(refused.value) == (
            "There is no data class 'Public'; "
            "known are public, personal, national-core, rival, fenced."
        )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"jurisdictions_allowed": None}, "demands nothing"),
        ({"data_classes": ()}, "names no data class"),
        ({"jurisdictions_allowed": ()}, "allows nobody at all"),
    ],
)
def test_a_rule_that_says_nothing_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(RULES.rules[0], **fields)


def test_rules_name_known_classes_and_each_id_once():
    with pytest.raises(ValueError, match="rule stay names data class 'personal'; known are public"):
        Rules("v1", (DataClass("public", "Public"),), RULES.rules)
    with pytest.raises(ValueError, match="rule stay is named twice"):
        replace(RULES, rules=(RULES.rules[0],) * 2)
    with pytest.raises(ValueError, match="data class public is named twice"):
        replace(RULES, data_classes=(RULES.data_classes[0], *RULES.data_classes))
