"""`dure rehearse live`: the running federation fetched over the API, and what if."""

from __future__ import annotations

import json

import pytest

from dure.jobs import Array
from dure.people import Role, RoleGrant
from nation import spec, submit

CHANGE = ("--outage", "nhn-national=2026-11-23T12:01..2026-11-30")


@pytest.fixture
def office(dure, nation, site):
    """The programme office's `dure`, beside a site of four nodes with six tasks."""
    member = nation.lab()
    site.sync()
    submit(member, spec(array=Array(tuple(range(6)))))
    site.start_all()
    dure.environ |= {"DURE_URL": "http://testserver", "DURE_TOKEN": nation.admin_token}
    dure.transport = nation.transport
    return dure


def test_the_running_federation_is_rehearsed_and_reported(office):
    done = office("rehearse", "live", "--out", "run", "--ask-every", "1", "--output", "json")
    assert done.code == 0, done.err
    assert done.json["jobs"] == 6
    assert done.json["start_estimates"]["asked"] == 2
    assert "estimates" in done.json
    html = (office.folder / "run" / "report.html").read_text()
    page = html.replace("\N{NO-BREAK SPACE}", " ")
    assert "Start estimates: 100.0 % of those that waited started within their 90 % range" in page
    assert json.loads((office.folder / "run" / "summary.json").read_text())["jobs"] == 6


def test_a_change_is_set_beside_the_federation_as_it_is(office):
    done = office("rehearse", "live", "--out", "run", "--against", "asis", *CHANGE)
    assert done.code == 0, done.err
    assert "What if: nhn-national lost from 2026-11-23T12:01:00Z until" in done.out
    told = json.loads((office.folder / "run" / "what-if" / "summary.json").read_text())
    before = json.loads((office.folder / "run" / "as-is" / "summary.json").read_text())
    assert told["avg_wait_s"] > before["avg_wait_s"] + 3 * 86_400
    assert "nhn-national lost" in told["settings"]["what_if"]
    assert (office.folder / "run" / "compare.html").exists()


def test_a_kept_snapshot_needs_no_server_and_gives_the_same(office):
    first = office("rehearse", "live", "--out", "a", "--save", "now.json", "--output", "json")
    assert first.code == 0, first.err
    office.transport = None
    office.environ.pop("DURE_URL")
    again = office("rehearse", "live", "--out", "b", "--snapshot", "now.json", "-o", "json")
    assert again.code == 0, again.err
    assert again.json["digest"] == first.json["digest"]
    assert (office.folder / "now.json").stat().st_mode & 0o077 == 0


def test_it_is_for_the_programme_office(office, nation):
    nation.person("park")
    nation.admin.grant_role("park", RoleGrant(Role.OPERATOR_ADMIN, "kakao"))
    office.environ["DURE_TOKEN"] = nation.token("park")
    done = office("rehearse", "live", "--out", "run")
    assert done.code == 2
    assert "park may not do this (rehearse)" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--add-wave", "kakao-b200=many@2027-03-01"), "is not POOL=GPUS@DATE"),
        (("--add-wave", "kakao-b200=8@soon"), "'soon' is not a date"),
        (("--add-wave", "moon=8@2027-03-01"), "names pool 'moon'"),
        (("--outage", "nhn-national=2026-12-01"), "is not CLUSTER=FROM..UNTIL"),
        (("--outage", "nhn-national=2026-12-08..2026-12-01"), "is not after starts"),
        (("--give", "startups=20%"), "--give is 'startups'; right is one of university"),
        (("--give", "startup=120%"), "is not a share"),
        (("--set", "policy.speed=9"), "--set policy.speed=9"),
        (("--until", "2026-11-01"), "--until is 2026-11-01T00:00:00Z, which is not after"),
        (("--policy", "magic"), "policy is 'magic'; right is one of dure, no-lending"),
        (("--against", "asis"), "has nothing to compare"),
        (("--against", "me"), "right is one of none, asis"),
        (("--workload", "nowhere"), "There is no scenario 'nowhere'"),
        (("--snapshot", "none.json"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_refused_in_a_sentence(office, given, said):
    done = office("rehearse", "live", "--out", "run", *given)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_a_torn_snapshot_is_refused_with_its_field(office):
    (office.folder / "torn.json").write_text('{"at_ms": "now"}')
    done = office("rehearse", "live", "--out", "run", "--snapshot", "torn.json")
    assert done.code == 2
    assert "at_ms is 'now'" in done.err


def test_who_comes_meanwhile_is_a_scenarios(office):
    more = office.folder / "more.toml"
    more.write_text(
        '[[workload]]\nid = "more"\nsource = "generate"\nshare = "national"\nlike = "philly"\n'
        'gpus_max = 8\ndata_class = "public"\njobs_per_day = 50\n'
    )
    ahead = ("--workload", str(more), "--until", "2026-11-25", "--output", "json")
    done = office("rehearse", "live", "--out", "run", *ahead)
    assert done.code == 0, done.err
    assert done.json["jobs"] > 6 + 20
    other = office("rehearse", "live", "--out", "run", "--seed", "7", *ahead)
    assert other.json["digest"] != done.json["digest"]
