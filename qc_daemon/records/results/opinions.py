"""Opinions on findings' views: rows beside the finding, which are deleted with it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from detector.anatomy import View
from model.parts.opinion import Opinion
from qc_daemon.records.tables import OpinionRow


def rows_of(finding_id: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of a finding's JSON object; none where no part was asked."""
    view = View(body["view"]["code"])
    opinions = (Opinion.from_json(each) for each in body.get("opinions", ()))
    return [
        {
            "finding_id": finding_id,
            "role": each.role,
            **asdict(each.part),
            "label": each.label,
            "probability": each.probability,
            "reason": each.reason,
            "agrees": each.agrees_with(view),
        }
        for each in opinions
    ]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many opinions of a part in a role agree with the finding's view, do not, and say nothing
    of views."""

    role: str
    name: str
    version: str
    model_id: str
    agreed: int
    disagreed: int
    silent: int


def agreements(session: Session, model_ids: frozenset[str]) -> list[Agreement]:
    """Of each of these parts, by role; nothing for one that was not asked yet."""
    rows = session.execute(
        select(
            OpinionRow.role,
            OpinionRow.name,
            OpinionRow.version,
            OpinionRow.model_id,
            OpinionRow.agrees,
            func.count().label("count"),
        )
        .where(OpinionRow.model_id.in_(model_ids))
        .group_by(
            OpinionRow.role,
            OpinionRow.name,
            OpinionRow.version,
            OpinionRow.model_id,
            OpinionRow.agrees,
        )
    )
    counts: dict[tuple[str, str, str, str], dict[bool | None, int]] = {}
    for role, name, version, model_id, agrees, count in rows:
        counts.setdefault((role, name, version, model_id), {})[agrees] = count
    return [
        Agreement(*key, of_key.get(True, 0), of_key.get(False, 0), of_key.get(None, 0))
        for key, of_key in sorted(counts.items())
    ]
