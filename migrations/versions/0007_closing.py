"""Why an exam was closed."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("exam", sa.Column("closed_by", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("exam", "closed_by")
