"""What the demo claims, each claim as a named check on what was seen. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from dure.audit import Audit
from dure.demo.outcome import (
    BORROWER,
    FAILING,
    GANG,
    MOVER,
    NATIONAL,
    OWNER,
    SWEEP,
    Books,
    Outcome,
)
from dure.fleet import EngineKind
from dure.life import EndCause, State
from dure.policy import EXCLUDED_BY_RULE
from dure.scheduling.explain import ALLOCATION_TOO_SMALL
from dure.units import MS_PER_S, gpu_time_text
from dure.views import AttemptView, JobView

OPERATORS_MIN: Final = 4
SWEEP_TASKS: Final = 8
SWEEP_AT_ONCE_MAX: Final = 4
ACCURACY_MIN: Final = 0.9
FAILING_EXIT_CODE: Final = 3
FAILING_LAST_WORD: Final = "FileNotFoundError"
NOT_SEEN: Final = "the demo did not come to it"


@dataclass(frozen=True, slots=True)
class Check:
    """A claim, whether it held, and what was seen."""

    name: str
    ok: bool
    seen: str


def check_all(outcome: Outcome) -> tuple[Check, ...]:
    """Every claim, in the order in which the demo makes them."""
    claims = list(_CLAIMS)
    if any(site.engine is not EngineKind.LOCAL for site in outcome.played):
        claims.append(_ENGINES_CLAIM)
    if len(outcome.clusters_on(EngineKind.SLURM)) > 1:
        claims += _SLURM_CLAIMS
    return tuple(Check(name, *judge(outcome)) for name, judge in claims)


Judged = tuple[bool, str]


def _federation(outcome: Outcome) -> Judged:
    operators = {operator for operator, _ in outcome.agents}
    processes = {pid for _, pid in outcome.agents}
    ok = len(operators) >= OPERATORS_MIN and len(processes) == len(outcome.agents)
    return ok, f"{len(operators)} operators, {len(processes)} agent processes"


# ---- the sweep -----------------------------------------------------------------------------------


def _sweep_done(outcome: Outcome) -> Judged:
    if (job := outcome.job(SWEEP)) is None:
        return False, NOT_SEEN
    done = sum(task.state is State.SUCCEEDED for task in job.tasks)
    ok = done == len(job.tasks) == SWEEP_TASKS == len(outcome.sweep)
    return ok, f"{done} of {len(job.tasks)} tasks succeeded, {len(outcome.sweep)} results fetched"


def _sweep_best(outcome: Outcome) -> Judged:
    if not outcome.sweep:
        return False, NOT_SEEN
    best = max(outcome.sweep, key=lambda point: point.accuracy)
    seen = f"accuracy {best.accuracy:.4f} with C = {best.c:g}, gamma = {best.gamma:g}"
    return best.accuracy >= ACCURACY_MIN, seen


def _sweep_cap(outcome: Outcome) -> Judged:
    if (job := outcome.job(SWEEP)) is None:
        return False, NOT_SEEN
    most = most_at_once(job)
    return 1 <= most <= SWEEP_AT_ONCE_MAX, f"at most {most} ran at the same time"


def most_at_once(job: JobView) -> int:
    """The largest number of a job's attempts that ran at one instant."""
    spans = [
        (attempt.started_ms, attempt.ended_ms)
        for task in job.tasks
        for attempt in task.attempts
        if attempt.started_ms is not None and attempt.ended_ms is not None
    ]
    return max((sum(s <= start < e for s, e in spans) for start, _ in spans), default=0)


# ---- the gang ------------------------------------------------------------------------------------


def _attempts(outcome: Outcome, name: str) -> tuple[AttemptView, ...]:
    job = outcome.job(name)
    return job.tasks[0].attempts if job is not None and job.tasks else ()


def _gang_nodes(outcome: Outcome) -> Judged:
    attempts = _attempts(outcome, GANG)
    if not attempts or outcome.gang is None:
        return False, NOT_SEEN
    ok = all(len(set(one.nodes)) == 2 for one in attempts) and outcome.gang.ranks_heard == (0, 1)
    nodes = "; ".join(f"{one.pool} nodes {', '.join(map(str, one.nodes))}" for one in attempts)
    return ok, f"{nodes}; ranks {', '.join(map(str, outcome.gang.ranks_heard))} trained together"


