"""The first schema: tables as in schema.py and ledger_schema.py, and their guards."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from dure.store.ledger_schema import create_ledger_guards
from dure.store.metadata import Int64
from dure.store.schema import create_act_guards

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Forward. There is no way back: a ledger is never unmade."""
    op.create_table(
        "accounts",
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("balance", Int64, nullable=False),
        sa.Column("last_seq", Int64, nullable=False),
        sa.Column("last_line", Int64, nullable=False),
        sa.CheckConstraint(
            "account NOT LIKE 'allocation/%' OR balance >= 0", name=op.f("ck_accounts_overdraft")
        ),
        sa.CheckConstraint(
            "typeof(balance) = 'integer' AND typeof(last_seq) = 'integer' AND typeof(last_line) = 'integer'",
            name=op.f("ck_accounts_integers"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name=op.f("ck_accounts_unit")),
        sa.PrimaryKeyConstraint("account", "unit", name=op.f("pk_accounts")),
        comment="credits minus debits, kept by entries_post; last_* is the entry that moved it last",
    )
    op.create_table(
        "events",
        sa.Column("seq", Int64, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("job", Int64, nullable=False),
        sa.Column("task", Int64, nullable=True),
        sa.Column("attempt", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=True),
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_events_job", "events", ["job", "seq"], unique=False)
    op.create_index("ix_events_project", "events", ["project", "seq"], unique=False)
    op.create_table(
        "journals",
        sa.Column("seq", Int64, autoincrement=False, nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at_ms", Int64, nullable=False),
        sa.Column("allocation_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=True),
        sa.Column("reverses_seq", Int64, nullable=True),
        sa.Column("memo", sa.Text(), nullable=False),
        sa.Column("prev_hash", sa.Text(), nullable=False),
        sa.Column("hash", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(kind = 'reverse') = (reverses_seq IS NOT NULL)", name=op.f("ck_journals_reverses")
        ),
        sa.CheckConstraint(
            "kind IN ('grant', 'hold', 'settle', 'void', 'reverse')", name=op.f("ck_journals_kind")
        ),
        sa.CheckConstraint(
            "kind NOT IN ('hold', 'settle', 'void') OR attempt_id IS NOT NULL",
            name=op.f("ck_journals_attempt"),
        ),
        sa.CheckConstraint(
            "typeof(seq) = 'integer' AND typeof(at_ms) = 'integer'",
            name=op.f("ck_journals_integers"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint(
            "length(hash) = 64 AND length(prev_hash) = 64", name=op.f("ck_journals_hash")
        ),
        sa.ForeignKeyConstraint(
            ["reverses_seq"], ["journals.seq"], name=op.f("fk_journals_reverses_seq")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_journals")),
        sa.UniqueConstraint("hash", name=op.f("uq_journals_hash")),
        sa.UniqueConstraint("id", name=op.f("uq_journals_id")),
        sa.UniqueConstraint("reverses_seq", name=op.f("uq_journals_reverses_seq")),
    )
    op.create_index(
        "ix_journals_allocation_id_seq", "journals", ["allocation_id", "seq"], unique=False
    )
    op.create_index(
        "ux_journals_close",
        "journals",
        ["attempt_id"],
        unique=True,
        sqlite_where=sa.text("kind IN ('settle', 'void')"),
        postgresql_where=sa.text("kind IN ('settle', 'void')"),
    )
    op.create_index(
        "ux_journals_hold",
        "journals",
        ["attempt_id"],
        unique=True,
        sqlite_where=sa.text("kind = 'hold'"),
        postgresql_where=sa.text("kind = 'hold'"),
    )
    op.create_table(
        "manifests",
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("sha256", name=op.f("pk_manifests")),
    )
    op.create_table(
        "organisations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_organisations")),
    )
    op.create_table(
        "people",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_people")),
        sa.UniqueConstraint("email", name=op.f("uq_people_email")),
    )
    op.create_table(
        "scenarios",
        sa.Column("version", Int64, nullable=False),
        sa.Column("loaded_ms", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_scenarios")),
    )
    op.create_table(
        "sites",
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("received_ms", sa.BigInteger(), nullable=False),
        sa.Column("answered_ms", sa.BigInteger(), nullable=False),
        sa.Column("report", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("cluster", name=op.f("pk_sites")),
        comment="the latest sync of each cluster's agent: level-triggered, so the latest is enough",
    )
    op.create_table(
        "submissions",
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("jobs", sa.JSON(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("person", "key", name=op.f("pk_submissions")),
        comment="idempotency keys: the same submission twice is one",
    )
    op.create_table(
        "entries",
        sa.Column("journal_seq", Int64, nullable=False),
        sa.Column("line", Int64, nullable=False),
        sa.Column("account", sa.Text(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=False),
        sa.Column("debit", Int64, nullable=False),
        sa.Column("credit", Int64, nullable=False),
        sa.CheckConstraint(
            "typeof(journal_seq) = 'integer' AND typeof(line) = 'integer' AND typeof(debit) = 'integer' AND typeof(credit) = 'integer'",
            name=op.f("ck_entries_integers"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint("unit IN ('ucredit', 'gpu_ms')", name=op.f("ck_entries_unit")),
        sa.CheckConstraint(
            "debit >= 0 AND credit >= 0 AND (debit = 0) <> (credit = 0)",
            name=op.f("ck_entries_sides"),
        ),
        sa.CheckConstraint("line >= 1", name=op.f("ck_entries_line")),
        sa.ForeignKeyConstraint(
            ["journal_seq"],
            ["journals.seq"],
            name=op.f("fk_entries_journal_seq"),
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("journal_seq", "line", name=op.f("pk_entries")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("organisation", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["organisation"], ["organisations.id"], name=op.f("fk_projects_organisation")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
    )
    op.create_table(
        "role_grants",
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("granted_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name=op.f("fk_role_grants_person")),
        sa.PrimaryKeyConstraint("person", "role", "scope", name=op.f("pk_role_grants")),
    )
    op.create_index("ix_role_grants_scope", "role_grants", ["scope", "role"], unique=False)
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("label", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger(), nullable=False),
        sa.Column("revoked_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name=op.f("fk_tokens_person")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tokens")),
    )
    op.create_index(op.f("ix_tokens_person"), "tokens", ["person"], unique=False)
    op.create_table(
        "acts",
        sa.Column("seq", Int64, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("person", sa.String(), nullable=False),
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("act", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("sentence", sa.String(), nullable=False),
        sa.CheckConstraint("seq >= 1", name=op.f("ck_acts_seq")),
        sa.ForeignKeyConstraint(["person"], ["people.id"], name=op.f("fk_acts_person")),
        sa.ForeignKeyConstraint(["token"], ["tokens.id"], name=op.f("fk_acts_token")),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_acts")),
        comment="who changed people, projects, allocations, tokens, or others' jobs; numbered gapless",
        sqlite_autoincrement=True,
    )
    op.create_table(
        "allocations",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("credit_ucredit", sa.BigInteger(), nullable=True),
        sa.Column("gpus", Int64, nullable=True),
        sa.Column("gpu_model", sa.String(), nullable=True),
        sa.Column("pool", sa.String(), nullable=True),
        sa.Column("subsidy_milli", Int64, nullable=False),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_allocations_project")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_allocations")),
    )
    op.create_index(op.f("ix_allocations_project"), "allocations", ["project"], unique=False)
    op.create_table(
        "project_blobs",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project"], ["projects.id"], name=op.f("fk_project_blobs_project")
        ),
        sa.PrimaryKeyConstraint("project", "sha256", name=op.f("pk_project_blobs")),
        comment="contents a project has itself brought: knowing a digest is not having the file",
    )
    op.create_table(
        "jobs",
        sa.Column("id", Int64, nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("submitter", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("tasks", Int64, nullable=False),
        sa.Column("accepted_ms", sa.BigInteger(), nullable=False),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'intended', 'starting', 'running', 'unknown', 'cancelling', 'recalling', 'succeeded', 'failed', 'timed-out', 'cancelled')",
            name=op.f("ck_jobs_state"),
        ),
        sa.ForeignKeyConstraint(
            ["allocation"], ["allocations.id"], name=op.f("fk_jobs_allocation")
        ),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_jobs_project")),
        sa.ForeignKeyConstraint(["submitter"], ["people.id"], name=op.f("fk_jobs_submitter")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_jobs_project", "jobs", ["project", "id"], unique=False)
    op.create_index("ix_jobs_project_state", "jobs", ["project", "state", "id"], unique=False)
    op.create_index("ix_jobs_state", "jobs", ["state", "id"], unique=False)
    op.create_table(
        "job_dependencies",
        sa.Column("job", Int64, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("on_job", Int64, nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_job_dependencies_job")),
        sa.ForeignKeyConstraint(["on_job"], ["jobs.id"], name=op.f("fk_job_dependencies_on_job")),
        sa.PrimaryKeyConstraint("job", "kind", "on_job", name=op.f("pk_job_dependencies")),
    )
    op.create_index(
        op.f("ix_job_dependencies_on_job"), "job_dependencies", ["on_job"], unique=False
    )
    op.create_table(
        "secrets",
        sa.Column("job", Int64, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_secrets_job")),
        sa.PrimaryKeyConstraint("job", "name", name=op.f("pk_secrets")),
        comment="encrypted, and deleted when the job ends",
    )
    op.create_table(
        "tasks",
        sa.Column("id", Int64, nullable=False),
        sa.Column("job", Int64, nullable=False),
        sa.Column("array_index", Int64, nullable=False),
        sa.Column("priority", Int64, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", Int64, server_default="0", nullable=False),
        sa.Column("retries_left", Int64, nullable=False),
        sa.Column("platform_retries_left", Int64, nullable=False),
        sa.Column("not_before_ms", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("reason_code", sa.String(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("checkpoint", sa.String(), nullable=True),
        sa.Column("exit_code", Int64, nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'queued', 'intended', 'starting', 'running', 'unknown', 'cancelling', 'recalling', 'succeeded', 'failed', 'timed-out', 'cancelled')",
            name=op.f("ck_tasks_state"),
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_tasks_job")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tasks")),
        sa.UniqueConstraint("job", "array_index", name=op.f("uq_tasks_job_array_index")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_tasks_state", "tasks", ["state", sa.literal_column("priority DESC"), "id"], unique=False
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task", Int64, nullable=False),
        sa.Column("job", Int64, nullable=False),
        sa.Column("number", Int64, nullable=False),
        sa.Column("cluster", sa.String(), nullable=False),
        sa.Column("pool", sa.String(), nullable=False),
        sa.Column("operator", sa.String(), nullable=False),
        sa.Column("gpu_model", sa.String(), nullable=False),
        sa.Column("nodes", sa.JSON(), nullable=False),
        sa.Column("slots_per_node", Int64, nullable=False),
        sa.Column("allocation", sa.String(), nullable=False),
        sa.Column("hold", sa.BigInteger(), nullable=False),
        sa.Column("hold_gpu_ms", sa.BigInteger(), nullable=False),
        sa.Column("occupied_ms", sa.BigInteger(), nullable=False),
        sa.Column("factors", sa.JSON(), nullable=False),
        sa.Column("reason_code", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("wish", sa.String(), nullable=False),
        sa.Column("intended_ms", sa.BigInteger(), nullable=False),
        sa.Column("lease_until_ms", sa.BigInteger(), nullable=False),
        sa.Column("engine_id", sa.String(), nullable=True),
        sa.Column("started_ms", sa.BigInteger(), nullable=True),
        sa.Column("missing_since_ms", sa.BigInteger(), nullable=True),
        sa.Column("ended_ms", sa.BigInteger(), nullable=True),
        sa.Column("closed_ms", sa.BigInteger(), nullable=True),
        sa.Column("cause", sa.String(), nullable=True),
        sa.Column("exit_code", Int64, nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.Column("gpu_ms", sa.BigInteger(), nullable=True),
        sa.Column("charge", sa.BigInteger(), nullable=True),
        sa.Column("dispute", sa.String(), nullable=True),
        sa.Column("refund", sa.String(), nullable=True),
        sa.Column("outputs", sa.String(), nullable=True),
        sa.Column("checkpoint", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["allocation"], ["allocations.id"], name=op.f("fk_attempts_allocation")
        ),
        sa.ForeignKeyConstraint(["job"], ["jobs.id"], name=op.f("fk_attempts_job")),
        sa.ForeignKeyConstraint(["task"], ["tasks.id"], name=op.f("fk_attempts_task")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("task", "number", name=op.f("uq_attempts_task_number")),
    )
    op.create_index("ix_attempts_allocation", "attempts", ["allocation", "closed_ms"], unique=False)
    op.create_index("ix_attempts_closed", "attempts", ["closed_ms", "id"], unique=False)
    op.create_index(
        "ix_attempts_cluster_open",
        "attempts",
        ["cluster"],
        unique=False,
        sqlite_where=sa.text("closed_ms IS NULL"),
        postgresql_where=sa.text("closed_ms IS NULL"),
    )
    op.create_index(op.f("ix_attempts_job"), "attempts", ["job"], unique=False)
    op.create_index("ix_attempts_operator", "attempts", ["operator", "closed_ms"], unique=False)
    op.create_index(
        "ux_attempts_open",
        "attempts",
        ["task"],
        unique=True,
        sqlite_where=sa.text("closed_ms IS NULL"),
        postgresql_where=sa.text("closed_ms IS NULL"),
    )
    create_ledger_guards(op.get_bind())
    create_act_guards(op.get_bind())
