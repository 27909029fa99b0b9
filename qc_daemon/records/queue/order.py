"""The order of jobs: what a ready job waits for.

Jobs of one kind, subject and destination go in order of revision; to one destination the objects
that we make of an exam do too, each kind by itself, and after the exam's images. What a destination
that answers keeps refusing holds up deliver jobs three times and no more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, Select, and_, bindparam, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session, aliased

from detector.errors import ErrorCode
from qc_daemon.records.tables import JobKind, JobRow, JobState, ReportObjectRow

# Not handed over yet.
TO_DO = (JobState.READY, JobState.LEASED)
# A result waits for an image of its exam, and a content for an earlier one, until that has failed
# so often.
_MAX_FAILURES = 3
# Jobs of one question to the database, which limits how many values it takes.
_PAGE = 500


def blocked_until(session: Session, ids: Sequence[int]) -> dict[int, datetime | None]:
    """Which of these ready jobs wait for other jobs, and when the last of those will be due.

    None where all that a job waits for is leased.
    """
    if not ids:
        return {}
    rows = session.execute(_BLOCKED, {"ids": list(ids)}).all()
    last_image: dict[tuple[int, str], datetime | None] = {}
    blocked: dict[int, datetime | None] = {}
    for job_id, exam_id, destination, has_images in rows:
        lasts = [_last_earlier(session, job_id)]
        if has_images:
            key = (exam_id, destination)
            if key not in last_image:
                last_image[key] = _last_image(session, exam_id, destination)
            lasts.append(last_image[key])
        blocked[job_id] = max((each for each in lasts if each is not None), default=None)
    return blocked


def _is_awaited(earlier: type[JobRow]) -> ColumnElement[bool]:
    """Whether an earlier job that is not handed over holds up the later ones.

    A deliver job does until the destination, which answers, has not taken the object three times;
    one that is away takes the later ones no sooner. While it is being sent it always does, so that
    two contents of one object are never on their way at the same time.
    """
    return or_(
        earlier.kind != JobKind.DELIVER,
        earlier.state == JobState.LEASED,
        earlier.attempts + earlier.alarms + earlier.deaths < _MAX_FAILURES,
        earlier.error_code == ErrorCode.DELIVERY_UNREACHABLE,
    )


def _earlier(job: type[JobRow], earlier: type[JobRow]) -> ColumnElement[bool]:
    """An earlier content of the same subject, for the same destination, is not handed over."""
    return and_(
        earlier.kind == job.kind,
        earlier.subject == job.subject,
        earlier.destination == job.destination,
        earlier.revision < job.revision,
        earlier.state.in_(TO_DO),
        _is_awaited(earlier),
    )


def _is_later_leased(job: type[JobRow], later: type[JobRow]) -> ColumnElement[bool]:
    """A later content of the same subject that went past this one is being sent there."""
    return and_(
        job.kind == JobKind.DELIVER,
        later.kind == job.kind,
        later.subject == job.subject,
        later.destination == job.destination,
        later.revision > job.revision,
        later.state == JobState.LEASED,
    )


def _later_leased(job: type[JobRow]) -> ColumnElement[bool]:
    later = aliased(JobRow)
    return select(later.id).where(_is_later_leased(job, later)).exists()


def _earlier_unsent(job: type[JobRow]) -> ColumnElement[bool]:
    earlier = aliased(JobRow)
    return select(earlier.id).where(_earlier(job, earlier)).exists()


def _is_earlier_object(
    job: type[JobRow],
    earlier: type[JobRow],
    own: type[ReportObjectRow],
    other: type[ReportObjectRow],
) -> ColumnElement[bool]:
    """Whether `earlier` still sends an earlier object of the same exam and kind, and to the same
    destination; `own` and `other` are the two jobs' objects."""
    return and_(
        own.id == job.object_id,
        own.kind == other.kind,
        other.id == earlier.object_id,
        earlier.exam_id == job.exam_id,
        earlier.kind == JobKind.DELIVER,
        earlier.state.in_(TO_DO),
        earlier.destination == job.destination,
        earlier.revision < job.revision,
        _is_awaited(earlier),
    )


