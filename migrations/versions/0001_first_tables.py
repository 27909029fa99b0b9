"""The first tables: exams, instances and their revisions, findings, objects and the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "active_bundle",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("activated_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("model_id", name=op.f("pk_active_bundle")),
    )
    op.create_table(
        "exam",
        sa.Column("id", KEY, nullable=False),
        sa.Column("study_instance_uid", sa.String(), nullable=False),
        sa.Column("patient_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("bundle_id", sa.String(), nullable=True),
        sa.Column("opened_at", MOMENT, nullable=False),
        sa.Column("last_object_at", MOMENT, nullable=False),
        sa.Column("closed_at", MOMENT, nullable=True),
        sa.Column("report_revision", sa.Integer(), nullable=False),
        sa.Column("reported_content", sa.String(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('report', 'unchanged', 'nothing-to-tell')", name=op.f("ck_exam_outcome")
        ),
        sa.CheckConstraint("state IN ('open', 'closed')", name=op.f("ck_exam_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_exam")),
        sa.UniqueConstraint(
            "study_instance_uid", "patient_id", name=op.f("uq_exam_study_instance_uid_patient_id")
        ),
    )
    op.create_index(op.f("ix_exam_state"), "exam", ["state"], unique=False)
    op.create_table(
        "instance",
        sa.Column("id", KEY, nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_instance")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_instance_sop_instance_uid")),
    )
    op.create_table(
        "association_lease",
        sa.Column("token", sa.String(), nullable=False),
        sa.Column("exam_id", KEY, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["exam_id"], ["exam.id"], name=op.f("fk_association_lease_exam_id")
        ),
        sa.PrimaryKeyConstraint("token", "exam_id", name=op.f("pk_association_lease")),
    )
    op.create_index(
        op.f("ix_association_lease_exam_id"), "association_lease", ["exam_id"], unique=False
    )
    op.create_table(
        "revision",
        sa.Column("id", KEY, nullable=False),
        sa.Column("instance_id", KEY, nullable=False),
        sa.Column("exam_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=True),
        sa.Column("source_revision_id", KEY, nullable=True),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("pixel_sha256", sa.String(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("sop_class_uid", sa.String(), nullable=False),
        sa.Column("series_instance_uid", sa.String(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(), nullable=False),
        sa.Column("calling_ae", sa.String(), nullable=False),
        sa.Column("received_at", MOMENT, nullable=False),
        sa.Column("reason_code", sa.String(), nullable=True),
        sa.Column("reason_message", sa.String(), nullable=True),
        sa.Column("reason_at", MOMENT, nullable=True),
        sa.CheckConstraint(
            "content IN ('score', 'header', 'other')", name=op.f("ck_revision_content")
        ),
        sa.CheckConstraint(
            "state IN ('received', 'scored', 'header', 'quarantined')",
            name=op.f("ck_revision_state"),
        ),
        sa.ForeignKeyConstraint(["exam_id"], ["exam.id"], name=op.f("fk_revision_exam_id")),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.id"], name=op.f("fk_revision_instance_id")
        ),
        sa.ForeignKeyConstraint(
            ["source_revision_id"], ["revision.id"], name=op.f("fk_revision_source_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_revision")),
        sa.UniqueConstraint("instance_id", "number", name=op.f("uq_revision_instance_id_number")),
        sa.UniqueConstraint("instance_id", "sha256", name=op.f("uq_revision_instance_id_sha256")),
    )
    op.create_index(op.f("ix_revision_exam_id"), "revision", ["exam_id"], unique=False)
    op.create_index(op.f("ix_revision_received_at"), "revision", ["received_at"], unique=False)
    op.create_index(op.f("ix_revision_state"), "revision", ["state"], unique=False)
    op.create_table(
        "finding",
        sa.Column("id", KEY, nullable=False),
        sa.Column("revision_id", KEY, nullable=False),
        sa.Column("frame", sa.Integer(), nullable=False),
        sa.Column("region", sa.Integer(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("view", sa.String(), nullable=False),
        sa.Column("view_probability", sa.Double(), nullable=False),
        sa.Column("quality", sa.String(), nullable=False),
        sa.Column("probability", sa.Double(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_finding_revision_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_finding")),
        sa.UniqueConstraint(
            "revision_id",
            "frame",
            "region",
            "model_id",
            name=op.f("uq_finding_revision_id_frame_region_model_id"),
        ),
    )
    op.create_table(
        "report_object",
        sa.Column("id", KEY, nullable=False),
        sa.Column("exam_id", KEY, nullable=False),
        sa.Column("report_revision", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("sop_instance_uid", sa.String(), nullable=False),
        sa.Column("sop_class_uid", sa.String(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(), nullable=False),
        sa.Column("finding_id", KEY, nullable=True),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "kind IN ('sr', 'overlay', 'key-objects', 'pdf')", name=op.f("ck_report_object_kind")
        ),
        sa.ForeignKeyConstraint(["exam_id"], ["exam.id"], name=op.f("fk_report_object_exam_id")),
        sa.ForeignKeyConstraint(
            ["finding_id"], ["finding.id"], name=op.f("fk_report_object_finding_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_report_object")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_report_object_sop_instance_uid")),
    )
    op.create_index(op.f("ix_report_object_exam_id"), "report_object", ["exam_id"], unique=False)
    op.create_table(
        "job",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(), nullable=False),
        sa.Column("exam_id", KEY, nullable=False),
        sa.Column("revision_id", KEY, nullable=True),
        sa.Column("object_id", KEY, nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("alarms", sa.Integer(), nullable=False),
        sa.Column("not_before", MOMENT, nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("lease_token", sa.String(), nullable=True),
        sa.Column("lease_until", MOMENT, nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("updated_at", MOMENT, nullable=False),
        sa.CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)"
            " AND (lease_token IS NULL) = (owner IS NULL)",
            name=op.f("ck_job_lease"),
        ),
        sa.CheckConstraint("kind IN ('score', 'report', 'deliver')", name=op.f("ck_job_kind")),
        sa.CheckConstraint(
            "state IN ('ready', 'leased', 'done', 'dead', 'quarantined')", name=op.f("ck_job_state")
        ),
        sa.ForeignKeyConstraint(["exam_id"], ["exam.id"], name=op.f("fk_job_exam_id")),
        sa.ForeignKeyConstraint(["object_id"], ["report_object.id"], name=op.f("fk_job_object_id")),
        sa.ForeignKeyConstraint(["revision_id"], ["revision.id"], name=op.f("fk_job_revision_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_job")),
        sa.UniqueConstraint(
            "kind",
            "subject",
            "revision",
            "destination",
            name=op.f("uq_job_kind_subject_revision_destination"),
        ),
    )
    op.create_index(
        op.f("ix_job_exam_id_kind_state"), "job", ["exam_id", "kind", "state"], unique=False
    )
    op.create_index(op.f("ix_job_revision_id"), "job", ["revision_id"], unique=False)
    op.create_index(
        op.f("ix_job_state_kind_not_before"), "job", ["state", "kind", "not_before"], unique=False
    )


def downgrade() -> None:
    op.drop_index(op.f("ix_job_state_kind_not_before"), table_name="job")
    op.drop_index(op.f("ix_job_revision_id"), table_name="job")
    op.drop_index(op.f("ix_job_exam_id_kind_state"), table_name="job")
    op.drop_table("job")
    op.drop_index(op.f("ix_report_object_exam_id"), table_name="report_object")
    op.drop_table("report_object")
    op.drop_table("finding")
    op.drop_index(op.f("ix_revision_state"), table_name="revision")
    op.drop_index(op.f("ix_revision_received_at"), table_name="revision")
    op.drop_index(op.f("ix_revision_exam_id"), table_name="revision")
    op.drop_table("revision")
    op.drop_index(op.f("ix_association_lease_exam_id"), table_name="association_lease")
    op.drop_table("association_lease")
    op.drop_table("instance")
    op.drop_index(op.f("ix_exam_state"), table_name="exam")
    op.drop_table("exam")
    op.drop_table("active_bundle")
