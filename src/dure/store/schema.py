"""The tables, apart from the ledger's own (ledger_schema.py). Instants are ms since the epoch, UTC.

Three rules of the design stand here as constraints and triggers, so that no code can break them: a
task has at most one open attempt (I2), states are those of the one transition table, and what
somebody did with a right that others lack stays on record.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ColumnElement,
    Connection,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Table,
    UniqueConstraint,
    event,
)

from dure.life import State
from dure.store import guards
from dure.store.guards import Guard, only_added
from dure.store.metadata import Int64, metadata


def _one_of(column: str, values: type[State]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


def _only(condition: ColumnElement[bool]) -> dict[str, Any]:
    """An index's options, for one over the rows of which a condition holds."""
    return {f"{database}_where": condition for database in ("sqlite", "postgresql")}


# ---- who -----------------------------------------------------------------------------------------

people = Table(
    "people",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("email", String, unique=True),
    Column("created_ms", BigInteger, nullable=False),
)

role_grants = Table(
    "role_grants",
    metadata,
    Column("person", ForeignKey("people.id"), primary_key=True),
    Column("role", String, primary_key=True),
    Column("scope", String, primary_key=True),
    Column("granted_ms", BigInteger, nullable=False),
)
Index("ix_role_grants_scope", role_grants.c.scope, role_grants.c.role)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    Column("secret_sha256", String, nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False, index=True),
    Column("label", String, nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger, nullable=False),
    Column("revoked_ms", BigInteger),
)

organisations = Table(
    "organisations",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False),
    Column("kind", String, nullable=False),
)

projects = Table(
    "projects",
    metadata,
    Column("id", String, primary_key=True),
    Column("organisation", ForeignKey("organisations.id"), nullable=False),
    Column("title", String, nullable=False),
)

