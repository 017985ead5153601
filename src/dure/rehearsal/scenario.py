"""What of a scenario's file is for rehearsals: the rest of the tree of shares, who submits what,
what goes wrong, and the scheduler's dials.

All of it stands in the file that also says what fleet there is; `dure up` passes it by. The span
is a must, everything else may be left out. Keys: docs/scenarios.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Final

from dure import scenario
from dure.allocations import OrganisationKind
from dure.errors import RefusedError
from dure.fleet import Pool
from dure.jobs import GPUS_PER_NODE_MAX, Tier
from dure.policy import allowed_pools
from dure.rehearsal.faults import Fault, NodeFailures, SiteOutage, SlowRecall, Span
from dure.rehearsal.generate import PUBLISHED, Demand, Profile
from dure.rehearsal.submissions import (
    Generated,
    Recorded,
    Setting,
    Terms,
    Workload,
    jobs_expected,
)
from dure.scenario import Scenario
from dure.scheduling.tuning import Tuning
from dure.shares import (
    Share,
    ShareKind,
    Shares,
    path,
)
from dure.text import check_slug, shown
from dure.tomltable import Document, Table, read_data
from dure.units import INSTANT_MS_MAX

JOBS_MAX: Final = 10_000_000
PROJECTS_MAX: Final = 100_000
_USUAL: Final = Tuning()


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Which scheduler, with which dials."""

    name: str = "dure"
    tuning: Tuning = _USUAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Rehearsal:
    """A scenario to be rehearsed: the nation, its whole tree of shares, and what happens in it.

    More than `jobs_max` jobs are a slip, not a rehearsal.
    """

    nation: Scenario
    shares: Shares
    span: Span
    workloads: tuple[Workload, ...]
    faults: tuple[Fault, ...]
    policy: Policy
    jobs_max: int = JOBS_MAX


def load(file: Path, settings: Sequence[str] = ()) -> Rehearsal:
    """Read a scenario with all that is for rehearsals; `settings` such as `policy.recalls_max=5` or
    `workload.startups.load=0.9` come before what the file says.

    Raises:
        RefusedError: `bad-scenario`: something is wrong; the sentence names the file, the line and
            the key, or the setting.
    """
    return scenario.read_file(file, partial(_read, folder=file.parent), settings)


def of_document(
    document: Document, settings: Sequence[str] = (), folder: Path | None = None
) -> Rehearsal:
    """A rehearsal from what a scenario's file would hold; traces lie in `folder`.

    Raises:
        RefusedError: `bad-scenario`, as `load`.
    """
    try:
        return read_data(document, partial(_read, folder=folder or Path()), settings)
    except ValueError as wrong:
        raise RefusedError("bad-scenario", f"{wrong}.") from wrong


def setting(rehearsal: Rehearsal) -> Setting:
    """Where and when a rehearsal's workloads come."""
    return Setting(rehearsal.shares, rehearsal.nation.fleet.pools, rehearsal.span)


# ---- The shape of the sections, from the top down ------------------------------------------------


def _read(top: Table, folder: Path) -> Rehearsal:
    nation = scenario.read(top)
    shares = scenario.tree(nation)
    span, jobs_max = top.table("rehearsal").build(_read_span)
    there = _There(nation, shares, span, folder)
    workloads = top.tables("workload", there.workload)
    faults = top.tables("fault", there.fault)
    policy = top.table("policy").build(_read_policy) if top.has("policy") else Policy()
    rehearsal = Rehearsal(
        nation=nation,
        shares=_with_projects(shares, workloads),
        span=span,
        workloads=workloads,
        faults=faults,
        policy=policy,
        jobs_max=jobs_max,
    )
    _check_jobs(top, rehearsal)
    return rehearsal


