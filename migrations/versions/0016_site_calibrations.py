"""Site calibrations: proposed, activated, retired, waived; rows are only added."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "site_calibration",
        sa.Column("id", KEY, nullable=False),
        sa.Column("site", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("calibration", sa.String(), nullable=True),
        sa.Column("record", sa.JSON(), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=True),
        sa.Column("decided_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "action IN ('proposed', 'activated', 'retired', 'waived')",
            name=op.f("ck_site_calibration_action"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_site_calibration")),
    )
    op.create_index(
        op.f("ix_site_calibration_site_model_id"), "site_calibration", ["site", "model_id"]
    )


def downgrade() -> None:
    op.drop_table("site_calibration")
