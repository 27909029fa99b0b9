"""A claim that costs the same whatever waits: the indexes that it reads."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CLAIM = ["state", "kind", "destination", "not_before", "id"]
LEASED = sa.text("lease_until IS NOT NULL")


def upgrade() -> None:
    op.drop_index("ix_job_state_kind_not_before", table_name="job")
    op.create_index("ix_job_state_kind_destination_not_before_id", "job", CLAIM)
    op.create_index(
        "ix_job_lease_until", "job", ["lease_until"], sqlite_where=LEASED, postgresql_where=LEASED
    )
    op.create_index("ix_job_state_updated_at", "job", ["state", "updated_at"])


def downgrade() -> None:
    op.drop_index("ix_job_state_updated_at", table_name="job")
    op.drop_index("ix_job_lease_until", table_name="job")
    op.drop_index("ix_job_state_kind_destination_not_before_id", table_name="job")
    op.create_index("ix_job_state_kind_not_before", "job", ["state", "kind", "not_before"])