def _check_jobs(top: Table, rehearsal: Rehearsal) -> None:
    """A slip in one number must not cost a day: what workloads bring is known beforehand."""
    made_up = (one for one in rehearsal.workloads if isinstance(one, Generated))
    jobs = {one.id: jobs_expected(one, setting(rehearsal)) for one in made_up}
    if sum(jobs.values()) > rehearsal.jobs_max:
        most = max(jobs, key=lambda id_: jobs[id_])
        raise top.error(
            "workload",
            f"brings {sum(jobs.values()):,} jobs, most of them {most}; rehearsal.jobs_max is "
            f"{rehearsal.jobs_max:,}: lower a load, raise gpus_mean or run_mean_s, or jobs_max",
        )


def _read_span(table: Table) -> tuple[Span, int]:
    span = Span(
        starts_ms=table.instant_ms("starts"),
        ends_ms=table.instant_ms("ends"),
        seed=table.given("seed", table.integer, 0),
    )
    if span.ends_ms <= span.starts_ms:
        raise table.error("ends", "is not after starts; write a later date")
    return span, table.given("jobs_max", table.count, JOBS_MAX)


def _read_policy(table: Table) -> Policy:
    name = table.given("name", table.text, "dure")
    check_slug("policy name", name)
    given = {
        dial.name: table.count(dial.name, least=0)
        for dial in fields(Tuning)
        if table.has(dial.name)
    }
    return Policy(name=name, tuning=Tuning(**given))


def _with_projects(shares: Shares, workloads: Sequence[Workload]) -> Shares:
    projects = [
        Share(id=leaf, kind=ShareKind.PROJECT, parent=workload.terms.share)
        for workload in workloads
        if isinstance(workload, Generated) and workload.projects
        for leaf in workload.leaves
    ]
    return Shares((*shares.shares, *projects))


# ---- Workloads and faults ------------------------------------------------------------------------


def _read_profile(table: Table) -> Profile:
    """A published profile, but for what the file names itself."""
    like = PUBLISHED[table.one_of("like", PUBLISHED)]
    profile = Profile(
        run_mean_s=table.given("run_mean_s", table.number, like.run_mean_s),
        run_median_s=table.given("run_median_s", table.number, like.run_median_s),
        gpus_mean=table.given("gpus_mean", table.number, like.gpus_mean),
        gpus_max=table.count("gpus_max"),
    )
    Demand(like=profile, jobs_per_day=())  # holds the profile to what can be made up
    return profile


