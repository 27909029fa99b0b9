"""Alembic's scripts: one file per step of the schema, run by `qc_daemon.records.schema`."""
