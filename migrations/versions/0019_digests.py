"""Digests of audits: one for each recipient and audit, with how far sending it is."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "digest",
        sa.Column("id", KEY, nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("audit", sa.String(), nullable=False),
        sa.Column("local_date", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", MOMENT, nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("sent_at", MOMENT, nullable=True),
        sa.CheckConstraint("channel IN ('mail', 'webhook')", name=op.f("ck_digest_channel")),
        sa.CheckConstraint("state IN ('ready', 'sent', 'dead')", name=op.f("ck_digest_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_digest")),
        sa.UniqueConstraint(
            "channel",
            "recipient",
            "subject_id",
            "audit",
            "local_date",
            name=op.f("uq_digest_channel_recipient_subject_id_audit_local_date"),
        ),
    )
    op.create_index(op.f("ix_digest_state_next_at"), "digest", ["state", "next_at"])


def downgrade() -> None:
    op.drop_table("digest")
