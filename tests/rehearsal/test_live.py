"""The running federation rehearsed, from plain snapshots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dure import scenario
from dure.allocations import OrganisationKind
from dure.errors import RefusedError
from dure.jobs import Tier
from dure.rehearsal.live import (
    AddedWave,
    Ahead,
    Given,
    Outage,
    WhatIf,
    opening_of,
    rehearsal_of,
)
from dure.rehearsal.perform import perform
from dure.rehearsal.record import NullRecord
from dure.scheduling.tuning import Tuning
from dure.scheduling.world import Usage
from dure.shares import Share, ShareKind, cells, shares_of
from dure.snapshot import Running, Snapshot, Standing, Terms, Waiting
from dure.units import instant_from_iso

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOON = int(instant_from_iso("2026-11-23T12:00:00"))
KOREA = scenario.load(scenario.find("korea"))
POOL = "nhn-b200"
AHEAD = Ahead(until_ms=NOON + 14 * DAY_MS)
NOTHING = WhatIf()


class Heard(NullRecord):
    """Keeps the ended jobs."""

    def __init__(self):
        super().__init__()
        self.ended = {}

    def job_ended(self, job):
        super().job_ended(job)
        self.ended[job.id] = job


def terms(**changes):
    plain = Terms(
        project="lab",
        share="national.lab",
        like=0,
        nodes=1,
        gpus_per_node=8,
        gpu_models=("b200",),
        pool=None,
        data_class="public",
        tier=Tier.STANDARD,
        priority=50,
        walltime_s=24 * 3_600,
        saves=True,
    )
    return replace(plain, **changes)


def runs(number, node, **changes):
    plain = Running(
        id=f"j-{number}.0",
        terms=0,
        pool=POOL,
        nodes=(node,),
        guarantor="national",
        started_ms=NOON - HOUR_MS,
        expected_ms=NOON + 2 * HOUR_MS,
        ends_ms=NOON + 23 * HOUR_MS,
        notice_ms=None,
        recalls=0,
    )
    return replace(plain, **changes)


def waits(number, **changes):
    plain = Waiting(
        id=f"j-{number}.0", terms=0, since_ms=NOON - HOUR_MS, expected_ms=4 * HOUR_MS, recalls=0
    )
    return replace(plain, **changes)


def snapshot(**changes):
    """One site with four nodes; three run until 14:00, one is down, and three tasks wait."""
    project = Share(id="national.lab", kind=ShareKind.PROJECT, parent="national")
    plain = Snapshot(
        at_ms=NOON,
        scenario=KOREA,
        shares=(*shares_of(KOREA.fleet).shares, project),
        groups={"national.lab": OrganisationKind.STARTUP},
        tuning=Tuning(),
        usage=(Usage(share="national.lab", credit_ms=HOUR_MS, at_ms=NOON),),
        pools=(Standing(pool=POOL, nodes=4, down=(3,), silent=False),),
        terms=(terms(),),
        running=(runs(1, 0), runs(2, 1), runs(3, 2)),
        waiting=(waits(4), waits(5), waits(6)),
    )
    return replace(plain, **changes)


def play(seen, what_if=NOTHING, ahead=AHEAD, **options):
    heard = Heard()
    done = perform(rehearsal_of(seen, ahead, what_if), heard, opening=opening_of(seen), **options)
    return done, heard.ended


def test_what_runs_ends_when_expected_and_what_waits_follows():
    _, ended = play(snapshot())
    assert [ended[f"j-{n}.0"].end_ms for n in (1, 2, 3)] == [2 * HOUR_MS] * 3
    assert [ended[f"j-{n}.0"].first_start_ms for n in (4, 5, 6)] == [2 * HOUR_MS] * 3
    assert {job.pool for job in ended.values()} == {POOL}
    assert {job.kind.group for job in ended.values()} == {"startup"}


def test_waits_count_from_the_snapshot_and_use_too():
    done, ended = play(snapshot())
    assert ended["j-4.0"].submit_ms == ended["j-1.0"].submit_ms == 0
    assert done.summary.avg_wait_s == pytest.approx(3_600)
    assert 0 < done.summary.utilisation <= 1


def test_an_outage_sends_jobs_back_and_costs_what_was_not_saved():
    outage = Outage(cluster="nhn-national", starts_ms=NOON + HOUR_MS, ends_ms=NOON + DAY_MS)
    _, ended = play(snapshot(), WhatIf(outages=(outage,)))
    assert min(job.end_ms for job in ended.values()) >= DAY_MS
    assert {job.lost_gpu_ms for job in ended.values()} == {0}  # an hour's checkpoint, just written
    _, without = play(snapshot(terms=(terms(saves=False),)), WhatIf(outages=(outage,)))
    assert without["j-1.0"].lost_gpu_ms == 2 * HOUR_MS * 8


def test_a_wave_that_comes_sooner_starts_what_waits_sooner():
    added = AddedWave(pool=POOL, gpus=16, at_ms=NOON + HOUR_MS)
    _, ended = play(snapshot(), WhatIf(waves=(added,)))
    starts = sorted(ended[f"j-{n}.0"].first_start_ms for n in (4, 5, 6))
    assert starts == [HOUR_MS, HOUR_MS, 2 * HOUR_MS]


def test_sites_that_have_less_than_planned_have_that_much():
    seen = rehearsal_of(snapshot(), AHEAD, NOTHING)
    pools = seen.nation.fleet.pools
    now = {pool.id: pool.nodes_in_service(NOON) for pool in pools}
    assert {pool: nodes for pool, nodes in now.items() if nodes} == {POOL: 4}
    later = [pool.id for pool in pools if pool.nodes_in_service(NOON + 365 * DAY_MS)]
    assert len(later) > 1  # planned waves come as planned
    assert sum(cell.gpus for cell in cells(seen.shares, pools, NOON)) <= 32


def test_a_silent_site_gives_its_jobs_back_when_their_leases_end():
    silent = Standing(pool=POOL, nodes=4, down=(), silent=True)
    _, ended = play(snapshot(pools=(silent,)))
    assert {job.end_ms >= DAY_MS for job in ended.values()} == {True}
    assert set(ended) == {f"j-{n}.0" for n in range(1, 7)}


def test_what_is_called_back_leaves_and_comes_again():
    told = runs(1, 0, notice_ms=NOON - 10_000, ends_ms=NOON + 50_000, guarantor=None)
    done, ended = play(snapshot(running=(told, runs(2, 1), runs(3, 2))))
    assert ended["j-1.0"].end_ms > 2 * HOUR_MS
    assert done.summary.jobs == 6


def test_a_kind_of_organisation_gets_its_part():
    seen = rehearsal_of(
        snapshot(), AHEAD, WhatIf(given=(Given(kind=OrganisationKind.STARTUP, part_milli=200),))
    )
    assert seen.shares.by_id["national.lab"].parent == "national.startup"
    national = sum(one.gpus for one in seen.shares.by_id["national"].guarantees)
    part = sum(one.gpus for one in seen.shares.by_id["national.startup"].guarantees)
    assert part == pytest.approx(national / 5, rel=0.01)


def test_settings_are_named_as_in_a_file():
    wave = KOREA.fleet.pool("kakao-b200").waves[-1].id
    settings = (
        f"pool.kakao-b200.wave.{wave}.in-service=2027-03-01",
        "share.national.lab.weight_milli=3000",
        "policy.recalls_max=1",
    )
    seen = rehearsal_of(snapshot(), AHEAD, WhatIf(settings=settings))
    assert seen.shares.by_id["national.lab"].weight_milli == 3_000
    assert seen.policy.tuning == replace(Tuning(), recalls_max=1)
    [moved] = [one for one in seen.nation.fleet.pool("kakao-b200").waves if one.id == wave]
    assert moved.phases[-1].at_ms == instant_from_iso("2027-03-01")


@pytest.mark.parametrize(
    ("what_if", "said"),
    [
        (WhatIf(settings=("share.nobody.weight_milli=1",)), "there is no 'nobody' here"),
        (WhatIf(settings=("policy.recall_s=soon",)), "--set policy.recall_s=soon: policy.recall_s"),
        (WhatIf(waves=(AddedWave(pool="moon", gpus=8, at_ms=NOON),)), "names pool 'moon'"),
        (WhatIf(waves=(AddedWave(pool=POOL, gpus=9, at_ms=NOON),)), "no whole number of nodes"),
        (
            WhatIf(outages=(Outage(cluster="moon", starts_ms=NOON, ends_ms=NOON + 1),)),
            "cluster is 'moon'",
        ),
        (
            WhatIf(given=(Given(kind=OrganisationKind.SME, part_milli=2_000),)),
            "promise no more than that",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(what_if, said):
    with pytest.raises(RefusedError) as refused:
        rehearsal_of(snapshot(), AHEAD, what_if)
    assert said in refused.value.reason.sentence
    assert refused.value.reason.sentence.endswith(".")


def test_it_must_end_after_it_begins():
    with pytest.raises(RefusedError, match="write a later date"):
        rehearsal_of(snapshot(), Ahead(until_ms=NOON), NOTHING)


def test_workloads_come_from_a_scenario_file(tmp_path):
    file = tmp_path / "more.toml"
    file.write_text(
        '[[workload]]\nid = "lab"\nsource = "generate"\nshare = "national.lab"\n'
        'like = "philly"\ngpus_max = 8\ndata_class = "public"\njobs_per_day = 20\n'
    )
    quiet, _ = play(snapshot())
    busy, _ = play(snapshot(), ahead=replace(AHEAD, workload=file))
    assert quiet.summary.jobs == 6
    assert 200 < busy.summary.jobs < 400


def test_start_estimates_are_held_against_what_came():
    done, _ = play(snapshot(), ask_every=1)
    assert done.start_estimates is not None
    assert done.start_estimates.asked + done.start_estimates.unforeseen == 3
    assert done.start_estimates.waited_within_90 == 1.0


def test_the_same_snapshot_gives_the_same_digest():
    assert play(snapshot())[0].digest == play(snapshot())[0].digest


def test_what_never_runs_again_is_counted():
    large = replace(terms(), nodes=5)
    done, ended = play(snapshot(terms=(terms(), large), waiting=(waits(4, terms=1),)))
    assert "j-4.0" not in ended
    assert (done.summary.jobs, done.unserved) == (3, 1)
