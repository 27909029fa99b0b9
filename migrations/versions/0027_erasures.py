"""Erasures of patients; the reviews of an exam may go with it, and who looked at it is kept without
it: in no other way are they changed."""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IN_ERASURE = """
EXISTS (
    SELECT 1 FROM exam_in_erasure
    JOIN revision ON revision.exam_id = exam_in_erasure.exam_id
    JOIN finding ON finding.revision_id = revision.id
    WHERE finding.id = OLD.finding_id
)
"""
SQLITE_TRIGGER = """
CREATE TRIGGER review_no_delete BEFORE DELETE ON review {condition}
BEGIN SELECT RAISE(ABORT, 'reviews are only added to'); END
"""
# The function is that of 0014.
POSTGRESQL_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_review_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN {condition} RAISE EXCEPTION 'reviews are only added to'; END $$
"""
# Who looked at what stays, without the exam and the finding that are gone.
SAME = " AND ".join(
    f"NEW.{column} IS {{same}} OLD.{column}"
    for column in ("id", "at", "action", "account_id", "token_id", "address", "subject")
)
ONLY_FORGETS = f"""
NEW.exam_id IS NULL AND NEW.finding_id IS NULL AND {SAME} AND (
    EXISTS (SELECT 1 FROM exam_in_erasure WHERE exam_id = OLD.exam_id) OR {IN_ERASURE}
)
"""
SQLITE_ACCESS_TRIGGER = """
CREATE TRIGGER access_log_no_update BEFORE UPDATE ON access_log {condition}
BEGIN SELECT RAISE(ABORT, 'access_log is only added to'); END
"""
POSTGRESQL_ACCESS_FUNCTION = f"""
CREATE OR REPLACE FUNCTION refuse_access_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF {ONLY_FORGETS.format(same="NOT DISTINCT FROM")} THEN RETURN NEW; END IF;
    END IF;
    RAISE EXCEPTION 'access_log is only added to';
END $$
"""
# A restore moves the old tables into a schema of their own, and their trigger keeps the function.
POSTGRESQL_ACCESS_DROP = """
DO $$ BEGIN
    DROP FUNCTION refuse_access_change();
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
END $$
"""
POSTGRESQL_ACCESS_TRIGGER = """
DROP TRIGGER access_log_no_change ON access_log;
CREATE TRIGGER access_log_no_change BEFORE UPDATE OR DELETE ON access_log
FOR EACH ROW EXECUTE FUNCTION {function}()
"""


def upgrade() -> None:
    op.create_table(
        "erasure",
        sa.Column("id", KEY, nullable=False),
        sa.Column("patient_key", sa.String(), nullable=False),
        sa.Column("erased_by", sa.String(), nullable=False),
        sa.Column("erased_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("certificate", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_erasure")),
    )
    op.create_index(op.f("ix_erasure_patient_key"), "erasure", ["patient_key"])
    op.create_table(
        "exam_in_erasure",
        sa.Column("exam_id", KEY, autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("exam_id", name=op.f("pk_exam_in_erasure")),
    )
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER review_no_delete")
        op.execute(SQLITE_TRIGGER.format(condition=f"WHEN NOT {IN_ERASURE}"))
        condition = f"WHEN NOT ({ONLY_FORGETS.format(same='')})"
        op.execute("DROP TRIGGER access_log_no_update")
        op.execute(SQLITE_ACCESS_TRIGGER.format(condition=condition))
    else:
        op.execute(
            POSTGRESQL_FUNCTION.format(
                condition="IF TG_OP = 'DELETE' THEN"
                f" IF {IN_ERASURE} THEN RETURN OLD; END IF; END IF;"
            )
        )
        op.execute(POSTGRESQL_ACCESS_FUNCTION)
        op.execute(POSTGRESQL_ACCESS_TRIGGER.format(function="refuse_access_change"))


def downgrade() -> None:
    if op.get_context().dialect.name == "sqlite":
        op.execute("DROP TRIGGER review_no_delete")
        op.execute(SQLITE_TRIGGER.format(condition=""))
        op.execute("DROP TRIGGER access_log_no_update")
        op.execute(SQLITE_ACCESS_TRIGGER.format(condition=""))
    else:
        op.execute(POSTGRESQL_FUNCTION.format(condition=""))
        op.execute(POSTGRESQL_ACCESS_TRIGGER.format(function="refuse_history_change"))
        op.execute(POSTGRESQL_ACCESS_DROP)
    op.drop_table("exam_in_erasure")
    op.drop_table("erasure")