allocations = Table(
    "allocations",
    metadata,
    Column("id", String, primary_key=True),
    Column("project", ForeignKey("projects.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),
    Column("starts_ms", BigInteger, nullable=False),
    Column("ends_ms", BigInteger, nullable=False),
    Column("credit_ucredit", BigInteger),
    Column("gpus", Int64),
    Column("gpu_model", String),
    Column("pool", String),
    Column("subsidy_milli", Int64, nullable=False),
)

# ---- where ---------------------------------------------------------------------------------------

scenarios = Table(
    "scenarios",
    metadata,
    Column("version", Int64, primary_key=True),
    Column("loaded_ms", BigInteger, nullable=False),
    Column("document", String, nullable=False),
)

sites = Table(
    "sites",
    metadata,
    Column("cluster", String, primary_key=True),
    Column("received_ms", BigInteger, nullable=False),
    Column("answered_ms", BigInteger, nullable=False),
    Column("report", String, nullable=False),
    comment="the latest sync of each cluster's agent: level-triggered, so the latest is enough",
)

site_keys = Table(
    "site_keys",
    metadata,
    Column("cluster", String, primary_key=True),
    Column("public_key", String, primary_key=True),
    Column("enrolled_ms", BigInteger, nullable=False),
    Column("retired_ms", BigInteger),
    comment="Ed25519 keys of clusters' agents, in base64; of each cluster one is not retired",
)
_ENROLLED: Final = _only(site_keys.c.retired_ms.is_(None))
Index("ux_site_keys_enrolled", site_keys.c.cluster, unique=True, **_ENROLLED)

# ---- what ----------------------------------------------------------------------------------------

jobs = Table(
    "jobs",
    metadata,
    Column("id", Int64, primary_key=True),
    Column("project", ForeignKey("projects.id"), nullable=False),
    Column("allocation", ForeignKey("allocations.id"), nullable=False),
    Column("submitter", ForeignKey("people.id"), nullable=False),
    Column("name", String, nullable=False),
    Column("spec", String, nullable=False),
    Column("state", String, nullable=False),
    Column("tasks", Int64, nullable=False),
    Column("accepted_ms", BigInteger, nullable=False),
    Column("ended_ms", BigInteger),
    CheckConstraint(_one_of("state", State), name="state"),
    sqlite_autoincrement=True,
)
Index("ix_jobs_project", jobs.c.project, jobs.c.id)
Index("ix_jobs_project_state", jobs.c.project, jobs.c.state, jobs.c.id)
Index("ix_jobs_state", jobs.c.state, jobs.c.id)

job_dependencies = Table(
    "job_dependencies",
    metadata,
    Column("job", ForeignKey("jobs.id"), primary_key=True),
    Column("kind", String, primary_key=True),
    Column("on_job", ForeignKey("jobs.id"), primary_key=True, index=True),
)

tasks = Table(
    "tasks",
    metadata,
    Column("id", Int64, primary_key=True),
    Column("job", ForeignKey("jobs.id"), nullable=False),
    Column("array_index", Int64, nullable=False),
    Column("priority", Int64, nullable=False),
    Column("state", String, nullable=False),
    Column("attempts", Int64, nullable=False, server_default="0"),
    Column("retries_left", Int64, nullable=False),
    Column("platform_retries_left", Int64, nullable=False),
    Column("not_before_ms", BigInteger, nullable=False, server_default="0"),
    Column("reason_code", String),
    Column("reason", String),
    Column("checkpoint", String),
    Column("exit_code", Int64),
    Column("ended_ms", BigInteger),
    Column("queued_ms", BigInteger, nullable=False, server_default="0"),
    Column("recalls", Int64, nullable=False, server_default="0"),
    UniqueConstraint("job", "array_index"),
    CheckConstraint(_one_of("state", State), name="state"),
    sqlite_autoincrement=True,
)
Index("ix_tasks_state", tasks.c.state, tasks.c.priority.desc(), tasks.c.id)

start_estimates = Table(
    "start_estimates",
    metadata,
    Column("task", ForeignKey("tasks.id"), primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("expected_ms", BigInteger, nullable=False),
    Column("likely_from_ms", BigInteger, nullable=False),
    Column("likely_until_ms", BigInteger, nullable=False),
    Column("surely_from_ms", BigInteger, nullable=False),
    Column("surely_until_ms", BigInteger, nullable=False),
    Column("first_at_ms", BigInteger, nullable=False),
    Column("first_foreseen_ms", BigInteger, nullable=False),
    comment="when queued tasks will start: as foreseen last, and first, to hold the truth against",
)

start_outcomes = Table(
    "start_outcomes",
    metadata,
    Column("seq", Int64, primary_key=True),
    Column("foreseen_wait_ms", BigInteger, nullable=False),
    Column("wait_ms", BigInteger, nullable=False),
    CheckConstraint("foreseen_wait_ms >= 0 AND wait_ms >= 0", name="waits"),
    sqlite_autoincrement=True,
    comment="how long tasks were foreseen to wait, and waited: the latest few hundred",
)

attempts = Table(
    "attempts",
    metadata,
    Column("id", String, primary_key=True),
    Column("task", ForeignKey("tasks.id"), nullable=False),
    Column("job", ForeignKey("jobs.id"), nullable=False, index=True),
    Column("number", Int64, nullable=False),
    Column("cluster", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("operator", String, nullable=False),
    Column("gpu_model", String, nullable=False),
    Column("nodes", JSON, nullable=False),
    Column("slots_per_node", Int64, nullable=False),
    Column("allocation", ForeignKey("allocations.id"), nullable=False),
    Column("hold", BigInteger, nullable=False),
    Column("hold_gpu_ms", BigInteger, nullable=False),
    Column("occupied_ms", BigInteger, nullable=False),
    Column("factors", JSON, nullable=False),
    Column("reason_code", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("wish", String, nullable=False),
    Column("intended_ms", BigInteger, nullable=False),
    Column("lease_until_ms", BigInteger, nullable=False),
    Column("engine_id", String),
    Column("started_ms", BigInteger),
    Column("missing_since_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("closed_ms", BigInteger),
    Column("cause", String),
    Column("exit_code", Int64),
    Column("detail", String),
    Column("gpu_ms", BigInteger),
    Column("charge", BigInteger),
    Column("dispute", String),
    Column("refund", String),
    Column("outputs", String),
    Column("checkpoint", String),
    Column("share", String),
    Column("guarantor", String),
    Column("lenders", JSON, nullable=False, server_default="[]"),
    Column("notice_ms", BigInteger),
    Column("saved_ms", BigInteger),
    Column("attestation", String),
    UniqueConstraint("task", "number"),
)
_OPEN: Final = _only(attempts.c.closed_ms.is_(None))
Index("ux_attempts_open", attempts.c.task, unique=True, **_OPEN)
Index("ix_attempts_cluster_open", attempts.c.cluster, **_OPEN)
Index("ix_attempts_job_open", attempts.c.job, **_OPEN)
Index("ix_attempts_closed", attempts.c.closed_ms, attempts.c.id)
Index("ix_attempts_allocation", attempts.c.allocation, attempts.c.closed_ms)
Index("ix_attempts_operator", attempts.c.operator, attempts.c.closed_ms)

submissions = Table(
    "submissions",
    metadata,
    Column("person", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("request_sha256", String, nullable=False),
    Column("jobs", JSON, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    comment="idempotency keys: the same submission twice is one",
)

secrets = Table(
    "secrets",
    metadata,
    Column("job", ForeignKey("jobs.id"), primary_key=True),
    Column("name", String, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    comment="encrypted, and deleted when the job ends",
)

# ---- files ---------------------------------------------------------------------------------------

manifests = Table(
    "manifests",
    metadata,
    Column("sha256", String, primary_key=True),
    Column("document", String, nullable=False),
)

project_blobs = Table(
    "project_blobs",
    metadata,
    Column("project", ForeignKey("projects.id"), primary_key=True),
    Column("sha256", String, primary_key=True),
    Column("size", BigInteger, nullable=False),
    comment="contents a project has itself brought: knowing a digest is not having the file",
)

# ---- what happened -------------------------------------------------------------------------------

events = Table(
    "events",
    metadata,
    Column("seq", Int64, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("project", String, nullable=False),
    Column("job", Int64, nullable=False),
    Column("task", Int64),
    Column("attempt", String),
    Column("state", String),
    Column("code", String, nullable=False),
    Column("sentence", String, nullable=False),
    sqlite_autoincrement=True,
)
Index("ix_events_job", events.c.job, events.c.seq)
Index("ix_events_project", events.c.project, events.c.seq)

acts = Table(
    "acts",
    metadata,
    Column("seq", Int64, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("person", ForeignKey("people.id"), nullable=False),
    Column("token", ForeignKey("tokens.id"), nullable=False),
    Column("act", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("sentence", String, nullable=False),
    CheckConstraint("seq >= 1", name="seq"),
    sqlite_autoincrement=True,
    comment="who changed people, projects, allocations, tokens, or others' jobs; numbered gapless",
)

ACT_GUARDS: Final = (
    # SQLite's INSERT OR REPLACE deletes without firing delete triggers
    Guard(
        "acts_no_replace",
        "acts",
        "BEFORE INSERT",
        {"acts: the record is only added to": "EXISTS (SELECT 1 FROM acts WHERE seq = NEW.seq)"},
    ),
    *only_added("acts", "acts: the record is only added to"),
)


def create_act_guards(connection: Connection) -> None:
    """Create the triggers; a table made by `metadata.create_all` has them already."""
    guards.create(connection, ACT_GUARDS)


@event.listens_for(acts, "after_create")
def _guard(_target: Table, connection: Connection, **_options: Any) -> None:
    create_act_guards(connection)
