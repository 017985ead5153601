from dataclasses import replace

import pytest

from dure.allocations import Allocation, AllocationKind, BudgetUnit
from dure.audit import audit
from dure.demo import checks
from dure.demo.checks import check_all
from dure.demo.outcome import Accounted, Books, Break, GangRun, Loan, Outcome, Point, Secret
from dure.errors import Reason
from dure.federation import Played
from dure.fleet import EngineKind
from dure.jobs import Array, JobSpec, Resources, Tier
from dure.journal import GENESIS, seal
from dure.ledger import grant
from dure.life import EndCause, State
from dure.metering import Factors
from dure.scenario import LocalCluster
from dure.scheduling.world import Exclusion, Forecast
from dure.views import (
    AllocationView,
    AttemptView,
    EventView,
    JobSummary,
    JobView,
    LendingLine,
    TaskView,
    UsageLine,
)

START_MS = 1_800_000_000_000


def attempt(id_, started_s=0, ended_s=1, **changes):
    values = {
        "id": id_,
        "number": 1,
        "operator": "nhn-cloud",
        "cluster": "nhn-national",
        "pool": "nhn-b200",
        "gpu_model": "b200",
        "nodes": (0,),
        "gpus": 1,
        "placed": Reason("placed", "There."),
        "intended_ms": START_MS,
        "started_ms": START_MS + started_s * 1_000,
        "ended_ms": START_MS + ended_s * 1_000,
        "cause": EndCause.COMPLETED,
        "exit_code": 0,
        "detail": None,
        "gpu_ms": (ended_s - started_s) * 1_000,
        "charge": 5,
        "dispute": None,
    }
    return AttemptView(**(values | changes))


def job(name, tasks, **spec):
    views = tuple(
        TaskView(index=index, state=state, reason=None, exit_code=None, attempts=attempts)
        for index, (state, attempts) in enumerate(tasks)
    )
    return JobView(
        summary=JobSummary(
            id=f"j-{name}",
            name=name,
            project="p",
            allocation="a",
            submitter="kim",
            state=views[0].state,
            tasks=len(views),
            accepted_ms=START_MS,
            ended_ms=START_MS + 9_000,
        ),
        spec=JobSpec(name=name, project="p", walltime_s=60, command=("true",), **spec),
        unit=BudgetUnit.UCREDIT,
        counts={},
        gpu_ms=0,
        charge=0,
        tasks=views,
    )


def usage(run):
    return UsageLine(
        attempt=run.id,
        job="j-1",
        task_index=0,
        allocation="a",
        project="p",
        operator=run.operator,
        pool=run.pool,
        gpu_model=run.gpu_model,
        started_ms=run.started_ms,
        ended_ms=run.ended_ms,
        cause=run.cause,
        gpu_ms=run.gpus * (run.ended_ms - run.started_ms),
        unit=BudgetUnit.UCREDIT,
        charge=run.charge,
        absorbed=run.cause is EndCause.NODE_FAILED,
        factors=Factors(
            tariff_version="1",
            weight_milli=1_000,
            tier_milli=1_000,
            season_milli=1_000,
            operator_price_milli=1_000,
            subsidy_milli=0,
        ),
        dispute=None,
        refund=None,
        journal=2,
    )


