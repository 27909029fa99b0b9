"""Rejections that a person took back, and images rejected again."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    with op.batch_alter_table("rejection") as rejection:
        rejection.add_column(sa.Column("number", sa.Integer(), nullable=False, server_default="1"))
        rejection.add_column(sa.Column("retraction_object_id", KEY, nullable=True))
        rejection.add_column(sa.Column("retraction_reason", sa.String(), nullable=True))
        rejection.add_column(sa.Column("retracted_by", sa.String(), nullable=True))
        rejection.add_column(sa.Column("retracted_at", MOMENT, nullable=True))
        rejection.drop_constraint(op.f("uq_rejection_instance_id"), type_="unique")
        rejection.create_unique_constraint(
            op.f("uq_rejection_instance_id_number"), ["instance_id", "number"]
        )
        rejection.create_foreign_key(
            op.f("fk_rejection_retraction_object_id"),
            "report_object",
            ["retraction_object_id"],
            ["id"],
        )


def downgrade() -> None:
    # The older version knows one rejection an image, and none that was taken back.
    op.execute("DELETE FROM rejection WHERE number > 1 OR retracted_at IS NOT NULL")
    with op.batch_alter_table("rejection") as rejection:
        rejection.drop_constraint(op.f("fk_rejection_retraction_object_id"), type_="foreignkey")
        rejection.drop_constraint(op.f("uq_rejection_instance_id_number"), type_="unique")
        rejection.create_unique_constraint(op.f("uq_rejection_instance_id"), ["instance_id"])
        for name in (
            "retracted_at",
            "retracted_by",
            "retraction_reason",
            "retraction_object_id",
            "number",
        ):
            rejection.drop_column(name)