def _earlier_report_unsent(job: type[JobRow]) -> ColumnElement[bool]:
    earlier, own, other = aliased(JobRow), aliased(ReportObjectRow), aliased(ReportObjectRow)
    return select(earlier.id).where(_is_earlier_object(job, earlier, own, other)).exists()


def _is_awaited_image(
    image: type[JobRow],
    exam_id: InstrumentedAttribute[int] | int,
    destination: InstrumentedAttribute[str] | str,
) -> ColumnElement[bool]:
    """An image of the exam that one of our objects may refer to is on its way there too."""
    return and_(
        image.exam_id == exam_id,
        image.kind == JobKind.DELIVER,
        image.state.in_(TO_DO),
        image.destination == destination,
        image.revision_id.is_not(None),
        image.attempts + image.alarms + image.deaths < _MAX_FAILURES,
    )


def _images_unsent(job: type[JobRow]) -> ColumnElement[bool]:
    image = aliased(JobRow)
    return and_(
        job.object_id.is_not(None),
        select(image.id).where(_is_awaited_image(image, job.exam_id, job.destination)).exists(),
    )


def _blocked_jobs() -> Select[int, int, str, bool]:
    """Those of the jobs `ids` that wait for others; whether images are among these."""
    job = aliased(JobRow)
    has_images = _images_unsent(job)
    return select(job.id, job.exam_id, job.destination, has_images).where(
        job.id.in_(bindparam("ids", expanding=True)),
        or_(_earlier_unsent(job), _later_leased(job), _earlier_report_unsent(job), has_images),
    )


# Built once: SQLAlchemy takes longer to build it than a database to answer.
_BLOCKED = _blocked_jobs()


def _last_earlier(session: Session, job_id: int) -> datetime | None:
    """When the last of the ready jobs that an object amends, or a content follows, will be due."""
    job, earlier = aliased(JobRow), aliased(JobRow)
    own, other = aliased(ReportObjectRow), aliased(ReportObjectRow)
    last = select(func.max(earlier.not_before)).where(
        job.id == job_id, earlier.state == JobState.READY
    )
    of_subject = session.execute(last.where(_earlier(job, earlier))).scalar_one()
    of_object = session.execute(
        last.where(_is_earlier_object(job, earlier, own, other))
    ).scalar_one()
    return max((each for each in (of_subject, of_object) if each is not None), default=None)


def _last_image(session: Session, exam_id: int, destination: str) -> datetime | None:
    return session.execute(
        select(func.max(JobRow.not_before)).where(
            _is_awaited_image(JobRow, exam_id, destination), JobRow.state == JobState.READY
        )
    ).scalar_one()


@dataclass(frozen=True, slots=True)
class Wait:
    """What a ready job waits for: the job, the first of several, and what that one is to it."""

    job_id: int
    reason: str


def waits(session: Session, ids: Sequence[int]) -> dict[int, Wait]:
    """What those of the jobs that are ready wait for; jobs that wait for none are left out."""
    job, other = aliased(JobRow), aliased(JobRow)
    own, amended = aliased(ReportObjectRow), aliased(ReportObjectRow)
    questions = (
        ("an earlier revision", _earlier(job, other)),
        ("a later revision that is being sent", _is_later_leased(job, other)),
        (
            "an image of its exam",
            and_(
                job.object_id.is_not(None),
                _is_awaited_image(other, job.exam_id, job.destination),
            ),
        ),
        ("an earlier report of its exam", _is_earlier_object(job, other, own, amended)),
    )
    first = select(job.id, func.min(other.id).label("other_id")).where(
        job.id.in_(bindparam("ids", expanding=True)), job.state == JobState.READY
    )
    waiting: dict[int, Wait] = {}
    for begin in range(0, len(ids), _PAGE):
        page = list(ids[begin : begin + _PAGE])
        for reason, question in questions:
            statement = first.where(question).group_by(job.id)
            for row in session.execute(statement, {"ids": page}):
                waiting.setdefault(row.id, Wait(row.other_id, reason))
    return waiting
