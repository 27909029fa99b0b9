"""What writes with an Idempotency-Key were answered, by account and key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from qc_daemon.records.tables import ApiAnswerRow
from qc_daemon.records.upsert import execute_update, insert_once


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """What was asked first under a key, and its answer; None while that is at work."""

    request_sha256: str
    answer: dict[str, Any] | None


def begin(
    session: Session, account_id: int, key: str, request_sha256: str, now: datetime
) -> int | None:
    """Take the key for a request; returns the row's id, or None if it is taken already."""
    values = {"account_id": account_id, "key": key, "request_sha256": request_sha256, "at": now}
    return insert_once(session, ApiAnswerRow, values, ("account_id", "key"))


def find(session: Session, account_id: int, key: str) -> StoredAnswer | None:
    """What is stored under the key."""
    row = session.execute(
        select(ApiAnswerRow.request_sha256, ApiAnswerRow.answer).where(
            ApiAnswerRow.account_id == account_id, ApiAnswerRow.key == key
        )
    ).one_or_none()
    return None if row is None else StoredAnswer(row.request_sha256, row.answer)


def finish(session: Session, id: int, answer: dict[str, Any]) -> None:
    """Store the answer."""
    statement = update(ApiAnswerRow).where(ApiAnswerRow.id == id).values(answer=answer)
    execute_update(session, statement)


def give_up(session: Session, id: int) -> None:
    """Free the key: the request failed, and may be sent again."""
    session.execute(delete(ApiAnswerRow).where(ApiAnswerRow.id == id))


def prune(session: Session, finished: datetime, unfinished: datetime) -> None:
    """Forget answers from before `finished`, and those still without one from before
    `unfinished`, whose process has ended."""
    session.execute(
        delete(ApiAnswerRow).where(
            (ApiAnswerRow.at < finished)
            | (ApiAnswerRow.answer.is_(None) & (ApiAnswerRow.at < unfinished))
        )
    )
