"""Every answer of the scheduler as a code for programs and a sentence for people.

Sentences are stored when they change, so nothing in them moves by itself: instants, never time
left; no place in the queue. Instants are to the minute. A reason names jobs as `j-<id>`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from dure.allocations import Allocation, BudgetUnit
from dure.errors import Reason
from dure.jobs import Resources
from dure.scheduling.world import Request
from dure.units import credits_text, duration, gpu_time_text, iso

# A task starts.
PLACED: Final = "placed"
PLACED_BACKFILL: Final = "placed-backfill"

# A task waits for room.
WAITING_FOR_NODES: Final = "waiting-for-nodes"
HOLDS_RESERVATION: Final = "holds-reservation"
BEHIND_RESERVATION: Final = "behind-reservation"
NODES_DOWN: Final = "nodes-down"
CLUSTER_SILENT: Final = "cluster-silent"
WAITING_FOR_RECALL: Final = "waiting-for-recall"
BEYOND_GUARANTEE: Final = "beyond-guarantee"
FAIR_SHARE: Final = "fair-share"
NEXT_CYCLE: Final = "next-cycle"

# A task that runs is called back.
RECALLED: Final = "recalled"

# A task waits for something else than room.
ALLOCATION_HELD: Final = "allocation-held"
ALLOCATION_GPUS_IN_USE: Final = "allocation-gpus-in-use"
ALLOCATION_WINDOW: Final = "allocation-window"
SHARE_LIMIT: Final = "share-limit"
ARRAY_CAP: Final = "array-cap"
ALREADY_LIVE: Final = "already-live"

# A pool cannot run it.
OTHER_POOL: Final = "other-pool"
OTHER_GPU_MODEL: Final = "other-gpu-model"
OUTSIDE_ALLOCATION: Final = "outside-allocation"
NODE_TOO_SMALL: Final = "node-too-small"
POOL_TOO_SMALL: Final = "pool-too-small"
NO_PRICE: Final = "no-price"

# It can never run: refused at submission; a wait only where the world changed after it.
UNKNOWN_ALLOCATION: Final = "unknown-allocation"
NO_SUCH_GPUS: Final = "no-such-gpus"
NO_SUCH_NODE: Final = "no-such-node"
NO_POOL_ALLOWED: Final = "no-pool-allowed"
TOO_LARGE: Final = "too-large"
CAPACITY_TOO_SMALL: Final = "capacity-too-small"
ALLOCATION_TOO_SMALL: Final = "allocation-too-small"
SHARE_TOO_SMALL: Final = "share-too-small"
WALLTIME_BEYOND_WINDOW: Final = "walltime-beyond-window"

_LISTED_MAX: Final = 6
"""Pools that a sentence names before it says how many more there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """How an allowed pool stands towards a blocked request. Counts are of nodes with room for it.

    `kept_free` of them are free, but kept for another job until `kept_ms`; `next_ms` is the next
    end that brings one, of `next_job_id`.
    """

    pool_id: str
    silent: bool
    up: int
    free: int
    kept_free: int = 0
    kept_for_job_id: int | None = None
    kept_ms: int = 0
    next_ms: int | None = None
    next_job_id: int = 0
    starts_ms: int = 0


def instant(at_ms: int) -> str:
    """An instant to the minute: `2026-11-23 14:20 UTC`."""
    return f"{iso(at_ms)[:16].replace('T', ' ')} UTC"


def count(number: int, noun: str) -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def either(models: Iterable[str]) -> str:
    """`H200 or B200`."""
    return " or ".join(model.upper() for model in models)


def listed(things: Sequence[str]) -> str:
    """Things as a list, cut short with the number of those left out."""
    if len(things) > _LISTED_MAX:
        return f"{', '.join(things[:_LISTED_MAX])} and {len(things) - _LISTED_MAX:,} more"
    return " and ".join(filter(None, (", ".join(things[:-1]), *things[-1:])))


def amount(value: int, unit: BudgetUnit) -> str:
    """A budget's amount as people read it."""
    if unit is BudgetUnit.UCREDIT:
        return f"{credits_text(value)} credits"
    return gpu_time_text(value)


def shape(asked: Resources) -> str:
    """`2 nodes of 8 B200 with 64 CPUs each`."""
    kind = either(asked.gpu_models) or ("GPU" if asked.gpus_per_node == 1 else "GPUs")
    extras = [f"{asked.cpus_per_node:,} CPUs"] if asked.cpus_per_node else []
    if asked.memory_gib_per_node:
        extras.append(f"{asked.memory_gib_per_node:,} GiB")
    more = f" with {' and '.join(extras)} each" if extras else ""
    return f"{count(asked.nodes, 'node')} of {asked.gpus_per_node:,} {kind}{more}"


