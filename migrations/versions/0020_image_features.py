"""What a finding's picture was like: image statistics and its embedding, deleted with it."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
STATISTICS = (
    "mean",
    "deviation",
    "percentile_1",
    "median",
    "percentile_99",
    "black",
    "saturated",
    "sharpness",
    "noise",
    "entropy",
    "colour",
    "width",
    "height",
    "spacing",
)


def upgrade() -> None:
    op.create_table(
        "image_features",
        sa.Column("finding_id", KEY, autoincrement=False, nullable=False),
        *(sa.Column(name, sa.Double(), nullable=True) for name in STATISTICS),
        sa.Column("embedding", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(
            ["finding_id"],
            ["finding.id"],
            name=op.f("fk_image_features_finding_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("finding_id", name=op.f("pk_image_features")),
    )


def downgrade() -> None:
    op.drop_table("image_features")
