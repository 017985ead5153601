"""The jobs that a scenario's workloads bring."""

from dataclasses import replace
from itertools import islice, pairwise

import pytest

from dure import scenario
from dure.errors import RefusedError
from dure.rehearsal import scenario as rehearsals
from dure.rehearsal.faults import Span
from dure.rehearsal.generate import DAY_MS, Profile
from dure.rehearsal.submissions import (
    ROUND_S,
    Generated,
    Recorded,
    Setting,
    arrivals,
    jobs_expected,
    jobs_per_day,
)
from dure.units import instant_from_iso

SMALL = rehearsals.load(scenario.find("two-sites"))
PLACE = rehearsals.setting(SMALL)
BY_ID = {one.id: one for one in SMALL.workloads}
NOW = PLACE.span.starts_ms
YEAR = replace(PLACE, span=Span(starts_ms=NOW, ends_ms=NOW + 365 * DAY_MS, seed=1))


def test_jobs_come_in_order_within_the_span_each_on_a_share_of_the_tree():
    came = list(arrivals(SMALL.workloads, PLACE))

    assert all(a.at_ms <= b.at_ms for a, b in pairwise(came))
    assert came[0].at_ms >= 0
    assert came[-1].at_ms < DAY_MS
    assert {arrival.kind.share for arrival in came} <= set(PLACE.shares.by_id)
    assert len({arrival.id for arrival in came}) == len(came)
    assert {arrival.kind.name for arrival in came} == set(BY_ID)


def test_as_many_jobs_come_as_were_expected():
    for one in SMALL.workloads:
        expected = jobs_expected(one, YEAR)
        assert sum(1 for _ in arrivals([one], YEAR)) == pytest.approx(expected, rel=0.05)


def test_a_load_follows_what_the_share_is_guaranteed():
    korea = rehearsals.load(scenario.find("korea"))
    [samsung] = [one for one in korea.workloads if one.id == "samsung-own"]
    steps = jobs_per_day(samsung, rehearsals.setting(korea))

    in_service = [4_000, 14_000, 26_000, 38_000, 50_000]
    first = instant_from_iso("2027-09-01") - korea.span.starts_ms
    assert [at_ms for at_ms, _ in steps][:2] == [0, first]
    assert [round(rate / steps[0][1] * 4_000) for _, rate in steps] == in_service


def test_equal_seeds_bring_equal_jobs_and_another_load_changes_no_other_workload():
    def of(workloads, setting, id_):
        return [one for one in arrivals(workloads, setting) if one.kind.name == id_]

    busier = [replace(one, load=2.0) if one.id == "hill-own" else one for one in SMALL.workloads]
    other_seed = replace(PLACE, span=replace(PLACE.span, seed=2))
    as_it_is = of(SMALL.workloads, PLACE, "lake-own")

    assert as_it_is == of(SMALL.workloads, PLACE, "lake-own")
    assert as_it_is == of(busier, PLACE, "lake-own")
    assert as_it_is != of(SMALL.workloads, other_seed, "lake-own")


def test_jobs_of_a_workload_are_spread_over_its_projects_and_keep_its_terms():
    kinds = {one.kind for one in arrivals([BY_ID["universities"]], PLACE)}

    assert {kind.share for kind in kinds} == set(BY_ID["universities"].leaves)
    assert {kind.project for kind in kinds} == {f"universities-{n}" for n in range(1, 5)}
    assert {(kind.group, kind.operator) for kind in kinds} == {("university", "national")}
    hill = {one.kind for one in arrivals([BY_ID["hill-own"]], PLACE)}
    assert {kind.checkpoint_every_s for kind in hill} == {1_800}


def test_large_jobs_are_gangs_of_whole_nodes():
    fours = replace(BY_ID["hill-own"], terms=replace(BY_ID["hill-own"].terms, gpus_per_node=4))
    shapes = {(one.kind.nodes, one.kind.gpus_per_node) for one in arrivals([fours], YEAR)}
    assert shapes == {(1, 1), (1, 2), (1, 4), (2, 4), (4, 4), (8, 4)}


def test_people_ask_for_a_round_time_that_is_long_enough():
    for one in arrivals([BY_ID["universities"]], YEAR):
        asked = one.kind.walltime_s
        shorter = [round_s for round_s in ROUND_S if round_s < asked]
        assert asked in ROUND_S
        assert asked * 1_000 >= 2 * one.duration_ms
        assert all(round_s * 1_000 < 2 * one.duration_ms for round_s in shorter)
    assert {one.kind.walltime_s for one in arrivals([BY_ID["hill-own"]], PLACE)} == {None}


def recorded(tmp_path, share):
    (tmp_path / "nodes.json").write_text('{"hill": 4, "lake": 4}', encoding="utf-8")
    (tmp_path / "jobs.csv").write_text(
        "job_id,vc,user,submit,duration,gpus,status\n"
        "a,hill,kim,1000,60,8,COMPLETED\n"
        "b,lake,lee,1500,30,16,COMPLETED\n"
        "c,hill,kim,90000,30,1,COMPLETED\n",
        encoding="utf-8",
    )
    terms = replace(BY_ID["hill-own"].terms, share=share, operator="")
    return Recorded(id="past", terms=terms, path=tmp_path)


def test_a_trace_begins_with_the_rehearsal_and_ends_with_it(tmp_path):
    came = list(arrivals([recorded(tmp_path, None)], PLACE))
    assert [(one.id, one.at_ms, one.duration_ms) for one in came] == [
        ("a", 0, 60_000),
        ("b", 500_000, 30_000),
    ]
    assert [(one.kind.share, one.kind.nodes, one.kind.user) for one in came] == [
        ("hill", 1, "kim"),
        ("lake", 2, "lee"),
    ]
    on_one = list(arrivals([recorded(tmp_path, "national")], PLACE))
    assert {one.kind.share for one in on_one} == {"national"}


def test_a_virtual_cluster_that_is_no_share_is_refused(tmp_path):
    bare = Setting(rehearsals.Shares(), PLACE.pools, PLACE.span)
    with pytest.raises(RefusedError, match="vc of workload past is hill, which is no share; give"):
        list(arrivals([recorded(tmp_path, None)], bare))


def test_years_of_jobs_are_made_as_they_are_asked_for():
    mean_day = Profile(run_mean_s=3_600, run_median_s=600, gpus_mean=2, gpus_max=8)
    busy = Generated(
        id="busy", terms=BY_ID["lake-own"].terms, profile=mean_day, jobs_per_day=1_000_000
    )
    thousand_years = replace(PLACE, span=Span(starts_ms=0, ends_ms=365_000 * DAY_MS, seed=1))
    assert len(list(islice(arrivals([busy], thousand_years), 10_000))) == 10_000
