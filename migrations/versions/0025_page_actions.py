"""What accounts change and whose numbers they look at in the access log; saved views of the pages;
answers of the API that are given again."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MOMENT = sa.DateTime(timezone=True)
LOG = "access_log"
CHECK = "ck_access_log_action"
OLD_ACTIONS = (
    "login",
    "login-refused",
    "logout",
    "exam",
    "picture",
    "export",
    "review",
    "access-log",
)
ACTIONS = (*OLD_ACTIONS, "report", "change")
COLUMNS = ("id", "at", "action", "account_id", "token_id", "exam_id", "finding_id", "address")
INDEXES = (("at",), ("account_id", "id"), ("exam_id", "id"))
# As in 0024; the function of PostgreSQL's stays, and its table is not rewritten.
SQLITE_TRIGGER = """
CREATE TRIGGER {table}_no_{verb} BEFORE {verb} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is only added to'); END
"""


def _reference(table: str, column: str, other: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        [column], [f"{other}.id"], name=op.f(f"fk_{table}_{column}_{other}")
    )


def _is_sqlite() -> bool:
    return op.get_context().dialect.name == "sqlite"


def _one_of(actions: tuple[str, ...]) -> str:
    return "action IN (" + ", ".join(f"'{action}'" for action in actions) + ")"


def _index_name(columns: tuple[str, ...]) -> str:
    return op.f(f"ix_{LOG}_{'_'.join(columns)}")


def _rewrite(actions: tuple[str, ...], *, has_subject: bool) -> None:
    """SQLite changes no constraint of a table: a new one takes the rows. Its triggers, which refuse
    changes, go with the old one and are made again."""
    for columns in INDEXES:
        op.drop_index(_index_name(columns), LOG)
    for verb in ("update", "delete"):
        op.execute(f"DROP TRIGGER {LOG}_no_{verb}")
    op.rename_table(LOG, f"{LOG}_old")
    subject = [sa.Column("subject", sa.String(), nullable=True)] if has_subject else []
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
        *subject,
        sa.CheckConstraint(_one_of(actions), name=op.f(CHECK)),
        _reference(LOG, "account_id", "account"),
        _reference(LOG, "token_id", "api_token"),
        _reference(LOG, "exam_id", "exam"),
        _reference(LOG, "finding_id", "finding"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_access_log")),
    )
    columns = ", ".join(COLUMNS)
    op.execute(
        f"INSERT INTO {LOG} ({columns}) SELECT {columns} FROM {LOG}_old WHERE {_one_of(actions)}"
    )
    op.drop_table(f"{LOG}_old")
    for names in INDEXES:
        op.create_index(_index_name(names), LOG, list(names))
    for verb in ("update", "delete"):
        op.execute(SQLITE_TRIGGER.format(table=LOG, verb=verb))


def upgrade() -> None:
    if _is_sqlite():
        _rewrite(ACTIONS, has_subject=True)
    else:
        op.add_column(LOG, sa.Column("subject", sa.String(), nullable=True))
        op.drop_constraint(op.f(CHECK), LOG, type_="check")
        op.create_check_constraint(op.f(CHECK), LOG, _one_of(ACTIONS))
    op.create_index(op.f("ix_access_log_subject_id"), LOG, ["subject", "id"])
    op.create_table(
        "saved_view",
        sa.Column("id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("query", sa.String(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        _reference("saved_view", "account_id", "account"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_saved_view")),
        sa.UniqueConstraint("account_id", "name", name=op.f("uq_saved_view_account_id_name")),
    )
    op.create_table(
        "api_answer",
        sa.Column("id", KEY, nullable=False),
        sa.Column("account_id", KEY, nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("at", MOMENT, nullable=False),
        _reference("api_answer", "account_id", "account"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_answer")),
        sa.UniqueConstraint("account_id", "key", name=op.f("uq_api_answer_account_id_key")),
    )
    op.create_index(op.f("ix_api_answer_at"), "api_answer", ["at"])


def downgrade() -> None:
    op.drop_table("api_answer")
    op.drop_table("saved_view")
    op.drop_index(op.f("ix_access_log_subject_id"), LOG)
    # The older version does not know what accounts changed or whose reports they read.
    if _is_sqlite():
        _rewrite(OLD_ACTIONS, has_subject=False)
        return
    op.drop_constraint(op.f(CHECK), LOG, type_="check")
    op.execute(f"ALTER TABLE {LOG} DISABLE TRIGGER {LOG}_no_change")
    op.execute(f"DELETE FROM {LOG} WHERE NOT ({_one_of(OLD_ACTIONS)})")
    op.execute(f"ALTER TABLE {LOG} ENABLE TRIGGER {LOG}_no_change")
    op.create_check_constraint(op.f(CHECK), LOG, _one_of(OLD_ACTIONS))
    op.drop_column(LOG, "subject")
