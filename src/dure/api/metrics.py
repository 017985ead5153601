"""What Prometheus reads: the cycle, the tasks, the pools, the requests."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from dure.control.cycle import Report
from dure.life import TERMINAL, State
from dure.views import PoolView, SiteView

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """One registry for one control plane."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "dure_http_requests_total",
            "Requests answered",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self.cycle_s = Histogram(
            "dure_cycle_seconds", "Time of one control cycle", registry=self.registry
        )
        self.leads = Gauge(
            "dure_leads",
            "Whether this process runs the control cycles of its database",
            registry=self.registry,
        )
        self.faults = Counter(
            "dure_cycle_faults_total", "Cycles that failed", registry=self.registry
        )
        self.violations = Counter(
            "dure_plan_violations_total",
            "Faults that the linter found in plans, which were then not carried out",
            ["code"],
            registry=self.registry,
        )
        self.stuck = Gauge(
            "dure_attempts_stuck",
            "Attempts that the last cycle could not settle; see the log",
            registry=self.registry,
        )
        self.placed = Counter("dure_placements_total", "Attempts opened", registry=self.registry)
        self.recalled = Counter(
            "dure_recalls_total",
            "Borrowers called back for those whose guarantee they ran on",
            registry=self.registry,
        )
        self.tasks = Gauge(
            "dure_tasks", "Tasks that have not ended", ["state"], registry=self.registry
        )
        self.gpus = Gauge(
            "dure_gpus", "GPUs of a pool", ["pool", "operator", "of"], registry=self.registry
        )
        self.silent = Gauge(
            "dure_pool_silent", "Whether a pool's site is silent", ["pool"], registry=self.registry
        )

        self.trouble = Gauge(
            "dure_site_trouble",
            "What is wrong at a site: drift, attempts unknown here, attempts given up that run",
            ["cluster", "what"],
            registry=self.registry,
        )

    def cycle(self, report: Report, took_s: float) -> None:
        """Note a cycle."""
        self.cycle_s.observe(took_s)
        self.placed.inc(report.placed)
        self.recalled.inc(report.recalled)
        self.stuck.set(len(report.stuck))
        for found in report.violations:
            self.violations.labels(found.code).inc()
        for state in State:
            if state not in TERMINAL:
                self.tasks.labels(state).set(report.tasks.get(state, 0))

    def text(self, pools: tuple[PoolView, ...], sites: tuple[SiteView, ...]) -> bytes:
        """The exposition, with the pools and sites as they are now."""
        for site in sites:
            for what, count in (
                ("drift", len(site.drift)),
                ("strangers", len(site.strangers)),
                ("late", len(site.late)),
            ):
                self.trouble.labels(site.cluster, what).set(count)
        for pool in pools:
            for of, gpus in (
                ("in-service", pool.gpus_in_service),
                ("up", pool.gpus_up),
                ("used", pool.gpus_used),
            ):
                self.gpus.labels(pool.pool, pool.operator, of).set(gpus)
            self.silent.labels(pool.pool).set(int(pool.silent))
        return generate_latest(self.registry)