def clauses(barred: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Pools and why they are out, those of one cause together."""
    by_clause: dict[str, list[str]] = {}
    for pool_id, clause in barred:
        by_clause.setdefault(clause, []).append(pool_id)
    return tuple(f"{listed(pools)} {clause}" for clause, pools in by_clause.items())


def placed(request: Request, where: str, why: Iterable[str], ahead: str | None) -> Reason:
    """It starts: `why` there, and how it goes ahead of a reservation, if it does."""
    because = "; ".join([*why, *([ahead] if ahead else [])])
    return Reason(
        PLACED_BACKFILL if ahead else PLACED, f"{shape(request.resources)} on {where}: {because}."
    )


def under_guarantee(share: str) -> str:
    """It runs on what a share is promised, and stays."""
    return f"within the guarantee of {share}"


BEYOND_ANY: Final = "beyond any guarantee, so it can be called back"


def ahead_of(job_id: int, *, until_ms: int | None) -> str:
    """How a backfilled task leaves the reservation of a blocked job alone."""
    if until_ms is None:
        return f"on other nodes than those kept for j-{job_id}"
    return f"ends before j-{job_id} needs the nodes kept for it, at {instant(until_ms)}"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a blocked request stands towards all its pools: a code, and a clause for each of some."""

    code: str
    parts: tuple[str, ...]


def standing(request: Request, outlooks: Sequence[Outlook], reserved: str | None) -> Standing:
    """How it stands; `reserved` is the pool that keeps nodes for it."""
    nodes = request.resources.nodes
    if reserved is not None:
        code = HOLDS_RESERVATION
    elif all(outlook.silent for outlook in outlooks):
        code = CLUSTER_SILENT
    elif all(outlook.up < nodes for outlook in outlooks):
        code = NODES_DOWN
    elif any(outlook.free + outlook.kept_free >= nodes for outlook in outlooks):
        code = BEHIND_RESERVATION
    else:
        code = WAITING_FOR_NODES
    parts = [_outlook(outlook, nodes, reserved) for outlook in outlooks[:_LISTED_MAX]]
    if (more := len(outlooks) - _LISTED_MAX) > 0:
        parts.append(f"{count(more, 'more pool')} without room")
    return Standing(code, tuple(parts))


def blocked(request: Request, stands: Standing, besides: Sequence[str], turn: str | None) -> Reason:
    """It waits for nodes. `besides` are clauses that go last; `turn` is the code of what decides
    that others come first, where something does.
    """
    code = stands.code
    if turn is not None and code in {BEHIND_RESERVATION, WAITING_FOR_NODES}:
        code = turn
    where = "" if request.resources.nodes == 1 else " in one pool"
    parts = "; ".join([*stands.parts, *besides])
    return Reason(code, f"Waits for {shape(request.resources)}{where}; {parts}.")


def beyond_guarantee(share: str, gpus: int, used: int) -> str:
    """Its share's guarantee is in use: it waits for what others lend."""
    return (
        f"{share} uses {used:,} of the {count(gpus, 'GPU')} that it is promised there, "
        "so it waits for GPUs that others lend"
    )


OTHERS_TURN: Final = "projects that have used less of what they are due come first"


def next_cycle(request: Request, starts: int) -> Reason:
    """So many others have started at once that its turn comes in the next cycle."""
    start = "1 task before it starts" if starts == 1 else f"{starts:,} tasks before it start"
    return Reason(
        NEXT_CYCLE,
        f"Waits for {shape(request.resources)}; {start} now, as many as one cycle starts, and it "
        "has its turn in the next.",
    )


def waiting_for_recall(request: Request, pool_id: str, leaving: int, out_ms: int) -> Reason:
    """Borrowers have notice and leave the nodes that its share is promised."""
    have = "1 borrower has" if leaving == 1 else f"{leaving:,} borrowers have"
    return Reason(
        WAITING_FOR_RECALL,
        f"Waits for {shape(request.resources)}; its share is promised them in {pool_id}, where "
        f"{have} notice and must be out by {instant(out_ms)}.",
    )


def recalled(share: str, job_id: int, vacates_ms: int) -> Reason:
    """A borrower has to leave."""
    return Reason(
        RECALLED,
        f"{share} needs its GPUs for j-{job_id}; they must be free by {instant(vacates_ms)}.",
    )


def _outlook(outlook: Outlook, nodes: int, reserved: str | None) -> str:
    name = outlook.pool_id
    if outlook.silent:
        return f"the cluster of {name} is silent"
    if outlook.up < nodes:
        return f"{name} has {count(outlook.up, 'node')} up"
    free = f"{outlook.free:,}" if outlook.free else "no"
    text = f"{name} has {free} such node{'' if outlook.free == 1 else 's'} free"
    if outlook.kept_for_job_id is not None:
        besides = f"{outlook.kept_free:,} more and " if outlook.kept_free else ""
        return (
            f"{text}, {besides}what comes free next kept for j-{outlook.kept_for_job_id}, "
            f"which starts by {instant(outlook.kept_ms)}"
        )
    if outlook.next_ms is not None:
        text += f", the next at {instant(outlook.next_ms)} when j-{outlook.next_job_id} ends"
    if name == reserved:
        text += f", and keeps nodes for it from {instant(outlook.starts_ms)}"
    return text


def already_live(request: Request) -> Reason:
    """The task still has a live attempt (I2)."""
    return Reason(ALREADY_LIVE, f"An attempt of this task of j-{request.job_id} is still live.")


def unknown_allocation(request: Request) -> Reason:
    """The project has no such allocation."""
    return Reason(
        UNKNOWN_ALLOCATION, f"Project {request.project} has no allocation {request.allocation}."
    )


def before_window(allocation: Allocation) -> Reason:
    """The allocation has not begun."""
    return Reason(
        ALLOCATION_WINDOW, f"Allocation {allocation.id} opens at {instant(allocation.starts_ms)}."
    )


def beyond_window(request: Request, allocation: Allocation) -> Reason:
    """It could outlive its allocation."""
    return Reason(
        WALLTIME_BEYOND_WINDOW,
        f"Needs {duration(request.occupied_ms // 1_000)} with its grace; allocation "
        f"{allocation.id} ends before that, at {instant(allocation.ends_ms)}.",
    )


def array_cap(request: Request) -> Reason:
    """As many tasks of its array run as may."""
    return Reason(
        ARRAY_CAP,
        f"Waits for another task of j-{request.job_id} to end; "
        f"its array runs at most {request.max_running:,} at a time.",
    )


def short_of_budget(allocation: Allocation, hold: int, left: int, held: int) -> Reason:
    """The hold is more than the balance: for now, or for good."""
    unit = allocation.unit
    balance = (
        f"Asks for up to {amount(hold, unit)}; allocation {allocation.id} has "
        f"{amount(left, unit)} left of {amount(allocation.limit, unit)}"
    )
    if hold > left + held:
        besides = f", and {amount(held, unit)} held for its other tasks" if held else ""
        return Reason(ALLOCATION_TOO_SMALL, f"{balance}{besides}.")
    return Reason(
        ALLOCATION_HELD,
        f"{balance}; it waits for some of the {amount(held, unit)} held for its other tasks.",
    )


def short_of_gpus(allocation: Allocation, gpus: int, in_use: int) -> Reason:
    """A capacity allocation's GPUs are in use by its own tasks, or are fewer than asked for."""
    own = f"allocation {allocation.id} has {count(allocation.gpus or 0, 'GPU')}"
    if gpus > (allocation.gpus or 0):
        return Reason(CAPACITY_TOO_SMALL, f"Asks for {count(gpus, 'GPU')}; {own}.")
    return Reason(
        ALLOCATION_GPUS_IN_USE,
        f"Waits for {count(gpus, 'GPU')}; {own}, of which its own tasks take {in_use:,}.",
    )


def short_of_share(share: str, gpus: int, limit: int, in_use: int) -> Reason:
    """A share on its way to the root uses as many GPUs as it may, or may use fewer than asked."""
    own = f"share {share} may use {count(limit, 'GPU')} at a time"
    if gpus > limit:
        return Reason(SHARE_TOO_SMALL, f"Asks for {count(gpus, 'GPU')}; {own}.")
    return Reason(SHARE_LIMIT, f"Waits for {count(gpus, 'GPU')}; {own} and has {in_use:,} in use.")


def nowhere(request: Request, barred: Sequence[str]) -> Reason:
    """No pool may run it."""
    return Reason(
        NO_POOL_ALLOWED,
        f"No pool may run {shape(request.resources)} on data of class '{request.data_class}'"
        f"{': ' if barred else ''}{'; '.join(barred)}.",
    )
