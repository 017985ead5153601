"""What the control plane derives from its store: shares, run times, usage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dure import scenario
from dure.allocations import Allocation, AllocationKind, Organisation, OrganisationKind, Project
from dure.control import memory, requests
from dure.control.memory import Known, Memory
from dure.control.snapshot import asked_by, request
from dure.engines import EngineEnd
from dure.jobs import Checkpoint
from dure.rehearsal import scenario as rehearsals
from dure.scheduling.world import Request
from dure.shares import ShareKind, path
from dure.store import jobs
from nation import DAY_MS, KOREA, SETTINGS, Nation, Site, spec, submit


def known(nation: Nation, its: Memory | None = None) -> Known:
    with nation.database.read() as connection:
        remembered = its or nation.service.memory
        return remembered.known(connection, KOREA, SETTINGS.tuning, nation.now_ms)


def capacity(nation: Nation, name: str, gpus: int, days: int) -> None:
    nation.admin.award(
        Allocation(
            id=name,
            project="lab",
            kind=AllocationKind.CAPACITY,
            starts_ms=nation.now_ms,
            ends_ms=nation.now_ms + days * DAY_MS,
            gpus=gpus,
            gpu_model="b200",
            pool="nhn-b200",
        )
    )


def test_an_award_is_a_share_while_it_lasts(nation: Nation):
    nation.lab()
    before = known(nation)
    assert before.leaf("lab-hours") == "national.university.lab"
    assert known(nation).shares is before.shares  # made anew only when something has changed
    capacity(nation, "rack", gpus=64, days=10)

    during = known(nation)
    leaf = during.leaf("rack")
    assert path(during.shares, leaf) == (
        "national.university.lab.rack",
        "national.university.lab",
        "national.university",
        "national",
    )
    assert sum(one.gpus for one in during.shares.by_id[leaf].guarantees) == 64
    nation.pass_s(11 * DAY_MS / 1_000)
    after = known(nation)
    assert after.leaf("rack") == ""
    assert after.in_tree(leaf) is None
    assert after.leaf("lab-hours") == "national.university.lab"


def test_the_shares_of_a_scenario_stand_above_the_projects_of_their_kind(nation: Nation):
    nation.lab()
    found = known(nation).shares
    file = rehearsals.load(scenario.find("korea"))
    roots = {share.id: share for share in file.shares.shares if share.kind is not ShareKind.PROJECT}
    assert {id_: found.by_id[id_] for id_ in roots} == roots
    assert found.by_id["national.university"].guarantees


def test_an_operators_own_projects_stand_below_its_share(nation: Nation):
    for organisation, project in (("sk", "twin"), ("national", "office"), ("sk-labs", "labs")):
        nation.admin.create_organisation(
            Organisation(id=organisation, name=organisation, kind=OrganisationKind.COMPANY)
        )
        nation.admin.create_project(Project(id=project, organisation=organisation, title=project))
        nation.hours(project)
    found = known(nation)
    assert found.leaf("twin-hours") == "sk.twin"
    assert found.leaf("office-hours") == "national.company.office"
    assert found.leaf("labs-hours") == "national.company.labs"
    assert found.shares.by_id["sk"].kind is ShareKind.OWNER


@pytest.mark.parametrize("end", [EngineEnd.STOPPED, EngineEnd.NODE_FAILED])
def test_what_the_platform_ended_does_not_tell_how_long_its_like_runs(
    nation: Nation, site: Site, end: EngineEnd
):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    before = known(nation).estimate(spec(), "lab-member")
    nation.pass_s(3_000)
    nation.admin.recall(job)
    site.end(site.orders[f"{job}.0"], end)
    site.round()
    after = known(nation)
    assert after.estimate(spec(), "lab-member") == before
    recalled = end is EngineEnd.STOPPED  # what was called back had been used
    assert [one.share for one in after.usage] == (["national.university.lab"] if recalled else [])


def test_the_rest_of_a_resumed_run_does_not_tell_either(nation: Nation, site: Site):
    lab = nation.lab()
    asked = spec(checkpoint=Checkpoint(dir="ckpt"))
    (job,) = submit(lab, asked)
    site.start_all()
    before = known(nation).estimate(asked, "lab-member")
    nation.admin.recall(job)
    site.round()
    site.end(site.orders[f"{job}.0"], EngineEnd.STOPPED)
    site.start_all()
    nation.pass_s(5)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.round()
    assert known(nation).estimate(asked, "lab-member") == before


def test_usage_halves_with_each_half_life_and_outlives_a_restart(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(600)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.round()
    (fresh,) = known(nation).usage
    nation.pass_s(SETTINGS.tuning.half_life_s)
    (halved,) = known(nation).usage
    assert halved.credit_ms == pytest.approx(fresh.credit_ms / 2, abs=1)
    assert known(nation, Memory()).usage == (halved,)
    shorter = replace(SETTINGS.tuning, half_life_s=SETTINGS.tuning.half_life_s // 2)
    with nation.database.read() as connection:
        (quartered,) = Memory().known(connection, KOREA, shorter, nation.now_ms).usage
    assert quartered.credit_ms == pytest.approx(fresh.credit_ms / 4, abs=1)


def test_a_run_time_is_foretold_when_its_job_is_submitted(nation: Nation, site: Site):
    lab = nation.lab()
    early, *short = submit(lab, *(spec(name=f"train-{n}") for n in range(4)))
    before = known(nation).foretold
    first = before[1]
    for job in short:
        site.start_all()
        nation.pass_s(120)
        site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
        site.round()
    (late,) = submit(lab, spec(name="train-4"))
    after = known(nation)
    assert {f"j-{job}" for job in after.foretold} == {early, late}
    assert after.foretold[1] == first  # what it was estimated at is what it is held against
    assert after.foretold[5].median_ms < first.median_ms
    assert after.estimator.error().jobs == len(short)

    restarted = known(nation, Memory())
    assert restarted.foretold == after.foretold
    assert restarted.estimator.error() == after.estimator.error()
    assert restarted.usage == after.usage


def test_a_task_that_still_waits_is_not_read_again(nation: Nation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "KEPT_MIN", 0)
    lab = nation.lab()
    first, *others = submit(lab, *(spec(name=f"train-{n}") for n in range(5)))
    kept, read = requests.Requests(), []

    def waiting() -> list[int]:
        found = known(nation)

        def reads(task: jobs.Task) -> Request:
            read.append(task.id)
            return request(asked_by(task), found)

        with nation.database.read() as connection:
            queue = jobs.queue(connection, nation.now_ms, 100)
            return [one.job_id for one in kept.of(connection, queue, reads, found.leaf)]

    assert waiting() == waiting() == [1, 2, 3, 4, 5]
    assert sorted(read) == [1, 2, 3, 4, 5]
    lab.cancel(first)
    submit(lab, spec(name="more"))
    assert waiting() == [2, 3, 4, 5, 6]
    assert sorted(read) == [1, 2, 3, 4, 5, 6]
    for job in others:
        lab.cancel(job)
    assert waiting() == [6]
    capacity(nation, "rack", gpus=64, days=10)  # a new tree, and the same share in it
    assert waiting() == [6]
    assert len(read) == 6


def test_what_never_ran_is_forgotten(nation: Nation, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "FORETOLD_MIN", 3)
    lab = nation.lab()
    remembers = Memory()
    for _ in range(3):
        for job in submit(lab, *(spec(name=f"train-{n}") for n in range(2))):
            known(nation, remembers)
            lab.cancel(job)
    (open_,) = submit(lab, spec())
    assert len(known(nation, remembers).foretold) <= 4
    assert int(open_.removeprefix("j-")) in known(nation, remembers).foretold
