"""Alembic's entry: runs the migrations on the connection that `migrate` hands over."""

from __future__ import annotations

from alembic import context

from dure.store import leadership, ledger_schema, lending_schema, schema
from dure.store.metadata import metadata

for table in (
    schema.jobs,
    ledger_schema.journals,
    lending_schema.lending,
    leadership.leadership,
):
    assert table.metadata is metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
