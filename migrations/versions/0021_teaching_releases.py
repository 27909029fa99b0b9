"""What persons decided of images prepared for teaching: who released which findings, and when."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
TABLE = "teaching_release"
SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END
"""
# The function is that of 0018.
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION refuse_history_change()
"""


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("id", KEY, nullable=False),
        sa.Column("preparation", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("finding_ids", sa.JSON(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "action IN ('released', 'rejected')", name=op.f("ck_teaching_release_action")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teaching_release")),
        sa.UniqueConstraint(
            "preparation", "number", name=op.f("uq_teaching_release_preparation_number")
        ),
    )
    op.create_index(op.f("ix_teaching_release_decided_at"), TABLE, ["decided_at"])
    if op.get_context().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(SQLITE_TRIGGER.format(table=TABLE, verb=verb))
    else:
        op.execute(POSTGRESQL_TRIGGER.format(table=TABLE))


def downgrade() -> None:
    # Its triggers go with it.
    op.drop_table(TABLE)
