"""What findings' pictures were like: a row a finding, which is deleted with it."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.image_features import STATISTICS, ImageFeatures, ImageStatistics
from qc_daemon.records.tables import Finding, ImageFeaturesRow, Instance, Revision

STATISTICS_COLUMNS = tuple(getattr(ImageFeaturesRow, name) for name in STATISTICS)
"""The columns of the statistics, in the order of `STATISTICS`."""
_PAGE = 5000


def values_of(finding_id: int, features: ImageFeatures) -> dict[str, Any]:
    """The row of a finding."""
    statistics = features.statistics
    return {
        "finding_id": finding_id,
        "embedding": features.embedding,
        **{name: None if statistics is None else getattr(statistics, name) for name in STATISTICS},
    }


def features_of(row: ImageFeaturesRow) -> ImageFeatures:
    """The features of a row."""
    # Every picture has a mean; only the spacing may be missing beside it.
    values = {name: getattr(row, name) for name in STATISTICS}
    statistics = None if row.mean is None else ImageStatistics(**values)
    return ImageFeatures(statistics, row.embedding)


def of_findings(session: Session, finding_ids: Collection[int]) -> Mapping[int, ImageFeatures]:
    """The features of these findings; nothing for one without."""
    ids, features = sorted(finding_ids), dict[int, ImageFeatures]()
    for start in range(0, len(ids), _PAGE):
        rows = session.scalars(
            select(ImageFeaturesRow).where(
                ImageFeaturesRow.finding_id.in_(ids[start : start + _PAGE])
            )
        )
        features.update((row.finding_id, features_of(row)) for row in rows)
    return features


def embeddings(session: Session, model_id: str) -> Iterator[tuple[int, bytes]]:
    """The findings of these models that have an embedding, with it, by id; as they are read."""
    rows = session.execute(
        select(ImageFeaturesRow.finding_id, ImageFeaturesRow.embedding)
        .join(Finding, Finding.id == ImageFeaturesRow.finding_id)
        .where(Finding.model_id == model_id, ImageFeaturesRow.embedding.is_not(None))
        .order_by(ImageFeaturesRow.finding_id)
        .execution_options(yield_per=_PAGE)
    )
    yield from ((row.finding_id, row.embedding) for row in rows if row.embedding is not None)


@dataclass(frozen=True, slots=True)
class EmbeddedFinding:
    """A finding's place in its object, and its embedding, None where none is stored."""

    finding_id: int
    model_id: str
    body: dict[str, Any]
    embedding: bytes | None


def of_object(session: Session, sop_instance_uid: str) -> list[EmbeddedFinding]:
    """The findings of the object's newest content that was scored, those of the models that scored
    it last; empty where there is none."""
    newest = session.execute(
        select(Finding.revision_id, Finding.model_id)
        .join(Revision, Revision.id == Finding.revision_id)
        .join(Instance, Instance.id == Revision.instance_id)
        .where(Instance.sop_instance_uid == sop_instance_uid)
        .order_by(Revision.number.desc(), Finding.id.desc())
        .limit(1)
    ).first()
    if newest is None:
        return []
    rows = session.execute(
        select(Finding.id, Finding.model_id, Finding.body, ImageFeaturesRow.embedding)
        .join(ImageFeaturesRow, ImageFeaturesRow.finding_id == Finding.id, isouter=True)
        .where(Finding.revision_id == newest.revision_id, Finding.model_id == newest.model_id)
        .order_by(Finding.frame, Finding.region)
    )
    return [EmbeddedFinding(*row) for row in rows]


def revisions_of(session: Session, finding_ids: Collection[int]) -> frozenset[int]:
    """The revisions that these findings, a page of them at most, are of."""
    return frozenset(
        session.scalars(select(Finding.revision_id).where(Finding.id.in_(finding_ids)))
    )
