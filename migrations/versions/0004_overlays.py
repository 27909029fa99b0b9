"""Overlays whose bytes retention has taken: every destination holds them."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("report_object") as table:
        table.alter_column("payload", existing_type=sa.LargeBinary(), nullable=True)


def downgrade() -> None:
    op.execute("UPDATE report_object SET payload = '' WHERE payload IS NULL")
    with op.batch_alter_table("report_object") as table:
        table.alter_column("payload", existing_type=sa.LargeBinary(), nullable=False)
