"""What each destination was last like: failing since when and why, and whether it commits."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "destination_state",
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("failing_since", MOMENT, nullable=True),
        sa.Column("failed_at", MOMENT, nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("commitment", sa.String(), nullable=True),
        sa.Column("commitment_since", MOMENT, nullable=True),
        sa.Column("commitment_message", sa.String(), nullable=True),
        sa.CheckConstraint(
            "commitment IN ('offered', 'taken', 'refused', 'not-offered', 'lost')",
            name=op.f("ck_destination_state_commitment"),
        ),
        sa.PrimaryKeyConstraint("destination", name=op.f("pk_destination_state")),
    )


def downgrade() -> None:
    op.drop_table("destination_state")
