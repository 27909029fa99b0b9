"""Quarantined objects that a person dismissed: who, when and why."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("revision", sa.Column("dismissed_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("revision", sa.Column("dismissed_by", sa.String(), nullable=True))
    op.add_column("revision", sa.Column("dismissal_reason", sa.String(), nullable=True))


def downgrade() -> None:
    # The older version lists every quarantined object.
    for name in ("dismissal_reason", "dismissed_by", "dismissed_at"):
        op.drop_column("revision", name)