def good():
    """An outcome of which every claim is true."""
    sweep = job(
        "sweep",
        [(State.SUCCEEDED, (attempt(f"s-{n}", n // 4, n // 4 + 1),)) for n in range(8)],
        array=Array(tuple(range(8)), 4),
    )
    failed = {"cause": EndCause.NODE_FAILED, "charge": 0, "exit_code": None}
    gang = job(
        "gang",
        [
            (
                State.SUCCEEDED,
                (
                    attempt("g-1", 0, 3, nodes=(0, 1), gpus=4, **failed),
                    attempt("g-2", 5, 9, nodes=(0, 1), gpus=4, number=2),
                ),
            )
        ],
        resources=Resources(nodes=2, gpus_per_node=2),
    )
    national = job("national-core", [(State.SUCCEEDED, (attempt("n-1", pool="naver-h200"),))])
    erred = {"cause": EndCause.ERRED, "exit_code": 3}
    failing = job("missing-data", [(State.FAILED, (attempt("f-1", **erred),))])
    called_back = {"cause": EndCause.RECALLED, "charge": 0, "exit_code": None}
    borrower = job(
        "borrower",
        [
            (
                State.SUCCEEDED,
                (
                    attempt(
                        "b-1",
                        0,
                        3,
                        operator="sk",
                        pool="sk-rtx",
                        gpus=16,
                        gpu_ms=48_000,
                        **called_back,
                    ),
                    attempt("b-2", 4, 8, gpus=16, number=2),
                ),
            )
        ],
        tier=Tier.SPARE,
    )
    own = attempt("o-1", 3, 4, operator="sk", pool="sk-rtx", gpus=16)
    owner = job("owner", [(State.SUCCEEDED, (own,))])
    jobs = (sweep, gang, borrower, owner, national, failing)
    runs = [run for one in jobs for task in one.tasks for run in task.attempts]
    lines = tuple(usage(run) for run in runs)
    allocation = Allocation(
        id="a",
        project="p",
        kind=AllocationKind.HOURS,
        starts_ms=0,
        ends_ms=START_MS * 2,
        credit_ucredit=100,
    )
    rule = Reason("excluded-by-rule", "Pool sk-rtx is excluded by rule 'national-core-data': so.")
    return Outcome(
        played=(),
        agents=tuple((f"o-{n}", n) for n in range(4)),
        government_pools=("naver-h200",),
        jobs=jobs,
        refusal=Reason("allocation-too-small", "Asks for more than there is."),
        plan=Forecast(
            options=(),
            exclusions=(Exclusion(pool_id="sk-rtx", operator_id="sk", reason=rule),),
            refusal=None,
        ),
        sweep=tuple(Point(index=n, c=1.0, gamma=0.1, accuracy=0.9 + n / 100) for n in range(8)),
        gang=GangRun(
            broken=Break(attempt="g-1", rank=1, cluster="nhn-national", node=1, epoch_seen=3),
            resumed_from_epoch=4,
            ranks_heard=(0, 1),
            loss=0.1,
            accuracy=0.95,
        ),
        loan=Loan(
            epoch_seen=5,
            notice=EventView(
                seq=9,
                at_ms=START_MS + 2_000,
                job="j-borrower",
                task_index=0,
                attempt="b-1",
                state=State.RECALLING,
                reason=Reason("recalled", "sk needs its GPUs."),
            ),
            resumed_from_epoch=6,
        ),
        failing_log=("Traceback", "FileNotFoundError: no data"),
        secret=Secret(reached=True, answers_searched=9, files_searched=9, found_in=()),
        books=Books(
            allocations=(
                AllocationView(
                    allocation=allocation,
                    unit=BudgetUnit.UCREDIT,
                    limit=100,
                    held=0,
                    spent=40,
                    available=60,
                ),
            ),
            usage=lines,
            audit=audit([seal(grant("a", BudgetUnit.UCREDIT, 100), 1, START_MS, GENESIS)]),
            posted_gpu_ms=sum(line.gpu_ms for line in lines),
            lending=(
                LendingLine(
                    lender="sk",
                    borrower="national.p",
                    pool="sk-rtx",
                    gpu_model="rtx-pro-6000",
                    attempts=1,
                    gpu_ms=16 * 3_000,
                ),
            ),
        ),
    )


def failed(outcome):
    return [check.name for check in check_all(outcome) if not check.ok]


def changed_run(outcome, name, number, **changes):
    """The outcome with one attempt of a job's first task told otherwise."""
    one = outcome.job(name)
    first = one.tasks[0]
    runs = tuple(
        replace(run, **changes) if at == number else run for at, run in enumerate(first.attempts, 1)
    )
    again = replace(one, tasks=(replace(first, attempts=runs), *one.tasks[1:]))
    return replace(outcome, jobs=tuple(again if job is one else job for job in outcome.jobs))


def test_every_claim_holds_of_a_good_run():
    assert failed(good()) == []
    assert len({check.name for check in check_all(good())}) == 18


def test_nothing_is_ok_that_the_demo_did_not_come_to():
    nothing = Outcome(played=(), agents=(), government_pools=())
    found = check_all(nothing)
    assert not any(check.ok for check in found)
    assert all(check.seen == checks.NOT_SEEN for check in found[1:])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"agents": (("a", 1), ("b", 2), ("c", 3))}, "agent process"),
        ({"agents": (("a", 1), ("b", 1), ("c", 1), ("d", 1))}, "agent process"),
        ({"sweep": (Point(index=0, c=1.0, gamma=1.0, accuracy=0.95),)}, "eight training runs"),
        ({"refusal": None}, "refused"),
        ({"refusal": Reason("not-found", "No.")}, "refused"),
        ({"refusal": Reason("allocation-too-small", "No.\nAnd no.")}, "refused"),
        ({"plan": Forecast(options=(), exclusions=(), refusal=None)}, "who is excluded"),
        ({"failing_log": ()}, "failing job"),
        ({"government_pools": ("kakao-b200",)}, "government-owned"),
    ],
)
def test_a_false_claim_is_told(change, name):
    (only,) = failed(replace(good(), **change))
    assert name in only


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"resumed_from_epoch": 2}, "resumed"),
        ({"resumed_from_epoch": None}, "resumed"),
        ({"accuracy": 0.5}, "resumed"),
        ({"accuracy": None}, "resumed"),
        ({"ranks_heard": (0,)}, "two nodes"),
    ],
)
def test_a_gang_that_did_not_go_on(change, name):
    outcome = good()
    (only,) = failed(replace(outcome, gang=replace(outcome.gang, **change)))
    assert name in only


