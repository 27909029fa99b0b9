"""What a person finds an exam by."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = ("patient_name", "patient_words", "accession_number", "study_date")


def upgrade() -> None:
    for name in COLUMNS:
        op.add_column("exam", sa.Column(name, sa.String(), nullable=True))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column("exam", name)
