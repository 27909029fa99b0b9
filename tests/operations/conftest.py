"""The records' fixtures, for operations that are tested on a store without a command line."""

from tests.records.conftest import lab, migrated_postgres, migrated_sqlite, store

__all__ = ["lab", "migrated_postgres", "migrated_sqlite", "store"]