@pytest.mark.parametrize(
    ("job_name", "number", "change", "name"),
    [
        ("gang", 1, {"cause": EndCause.ERRED}, "cost the user nothing"),
        ("gang", 1, {"charge": 1}, "cost the user nothing"),
        ("gang", 2, {"cause": EndCause.ERRED}, "resumed"),
        ("gang", 2, {"nodes": (1, 1)}, "two nodes"),
        ("national-core", 1, {"pool": "sk-rtx"}, "government-owned"),
        ("missing-data", 1, {"exit_code": 1}, "failing job"),
        ("missing-data", 1, {"charge": 0}, "failing job"),
        ("gang", 2, {"gpus": 5}, "posted = metered"),
    ],
)
def test_an_attempt_that_went_otherwise(job_name, number, change, name):
    (only,) = failed(changed_run(good(), job_name, number, **change))
    assert name in only


@pytest.mark.parametrize(
    ("job_name", "number", "change", "name"),
    [
        ("borrower", 1, {"cause": EndCause.LOST}, "left with notice"),
        ("borrower", 1, {"charge": 1}, "left with notice"),
        ("borrower", 1, {"ended_ms": START_MS + 40_000}, "left with notice"),
        ("owner", 1, {"pool": "nhn-b200"}, "left with notice"),
        ("owner", 1, {"started_ms": START_MS + 2_000}, "left with notice"),
        ("owner", 1, {"cause": EndCause.ERRED}, "left with notice"),
        ("borrower", 2, {"pool": "sk-rtx"}, "resumed from its checkpoint elsewhere"),
        ("borrower", 2, {"cause": EndCause.ERRED}, "resumed from its checkpoint elsewhere"),
    ],
)
def test_a_recall_that_went_otherwise(job_name, number, change, name):
    assert any(name in one for one in failed(changed_run(good(), job_name, number, **change)))


@pytest.mark.parametrize(
    "change", [{"resumed_from_epoch": 4}, {"resumed_from_epoch": None}, {"epoch_seen": None}]
)
def test_a_borrower_that_lost_what_it_had_saved(change):
    outcome = good()
    (only,) = failed(replace(outcome, loan=replace(outcome.loan, **change)))
    assert "resumed from its checkpoint elsewhere" in only


def test_a_loan_that_is_not_in_the_book():
    outcome = good()
    (line,) = outcome.books.lending
    for wrong in ((), (replace(line, lender="nhn-cloud"),), (replace(line, gpu_ms=1),)):
        (only,) = failed(replace(outcome, books=replace(outcome.books, lending=wrong)))
        assert only.startswith("lending:")


def test_a_weak_best_model():
    weak = tuple(replace(point, accuracy=0.5) for point in good().sweep)
    (only,) = failed(replace(good(), sweep=weak))
    assert "nine times in ten" in only


def test_more_at_a_time_than_the_array_allows():
    runs = [(State.SUCCEEDED, (attempt(f"s-{n}", 0, 1),)) for n in range(8)]
    crowded = job("sweep", runs, array=Array(tuple(range(8)), 4))
    assert checks.most_at_once(crowded) == 8
    outcome = replace(good(), jobs=(crowded, *good().jobs[1:]))
    (only,) = failed(outcome)
    assert "at most four" in only


def test_one_that_starts_as_another_ends_is_not_at_the_same_time():
    assert checks.most_at_once(good().job("sweep")) == 4


