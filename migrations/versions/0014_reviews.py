"""Reviews of findings by persons, which are only added to, and this store's secrets.

A later migration that rewrites the table on SQLite (`batch_alter_table`) loses its triggers and
has to make them again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
KINDS = ("accept", "override", "remark", "dispute", "resolve", "unblind")
SQLITE_TRIGGER = """
CREATE TRIGGER review_no_{verb} BEFORE {verb} ON review
BEGIN SELECT RAISE(ABORT, 'reviews are only added to'); END
"""
# A restore moves the old tables into a schema of their own, and their trigger keeps the function.
POSTGRESQL_FUNCTION = """
CREATE OR REPLACE FUNCTION refuse_review_change() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'reviews are only added to'; END $$
"""
POSTGRESQL_TRIGGER = """
CREATE TRIGGER review_no_change BEFORE UPDATE OR DELETE ON review
FOR EACH ROW EXECUTE FUNCTION refuse_review_change()
"""

POSTGRESQL_DROP = """
DO $$ BEGIN
    DROP FUNCTION refuse_review_change();
EXCEPTION WHEN dependent_objects_still_exist THEN NULL;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "review",
        sa.Column("id", KEY, nullable=False),
        sa.Column("finding_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("reader", sa.String(), nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("view", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=True),
        sa.Column("criteria", sa.JSON(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("remark", sa.String(), nullable=True),
        sa.Column("reader_number", sa.Integer(), nullable=True),
        sa.Column("is_blinded", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("drawn_by", sa.String(), nullable=True),
        sa.Column("drawn_probability", sa.Double(), nullable=True),
        sa.Column("second_by", sa.String(), nullable=True),
        sa.Column("second_probability", sa.Double(), nullable=True),
        sa.CheckConstraint(
            f"kind IN ({', '.join(repr(kind) for kind in KINDS)})", name=op.f("ck_review_kind")
        ),
        sa.ForeignKeyConstraint(["finding_id"], ["finding.id"], name=op.f("fk_review_finding_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_review")),
        sa.UniqueConstraint("finding_id", "number", name=op.f("uq_review_finding_id_number")),
    )
    op.create_index(op.f("ix_review_at"), "review", ["at"])
    op.create_table(
        "secret",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secret")),
    )
    if op.get_context().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(SQLITE_TRIGGER.format(verb=verb))
    else:
        op.execute(POSTGRESQL_FUNCTION)
        op.execute(POSTGRESQL_TRIGGER)


def downgrade() -> None:
    op.drop_table("secret")
    op.drop_table("review")
    if op.get_context().dialect.name != "sqlite":
        op.execute(POSTGRESQL_DROP)
