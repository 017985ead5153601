"""Small worlds for tests: builders that need only the fields a case is about, and random worlds."""

from dataclasses import replace

from hypothesis import strategies as st

from dure.allocations import Allocation, AllocationKind
from dure.fleet import OwnerKind, PhaseStart, Pool, Wave, WavePhase
from dure.jobs import Resources, Tier
from dure.metering import Tariff
from dure.policy import DataClass, Rule, Rules
from dure.scheduling.world import (
    AllocationState,
    Occupation,
    PoolState,
    Request,
    World,
)
from dure.shares import Guarantee, Share, ShareKind, Shares
from dure.units import MS_PER_HOUR, UCREDIT_PER_CREDIT, instant_from_iso

NOW = instant_from_iso("2026-11-23T14:00")
HOUR = 3_600
DAY_MS = 24 * MS_PER_HOUR

RULES = Rules(
    version="r1",
    data_classes=(DataClass("public", "Public"), DataClass("national-core", "National core")),
    rules=(
        Rule(
            id="national-core",
            data_classes=("national-core",),
            sentence="national core data runs on government-owned GPUs only",
            owner_kinds_allowed=(OwnerKind.GOVERNMENT,),
        ),
    ),
)

TARIFF = Tariff(
    version="t1",
    weights_milli=(("h200", 1_400), ("b200", 2_000), ("h100", 1_000), ("gb300", 3_000)),
    tiers_milli=(("reserved", 1_000), ("standard", 1_000), ("spare", 500)),
    operator_prices_milli=(("kakao", 1_000), ("nhn", 1_000), ("sk", 1_000), ("pricey", 3_000)),
)


def pool(id_="nhn-b200", *, nodes=4, up=None, silent=False, owner=OwnerKind.GOVERNMENT, **shape):
    """A pool of `nodes` planned in service; `up` are the ordinals up (all of them by default).

    Its operator is the part of its id before the hyphen, its model the part after it.
    """
    operator, model = id_.split("-", 1)
    gpus = shape.pop("gpus_per_node", 8)
    start = shape.pop("in_service_ms", 0)
    wave = Wave(
        id="w1",
        gpus=nodes * gpus,
        assumed=False,
        phases=(PhaseStart(WavePhase.IN_SERVICE, start),),
    )
    return PoolState(
        pool=Pool(
            id=id_,
            cluster_id=f"{operator}-cluster",
            operator_id=operator,
            gpu_model=shape.pop("gpu_model", model),
            gpus_per_node=gpus,
            cpus_per_node=shape.pop("cpus_per_node", 8 * gpus),
            memory_gib_per_node=shape.pop("memory_gib_per_node", 128 * gpus),
            interconnect="ib",
            owner="nipa" if owner is OwnerKind.GOVERNMENT else operator,
            owner_kind=owner,
            jurisdiction="KR",
            waves=(wave,),
            **shape,
        ),
        nodes=() if silent else tuple(range(nodes)) if up is None else tuple(up),
        silent=silent,
    )


def hours(id_="alloc", *, credits_=1_000_000, available=None, held=0, **fields):
    """An hours allocation with its balance, in credits."""
    allocation = Allocation(
        id=id_,
        project="kaist-llm",
        kind=AllocationKind.HOURS,
        starts_ms=fields.pop("starts_ms", NOW - DAY_MS),
        ends_ms=fields.pop("ends_ms", NOW + 365 * DAY_MS),
        credit_ucredit=credits_ * UCREDIT_PER_CREDIT,
        **fields,
    )
    left = credits_ - held if available is None else available
    return AllocationState(
        allocation=allocation,
        available=left * UCREDIT_PER_CREDIT,
        held=held * UCREDIT_PER_CREDIT,
    )


def capacity(id_="cap", *, gpus=16, gpu_model="b200", days=30, **fields):
    """A capacity allocation, all of it left."""
    allocation = Allocation(
        id=id_,
        project="kaist-llm",
        kind=AllocationKind.CAPACITY,
        starts_ms=fields.pop("starts_ms", NOW - DAY_MS),
        ends_ms=NOW + days * DAY_MS,
        gpus=gpus,
        gpu_model=gpu_model,
        **fields,
    )
    return AllocationState(allocation=allocation, available=allocation.limit, held=0)


