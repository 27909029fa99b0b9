"""Whom a refused caller called, and why it was refused."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("called_ae", "reason"):
        op.add_column("caller", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    for name in ("reason", "called_ae"):
        op.drop_column("caller", name)