def test_an_open_hold_or_a_wrong_sum():
    outcome = good()
    (view,) = outcome.books.allocations
    for wrong in ({"held": 1, "available": 59}, {"spent": 41}):
        books = replace(outcome.books, allocations=(replace(view, **wrong),))
        (only,) = failed(replace(outcome, books=books))
        assert "limit = held" in only


def test_a_book_that_was_tampered_with():
    outcome = good()
    journal = seal(grant("a", BudgetUnit.UCREDIT, 100), 1, START_MS, GENESIS)
    books = replace(outcome.books, audit=audit([replace(journal, at_ms=1)]))
    (only,) = failed(replace(outcome, books=books))
    assert "chain intact" in only


def test_usage_that_was_not_posted():
    outcome = good()
    for wrong in ({"posted_gpu_ms": 1}, {"usage": outcome.books.usage[:-1]}):
        assert failed(replace(outcome, books=replace(outcome.books, **wrong))) == [
            "usage: posted = metered"
        ]


@pytest.mark.parametrize(
    "change", [{"reached": False}, {"found_in": ("why j-1",)}, {"answers_searched": 0}]
)
def test_a_secret_that_is_none(change):
    outcome = good()
    (only,) = failed(replace(outcome, secret=replace(outcome.secret, **change)))
    assert "secrets" in only


def site(cluster, engine):
    return Played(
        cluster=LocalCluster(cluster_id=cluster, pool_id=f"{cluster}-pool", nodes=2),
        operator=cluster,
        gpu_model="b200",
        slots=16,
        stands_for=100,
        uses_real_gpus=False,
        engine=engine,
    )


def moved():
    """A good run whose jobs ran on Slurm, Ray and this machine, one of them after a site's loss."""
    lost = {"cause": EndCause.LOST, "charge": 0, "exit_code": None, "gpu_ms": 0}
    mover = job(
        "mover",
        [
            (
                State.SUCCEEDED,
                (
                    attempt("m-1", 20, 24, cluster="kakao-national", **lost),
                    attempt("m-2", 30, 34, number=2, gpu_ms=4_000),
                ),
            )
        ],
    )
    on = changed_run(changed_run(good(), "owner", 1, cluster="sk"), "missing-data", 1, cluster="me")
    on = changed_run(on, "national-core", 1, cluster="me")
    jobs = (*on.jobs, mover)
    runs = [run for one in jobs for task in one.tasks for run in task.attempts]
    lines = tuple(usage(run) for run in runs)
    return replace(
        on,
        played=(
            site("nhn-national", EngineKind.SLURM),
            site("kakao-national", EngineKind.SLURM),
            site("sk", EngineKind.RAY),
            site("me", EngineKind.LOCAL),
        ),
        jobs=jobs,
        lost_site="kakao-national",
        accounted=tuple(
            Accounted(attempt=run.id, gpu_s=run.gpu_ms // 1_000)
            for run in runs
            if run.cluster == "nhn-national"
        ),
        books=replace(on.books, usage=lines, posted_gpu_ms=sum(line.gpu_ms for line in lines)),
    )


def test_every_claim_holds_of_a_good_run_on_real_clusters():
    assert failed(moved()) == []
    assert len(check_all(moved())) == 21


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (1, {"cause": EndCause.NODE_FAILED}),
        (1, {"charge": 1}),
        (2, {"cause": EndCause.ERRED}),
        (2, {"started_ms": START_MS + 23_000, "ended_ms": START_MS + 27_000}),
    ],
)
def test_a_job_that_did_not_move_as_it_should(number, change):
    assert failed(changed_run(moved(), "mover", number, **change)) == [
        "a lost site: its job moved to the other Slurm cluster"
    ]


def test_a_job_that_moved_to_another_engine_or_not_at_all():
    elsewhere = changed_run(moved(), "mover", 2, cluster="sk")
    assert any("a lost site" in name for name in failed(elsewhere))
    assert any("a lost site" in name for name in failed(replace(moved(), lost_site=None)))


def test_an_engine_that_completed_nothing():
    assert failed(changed_run(moved(), "owner", 1, cluster="me")) == [
        "every engine ran work to its end"
    ]


def test_slurm_that_accounts_otherwise():
    first, *others = moved().accounted
    for wrong in ((), tuple(others), (replace(first, gpu_s=first.gpu_s + 1), *others)):
        assert failed(replace(moved(), accounted=wrong)) == [
            "usage: metered = what Slurm accounts itself"
        ]