def _gang_broken(outcome: Outcome) -> Judged:
    attempts = _attempts(outcome, GANG)
    broken = outcome.gang.broken if outcome.gang is not None else None
    if not attempts or broken is None:
        return False, NOT_SEEN
    first = attempts[0]
    lines = outcome.books.usage if outcome.books is not None else ()
    absorbed = any(line.attempt == first.id and line.absorbed for line in lines)
    ok = (
        first.id == broken.attempt
        and first.cause is EndCause.NODE_FAILED
        and first.charge == 0
        and absorbed
    )
    payer = "absorbed" if absorbed else "not absorbed"
    return ok, f"attempt 1 ended {first.cause}, charge {first.charge}, {payer}"


def _gang_resumed(outcome: Outcome) -> Judged:
    attempts, gang = _attempts(outcome, GANG), outcome.gang
    if gang is None or gang.broken is None or len(attempts) != 2:
        return False, f"{len(attempts)} attempts" if attempts else NOT_SEEN
    resumed, lost_at = gang.resumed_from_epoch, gang.broken.epoch_seen
    ok = (
        attempts[1].cause is EndCause.COMPLETED
        and resumed is not None
        and resumed >= lost_at
        and gang.accuracy is not None
        and gang.accuracy >= ACCURACY_MIN
    )
    result = f"accuracy {gang.accuracy:.4f}" if gang.accuracy is not None else "no result"
    seen = f"broken after epoch {lost_at}, resumed from epoch {resumed}, {attempts[1].cause}"
    return ok, f"{seen}, {result}"


# ---- lending -------------------------------------------------------------------------------------


def _lent(outcome: Outcome) -> Judged:
    """It ran on an owner's GPUs, and the book of lending says so."""
    attempts = _attempts(outcome, BORROWER)
    if not attempts or outcome.books is None:
        return False, NOT_SEEN
    first = attempts[0]
    lent = [
        line
        for line in outcome.books.lending
        if line.pool == first.pool and line.lender == first.operator
    ]
    gpu_ms = sum(line.gpu_ms for line in lent)
    ok = gpu_ms > 0 and gpu_ms == first.gpu_ms
    return ok, f"{first.operator} lent {gpu_time_text(gpu_ms)} of {first.pool}"


def _called_back(outcome: Outcome) -> Judged:
    """Notice was given, the borrower left within its grace, and the owner then had its GPUs."""
    borrowed, owned, loan = _attempts(outcome, BORROWER), _attempts(outcome, OWNER), outcome.loan
    if not borrowed or not owned or loan is None or loan.notice is None:
        return False, NOT_SEEN
    first, own, job = borrowed[0], owned[-1], outcome.job(BORROWER)
    grace_s = job.spec.grace_s if job is not None else 0
    left_s = ((first.ended_ms or 0) - loan.notice.at_ms) / MS_PER_S
    ok = (
        first.cause is EndCause.RECALLED
        and first.charge == 0
        and left_s <= grace_s
        and own.cause is EndCause.COMPLETED
        and own.pool == first.pool
        and (own.started_ms or 0) >= (first.ended_ms or 0)
    )
    seen = f"attempt 1 ended {first.cause} {left_s:.1f} s after its notice, charge {first.charge}"
    return ok, f"{seen}; the owner's job then ran on {own.pool}, {own.cause}"


def _resumed_elsewhere(outcome: Outcome) -> Judged:
    attempts, loan = _attempts(outcome, BORROWER), outcome.loan
    if loan is None or loan.epoch_seen is None or len(attempts) != 2:
        return False, f"{len(attempts)} attempts" if attempts else NOT_SEEN
    resumed, last = loan.resumed_from_epoch, attempts[1]
    ok = (
        last.cause is EndCause.COMPLETED
        and last.pool != attempts[0].pool
        and resumed is not None
        and resumed >= loan.epoch_seen
    )
    where = f"on {last.pool} of {last.operator} from epoch {resumed}"
    return (
        ok,
        f"left {attempts[0].pool} after epoch {loan.epoch_seen}, resumed {where}, {last.cause}",
    )


