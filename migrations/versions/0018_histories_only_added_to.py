"""What people decided of sites, persons and devices is only added to: the database refuses more.

A later migration that rewrites one of the tables on SQLite (`batch_alter_table`) loses its triggers
and has to make them again.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TABLES = ("identity_change", "site_calibration")
SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END
"""
# A restore moves the old tables into a schema of their own, and their triggers keep the function.
POSTGRESQL_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_history_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION '% is only added to', TG_TABLE_NAME; END $$
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION refuse_history_change()
"""
POSTGRESQL_DROP = """
DO $$ BEGIN
    DROP FUNCTION refuse_history_change();
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
END $$
"""


def upgrade() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    if not is_sqlite:
        op.execute(POSTGRESQL_FUNCTION)
    for table in TABLES:
        if is_sqlite:
            for verb in ("update", "delete"):
                op.execute(SQLITE_TRIGGER.format(table=table, verb=verb))
        else:
            op.execute(POSTGRESQL_TRIGGER.format(table=table))


def downgrade() -> None:
    is_sqlite = op.get_context().dialect.name == "sqlite"
    for table in TABLES:
        if is_sqlite:
            for verb in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_no_{verb}")
        else:
            op.execute(f"DROP TRIGGER {table}_no_change ON {table}")
    if not is_sqlite:
        op.execute(POSTGRESQL_DROP)
