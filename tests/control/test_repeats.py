"""A site that says the same again costs no write, and is told nothing that is no longer so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from sqlalchemy import event

from dure.agent.wire import Wish
from dure.engines import EngineEnd
from dure.life import State
from dure.store import attempts, sites
from nation import SETTINGS, Nation, Site, spec, submit

OUTAGE_S = 600
CYCLES_MAX = 3


@contextlib.contextmanager
def written(nation: Nation) -> Iterator[list[str]]:
    """The statements that change anything."""
    found: list[str] = []

    def note(_connection, _cursor, statement, *_) -> None:
        if statement.split()[0] in {"INSERT", "UPDATE", "DELETE"}:
            found.append(statement)

    event.listen(nation.database.engine, "before_cursor_execute", note)
    yield found
    event.remove(nation.database.engine, "before_cursor_execute", note)


def received_ms(nation: Nation, cluster: str) -> int:
    with nation.database.read() as connection:
        found = sites.find(connection, cluster)
    assert found is not None
    return found.received_ms


def test_the_same_again_costs_no_write_and_has_the_same_orders(nation: Nation, site: Site):
    submit(nation.lab(), spec())
    site.start_all()
    before = site.sync()
    nation.pass_s(2)
    with written(nation) as statements:
        again = site.sync()
    assert statements == []
    assert again.orders == before.orders
    assert again.lease_s == before.lease_s - 2 or again.lease_s == before.lease_s


def test_what_was_decided_since_is_answered_though_the_site_says_the_same(
    nation: Nation, site: Site
):
    lab = nation.lab()
    (first,) = submit(lab, spec())
    site.start_all()
    lab.cancel(first)
    nation.tick()
    assert site.sync().orders[0].wish is Wish.STOP
    (second,) = submit(lab, spec())
    nation.tick()
    assert {order.job_id for order in site.sync().orders} == {first, second}


def test_that_it_is_still_there_is_noted_for_all_sites_at_once(nation: Nation):
    here = Site(nation)
    there = Site(nation, cluster="kakao-national", pool="kakao-b200")
    for site in (here, there):
        site.sync()
    nation.pass_s(SETTINGS.silent_after_s / 3 - 1)
    there.sync()
    heard_ms = nation.now_ms
    nation.pass_s(1)
    with written(nation) as statements:
        here.sync()
    assert len(statements) == 1
    assert received_ms(nation, "nhn-national") == nation.now_ms
    assert received_ms(nation, "kakao-national") == heard_ms


def test_a_site_that_was_heard_by_another_process_is_heard_anew(nation: Nation, site: Site):
    """As on PostgreSQL: what this process remembers is not the last that was said."""
    submit(nation.lab(), spec())
    site.start_all()
    with nation.database.read() as connection:
        last = sites.find(connection, site.cluster)
    assert last is not None
    nation.pass_s(1)
    with nation.database.write() as connection:
        sites.store_report(connection, last.report, nation.now_ms)
    nation.pass_s(1)
    with written(nation) as statements:
        site.sync()
    assert any("sites" in statement for statement in statements)
    assert received_ms(nation, site.cluster) == nation.now_ms


def test_leases_are_written_down_anew_while_nothing_happens(nation: Nation, site: Site):
    submit(nation.lab(), spec(walltime_s=86_400))
    site.start_all()
    for _ in range(30):
        nation.pass_s(SETTINGS.lease_s / 20)
        reply = site.sync()
        with nation.database.read() as connection:
            (attempt,) = attempts.open_attempts(connection)
        assert nation.now_ms + reply.lease_s * 1_000 <= attempt.lease_until_ms
        assert reply.lease_s >= SETTINGS.lease_s * 0.8


@pytest.mark.parametrize("ends", [EngineEnd.COMPLETED, EngineEnd.NODE_FAILED])
def test_ten_minutes_without_any_site_are_made_good_in_three_cycles(
    nation: Nation, ends: EngineEnd
):
    """Of what ran, a part ended meanwhile and a part runs on; what waited is placed."""
    lab = nation.lab()
    jobs = submit(lab, *[spec(name=f"train-{n}") for n in range(6)])
    all_sites = [
        Site(nation),
        Site(nation, cluster="kakao-national", pool="kakao-b200"),
        Site(nation, cluster="samsung-factory", pool="samsung-b200"),
    ]
    for site in all_sites:
        site.sync()
    nation.tick()
    for site in all_sites:
        site.start_all()
    running = [order for site in all_sites for order in site.sync().orders]
    assert len(running) == len(jobs)
    for _ in range(OUTAGE_S // 30):
        nation.pass_s(30)
        nation.tick()
    assert {lab.job(job).summary.state for job in jobs} == {State.UNKNOWN}
    over = {running[0].attempt_id, running[-1].attempt_id}
    for site in all_sites:
        for order in site.reply.orders:
            if order.attempt_id in over:
                site.end(order, ends, 0 if ends is EngineEnd.COMPLETED else None)
    for _ in range(CYCLES_MAX):
        for site in all_sites:
            site.sync()
        nation.tick()
    states = {o.attempt_id: lab.job(o.job_id).summary.state for o in running}
    gone = {State.SUCCEEDED} if ends is EngineEnd.COMPLETED else {State.QUEUED, State.INTENDED}
    assert {states.pop(attempt) for attempt in over} <= gone
    assert set(states.values()) == {State.RUNNING}
    nation.assert_book_in_order()
