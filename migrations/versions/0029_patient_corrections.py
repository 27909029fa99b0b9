"""Patients who were merged, numbered anew or named otherwise; an exam's identity as received."""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
IDENTITY = "patient_identity"
CHANGE = "patient_change"
ACTIONS = ("merged", "split", "corrected", "as-received")


def upgrade() -> None:
    op.create_table(
        IDENTITY,
        sa.Column("patient_id", sa.String(), nullable=False),
        sa.Column("current_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("birth_date", sa.String(), nullable=True),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("patient_id", name=op.f(f"pk_{IDENTITY}")),
    )
    op.create_index(op.f(f"ix_{IDENTITY}_current_id"), IDENTITY, ["current_id"])
    op.create_table(
        CHANGE,
        sa.Column("id", KEY, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("patient_id", sa.String(), nullable=False),
        sa.Column("into_id", sa.String(), nullable=True),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("birth_date", sa.String(), nullable=True),
        sa.Column("issuer", sa.String(), nullable=True),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "action IN (" + ", ".join(f"'{action}'" for action in ACTIONS) + ")",
            name=op.f(f"ck_{CHANGE}_action"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{CHANGE}")),
    )
    # The unique constraint goes with its column. On SQLite the table cannot be written anew: others
    # refer to it.
    op.execute("ALTER TABLE exam RENAME COLUMN patient_id TO received_patient_id")
    op.add_column("exam", sa.Column("patient_id", sa.String(), nullable=False, server_default=""))
    op.add_column("exam", sa.Column("received_patient_name", sa.String(), nullable=True))
    op.execute("UPDATE exam SET patient_id = received_patient_id")
    if op.get_context().dialect.name != "sqlite":
        op.alter_column("exam", "patient_id", server_default=None)
    op.create_index(op.f("ix_exam_patient_id"), "exam", ["patient_id"])


def downgrade() -> None:
    # Nothing before knows of corrections: exams are again whose their headers say. An empty name
    # was not known; then a listing reads it from the header.
    op.execute(
        "UPDATE exam SET patient_name = NULLIF(received_patient_name, ''), patient_words = NULL"
        " WHERE received_patient_name IS NOT NULL"
    )
    op.drop_index(op.f("ix_exam_patient_id"), "exam")
    op.drop_column("exam", "received_patient_name")
    op.drop_column("exam", "patient_id")
    op.execute("ALTER TABLE exam RENAME COLUMN received_patient_id TO patient_id")
    op.drop_table(CHANGE)
    op.drop_table(IDENTITY)
