"""What a modality worklist said of exams, and what images have of it."""

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE = "worklist_answer"
STATES = ("found", "none", "ambiguous")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("exam_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("accession_number", sa.String(), nullable=True),
        sa.Column("operator", sa.String(), nullable=True),
        sa.Column("patient_age_years", sa.Double(), nullable=True),
        sa.Column("asked_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "state IN (" + ", ".join(f"'{state}'" for state in STATES) + ")",
            name=op.f(f"ck_{TABLE}_state"),
        ),
        sa.ForeignKeyConstraint(["exam_id"], ["exam.id"], name=op.f(f"fk_{TABLE}_exam_id_exam")),
        sa.PrimaryKeyConstraint("exam_id", name=op.f(f"pk_{TABLE}")),
    )
    op.create_index(op.f(f"ix_{TABLE}_asked_at"), TABLE, ["asked_at"])
    op.add_column("acquisition", sa.Column("from_worklist", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("acquisition", "from_worklist")
    op.drop_table(TABLE)
