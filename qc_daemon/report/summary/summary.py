"""An exam at a glance: for each view the lab expects, how it stands and which picture shows it."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from detector.anatomy import View
from detector.errors import ErrorCode, Flag
from model.finding import NON_STANDARD, REVIEW, STANDARD, BundleId, Finding
from qc_daemon.report.source import SourceInstance

ImageKey = tuple[str, int, int]
"""SOP Instance UID, frame (from 1) and region of a drawn picture."""


class ViewStatus(StrEnum):
    """How an exam stands with a view: the best that any of its pictures is."""

    STANDARD = STANDARD
    REVIEW = REVIEW
    NON_STANDARD = NON_STANDARD
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class SummaryImage:
    """A finding with its source."""

    source: SourceInstance
    finding: Finding

    @property
    def key(self) -> ImageKey:
        """Which picture with which boxes."""
        finding = self.finding
        return (self.source.sop_instance_uid, finding.frame, finding.judgement.region_index)


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A view, how it stands, its best picture (None: missing) and how many pictures there are."""

    view: View
    status: ViewStatus
    best: SummaryImage | None
    count: int


@dataclass(frozen=True, slots=True)
class ExamSummary:
    """`rows` in the order of the views expected, others after them; `others` counts pictures of no
    assessed view, `rejected` those that a person rejected, which are in no row, `pictures` all;
    `first` is where patient and study are taken from. `omitted` counts the objects that could not
    be judged or told of, by error code; `drawn` are the pictures that could be drawn, None before
    that is known. `is_study_shared`: another patient's images stand under the same study."""

    first: SourceInstance
    rows: tuple[ViewRow, ...]
    others: int
    rejected: int
    pictures: int
    bundles: tuple[BundleId, ...]
    revision: int
    created: datetime
    omitted: tuple[tuple[str, int], ...] = ()
    is_study_shared: bool = False
    drawn: frozenset[ImageKey] | None = None

    def shows(self, image: SummaryImage) -> bool:
        """Whether the summary shows this finding's picture with its boxes."""
        return any(row.best is not None and row.best.key == image.key for row in self.rows)


def summarise(
    every: Sequence[SummaryImage],
    expected: Iterable[View],
    *,
    revision: int,
    created: datetime,
    rejected: Collection[str] = (),
    omitted: Iterable[str] = (),
) -> ExamSummary:
    """The summary of an exam's findings; at least one. A frame with several regions, and a cine,
    is one picture of each view it shows. `rejected` are SOP Instance UIDs, `omitted` the error
    codes of objects left out."""
    images = [image for image in every if image.source.sop_instance_uid not in rejected]
    views = list(dict.fromkeys(expected))
    seen = dict.fromkeys(image.finding.judgement.view for image in images)
    views += [view for view in seen if view not in views and view is not View.OTHER]
    assessed = {s.source.sop_instance_uid for s in images if _view(s) is not View.OTHER}
    kept = {image.source.sop_instance_uid for image in images}
    pictures = {image.source.sop_instance_uid for image in every}
    return ExamSummary(
        first=every[0].source,
        rows=tuple(_row(view, [s for s in images if _view(s) is view]) for view in views),
        others=len(kept - assessed),
        rejected=len(pictures - kept),
        pictures=len(pictures),
        bundles=tuple(dict.fromkeys(image.finding.bundle for image in every)),
        revision=revision,
        created=created,
        # What holds no picture, as a machine's report without measurements, is not missed.
        is_study_shared=any(_is_shared(image) for image in every),
        omitted=tuple(Counter(c for c in omitted if c != ErrorCode.NOT_AN_IMAGE).items()),
    )


def rank(finding: Finding) -> tuple[float, float]:
    """Of two findings of a view the better one: the more probably standard, then the surer view."""
    judgement = finding.judgement
    probability = -1.0 if judgement.probability is None else judgement.probability
    return (probability, judgement.view_probability)


def _is_shared(image: SummaryImage) -> bool:
    return Flag.OTHER_PATIENT_IN_STUDY in image.finding.judgement.flags


def _view(image: SummaryImage) -> View:
    return image.finding.judgement.view


def _row(view: View, images: Sequence[SummaryImage]) -> ViewRow:
    if not images:
        return ViewRow(view, ViewStatus.MISSING, None, 0)
    status = min((ViewStatus(s.finding.judgement.quality) for s in images), key=_ORDER.index)
    alike = [s for s in images if s.finding.judgement.quality == status.value]
    count = len({image.source.sop_instance_uid for image in images})
    return ViewRow(view, status, max(alike, key=lambda s: rank(s.finding)), count)


_ORDER = list(ViewStatus)