# ---- rules, refusals, failures -------------------------------------------------------------------


def _national_pool(outcome: Outcome) -> Judged:
    attempts = _attempts(outcome, NATIONAL)
    if not attempts:
        return False, NOT_SEEN
    last, government = attempts[-1], outcome.government_pools
    ok = last.cause is EndCause.COMPLETED and all(a.pool in government for a in attempts)
    return ok, f"ran on {last.pool} of {last.operator}, {last.cause}"


def _national_excluded(outcome: Outcome) -> Judged:
    if outcome.plan is None:
        return False, NOT_SEEN
    by_rule = [
        one
        for one in outcome.plan.exclusions
        if one.reason.code == EXCLUDED_BY_RULE and "national-core-data" in one.reason.sentence
    ]
    operators = sorted({one.operator_id for one in by_rule})
    ok = bool(by_rule) and outcome.plan.refusal is None
    return ok, f"rule national-core-data excludes pools of {', '.join(operators) or 'nobody'}"


def _refused(outcome: Outcome) -> Judged:
    if (reason := outcome.refusal) is None:
        return False, NOT_SEEN
    one_sentence = reason.sentence.endswith(".") and "\n" not in reason.sentence
    return reason.code == ALLOCATION_TOO_SMALL and one_sentence, f"{reason.code}: {reason.sentence}"


def _failing(outcome: Outcome) -> Judged:
    attempts = _attempts(outcome, FAILING)
    if not attempts:
        return False, NOT_SEEN
    last, words = attempts[-1], (outcome.failing_log or ("no log",))[-1]
    ok = (
        last.cause is EndCause.ERRED
        and last.exit_code == FAILING_EXIT_CODE
        and FAILING_LAST_WORD in words
        and (last.charge or 0) > 0
    )
    return ok, f"exit code {last.exit_code}, charge {last.charge} micro-credits, log ends: {words}"


# ---- the books -----------------------------------------------------------------------------------


def _books(judge: Callable[[Books], Judged]) -> Callable[[Outcome], Judged]:
    def judged(outcome: Outcome) -> Judged:
        return (False, NOT_SEEN) if outcome.books is None else judge(outcome.books)

    return judged


def _balances(books: Books) -> Judged:
    wrong = [
        one.allocation.id
        for one in books.allocations
        if one.held != 0 or one.limit != one.held + one.spent + one.available
    ]
    if wrong or not books.allocations:
        return False, f"wrong: {', '.join(wrong) or 'there is no allocation'}"
    return True, f"{len(books.allocations)} allocations, nothing held"


def _audit(books: Books) -> Judged:
    audit = books.audit
    ok = audit.intact and not audit.open_holds and balanced(audit) and audit.journals > 0
    found = f"{len(audit.findings)} findings, {len(audit.open_holds)} holds open"
    return (
        ok,
        f"{audit.journals} journals, {found}, debits {'=' if balanced(audit) else '!='} credits",
    )


def balanced(audit: Audit) -> bool:
    """Whether debits equal credits in every unit."""
    return all(total.debits == total.credits for total in audit.totals)


def _usage(outcome: Outcome) -> Judged:
    """Three counts of one thing: the ledger's, the usage lines', each attempt's GPUs x time."""
    if outcome.books is None:
        return False, NOT_SEEN
    attempts = _all_attempts(outcome)
    metered = sum(
        a.gpus * (a.ended_ms - a.started_ms)
        for a in attempts
        if a.started_ms is not None and a.ended_ms is not None
    )
    listed = sum(line.gpu_ms for line in outcome.books.usage)
    posted = outcome.books.posted_gpu_ms
    seen = (
        f"posted {gpu_time_text(posted)}, listed {gpu_time_text(listed)}, "
        f"metered {gpu_time_text(metered)} over {len(attempts)} attempts"
    )
    ok = posted == listed == metered > 0 and len(attempts) == len(outcome.books.usage)
    return ok, seen


def _secret(outcome: Outcome) -> Judged:
    if (secret := outcome.secret) is None:
        return False, NOT_SEEN
    where = f"found in {', '.join(secret.found_in)}" if secret.found_in else "found in none"
    reached = "reached its job" if secret.reached else "did not reach its job"
    searched = f"{secret.answers_searched} answers and {secret.files_searched} files searched"
    ok = secret.reached and not secret.found_in and bool(secret.answers_searched)
    return ok, f"{reached}; {searched}, {where}"


