"""A claim that costs the same whatever waits: its index, and one for clocks that were set back."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CLAIM = ["state", "kind", "destination", "not_before", "id"]


def upgrade() -> None:
    op.drop_index("ix_job_state_kind_not_before", table_name="job")
    op.create_index("ix_job_state_kind_destination_not_before_id", "job", CLAIM)
    op.create_index("ix_job_state_updated_at", "job", ["state", "updated_at"])


def downgrade() -> None:
    op.drop_index("ix_job_state_updated_at", table_name="job")
    op.drop_index("ix_job_state_kind_destination_not_before_id", table_name="job")
    op.create_index("ix_job_state_kind_not_before", "job", ["state", "kind", "not_before"])
