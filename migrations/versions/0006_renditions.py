"""Other forms of reports, and which SOP classes each destination does not take."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "rendition",
        sa.Column("id", KEY, nullable=False),
        sa.Column("object_id", KEY, nullable=False),
        sa.Column("sop_class_uid", sa.String(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["object_id"], ["report_object.id"], name=op.f("fk_rendition_object_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rendition")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_rendition_sop_instance_uid")),
    )
    op.create_index(op.f("ix_rendition_object_id"), "rendition", ["object_id"])
    op.create_table(
        "refused_class",
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("sop_class_uid", sa.String(), nullable=False),
        sa.Column("refused_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("destination", "sop_class_uid", name=op.f("pk_refused_class")),
    )
    op.create_table(
        "given_rendition",
        sa.Column("job_id", KEY, nullable=False),
        sa.Column("rendition_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["job.id"], name=op.f("fk_given_rendition_job_id")),
        sa.ForeignKeyConstraint(
            ["rendition_id"], ["rendition.id"], name=op.f("fk_given_rendition_rendition_id")
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_given_rendition")),
    )


def downgrade() -> None:
    op.drop_table("given_rendition")
    op.drop_table("refused_class")
    op.drop_table("rendition")
