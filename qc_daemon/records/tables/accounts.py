"""Accounts, their log-ins, sessions, tokens and views, and the store's secret keys."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from qc_daemon.records.tables.columns import Base, Key, one_of


class AccessAction(StrEnum):
    """What somebody did with an account, or saw with it."""

    LOGIN = "login"
    LOGIN_REFUSED = "login-refused"
    LOGOUT = "logout"
    EXAM = "exam"
    PICTURE = "picture"
    EXPORT = "export"
    REVIEW = "review"
    ACCESS_LOG = "access-log"
    REPORT = "report"
    CHANGE = "change"


class AccountRow(Base):
    """Who may log in: `name` is typed there, `full_name` is the reader of reviews. `person_id` is
    the operator whose own images it sees; `role` is a name of the settings."""

    __tablename__ = "account"
    __table_args__ = (
        UniqueConstraint("name"),
        UniqueConstraint("full_name"),
        Index(None, "person_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str]
    full_name: Mapped[str]
    role: Mapped[str]
    person_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    language: Mapped[str | None]
    password_hash: Mapped[str]
    password_at: Mapped[datetime]
    created_at: Mapped[datetime]
    disabled_at: Mapped[datetime | None]


class LoginMethod(StrEnum):
    """Who vouched for a session's person: a password, an OpenID provider, a proxy's header."""

    PASSWORD = "password"
    OIDC = "oidc"
    HEADER = "header"


class LoginIdentityRow(Base):
    """Whom an OpenID provider calls `subject`: an account. Names and addresses there may change
    and pass to others; (`issuer`, `subject`) may not (OpenID Connect Core 1.0, 5.7)."""

    __tablename__ = "login_identity"
    __table_args__ = (
        UniqueConstraint("issuer", "subject"),
        UniqueConstraint("account_id", "issuer"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    issuer: Mapped[str]
    subject: Mapped[str]
    created_at: Mapped[datetime]


class WebSessionRow(Base):
    """A log-in of an account, by the SHA-256 of what its cookie holds; ended by a person or by an
    operator at `ended_at`, by itself at `expires_at` or after a time without a request."""

    __tablename__ = "web_session"
    __table_args__ = (
        UniqueConstraint("token_sha256"),
        Index(None, "account_id"),
        one_of("method", LoginMethod),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_sha256: Mapped[str]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    address: Mapped[str]
    agent: Mapped[str]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    method: Mapped[str]


class ApiTokenRow(Base):
    """A program's token, by its SHA-256: it may do what `verbs` and the account's role both say."""

    __tablename__ = "api_token"
    __table_args__ = (UniqueConstraint("token_sha256"), UniqueConstraint("account_id", "name"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_sha256: Mapped[str]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    name: Mapped[str]
    verbs: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime]
    used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class AccessRow(Base):
    """Who did or saw what by the pages and the API: only added to. `account_id` is NULL for a
    refused log-in by a name that there is not; `token_id` is set for a program's. `subject` is what
    was changed, or the id of the person whose report was read."""

    __tablename__ = "access_log"
    __table_args__ = (
        one_of("action", AccessAction),
        Index(None, "at"),
        Index(None, "account_id", "id"),
        Index(None, "exam_id", "id"),
        Index(None, "subject", "id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    at: Mapped[datetime]
    action: Mapped[str]
    account_id: Mapped[int | None] = mapped_column(ForeignKey("account.id"))
    token_id: Mapped[int | None] = mapped_column(ForeignKey("api_token.id"))
    exam_id: Mapped[int | None] = mapped_column(ForeignKey("exam.id"))
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("finding.id"))
    address: Mapped[str]
    subject: Mapped[str | None]


class SavedViewRow(Base):
    """Filters of the worklist that an account keeps under a name, as the query of their URL."""

    __tablename__ = "saved_view"
    __table_args__ = (UniqueConstraint("account_id", "name"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    name: Mapped[str]
    query: Mapped[str]
    created_at: Mapped[datetime]


class ApiAnswerRow(Base):
    """What a write with an Idempotency-Key was answered, given again for a while; `answer` is NULL
    while the first one is at work."""

    __tablename__ = "api_answer"
    __table_args__ = (UniqueConstraint("account_id", "key"), Index(None, "at"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    key: Mapped[str]
    request_sha256: Mapped[str]
    answer: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    at: Mapped[datetime]


class Secret(Base):
    """A random key of this store, by its purpose; made once, when it is first needed."""

    __tablename__ = "secret"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]
