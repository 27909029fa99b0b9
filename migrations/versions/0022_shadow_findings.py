"""Audits that try another bundle in shadow, and what that bundle says of stored pictures."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("audit", sa.Column("model_id", sa.String(), nullable=True))
    op.add_column("audit", sa.Column("bundle_path", sa.String(), nullable=True))
    op.create_table(
        "shadow_finding",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("region", sa.Integer(), nullable=False),
        sa.Column("conditions", sa.String(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_shadow_finding_revision_id_revision")
        ),
        sa.PrimaryKeyConstraint(
            "model_id", "revision_id", "frame", "region", name=op.f("pk_shadow_finding")
        ),
    )


def downgrade() -> None:
    op.drop_table("shadow_finding")
    # An older version would run one that waits as an audit of another kind.
    op.execute("DELETE FROM audit WHERE model_id IS NOT NULL")
    op.drop_column("audit", "bundle_path")
    op.drop_column("audit", "model_id")
