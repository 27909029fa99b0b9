"""What another bundle says of stored pictures, apart from the findings: for audits alone."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from qc_daemon.records.tables import ShadowFinding
from qc_daemon.records.upsert import table_of

_PAGE = 500

ShadowKey = tuple[int, int, int]
"""Revision id, frame and region."""


def store(
    session: Session,
    revision_id: int,
    conditions: str,
    findings: Sequence[dict[str, Any]],
    now: datetime,
) -> None:
    """Store the findings (JSON objects of `Finding.to_json`) of one bundle and revision, in place
    of those that the bundle has of the same frames."""
    if not findings:
        return
    model_id = findings[0]["bundle"]["model_id"]
    frames = {finding["frame"] for finding in findings}
    session.execute(
        delete(table_of(ShadowFinding)).where(
            ShadowFinding.model_id == model_id,
            ShadowFinding.revision_id == revision_id,
            ShadowFinding.frame.in_(frames),
        )
    )
    rows = [
        {
            "model_id": model_id,
            "revision_id": revision_id,
            "frame": finding["frame"],
            "region": finding["region"]["index"],
            "conditions": conditions,
            "body": finding,
            "created_at": now,
        }
        for finding in findings
    ]
    session.execute(insert(table_of(ShadowFinding)), rows)


def judged_frames(
    session: Session, model_id: str, revision_ids: Collection[int]
) -> dict[tuple[int, int], str]:
    """The conditions that the bundle has judged frames of these revisions under, by revision id and
    frame."""
    conditions: dict[tuple[int, int], str] = {}
    for page in _pages(revision_ids):
        rows = session.execute(
            select(ShadowFinding.revision_id, ShadowFinding.frame, ShadowFinding.conditions).where(
                ShadowFinding.model_id == model_id, ShadowFinding.revision_id.in_(page)
            )
        )
        conditions |= {(row.revision_id, row.frame): row.conditions for row in rows}
    return conditions


def _pages(ids: Collection[int]) -> Iterator[list[int]]:
    ordered = sorted(ids)
    return (ordered[start : start + _PAGE] for start in range(0, len(ordered), _PAGE))


def iter_bodies(
    session: Session, model_id: str, revision_ids: Collection[int]
) -> Iterator[tuple[ShadowKey, dict[str, Any]]]:
    """What the bundle says of these revisions, as it is read."""
    for page in _pages(revision_ids):
        rows = session.execute(
            select(
                ShadowFinding.revision_id,
                ShadowFinding.frame,
                ShadowFinding.region,
                ShadowFinding.body,
            ).where(
                ShadowFinding.model_id == model_id,
                ShadowFinding.revision_id.in_(page),
            )
        )
        for row in rows:
            yield (row.revision_id, row.frame, row.region), row.body
