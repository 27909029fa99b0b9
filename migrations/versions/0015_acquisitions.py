"""Who made an image, where, when and with what; persons and devices.

The facts of what is already stored are read from the spool after the start: a scored revision
without a row in `acquisition` is still to be read.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    _create_identities("person", ("code", "scheme", "received_name"))
    _create_identities(
        "device", ("serial_number", "manufacturer", "model", "station_name", "calling_ae")
    )
    op.create_table(
        "acquisition",
        sa.Column("revision_id", KEY, autoincrement=False, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("device_id", sa.String(), nullable=True),
        sa.Column("device_source", sa.String(), nullable=True),
        sa.Column("software_versions", sa.String(), nullable=True),
        sa.Column("transducer", sa.String(), nullable=True),
        sa.Column("transducer_type", sa.String(), nullable=True),
        sa.Column("institution", sa.String(), nullable=True),
        sa.Column("department", sa.String(), nullable=True),
        sa.Column("site", sa.String(), nullable=True),
        sa.Column("performing_physician", sa.String(), nullable=True),
        sa.Column("acquired", sa.String(), nullable=True),
        sa.Column("acquired_zone", sa.String(), nullable=True),
        sa.Column("acquired_source", sa.String(), nullable=True),
        sa.Column("patient_age_years", sa.Double(), nullable=True),
        sa.Column("patient_size_m", sa.Double(), nullable=True),
        sa.Column("patient_weight_kg", sa.Double(), nullable=True),
        sa.Column("gestational_age_days", sa.Integer(), nullable=True),
        sa.Column("gestational_age_source", sa.String(), nullable=True),
        sa.Column("study_description", sa.String(), nullable=True),
        sa.Column("burned_in_annotation", sa.Boolean(), nullable=True),
        sa.Column("read_at", MOMENT, nullable=False),
        sa.CheckConstraint("state IN ('read', 'unknown')", name=op.f("ck_acquisition_state")),
        sa.ForeignKeyConstraint(
            ["revision_id"], ["revision.id"], name=op.f("fk_acquisition_revision_id")
        ),
        sa.ForeignKeyConstraint(
            ["device_id"], ["device.id"], name=op.f("fk_acquisition_device_id")
        ),
        sa.PrimaryKeyConstraint("revision_id", name=op.f("pk_acquisition")),
    )
    op.create_index(op.f("ix_acquisition_device_id"), "acquisition", ["device_id"])
    op.create_index(op.f("ix_acquisition_site"), "acquisition", ["site"])
    op.create_table(
        "acquisition_operator",
        sa.Column("revision_id", KEY, autoincrement=False, nullable=False),
        sa.Column("person_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["revision_id"],
            ["acquisition.revision_id"],
            name=op.f("fk_acquisition_operator_revision_id"),
        ),
        sa.ForeignKeyConstraint(
            ["person_id"], ["person.id"], name=op.f("fk_acquisition_operator_person_id")
        ),
        sa.PrimaryKeyConstraint("revision_id", "person_id", name=op.f("pk_acquisition_operator")),
    )
    op.create_index(
        op.f("ix_acquisition_operator_person_id"), "acquisition_operator", ["person_id"]
    )
    op.create_table(
        "identity_change",
        sa.Column("id", KEY, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject_id", sa.String(), nullable=False),
        sa.Column("other_id", sa.String(), nullable=True),
        sa.Column("before", sa.String(), nullable=True),
        sa.Column("after", sa.String(), nullable=True),
        sa.Column("changed_by", sa.String(), nullable=False),
        sa.Column("changed_at", MOMENT, nullable=False),
        sa.CheckConstraint("kind IN ('person', 'device')", name=op.f("ck_identity_change_kind")),
        sa.CheckConstraint(
            "action IN ('merge', 'split', 'rename')", name=op.f("ck_identity_change_action")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_identity_change")),
    )
    op.create_index(op.f("ix_identity_change_subject_id"), "identity_change", ["subject_id"])


def _create_identities(table: str, columns: tuple[str, ...]) -> None:
    op.create_table(
        table,
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("identity", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("merged_into", sa.String(), nullable=True),
        *(sa.Column(column, sa.String(), nullable=True) for column in columns),
        sa.ForeignKeyConstraint(
            ["merged_into"], [f"{table}.id"], name=op.f(f"fk_{table}_merged_into")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{table}")),
        sa.UniqueConstraint("identity", name=op.f(f"uq_{table}_identity")),
    )
    op.create_index(op.f(f"ix_{table}_merged_into"), table, ["merged_into"])


def downgrade() -> None:
    # The older version knows none of it; what headers say is read again after the next upgrade,
    # but which persons and devices are one is lost.
    for table in ("identity_change", "acquisition_operator", "acquisition", "device", "person"):
        op.drop_table(table)
