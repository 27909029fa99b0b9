"""Storage commitment asked of destinations: jobs that are sent and not committed to yet."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
STATES = ("ready", "leased", "sent", "done", "dead", "quarantined")


def upgrade() -> None:
    _allow(STATES)
    op.create_table(
        "pledge",
        sa.Column("id", KEY, nullable=False),
        sa.Column("transaction_uid", sa.String(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("asked_at", MOMENT, nullable=False),
        sa.Column("taken_at", MOMENT, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_pledge")),
        sa.UniqueConstraint("transaction_uid", name=op.f("uq_pledge_transaction_uid")),
    )
    op.create_index(op.f("ix_pledge_destination_taken_at"), "pledge", ["destination", "taken_at"])
    op.create_table(
        "pledge_item",
        sa.Column("pledge_id", KEY, nullable=False),
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("failure", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_pledge_item_job_id")),
        sa.ForeignKeyConstraint(
            ["pledge_id"], ["pledge.id"], name=op.f("fk_pledge_item_pledge_id")
        ),
        sa.PrimaryKeyConstraint("pledge_id", "job_id", name=op.f("pk_pledge_item")),
    )
    op.create_index(op.f("ix_pledge_item_job_id"), "pledge_item", ["job_id"])


def downgrade() -> None:
    op.drop_table("pledge_item")
    op.drop_table("pledge")
    # An earlier version knows nothing of commitment; to it what is sent is to be sent again.
    op.execute("UPDATE job SET state = 'ready' WHERE state = 'sent'")
    _allow([state for state in STATES if state != "sent"])


def _allow(states: list[str] | tuple[str, ...]) -> None:
    """Let `job.state` be one of these; SQLite changes no constraint, so the table is copied."""
    listed = ", ".join(f"'{state}'" for state in states)
    with op.batch_alter_table("job") as job:
        job.drop_constraint(op.f("ck_job_state"), type_="check")
        job.create_check_constraint(op.f("ck_job_state"), f"state IN ({listed})")
