"""The summary of an exam: for each expected view its status and its best picture."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from detector.anatomy import View
from detector.errors import ErrorCode, Flag
from model.finding import NON_STANDARD, REVIEW, STANDARD, BundleId, Finding, Judgement
from qc_daemon.report.person_verdict import review_rank
from qc_daemon.report.source import SourceInstance
from qc_daemon.review.events import Event
from qc_daemon.review.state import ReviewState

ImageKey = tuple[str, int, int]
"""SOP Instance UID, frame (from 1) and region of a drawn picture."""


class ViewStatus(StrEnum):
    """The status of a view in an exam: the best verdict of its pictures, or missing."""

    STANDARD = STANDARD
    REVIEW = REVIEW
    NON_STANDARD = NON_STANDARD
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Decision:
    """A person's verdict and what the models say, for a line of a page."""

    outcome: Event
    models: Judgement


@dataclass(frozen=True, slots=True)
class SummaryImage:
    """A finding with its source, as an image of the summary.

    `finding` has a person's verdict where there is one: then `review` says whose, and `models` is
    what the models say.
    """

    source: SourceInstance
    finding: Finding
    review: ReviewState | None = None
    models: Judgement | None = None

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, larger is better."""
        return review_rank(self.finding, self.review)

    @property
    def decision(self) -> Decision | None:
        """Who decided, beside the models' verdict; None where nobody did."""
        outcome = None if self.review is None else self.review.outcome
        if outcome is None or self.models is None:
            return None
        return Decision(outcome, self.models)

    @property
    def key(self) -> ImageKey:
        """The picture with this finding's boxes."""
        finding = self.finding
        return (self.source.sop_instance_uid, finding.frame, finding.judgement.region_index)


@dataclass(frozen=True, slots=True)
class ViewRow:
    """A view, its status, its best picture (None: missing) and the number of its pictures."""

    view: View
    status: ViewStatus
    best: SummaryImage | None
    count: int


@dataclass(frozen=True, slots=True)
class ExamSummary:
    """The views of an exam with their status and pictures.

    `first` gives patient and study. `rows` are in the order of the expected views, other views
    after them. `others` counts pictures of no assessed view, `rejected` those that a person
    rejected, which are in no row, `pictures` all. `omitted` counts the objects that could not be
    judged or reported, by error code. `is_study_shared`: another patient's images have the same
    Study Instance UID. `drawn_images` are those that could be drawn; None before they are.
    """

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
    drawn_images: frozenset[ImageKey] | None = None

    def shows(self, image: SummaryImage) -> bool:
        """Whether the summary shows this finding's picture with its boxes."""
        return any(row.best is not None and row.best.key == image.key for row in self.rows)


def summarise(
    all_images: Sequence[SummaryImage],
    expected: Iterable[View],
    *,
    revision: int,
    created: datetime,
    rejected: Collection[str] = (),
    omitted: Iterable[str] = (),
) -> ExamSummary:
    """The summary of an exam's findings, of which there is at least one.

    A frame with several regions, and a cine, is one picture of each view it shows. `rejected` are
    SOP Instance UIDs, `omitted` the error codes of omitted objects.
    """
    images = [image for image in all_images if image.source.sop_instance_uid not in rejected]
    views = list(dict.fromkeys(expected))
    views_present = dict.fromkeys(image.finding.judgement.view for image in images)
    views += [view for view in views_present if view not in views and view is not View.OTHER]
    assessed = {s.source.sop_instance_uid for s in images if _view(s) is not View.OTHER}
    accepted = {image.source.sop_instance_uid for image in images}
    pictures = {image.source.sop_instance_uid for image in all_images}
    return ExamSummary(
        first=all_images[0].source,
        rows=tuple(_row(view, [s for s in images if _view(s) is view]) for view in views),
        others=len(accepted - assessed),
        rejected=len(pictures - accepted),
        pictures=len(pictures),
        bundles=tuple(dict.fromkeys(image.finding.bundle for image in all_images)),
        revision=revision,
        created=created,
        # What holds no picture, as a machine's report without measurements, is not missed.
        is_study_shared=any(_is_shared(image) for image in all_images),
        omitted=tuple(Counter(c for c in omitted if c != ErrorCode.NOT_AN_IMAGE).items()),
    )


def _is_shared(image: SummaryImage) -> bool:
    return Flag.OTHER_PATIENT_IN_STUDY in image.finding.judgement.flags


def _view(image: SummaryImage) -> View:
    return image.finding.judgement.view


def _row(view: View, images: Sequence[SummaryImage]) -> ViewRow:
    if not images:
        return ViewRow(view, ViewStatus.MISSING, None, 0)
    status = min((ViewStatus(s.finding.judgement.quality) for s in images), key=_ORDER.index)
    of_status = [s for s in images if s.finding.judgement.quality == status.value]
    count = len({image.source.sop_instance_uid for image in images})
    return ViewRow(view, status, max(of_status, key=lambda s: s.rank), count)


_ORDER = list(ViewStatus)