def request(task_id=1, *, nodes=1, gpus=1, models=(), pools=(), cpus=None, memory=None, **fields):
    """A task that asks for an hour, its age given by its id; each is a job of its own."""
    values = {
        "job_id": task_id,
        "order": (task_id, 0),
        "project": "kaist-llm",
        "allocation": "alloc",
        "walltime_s": HOUR - 10,
        "grace_s": 10,
        "priority": 50,
        "data_class": "public",
        "tier": Tier.STANDARD,
        "waiting_since_ms": NOW,
    }
    return Request(
        task_id=task_id,
        resources=Resources(
            nodes=nodes,
            gpus_per_node=gpus,
            gpu_models=tuple(models),
            pools=tuple(pools),
            cpus_per_node=cpus,
            memory_gib_per_node=memory,
        ),
        **(values | fields),
    )


def occupation(job_id, nodes, *, slots=8, pool_id="nhn-b200", ends_ms=NOW + MS_PER_HOUR, **fields):
    """Live work of a job on these nodes."""
    values = {
        "attempt_id": f"a-{job_id}",
        "task_id": 10_000 + job_id,
        "gpus": slots * len(nodes),
        "allocation": "others",
    }
    return Occupation(
        job_id=job_id,
        pool_id=pool_id,
        nodes=tuple(nodes),
        slots_per_node=slots,
        ends_ms=ends_ms,
        **(values | fields),
    )


def world(*requests, pools=None, occupations=(), allocations=None, **fields):
    """A world of one B200 pool of 4 nodes and one large allocation, unless told otherwise."""
    return World(
        now_ms=fields.pop("now_ms", NOW),
        pools=(pool(),) if pools is None else tuple(pools),
        occupations=tuple(occupations),
        requests=tuple(requests),
        allocations=(hours(),) if allocations is None else tuple(allocations),
        rules=fields.pop("rules", RULES),
        tariff=fields.pop("tariff", TARIFF),
        **fields,
    )


@st.composite
def requests_(draw, task_id):
    """A random request; about one in three is the task of an array capped at 1 or 2."""
    allocations = [*6 * ["alloc"], *3 * ["small"], "cap", "cap", "late", "none"]
    data_classes = [*6 * ["public"], "national-core", "national-core", "forgotten"]
    job_id = draw(st.integers(1, 2)) if draw(st.integers(0, 2)) == 0 else 100 + task_id
    capped = job_id < 100
    return request(
        task_id,
        nodes=draw(st.sampled_from([1, 1, 2, 3, 4])),
        gpus=draw(st.sampled_from([1, 1, 2, 4, 8, 8, 8])),
        models=draw(st.sampled_from([(), (), (), ("b200",), ("h200", "b200")])),
        pools=draw(st.sampled_from([(), (), (), ("nhn-b200",), ("kakao-b200", "sk-h200")])),
        cpus=draw(st.sampled_from([None, None, 1, 17, 64])),
        memory=draw(st.sampled_from([None, None, 100, 1_024])),
        job_id=job_id,
        max_running=job_id if capped else None,
        order=(job_id, task_id),
        priority=draw(st.sampled_from([50, 50, 50, 10, 90])),
        walltime_s=draw(st.sampled_from([60, HOUR, 2 * HOUR, 30 * HOUR, 400 * HOUR])),
        allocation=draw(st.sampled_from(allocations)),
        data_class=draw(st.sampled_from(data_classes)),
        tier=draw(st.sampled_from([Tier.STANDARD, Tier.SPARE])),
    )


