"""HL7 messages that were acknowledged: none is done twice."""

from datetime import datetime, timedelta

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import HL7Message
from qc_daemon.records.upsert import insert_once, table_of

RETENTION = timedelta(days=30)
"""So long a message is known again; then its sender may use its control id for another one."""


def claim(
    session: Session, sender: str, control_id: str, event: str, sha256: str, now: datetime
) -> int | None:
    """The new row of a message; None if one of this sender and control id is there.

    The caller does what it says in the same transaction.
    """
    session.execute(delete(table_of(HL7Message)).where(HL7Message.received_at < now - RETENTION))
    values = {
        "sender": sender,
        "control_id": control_id,
        "event": event,
        "sha256": sha256,
        "changes": 0,
        "received_at": now,
    }
    return insert_once(session, HL7Message, values, ("sender", "control_id"))


def hash_of(session: Session, sender: str, control_id: str) -> str | None:
    """SHA-256 of the message that was acknowledged under this control id."""
    return session.scalar(
        select(HL7Message.sha256).where(
            HL7Message.sender == sender, HL7Message.control_id == control_id
        )
    )


def record_changes(session: Session, message_id: int, count: int) -> None:
    """Store how many changes of patients the message led to."""
    row = session.get_one(HL7Message, message_id)
    row.changes = count
