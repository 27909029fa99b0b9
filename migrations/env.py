"""Runs the migrations on the connection that `qc_daemon.records.schema` opened and commits."""

from alembic import context

from qc_daemon.records.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    # SQLite cannot alter most of a table; Alembic then copies it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