@dataclass(frozen=True, slots=True)
class _There:
    """What workloads and faults may refer to."""

    nation: Scenario
    shares: Shares
    span: Span
    folder: Path

    def workload(self, table: Table) -> Workload:
        sources: dict[str, Callable[[Table, str], Workload]] = {
            "generate": self._generated,
            "trace": self._recorded,
        }
        id_ = table.text("id")
        check_slug("workload id", id_)
        return sources[table.one_of("source", sources)](table, id_)

    def fault(self, table: Table) -> Fault:
        kinds: dict[str, Callable[[Table, str], Fault]] = {
            "node-failures": self._node_failures,
            "site-outage": self._site_outage,
            "slow-recall": self._slow_recall,
        }
        id_ = table.text("id")
        check_slug("fault id", id_)
        return kinds[table.one_of("kind", kinds)](table, id_)

    def _generated(self, table: Table, id_: str) -> Generated:
        if not table.has("share"):
            raise table.error("share", "is missing; only a trace's own virtual clusters can say it")
        workload = Generated(
            id=id_,
            terms=self._terms(table),
            profile=_read_profile(table),
            load=table.given("load", table.number, None),
            jobs_per_day=table.given("jobs_per_day", table.number, None),
            projects=table.given("projects", table.count, 0),
        )
        if (workload.load is None) == (workload.jobs_per_day is None):
            raise ValueError("write either load or jobs_per_day")
        if workload.projects > PROJECTS_MAX:
            raise table.error("projects", f"is more than {PROJECTS_MAX:,}; write at most that")
        self._check_size(table, workload)
        return workload

    def _check_size(self, table: Table, workload: Generated) -> None:
        """The largest job must fit a pool that it may use, at some time."""
        terms, gpus_max = workload.terms, workload.profile.gpus_max
        slots = min(gpus_max, terms.gpus_per_node)
        known = [
            pool
            for pool in self.nation.fleet.pools
            if pool.gpus_per_node >= slots
            and (not terms.gpu_models or pool.gpu_model in terms.gpu_models)
        ]
        allowed, _ = allowed_pools(self.nation.rules, terms.data_class, known)
        sizes = [(self._nodes_most(pool) * slots, pool.id) for pool in allowed]
        gpus, pool_id = max(sizes, default=(0, ""))
        if gpus_max > gpus:
            largest = f"pool {pool_id}, takes {gpus:,}" if gpus else "none, takes 0"
            raise table.error(
                "gpus_max",
                f"is {gpus_max:,}; the largest that may ever run it, {largest} at "
                f"{slots} a node; write at most that",
            )

    def _nodes_most(self, pool: Pool) -> int:
        """The most nodes that a pool has in service within the span."""
        starts = (start.at_ms for wave in pool.waves for start in wave.phases)
        within = (at for at in starts if self.span.starts_ms < at < self.span.ends_ms)
        return max(pool.nodes_in_service(at) for at in (self.span.starts_ms, *within))

    def _recorded(self, table: Table, id_: str) -> Recorded:
        written = table.text("path")
        found = self.folder / written
        if not found.exists():
            raise table.error(
                "path",
                f"is {shown(written)}, which is not there; write it from "
                "the folder of the scenario's file",
            )
        return Recorded(id=id_, terms=self._terms(table), path=found)

    def _terms(self, table: Table) -> Terms:
        share = table.given("share", partial(table.one_of, known=self.shares.by_id), None)
        root = path(self.shares, share)[-1] if share else ""
        classes = [known.id for known in self.nation.rules.data_classes]
        models = [model.id for model in self.nation.fleet.models]
        per_node = table.given("gpus_per_node", table.count, 8)
        if per_node > GPUS_PER_NODE_MAX:
            raise table.error("gpus_per_node", f"is above {GPUS_PER_NODE_MAX:,}")
        return Terms(
            share=share,
            operator=table.given("operator", table.text, root),
            group=table.given("group", partial(table.one_of, known=OrganisationKind), ""),
            data_class=table.one_of("data_class", classes),
            tier=table.given("tier", partial(table.one_of, known=Tier), Tier.STANDARD),
            gpu_models=table.some_of("gpu_models", models) or (),
            gpus_per_node=per_node,
            walltime_factor=table.given("walltime_factor", table.number, None),
            checkpoint_every_s=table.given("checkpoint_every_s", table.count, None),
        )

    def _node_failures(self, table: Table, id_: str) -> NodeFailures:
        return NodeFailures(
            id=id_,
            per_node_year=table.number("per_node_year"),
            repair_s=table.count("repair_s"),
            pools=table.some_of("pools", [pool.id for pool in self.nation.fleet.pools]) or (),
        )

    def _site_outage(self, table: Table, id_: str) -> SiteOutage:
        cluster = table.one_of("cluster", self._clusters())
        starts_ms, ends_ms = table.instant_ms("starts"), table.instant_ms("ends")
        if ends_ms <= starts_ms:
            raise table.error("ends", "is not after starts; write a later date")
        return SiteOutage(id=id_, cluster=cluster, starts_ms=starts_ms, ends_ms=ends_ms)

    def _slow_recall(self, table: Table, id_: str) -> SlowRecall:
        """Without a window, it lasts for the whole rehearsal."""
        cluster = table.one_of("cluster", self._clusters())
        factor = table.number("factor")
        starts_ms = table.given("starts", table.instant_ms, 0)
        ends_ms = table.given("ends", table.instant_ms, INSTANT_MS_MAX)
        if ends_ms <= starts_ms:
            raise table.error("ends", "is not after starts; write a later date")
        return SlowRecall(
            id=id_, cluster=cluster, factor=factor, starts_ms=starts_ms, ends_ms=ends_ms
        )

    def _clusters(self) -> list[str]:
        return [cluster.id for cluster in self.nation.fleet.clusters]
