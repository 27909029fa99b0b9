"""What findings' pictures were like: a row a finding, which is deleted with it."""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from model.image_features import STATISTICS, ImageFeatures, ImageStatistics
from qc_daemon.records.tables import Finding, ImageFeaturesRow

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
    ids, known = sorted(finding_ids), dict[int, ImageFeatures]()
    for start in range(0, len(ids), _PAGE):
        rows = session.scalars(
            select(ImageFeaturesRow).where(
                ImageFeaturesRow.finding_id.in_(ids[start : start + _PAGE])
            )
        )
        known.update((row.finding_id, features_of(row)) for row in rows)
    return known


def embeddings(session: Session, model_id: str) -> list[tuple[int, bytes]]:
    """The findings of these models that have an embedding, with it, by id."""
    rows = session.execute(
        select(ImageFeaturesRow.finding_id, ImageFeaturesRow.embedding)
        .join(Finding, Finding.id == ImageFeaturesRow.finding_id)
        .where(Finding.model_id == model_id, ImageFeaturesRow.embedding.is_not(None))
        .order_by(ImageFeaturesRow.finding_id)
    )
    return [(row.finding_id, row.embedding) for row in rows if row.embedding is not None]