@st.composite
def worlds(draw):
    """Random worlds: crowded pools, odd node shapes, tight and closed allocations, dead nodes."""
    pools = [
        pool("nhn-b200", nodes=4, up=draw(st.sampled_from([(0, 1, 2, 3), (0, 1, 4, 5), (2,), ()]))),
        pool("kakao-b200", nodes=3, silent=draw(st.booleans())),
        pool("sk-h200", nodes=6, owner=OwnerKind.OPERATOR, cpus_per_node=60),
        pool("pricey-h100", nodes=2, gpus_per_node=4),
    ]
    occupations = []
    free = {(p.pool.id, node): p.pool.gpus_per_node for p in pools for node in range(6)}
    for job_id in range(2, 2 + draw(st.integers(0, 8))):  # a task of array 2 runs; none of 1
        at = draw(st.sampled_from(pools)).pool
        slots = draw(st.integers(1, at.gpus_per_node))
        drawn = sorted(draw(st.sets(st.integers(0, 5), min_size=1, max_size=3)))
        nodes = [node for node in drawn if free[at.id, node] >= slots]
        if nodes:
            for node in nodes:
                free[at.id, node] -= slots
            ends_ms = NOW + draw(st.sampled_from([-1, 1, 2, 2, 30])) * MS_PER_HOUR
            used = draw(st.sampled_from(["others", "cap"]))
            occupations.append(
                occupation(
                    job_id, nodes, slots=slots, pool_id=at.id, ends_ms=ends_ms, allocation=used
                )
            )
    requests = [draw(requests_(task_id)) for task_id in range(1, 1 + draw(st.integers(0, 16)))]
    allocations = [
        hours(),
        hours("small", credits_=200, available=draw(st.integers(0, 40)), held=50),
        hours("late", starts_ms=NOW + MS_PER_HOUR),
        capacity(days=draw(st.sampled_from([1, 30])), gpus=24),
    ]
    return world(*requests, pools=pools, occupations=occupations, allocations=allocations)


def shares_(draw):
    """Two owners and the nation; whoever has GPUs of its own has two projects."""
    roots = [
        ("nhn", ShareKind.OWNER, "nhn-b200", draw(st.sampled_from([8, 16, 32]))),
        ("sk", ShareKind.OWNER, "sk-h200", draw(st.sampled_from([20, 48]))),
        ("national", ShareKind.PROGRAMME, "kakao-b200", draw(st.sampled_from([12, 24]))),
    ]
    found = []
    for root, kind, promised, gpus in roots:
        found.append(
            Share(
                id=root,
                kind=kind,
                guarantees=(Guarantee(gpus=gpus, pool=promised),),
                may_lend=draw(st.sampled_from([True, True, False])),
                may_borrow=draw(st.sampled_from([True, True, False])),
            )
        )
        for leaf in ("a", "b"):
            limit = draw(st.sampled_from([None, None, 12]))
            own = () if leaf == "b" else (Guarantee(gpus=4, pool=promised),)
            found.append(
                Share(
                    id=f"{root}.{leaf}",
                    kind=ShareKind.PROJECT,
                    parent=root,
                    guarantees=own,
                    limit_gpus=limit,
                )
            )
    return Shares(tuple(found))


@st.composite
def shared_worlds(draw):
    """Random worlds in which GPUs are promised, lent and called back."""
    given = draw(worlds())
    shares = draw(st.composite(shares_)())
    leaves = [share.id for share in shares.shares if share.kind is ShareKind.PROJECT] + [""]
    held = []
    for one in given.occupations:
        share = draw(st.sampled_from(leaves))
        covers = draw(st.booleans()) and share.startswith(one.pool_id.split("-")[0])
        held.append(
            replace(
                one,
                share=share,
                guarantor=share.split(".")[0] if covers else None,
                started_ms=NOW - draw(st.sampled_from([1_000, MS_PER_HOUR, DAY_MS])),
                checkpoint_ms=draw(st.sampled_from([None, NOW - 60_000])),
                recalled_ms=None if covers else draw(st.sampled_from([None, None, NOW - 10_000])),
            )
        )
    requests = [
        replace(
            asked,
            share=draw(st.sampled_from(leaves)),
            estimate_ms=draw(st.sampled_from([None, 60_000, 9 * MS_PER_HOUR])),
            waiting_since_ms=NOW - draw(st.sampled_from([0, 0, 60_000, 20 * DAY_MS])),
        )
        for asked in given.requests
    ]
    return replace(given, shares=shares, occupations=tuple(held), requests=tuple(requests))


def shuffled(given, permute):
    """The same world with its parts listed in another order."""
    return replace(
        given,
        pools=permute(given.pools),
        occupations=permute(given.occupations),
        requests=permute(given.requests),
        allocations=permute(given.allocations),
    )
