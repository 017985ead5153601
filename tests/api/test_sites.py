"""What is known of sites: their keys, what they sign, and what is wrong there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import update

from dure import codec
from dure.agent.identity import Identity
from dure.agent.wire import AttemptReport, KeyOffer, SyncRequest
from dure.engines import EngineEnd, Phase
from dure.life import State
from dure.people import Role, RoleGrant
from dure.store import site_keys
from dure.store.schema import attempts
from dure.store.schema import site_keys as keys
from nation import Nation, Site, spec, submit


def other_identity() -> Identity:
    return Identity(Ed25519PrivateKey.generate())


def offer(site: Site, public_key: str, cluster: str | None = None) -> tuple[int, str]:
    content = codec.encode(KeyOffer(cluster_id=cluster or site.cluster, public_key=public_key))
    response = site.http.put("/v1/agent/key", content=content)
    return response.status_code, "" if response.status_code == 204 else response.json()["detail"]


def findings(nation: Nation) -> list[str]:
    with nation.database.read() as connection:
        return [found.sentence for found in site_keys.audit(connection)]


def ran(nation: Nation, site: Site) -> str:
    """The id of an attempt that has run for a minute and was settled."""
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    nation.pass_s(60)
    site.end(site.orders[f"{job}.0"], EngineEnd.COMPLETED, 0)
    site.round()
    view = lab.job(job)
    assert view.summary.state is State.SUCCEEDED
    return view.tasks[0].attempts[0].id


# ---- keys ----------------------------------------------------------------------------------------


def test_a_site_enrols_one_key_until_it_has_a_new_token(nation: Nation, site: Site):
    mine, other = site.identity.public_key, other_identity().public_key
    assert offer(site, mine) == (204, "")
    status, detail = offer(site, other)
    assert (status, "another key" in detail) == (409, True)

    again = Site(nation, identity=other_identity())
    assert offer(again, again.identity.public_key) == (204, "")
    assert offer(again, mine)[0] == 409  # a key that was retired stays so
    acts = [act.sentence for act in nation.admin.acts().acts if act.act == "site-key-enrolled"]
    assert len(acts) == 2
    assert again.identity.public_key in acts[0] + acts[1]


@pytest.mark.parametrize("key", ["", "AAAA", "no base64!", "A" * 44])
def test_what_is_no_key_is_refused_with_a_sentence(nation: Nation, site: Site, key: str):
    status, detail = offer(site, key)
    assert status == 400
    assert "public_key" in detail


def test_a_site_names_a_key_for_itself_alone(nation: Nation, site: Site):
    assert offer(site, other_identity().public_key, "samsung-factory")[0] == 404


# ---- signatures ----------------------------------------------------------------------------------


def test_an_end_that_its_site_has_not_signed_changes_nothing(nation: Nation, site: Site):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    order = site.orders[f"{job}.0"]
    site.end(order, EngineEnd.COMPLETED, 0)
    honest = site.signed(site.reports[order.attempt_id])
    later = replace(honest, ended_ms=(honest.ended_ms or 0) + 3_600_000)
    for forged in (replace(honest, signature=None), later):
        request = SyncRequest(
            cluster_id=site.cluster, engine="local", engine_answered=True, pools=(),
            attempts=(forged,),
        )  # fmt: skip
        response = site.http.post("/v1/agent/sync", content=codec.encode(request))
        assert response.status_code == 403
        assert order.attempt_id in response.json()["detail"]
    nation.tick()
    assert lab.job(job).summary.state is State.RUNNING
    site.round()
    assert lab.job(job).summary.state is State.SUCCEEDED


def test_what_was_signed_is_kept_and_audited(nation: Nation, site: Site):
    attempt = ran(nation, site)
    assert findings(nation) == []

    def tampered(**values: object) -> list[str]:
        with nation.database.write() as connection:
            kept = connection.execute(attempts.select().where(attempts.c.id == attempt)).one()
            connection.execute(update(attempts).where(attempts.c.id == attempt).values(values))
        found = findings(nation)
        before = {name: getattr(kept, name) for name in values}
        with nation.database.write() as connection:
            connection.execute(update(attempts).where(attempts.c.id == attempt).values(before))
        return found

    with nation.database.read() as connection:
        kept = connection.scalar(attempts.select().with_only_columns(attempts.c.attestation))
    assert kept is not None
    assert "Nobody has signed" in tampered(attestation=None)[0]
    assert "no signature" in tampered(attestation=kept.replace("COMPLETED", "ERRED").replace(
        "completed", "erred"))[0]  # fmt: skip
    assert "less than what was metered" in tampered(gpu_ms=10**12)[0]
    assert "is not one" in tampered(attestation="{}")[0]
    assert findings(nation) == []


def test_what_was_signed_with_a_key_since_retired_stays_in_order(nation: Nation, site: Site):
    ran(nation, site)
    Site(nation, identity=other_identity())
    assert findings(nation) == []
    with nation.database.write() as connection:
        connection.execute(keys.delete().where(keys.c.retired_ms.is_not(None)))
    assert "no signature" in findings(nation)[0]


# ---- what is wrong there -------------------------------------------------------------------------


def view_of(nation: Nation, site: Site):
    return next(one for one in nation.admin.sites() if one.cluster == site.cluster)


def test_a_site_shows_when_it_was_heard_and_what_drifts(nation: Nation, site: Site):
    site.sync()
    view = view_of(nation, site)
    assert (view.received_ms, view.engine, view.is_well) == (nation.now_ms, "local", True)
    assert view.public_key == site.identity.public_key
    site.drift = ("job 7 of a-1 runs twice; the second has been cancelled",)
    site.sync()
    assert view_of(nation, site).drift == site.drift
    assert not view_of(nation, site).is_well
    metrics = site.http.get("/metrics").text
    assert 'dure_site_trouble{cluster="nhn-national",what="drift"} 1.0' in metrics
    nation.pass_s(3_600)
    assert view_of(nation, site).silent


def test_what_nobody_here_knows_is_left_alone_and_shown(nation: Nation, site: Site):
    site.reports["a-unknown"] = AttemptReport(
        attempt_id="a-unknown", engine_id="7", phase=Phase.RUNNING, started_ms=nation.now_ms
    )
    site.round()
    assert site.reply is not None
    assert site.reply.strangers == ("a-unknown",)
    assert view_of(nation, site).strangers == ("a-unknown",)
    nation.assert_book_in_order()


def test_an_attempt_that_was_given_up_and_comes_back_is_said_once_and_not_charged(
    nation: Nation, site: Site
):
    lab = nation.lab()
    (job,) = submit(lab, spec())
    site.start_all()
    order = site.orders[f"{job}.0"]
    lease_s = nation.control.settings.lease_s + nation.control.settings.lease_margin_s
    nation.pass_s(lease_s + 60)
    nation.tick()  # its site is silent
    nation.tick()  # and its lease has ended
    assert lab.job(job).tasks[0].attempts[0].cause == "lost"
    for _ in range(3):
        site.run(order)
        site.sync()
        nation.pass_s(5)
    assert view_of(nation, site).late == (order.attempt_id,)
    late = [event for event in lab.why(job).events if event.reason.code == "late-return"]
    assert [event.attempt for event in late] == [order.attempt_id]
    assert lab.job(job).tasks[0].attempts[0].charge == 0


def test_an_operator_sees_its_own_sites_and_a_member_none(nation: Nation, site: Site):
    nation.person("op")
    nation.admin.grant_role("op", RoleGrant(Role.OPERATOR_ADMIN, "nhn-cloud"))
    operator = nation.client(nation.token("op"))
    assert {one.operator for one in operator.sites()} == {"nhn-cloud"}
    assert nation.lab().sites() == ()
    assert len({one.operator for one in nation.admin.sites()}) > 1