# ---- real engines --------------------------------------------------------------------------------


def _all_attempts(outcome: Outcome) -> tuple[AttemptView, ...]:
    return tuple(a for job in outcome.jobs for task in job.tasks for a in task.attempts)


def _engines_ran(outcome: Outcome) -> Judged:
    """Every engine has completed some attempt."""
    completed = [a.cluster for a in _all_attempts(outcome) if a.cause is EndCause.COMPLETED]
    counts = {
        kind: sum(cluster in outcome.clusters_on(kind) for cluster in completed)
        for kind in dict.fromkeys(site.engine for site in outcome.played)
    }
    seen = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    return all(counts.values()), f"attempts completed: {seen}"


def _moved(outcome: Outcome) -> Judged:
    """Lost with its site, uncharged; then run on the other cluster, never on both at once."""
    attempts, slurm = _attempts(outcome, MOVER), outcome.clusters_on(EngineKind.SLURM)
    if outcome.lost_site is None or len(attempts) != 2:
        return False, f"{len(attempts)} attempts" if attempts else NOT_SEEN
    first, last = attempts
    ok = (
        first.cluster == outcome.lost_site
        and (first.cause, first.charge) == (EndCause.LOST, 0)
        and last.cause is EndCause.COMPLETED
        and last.cluster in {*slurm} - {first.cluster}
        and (last.started_ms or 0) >= (first.ended_ms or 0)
    )
    seen = f"{first.cause} with {first.cluster}, charge {first.charge}"
    return ok, f"{seen}; then on {last.cluster}, {last.cause}"


def _slurm_agrees(outcome: Outcome) -> Judged:
    """To the second, for Slurm counts in seconds."""
    left = {*outcome.clusters_on(EngineKind.SLURM)} - {outcome.lost_site}
    ours = {a.id: (a.gpu_ms or 0) / MS_PER_S for a in _all_attempts(outcome) if a.cluster in left}
    theirs = {one.attempt: one.gpu_s for one in outcome.accounted}
    wrong = [id_ for id_ in sorted(ours | theirs) if ours.get(id_) != theirs.get(id_)]
    seen = f"{len(theirs)} jobs of {sum(theirs.values())} GPU-seconds in {', '.join(sorted(left))}"
    return bool(theirs) and not wrong, f"{seen}; not the same: {', '.join(wrong) or 'none'}"


_Claim = tuple[str, Callable[[Outcome], Judged]]

_ENGINES_CLAIM: Final[_Claim] = ("every engine ran work to its end", _engines_ran)
_SLURM_CLAIMS: Final[tuple[_Claim, ...]] = (
    ("a lost site: its job moved to the other Slurm cluster", _moved),
    ("usage: metered = what Slurm accounts itself", _slurm_agrees),
)
_CLAIMS: Final[tuple[_Claim, ...]] = (
    ("an agent process for each of at least four operators", _federation),
    ("sweep: all eight training runs succeeded", _sweep_done),
    ("sweep: the best model is right nine times in ten", _sweep_best),
    ("sweep: at most four ran at a time", _sweep_cap),
    ("gang: two nodes trained one model", _gang_nodes),
    ("gang: the killed node cost the user nothing", _gang_broken),
    ("gang: it came back and resumed from its checkpoint", _gang_resumed),
    ("lending: a spare job ran on GPUs that their owner left idle", _lent),
    ("recall: it left with notice when the owner came, who then ran", _called_back),
    ("recall: it resumed from its checkpoint elsewhere", _resumed_elsewhere),
    ("national core data: ran on government-owned GPUs", _national_pool),
    ("national core data: who is excluded, by which rule", _national_excluded),
    ("too much: refused in one sentence", _refused),
    ("a failing job: its log is shown, its owner pays", _failing),
    ("secrets: reach their job and nothing else", _secret),
    ("every allocation: limit = held + spent + available", _books(_balances)),
    ("ledger: debits = credits, chain intact", _books(_audit)),
    ("usage: posted = metered", _usage),
)
