"""What receiving needs: peers and refused callers, storage commitment, procedure steps, the
machines' measurements, and what retention did to a file."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("revision", sa.Column("dropped_at", MOMENT, nullable=True))
    op.add_column("revision", sa.Column("unavailable_at", MOMENT, nullable=True))
    op.create_index("ix_revision_path", "revision", ["path"])
    op.create_table(
        "peer",
        sa.Column("id", KEY, nullable=False),
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=True),
        sa.Column("approved_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_peer")),
        sa.UniqueConstraint("ae_title", "address", name=op.f("uq_peer_ae_title_address")),
    )
    op.create_table(
        "caller",
        sa.Column("id", KEY, nullable=False),
        sa.Column("ae_title", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("certificate", sa.String(), nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("first_seen_at", MOMENT, nullable=False),
        sa.Column("last_seen_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_caller")),
        sa.UniqueConstraint("ae_title", "address", name=op.f("uq_caller_ae_title_address")),
    )
    op.create_table(
        "commitment",
        sa.Column("id", KEY, nullable=False),
        sa.Column("transaction_uid", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("association", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("requested_at", MOMENT, nullable=False),
        sa.Column("reported_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "state IN ('waiting', 'ready', 'reported', 'dead')", name=op.f("ck_commitment_state")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commitment")),
        sa.UniqueConstraint(
            "transaction_uid",
            "requested_by",
            name=op.f("uq_commitment_transaction_uid_requested_by"),
        ),
    )
    op.create_index(op.f("ix_commitment_state_not_before"), "commitment", ["state", "not_before"])
    op.create_table(
        "commitment_item",
        sa.Column("commitment_id", KEY, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sop_class_uid", sa.String(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("failure", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(
            ["commitment_id"], ["commitment.id"], name=op.f("fk_commitment_item_commitment_id")
        ),
        sa.PrimaryKeyConstraint("commitment_id", "position", name=op.f("pk_commitment_item")),
    )
    op.create_index(
        op.f("ix_commitment_item_sop_instance_uid"), "commitment_item", ["sop_instance_uid"]
    )
    op.create_table(
        "performed_step",
        sa.Column("id", KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("instances", sa.JSON(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "status IN ('IN PROGRESS', 'COMPLETED', 'DISCONTINUED')",
            name=op.f("ck_performed_step_status"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_performed_step")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_performed_step_sop_instance_uid")),
    )
    op.create_index(
        op.f("ix_performed_step_study_instance_uid"), "performed_step", ["study_instance_uid"]
    )
    op.create_table(
        "measurement",
        sa.Column("id", KEY, nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("exam_id", KEY, nullable=False),
        sa.Column("fetus", sa.String(), nullable=True),
        sa.Column("concept", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["exam_id"], ["exam.id"], name=op.f("fk_measurement_exam_id")),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_measurement_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurement")),
    )
    op.create_index(op.f("ix_measurement_exam_id"), "measurement", ["exam_id"])
    op.create_index(op.f("ix_measurement_revision_id"), "measurement", ["revision_id"])


def downgrade() -> None:
    for table in (
        "measurement",
        "performed_step",
        "commitment_item",
        "commitment",
        "caller",
        "peer",
    ):
        op.drop_table(table)
    op.drop_index("ix_revision_path", table_name="revision")
    op.drop_column("revision", "unavailable_at")
    op.drop_column("revision", "dropped_at")
