"""Persons of OpenID providers, and how sessions began."""

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TABLE = "login_identity"
METHODS = ("password", "oidc", "header")
CHECK = "method IN (" + ", ".join(f"'{method}'" for method in METHODS) + ")"


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("issuer", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["account_id"], ["account.id"], name=op.f(f"fk_{TABLE}_account_id_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f(f"pk_{TABLE}")),
        sa.UniqueConstraint("issuer", "subject", name=op.f(f"uq_{TABLE}_issuer_subject")),
        sa.UniqueConstraint("account_id", "issuer", name=op.f(f"uq_{TABLE}_account_id_issuer")),
    )
    with op.batch_alter_table("web_session") as session:
        session.add_column(
            sa.Column("method", sa.String(), nullable=False, server_default="password")
        )
        session.create_check_constraint(op.f("ck_web_session_method"), CHECK)
    with op.batch_alter_table("web_session") as session:
        session.alter_column("method", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("web_session") as session:
        session.drop_constraint(op.f("ck_web_session_method"), type_="check")
        session.drop_column("method")
    op.drop_table(TABLE)
