"""Pages: in order, each thing once, at the same cost however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import event

from dure.client import ApiError, Client
from dure.engines import EngineEnd
from dure.life import State
from dure.store import attempts, jobs
from dure.store.attempts import UsageFilter
from dure.views import JobSummary, MemberRequest
from nation import Nation, Site, spec, submit

_NAMES = count(1)


def more(client: Client, number: int, project: str = "lab") -> list[str]:
    specs = [spec(name=f"job {next(_NAMES)}", project=project) for _ in range(number)]
    return submit(client, *specs)


def pages(client: Client, limit: int, **query: str) -> Iterator[tuple[JobSummary, ...]]:
    after = None
    while True:
        page = client.jobs(limit=limit, after=after, **query)
        yield page.jobs
        if page.next is None:
            return
        after = page.next


def ids(found: Iterator[tuple[JobSummary, ...]]) -> list[str]:
    return [job.id for page in found for job in page]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_are_newest_first_without_gap_or_repeat(nation: Nation, limit: int):
    lab = nation.lab()
    made = more(lab, 7)
    assert ids(pages(lab, limit)) == made[::-1]


def test_jobs_that_arrive_while_one_reads_shift_nothing(nation: Nation):
    lab = nation.lab()
    made = more(lab, 6)
    seen = []
    for page in pages(lab, 2):
        seen += [job.id for job in page]
        more(lab, 3)
    assert seen == made[::-1]


def test_a_page_holds_what_one_may_see_of_all_projects_in_order(nation: Nation):
    lab, other = nation.lab(), nation.lab("other")
    nation.admin.add_member("other", MemberRequest(person="lab-member"))
    made = more(lab, 2) + more(other, 3, "other") + more(lab, 2)
    theirs = made[2:5]
    assert ids(pages(lab, 3)) == made[::-1]
    assert ids(pages(nation.admin, 3)) == made[::-1]
    assert ids(pages(other, 2)) == theirs[::-1]
    assert ids(pages(lab, 2, project="other")) == theirs[::-1]
    with pytest.raises(ApiError, match="There is no project lab"):
        other.jobs(project="lab")
    with pytest.raises(ApiError, match="There is no project nowhere"):
        nation.client(nation.token("other-member")).jobs(project="nowhere")


def test_a_foreign_cursor_shows_nothing_foreign(nation: Nation):
    lab, other = nation.lab(), nation.lab("other")
    mine = more(lab, 2)
    theirs = more(other, 2, "other")
    assert [job.id for job in lab.jobs(after=theirs[-1]).jobs] == mine[::-1]


def test_one_state_is_listed_alone(nation: Nation):
    lab = nation.lab()
    made = more(lab, 5)
    for job in made[1::2]:
        lab.cancel(job)
    assert ids(pages(lab, 1, state="cancelled")) == made[1::2][::-1]
    assert ids(pages(lab, 2, state="queued")) == made[0::2][::-1]
    assert ids(pages(lab, 2, state="succeeded")) == []


def test_somebody_without_a_project_sees_an_empty_list(nation: Nation):
    nation.lab()
    nation.person("guest")
    guest = nation.client(nation.token("guest"))
    assert guest.jobs().jobs == ()
    assert guest.projects() == guest.allocations() == guest.usage().lines == ()
    assert guest.statement().lines == guest.lending().lines == ()


@pytest.mark.parametrize("limit", [0, -1, 501])
def test_a_pages_length_has_bounds(nation: Nation, limit: int):
    with pytest.raises(ApiError, match="limit"):
        nation.lab().jobs(limit=limit)


# ---- usage and the ledger ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nation]:
    """A nation with seven closed attempts, several of them closed in the same millisecond."""
    nation = Nation(tmp_path_factory.mktemp("pages"))
    site = Site(nation)
    lab = nation.lab()
    for number in (3, 1, 3):
        more(lab, number)
        site.start_all()
        nation.pass_s(60)
        for order in site.orders.values():
            site.end(order, EngineEnd.COMPLETED, 0)
        site.round()
    yield nation
    nation.close()


@pytest.fixture(scope="module")
def used(office: Nation) -> Client:
    """The member whose attempts they are."""
    return office.client(office.token("lab-member"))


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
def test_usage_pages_hold_each_attempt_once(used: Client, limit: int):
    lines, after = [], None
    while True:
        page = used.usage(limit=limit, after=after)
        lines += page.lines
        if page.next is None:
            break
        after = page.next
    assert len({line.attempt for line in lines}) == len(lines) == 7
    ended = [line.ended_ms or 0 for line in lines]
    assert ended == sorted(ended, reverse=True)
    assert sum(line.charge for line in lines) == used.allocation("lab-hours").spent


def test_usage_of_a_job_is_its_own(used: Client):
    job = used.jobs().jobs[0].id
    (line,) = used.usage(job=job).lines
    assert line.job == job


@pytest.mark.parametrize(
    "after", ["", "x", "1", "1.", ".a", "-1.a", "1.A", "1.a\n", "9" * 19 + ".a"]
)
def test_a_bad_usage_cursor_is_refused(used: Client, after: str):
    with pytest.raises(ApiError, match="is not a cursor"):
        used.usage(after=after)


@pytest.mark.parametrize("limit", [1, 3, 500])
def test_the_ledger_is_read_whole_page_by_page(office: Nation, limit: int):
    found, after = [], 0
    while page := office.admin.journals(after=after, limit=limit):
        found += page
        after = page[-1].seq
    assert [journal.seq for journal in found] == list(range(1, len(found) + 1))
    assert len(found) == 1 + 2 * 7
    assert tuple(found) == tuple(office.admin.all_journals())


def test_statement_and_usage_say_the_same(office: Nation, used: Client):
    (line,) = used.statement(project="lab").lines
    usage = used.usage().lines
    assert (line.attempts, line.gpu_ms) == (7, sum(one.gpu_ms for one in usage))
    assert line.charge == sum(one.charge for one in usage)
    (theirs,) = office.admin.statement(operator="nhn-cloud").lines
    assert theirs == line


# ---- cost ----------------------------------------------------------------------------------------


def plans(nation: Nation, read) -> list[str]:
    """How SQLite would carry out each statement that `read` makes."""
    said: list[tuple[str, tuple[object, ...]]] = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        if statement.startswith("SELECT"):
            said.append((statement, tuple(parameters)))

    with nation.database.read() as connection:
        event.listen(connection.engine, "before_cursor_execute", note)
        try:
            read(connection)
        finally:
            event.remove(connection.engine, "before_cursor_execute", note)
        return [
            row.detail
            for statement, parameters in said
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]


@pytest.mark.parametrize("before", [None, 900_000])
@pytest.mark.parametrize("state", [None, State.RUNNING])
@pytest.mark.parametrize("of_projects", [None, ("lab",), ("lab", "other")])
def test_a_page_of_jobs_is_read_along_an_index(
    office: Nation,
    of_projects: tuple[str, ...] | None,
    state: State | None,
    before: int | None,
):
    def read(connection):
        jobs.page(connection, of_projects=of_projects, state=state, before=before, limit=50)

    for detail in plans(office, read):
        assert "TEMP B-TREE" not in detail
        # without a condition, SQLite walks the table backwards by its key and stops at the limit
        unconditional = of_projects is None and state is None
        expected = r"SCAN jobs\Z|SEARCH jobs" if unconditional else r"SEARCH jobs USING .*INDEX"
        # what a row shows of its job's tasks is found by keys, one job at a time
        found = r"SEARCH (tasks|attempts|start_estimates) USING|CORRELATED SCALAR SUBQUERY"
        assert re.match(f"{expected}|{found}", detail), detail


@pytest.mark.parametrize(
    "wanted", [UsageFilter(job=1), UsageFilter(of_projects=("lab",)), UsageFilter()]
)
def test_usage_joins_by_keys(office: Nation, wanted: UsageFilter):
    details = plans(office, lambda c: attempts.usage(c, wanted, (10**12, "a"), 100))
    assert details
    for detail in details:
        assert not re.match(r"SCAN (jobs|tasks|allocations)\b", detail), detail


def test_what_a_cycle_reads_does_not_grow_with_what_has_ended(office: Nation):
    def read(connection):
        jobs.queue(connection, office.now_ms, 100)
        attempts.open_attempts(connection)
        attempts.open_attempts(connection, "nhn-national")

    details = plans(office, read)
    assert len(details) >= 3
    assert any(re.match(r"SEARCH tasks USING INDEX ix_tasks_state \(state=", d) for d in details)
    for detail in details:  # what is queued is ranked, but no table is walked through
        assert not re.match(r"SCAN (tasks|jobs|allocations)\b", detail), detail
        only_open = r"SCAN attempts USING INDEX \w*_attempts_\w*open\Z"
        assert re.match(only_open, detail) or not re.match(r"SCAN attempts\b", detail), detail
