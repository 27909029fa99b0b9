"""Accounts with their sessions and tokens, and who looked at what."""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
LOG = "access_log"
ACTIONS = (
    "login",
    "login-refused",
    "logout",
    "exam",
    "picture",
    "export",
    "review",
    "access-log",
)
SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END
"""
# The function is that of 0018.
POSTGRESQL_TRIGGER = """
CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION refuse_history_change()
"""


def _reference(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{other}.id"], name=op.f(f"fk_{table}_{column}_{other}")
    )


def upgrade() -> None:
    op.create_table(
        "account",
        sa.Column("id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("full_name", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("person_id", sa.String(), nullable=True),
        sa.Column("language", sa.String(), nullable=True),
        sa.Column("password_hash", sa.String(), nullable=False),
        sa.Column("password_at", MOMENT, nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("disabled_at", MOMENT, nullable=True),
        _reference("account", "person_id", "person"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_account")),
        sa.UniqueConstraint("name", name=op.f("uq_account_name")),
        sa.UniqueConstraint("full_name", name=op.f("uq_account_full_name")),
    )
    op.create_index(op.f("ix_account_person_id"), "account", ["person_id"])
    op.create_table(
        "web_session",
        sa.Column("id", KEY, nullable=False),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=False),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("ended_at", MOMENT, nullable=True),
        _reference("web_session", "account_id", "account"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_web_session")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_web_session_token_sha256")),
    )
    op.create_index(op.f("ix_web_session_account_id"), "web_session", ["account_id"])
    op.create_table(
        "api_token",
        sa.Column("id", KEY, nullable=False),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("verbs", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("used_at", MOMENT, nullable=True),
        sa.Column("expires_at", MOMENT, nullable=False),
        sa.Column("revoked_at", MOMENT, nullable=True),
        _reference("api_token", "account_id", "account"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_token")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_api_token_token_sha256")),
        sa.UniqueConstraint("account_id", "name", name=op.f("uq_api_token_account_id_name")),
    )
    op.create_table(
        LOG,
        sa.Column("id", KEY, nullable=False),
        sa.Column("at", MOMENT, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("account_id", KEY, nullable=True),
        sa.Column("token_id", KEY, nullable=True),
        sa.Column("exam_id", KEY, nullable=True),
        sa.Column("finding_id", KEY, nullable=True),
        sa.Column("address", sa.String(), nullable=False),
        sa.CheckConstraint(
            "action IN (" + ", ".join(f"'{action}'" for action in ACTIONS) + ")",
            name=op.f("ck_access_log_action"),
        ),
        _reference(LOG, "account_id", "account"),
        _reference(LOG, "token_id", "api_token"),
        _reference(LOG, "exam_id", "exam"),
        _reference(LOG, "finding_id", "finding"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_log")),
    )
    op.create_index(op.f("ix_access_log_at"), LOG, ["at"])
    op.create_index(op.f("ix_access_log_account_id_id"), LOG, ["account_id", "id"])
    op.create_index(op.f("ix_access_log_exam_id_id"), LOG, ["exam_id", "id"])
    if op.get_context().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(SQLITE_TRIGGER.format(table=LOG, verb=verb))
    else:
        op.execute(POSTGRESQL_TRIGGER.format(table=LOG))


def downgrade() -> None:
    # Its triggers go with it.
    for table in (LOG, "api_token", "web_session", "account"):
        op.drop_table(table)
