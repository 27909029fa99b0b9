"""The tables: what is remembered, and the rules the database itself enforces.

Two databases, one shape: SQLite and PostgreSQL. Closed lists are strings under a CHECK; moments are
UTC; a uniqueness that idempotence rests on is a UNIQUE constraint, never only code.
"""

import zlib
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from qc_daemon.review.events import EventKind


class UTCDateTime(TypeDecorator[datetime]):
    """A moment that knows its zone, kept in UTC; refuses a naive one with ValueError.

    SQLite has no zone: there the UTC wall time is stored, whose text sorts in time order.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment without a time zone")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Deflated(TypeDecorator[bytes]):
    """Bytes kept by zlib: an overlay shrinks to a fraction. What an older version kept is as it is:
    a PS3.10 file begins with zeros, a zlib stream never does."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        return None if value is None else zlib.compress(value, 1)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> bytes | None:
        if value is None or value[:1] == b"\0":
            return value
        return zlib.decompress(value)


class ExamState(StrEnum):
    """Open while objects may still come; closed once there is a report, or nothing to report."""

    OPEN = "open"
    CLOSED = "closed"


class ClosedBy(StrEnum):
    """Why an exam was closed."""

    PROCEDURE_STEP = "procedure-step"
    QUIET = "quiet"
    MAX_OPEN = "max-open"
    PERSON = "person"


class ExamOutcome(StrEnum):
    """What the last closing led to."""

    REPORT = "report"
    UNCHANGED = "unchanged"
    NOTHING_TO_TELL = "nothing-to-tell"


class RevisionState(StrEnum):
    """Where one content of an instance stands; `header` shares an earlier revision's findings."""

    RECEIVED = "received"
    SCORED = "scored"
    HEADER = "header"
    QUARANTINED = "quarantined"


class Content(StrEnum):
    """How a revision's pixels relate to the instance's other revisions, decided once."""

    SCORE = "score"
    HEADER = "header"
    OTHER = "other"


class JobKind(StrEnum):
    """Which stage does the job."""

    SCORE = "score"
    REPORT = "report"
    DELIVER = "deliver"


class JobState(StrEnum):
    """Where a job stands; the transitions are written down in `jobs`.

    Sent: the destination has the object and is yet to commit to it.
    """

    READY = "ready"
    LEASED = "leased"
    SENT = "sent"
    DONE = "done"
    DEAD = "dead"
    QUARANTINED = "quarantined"


class StepStatus(StrEnum):
    """Performed Procedure Step Status (PS3.3 C.4.14)."""

    IN_PROGRESS = "IN PROGRESS"
    COMPLETED = "COMPLETED"
    DISCONTINUED = "DISCONTINUED"


class CommitmentState(StrEnum):
    """Waiting until destinations have every object; ready to report; reported; or given up."""

    WAITING = "waiting"
    READY = "ready"
    REPORTED = "reported"
    DEAD = "dead"


class CommitmentSupport(StrEnum):
    """What a destination last did about storage commitment.

    Offered: it accepts the presentation context. Taken: it took a request. Refused: it accepts the
    context, and has never taken a request. Not offered: it accepts no context. Lost: it took
    requests before, and takes none now.
    """

    OFFERED = "offered"
    TAKEN = "taken"
    REFUSED = "refused"
    NOT_OFFERED = "not-offered"
    LOST = "lost"


class ObjectKind(StrEnum):
    """What we make of an exam."""

    SR = "sr"
    OVERLAY = "overlay"
    KEY_OBJECTS = "key-objects"
    PDF = "pdf"


class AcquisitionState(StrEnum):
    """Whether the facts of an image were read; unknown: its file was gone, or cannot be read."""

    READ = "read"
    UNKNOWN = "unknown"


class IdentityKind(StrEnum):
    """What an identity is of."""

    PERSON = "person"
    DEVICE = "device"


class IdentityAction(StrEnum):
    """What a person did with an identity."""

    MERGE = "merge"
    SPLIT = "split"
    RENAME = "rename"


class SiteAction(StrEnum):
    """What was done with a site's calibration; the last of all but `proposed` counts."""

    PROPOSED = "proposed"
    ACTIVATED = "activated"
    RETIRED = "retired"
    WAIVED = "waived"


class AuditState(StrEnum):
    """How far an audit is; paused and cancelled by a person, failed with a reason."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class DigestState(StrEnum):
    """A digest is ready until it is sent, or given up (dead)."""

    READY = "ready"
    SENT = "sent"
    DEAD = "dead"


class DigestChannel(StrEnum):
    """How a digest goes."""

    MAIL = "mail"
    WEBHOOK = "webhook"


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


Key = BigInteger().with_variant(Integer(), "sqlite")


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class Base(DeclarativeBase):
    """All tables; constraint names follow one convention, so that migrations can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy's own declaration)
        datetime: UTCDateTime(),
        str: String(),
        dict[str, Any]: JSON(),
        bytes: LargeBinary(),
    }


class Exam(Base):
    """Study Instance UID + Patient ID; `bundle_id` (model id) is fixed when it first opens.

    `report_revision` counts the reports queued; `reported_content` fingerprints the last.
    `patient_words` is the name folded for searching; it and the three beside it are NULL while
    unknown: an older version did not store them.
    """

    __tablename__ = "exam"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "patient_id"),
        _one_of("state", ExamState),
        _one_of("outcome", ExamOutcome),
        Index(None, "state"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_instance_uid: Mapped[str]
    patient_id: Mapped[str]
    state: Mapped[str] = mapped_column(default=ExamState.OPEN)
    outcome: Mapped[str | None]
    bundle_id: Mapped[str | None]
    opened_at: Mapped[datetime]
    last_object_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]
    report_revision: Mapped[int] = mapped_column(default=0)
    reported_content: Mapped[str | None]
    patient_name: Mapped[str | None]
    patient_words: Mapped[str | None]
    accession_number: Mapped[str | None]
    study_date: Mapped[str | None]
    # When its findings were imported; NULL where its objects were received.
    imported_at: Mapped[datetime | None]


class Instance(Base):
    """One SOP Instance UID, whatever contents came under it."""

    __tablename__ = "instance"
    __table_args__ = (UniqueConstraint("sop_instance_uid"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sop_instance_uid: Mapped[str]
    created_at: Mapped[datetime]


class Revision(Base):
    """One content (SHA-256 of the received bytes) of an instance, numbered from 1.

    A revision belongs to the exam its own header names: a corrected Patient ID makes a revision in
    another exam and takes nothing from the first. `source_revision_id` is set for state `header`.
    """

    __tablename__ = "revision"
    __table_args__ = (
        UniqueConstraint("instance_id", "number"),
        UniqueConstraint("instance_id", "sha256"),
        _one_of("state", RevisionState),
        _one_of("content", Content),
        Index(None, "exam_id"),
        Index(None, "path"),
        Index(None, "received_at"),
        Index(None, "state"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    number: Mapped[int]
    state: Mapped[str] = mapped_column(default=RevisionState.RECEIVED)
    content: Mapped[str | None]
    source_revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id"))
    sha256: Mapped[str]
    pixel_sha256: Mapped[str | None]
    size: Mapped[int] = mapped_column(BigInteger)
    path: Mapped[str]
    sop_class_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    calling_ae: Mapped[str]
    received_at: Mapped[datetime]
    reason_code: Mapped[str | None]
    reason_message: Mapped[str | None]
    reason_at: Mapped[datetime | None]
    # When retention took the file away, and when an attempt to fetch it back found it nowhere.
    dropped_at: Mapped[datetime | None]
    unavailable_at: Mapped[datetime | None]
    # Who decided that a quarantined content needs nothing more; set in that state only.
    dismissed_at: Mapped[datetime | None]
    dismissed_by: Mapped[str | None]
    dismissal_reason: Mapped[str | None]


class Finding(Base):
    """One scored frame and region; the columns beside `body` are copies to query by."""

    __tablename__ = "finding"
    __table_args__ = (UniqueConstraint("revision_id", "frame", "region", "model_id"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"))
    frame: Mapped[int]
    region: Mapped[int]
    model_id: Mapped[str]
    view: Mapped[str]
    view_probability: Mapped[float]
    quality: Mapped[str]
    probability: Mapped[float | None]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class ImageFeaturesRow(Base):
    """What a finding's picture was like (`model.image_features`): its statistics, and its embedding
    as little-endian float16, comparable between findings of one model id only. The finding's row
    without it is as good: an older version stored none.
    """

    __tablename__ = "image_features"

    finding_id: Mapped[int] = mapped_column(
        Key, ForeignKey("finding.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    mean: Mapped[float | None]
    deviation: Mapped[float | None]
    percentile_1: Mapped[float | None]
    median: Mapped[float | None]
    percentile_99: Mapped[float | None]
    black: Mapped[float | None]
    saturated: Mapped[float | None]
    sharpness: Mapped[float | None]
    noise: Mapped[float | None]
    entropy: Mapped[float | None]
    colour: Mapped[float | None]
    width: Mapped[float | None]
    height: Mapped[float | None]
    spacing: Mapped[float | None]
    embedding: Mapped[bytes | None]


class OpinionRow(Base):
    """What a part says of a finding's view (`model.parts.opinion`): copies of the finding's body,
    to query by. `agrees` is NULL where it says nothing of views.
    """

    __tablename__ = "opinion"
    __table_args__ = (Index(None, "model_id"),)

    finding_id: Mapped[int] = mapped_column(
        Key, ForeignKey("finding.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    role: Mapped[str] = mapped_column(primary_key=True)
    family: Mapped[str]
    name: Mapped[str]
    version: Mapped[str]
    model_id: Mapped[str]
    label: Mapped[str]
    probability: Mapped[float]
    reason: Mapped[str | None]
    agrees: Mapped[bool | None]


class ReportObjectRow(Base):
    """A DICOM object we made: built once, its bytes kept, a resend sends these bytes."""

    __tablename__ = "report_object"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid"),
        _one_of("kind", ObjectKind),
        Index(None, "exam_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    report_revision: Mapped[int]
    kind: Mapped[str]
    sop_instance_uid: Mapped[str]
    sop_class_uid: Mapped[str]
    transfer_syntax_uid: Mapped[str]
    finding_id: Mapped[int | None] = mapped_column(ForeignKey("finding.id"))
    # None once retention took an overlay's bytes: every destination holds it.
    payload: Mapped[bytes | None] = mapped_column(Deflated)
    created_at: Mapped[datetime]


class RenditionRow(Base):
    """Another form of an object that we made, for destinations that do not take its SOP class."""

    __tablename__ = "rendition"
    __table_args__ = (UniqueConstraint("sop_instance_uid"), Index(None, "object_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    object_id: Mapped[int] = mapped_column(ForeignKey("report_object.id"))
    sop_class_uid: Mapped[str]
    sop_instance_uid: Mapped[str]
    series_instance_uid: Mapped[str]
    payload: Mapped[bytes] = mapped_column(Deflated)
    created_at: Mapped[datetime]


class DeliveredRendition(Base):
    """The rendition that a deliver job's destination was given in the object's place."""

    __tablename__ = "given_rendition"

    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    rendition_id: Mapped[int] = mapped_column(ForeignKey("rendition.id"))


class RefusedClass(Base):
    """A SOP class that a destination does not take, as it last said."""

    __tablename__ = "refused_class"

    destination: Mapped[str] = mapped_column(primary_key=True)
    sop_class_uid: Mapped[str] = mapped_column(primary_key=True)
    refused_at: Mapped[datetime]


class DestinationState(Base):
    """What a destination was last like; `failing_since` is NULL where the last try reached it.

    `error_code` and `error_message` say why the last failed try did not, also once it is reached
    again. `commitment` is what it last did about storage commitment.
    """

    __tablename__ = "destination_state"
    __table_args__ = (_one_of("commitment", CommitmentSupport),)

    destination: Mapped[str] = mapped_column(primary_key=True)
    failing_since: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    commitment: Mapped[str | None]
    commitment_since: Mapped[datetime | None]
    commitment_message: Mapped[str | None]


class Rejection(Base):
    """An image that a person rejected: why (code value, of CID 7011 or 99QCD), who confirmed it,
    and the note (key objects) that tells it.

    A retraction is kept beside it, with the note of its own; the image may then be rejected again,
    which is the next number.
    """

    __tablename__ = "rejection"
    __table_args__ = (UniqueConstraint("instance_id", "number"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    instance_id: Mapped[int] = mapped_column(ForeignKey("instance.id"))
    number: Mapped[int] = mapped_column(default=1, server_default="1")
    object_id: Mapped[int] = mapped_column(ForeignKey("report_object.id"))
    reason: Mapped[str]
    confirmed_by: Mapped[str]
    confirmed_at: Mapped[datetime]
    retraction_object_id: Mapped[int | None] = mapped_column(ForeignKey("report_object.id"))
    retraction_reason: Mapped[str | None]
    retracted_by: Mapped[str | None]
    retracted_at: Mapped[datetime | None]


class TeachingAction(StrEnum):
    """What a person decided of an image that was prepared for teaching."""

    RELEASED = "released"
    REJECTED = "rejected"


class TeachingRelease(Base):
    """A person's decision on an image prepared for teaching; rows are only added.

    `preparation` is the random id of the folder that was prepared, `number` the image's in it;
    `finding_ids` what it shows, `sha256` the hash of the file that was released.
    """

    __tablename__ = "teaching_release"
    __table_args__ = (
        UniqueConstraint("preparation", "number"),
        _one_of("action", TeachingAction),
        Index(None, "decided_at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    preparation: Mapped[str]
    number: Mapped[int]
    action: Mapped[str]
    finding_ids: Mapped[list[int]] = mapped_column(JSON)
    sha256: Mapped[str | None]
    decided_by: Mapped[str]
    decided_at: Mapped[datetime]


class ReviewEvent(Base):
    """One event of a finding's review, numbered from 1 (`qc_daemon/review/events.py`).

    Rows are only added: triggers refuse an UPDATE or DELETE. `drawn_by` and `second_by` are rules
    of `qc_daemon/review/drawing.py`, joined by commas: how the finding came to this reading, and
    why a second one is to follow.
    """

    __tablename__ = "review"
    __table_args__ = (
        UniqueConstraint("finding_id", "number"),
        _one_of("kind", EventKind),
        Index(None, "at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    finding_id: Mapped[int] = mapped_column(ForeignKey("finding.id"))
    number: Mapped[int]
    kind: Mapped[str]
    reader: Mapped[str]
    at: Mapped[datetime]
    revision: Mapped[int]
    model_id: Mapped[str]
    view: Mapped[str | None]
    verdict: Mapped[str | None]
    criteria: Mapped[dict[str, Any]]
    reason: Mapped[str | None]
    remark: Mapped[str | None]
    reader_number: Mapped[int | None]
    is_blinded: Mapped[bool]
    seconds: Mapped[float | None]
    drawn_by: Mapped[str | None]
    drawn_probability: Mapped[float | None]
    second_by: Mapped[str | None]
    second_probability: Mapped[float | None]


class SiteCalibrationRow(Base):
    """An event in the history of a site's calibration for a bundle; rows are only added.

    `record` is the JSON of `model.site.record` where it was proposed or activated, `calibration`
    its id. `decided_by` is empty where the service did it.
    """

    __tablename__ = "site_calibration"
    __table_args__ = (_one_of("action", SiteAction), Index(None, "site", "model_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    site: Mapped[str]
    model_id: Mapped[str]
    action: Mapped[str]
    calibration: Mapped[str | None]
    record: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    decided_by: Mapped[str | None]
    decided_at: Mapped[datetime]


class AuditRow(Base):
    """An audit of a local date (ISO 8601), one by its name: how far it is, and what it found.

    `first_day` and `last_day` are the days that are judged, both included; NULL for what the
    settings say. Running, and only then, it has an owner, a token and the end of its lease; what
    is left of an expired lease may be claimed by another process. `progress` is 0 to 1. `model_id`
    and `bundle_path` are of the bundle that it tries in shadow; NULL where it tries none.
    """

    __tablename__ = "audit"
    __table_args__ = (
        UniqueConstraint("name", "local_date"),
        _one_of("state", AuditState),
        CheckConstraint(
            "(state = 'running') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)"
            " AND (lease_token IS NULL) = (owner IS NULL)",
            name="lease",
        ),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str]
    local_date: Mapped[str]
    first_day: Mapped[str | None]
    last_day: Mapped[str | None]
    state: Mapped[str] = mapped_column(default=AuditState.WAITING)
    progress: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    owner: Mapped[str | None]
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    data_sha256: Mapped[str | None]
    content: Mapped[bytes | None] = mapped_column(Deflated)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    model_id: Mapped[str | None]
    bundle_path: Mapped[str | None]


class ShadowFinding(Base):
    """What another bundle says of a frame and region, for an audit alone: no list, report or
    reading knows it. `conditions` are what else it depends on (version, settings, calibration)."""

    __tablename__ = "shadow_finding"

    model_id: Mapped[str] = mapped_column(primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"), primary_key=True)
    frame: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[int] = mapped_column(primary_key=True)
    conditions: Mapped[str]
    body: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class DigestRow(Base):
    """A digest of an audit for a recipient: an address, or a webhook's name. `subject_id` is the
    person it is about, empty for the lab. Whoever sends it moves `next_at` ahead first."""

    __tablename__ = "digest"
    __table_args__ = (
        UniqueConstraint("channel", "recipient", "subject_id", "audit", "local_date"),
        _one_of("channel", DigestChannel),
        _one_of("state", DigestState),
        Index(None, "state", "next_at"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    channel: Mapped[str]
    recipient: Mapped[str]
    subject_id: Mapped[str] = mapped_column(default="")
    audit: Mapped[str]
    local_date: Mapped[str]
    state: Mapped[str] = mapped_column(default=DigestState.READY)
    attempts: Mapped[int] = mapped_column(default=0)
    next_at: Mapped[datetime]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime]
    sent_at: Mapped[datetime | None]


class AuditLimits(Base):
    """The limits that a week of a measure was first judged by: what is set later changes none.

    `starts_on` is the week's first day (ISO 8601), `local_date` that of the audit.
    """

    __tablename__ = "audit_limits"

    name: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    subject_id: Mapped[str] = mapped_column(primary_key=True)
    measure: Mapped[str] = mapped_column(primary_key=True)
    starts_on: Mapped[str] = mapped_column(primary_key=True)
    local_date: Mapped[str]
    centre: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]


class Secret(Base):
    """A random key of this store, by its purpose; made once, when it is first needed."""

    __tablename__ = "secret"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


class JobRow(Base):
    """One piece of work; see `jobs` for states, transitions and what `subject` names."""

    __tablename__ = "job"
    __table_args__ = (
        UniqueConstraint("kind", "subject", "revision", "destination"),
        _one_of("kind", JobKind),
        _one_of("state", JobState),
        # Leased, and only then, it has a token, an owner and an end.
        CheckConstraint(
            "(state = 'leased') = (lease_token IS NOT NULL)"
            " AND (lease_token IS NULL) = (lease_until IS NULL)"
            " AND (lease_token IS NULL) = (owner IS NULL)",
            name="lease",
        ),
        # A claim reads the first due job of each destination and no more.
        Index(None, "state", "kind", "destination", "not_before", "id"),
        Index(
            None,
            "lease_until",
            sqlite_where=text("lease_until IS NOT NULL"),
            postgresql_where=text("lease_until IS NOT NULL"),
        ),
        # Jobs that a clock set back left in the future.
        Index(None, "state", "updated_at"),
        Index(None, "exam_id", "kind", "state"),
        Index(None, "revision_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str]
    subject: Mapped[str]
    revision: Mapped[int]
    destination: Mapped[str] = mapped_column(default="")
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    revision_id: Mapped[int | None] = mapped_column(ForeignKey("revision.id"))
    object_id: Mapped[int | None] = mapped_column(ForeignKey("report_object.id"))
    state: Mapped[str] = mapped_column(default=JobState.READY)
    attempts: Mapped[int] = mapped_column(default=0)
    deaths: Mapped[int] = mapped_column(default=0)
    alarms: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    owner: Mapped[str | None]
    lease_token: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class ExamHold(Base):
    """An association that stored to an exam holds it open until it ends or this expires."""

    __tablename__ = "association_lease"
    __table_args__ = (Index(None, "exam_id"),)

    token: Mapped[str] = mapped_column(primary_key=True)
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"), primary_key=True)
    expires_at: Mapped[datetime]


class BundleRow(Base):
    """A bundle that is or has been active; the latest activation is the active one.

    Earlier ones stay, because an exam stays with the bundle it opened with.
    """

    __tablename__ = "active_bundle"

    model_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    path: Mapped[str]
    activated_at: Mapped[datetime]


class Peer(Base):
    """A sender approved by command, beside those of the settings; `certificate` is the SHA-256 of
    the one it must show, where it speaks TLS."""

    __tablename__ = "peer"
    __table_args__ = (UniqueConstraint("ae_title", "address"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    ae_title: Mapped[str]
    address: Mapped[str]
    certificate: Mapped[str | None]
    approved_at: Mapped[datetime]


class CallerRow(Base):
    """A caller that was refused, whom it called the last time, and why it was refused then."""

    __tablename__ = "caller"
    __table_args__ = (UniqueConstraint("ae_title", "address"),)

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    ae_title: Mapped[str]
    address: Mapped[str]
    certificate: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=1)
    first_seen_at: Mapped[datetime]
    last_seen_at: Mapped[datetime]
    called_ae: Mapped[str | None]
    reason: Mapped[str | None]


class Commitment(Base):
    """A storage commitment request (PS3.4 J): its requester, and how far its report is.

    `association` is the token of the association it came over, for a report on the same one.
    """

    __tablename__ = "commitment"
    __table_args__ = (
        UniqueConstraint("transaction_uid", "requested_by"),
        _one_of("state", CommitmentState),
        Index(None, "state", "not_before"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    transaction_uid: Mapped[str]
    requested_by: Mapped[str]
    address: Mapped[str]
    association: Mapped[str]
    state: Mapped[str] = mapped_column(default=CommitmentState.WAITING)
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    owner: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    error_message: Mapped[str | None]
    requested_at: Mapped[datetime]
    reported_at: Mapped[datetime | None]


class CommitmentItem(Base):
    """One referenced object; `failure` is NULL while waiting, 0 when committed, else the Failure
    Reason (PS3.3 C.14-1)."""

    __tablename__ = "commitment_item"
    __table_args__ = (Index(None, "sop_instance_uid"),)

    commitment_id: Mapped[int] = mapped_column(ForeignKey("commitment.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sop_class_uid: Mapped[str]
    sop_instance_uid: Mapped[str]
    failure: Mapped[int | None]


class OutgoingCommitment(Base):
    """A storage commitment that we request of a destination (PS3.4 J): one transaction.

    `asked_at` is when we requested it, `taken_at` when the destination answered with success.
    """

    __tablename__ = "pledge"
    __table_args__ = (UniqueConstraint("transaction_uid"), Index(None, "destination", "taken_at"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    transaction_uid: Mapped[str]
    destination: Mapped[str]
    asked_at: Mapped[datetime]
    taken_at: Mapped[datetime | None]


class OutgoingCommitmentItem(Base):
    """One object of a commitment we request, by its deliver job; `failure` is NULL until a report
    answers, 0 when committed, else the Failure Reason (PS3.3 C.14-1)."""

    __tablename__ = "pledge_item"
    __table_args__ = (Index(None, "job_id"),)

    pledge_id: Mapped[int] = mapped_column(ForeignKey("pledge.id"), primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("job.id"), primary_key=True)
    sop_instance_uid: Mapped[str]
    failure: Mapped[int | None]


class PerformedStep(Base):
    """A modality performed procedure step (PS3.4 F.7); `instances` lists the SOP Instance UIDs of
    its performed series."""

    __tablename__ = "performed_step"
    __table_args__ = (
        UniqueConstraint("sop_instance_uid"),
        _one_of("status", StepStatus),
        Index(None, "study_instance_uid"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    sop_instance_uid: Mapped[str]
    study_instance_uid: Mapped[str]
    status: Mapped[str]
    instances: Mapped[list[str]] = mapped_column(JSON)
    calling_ae: Mapped[str]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Measurement(Base):
    """A measurement that a machine's OB-GYN report (TID 5000) carries, for its exam."""

    __tablename__ = "measurement"
    __table_args__ = (Index(None, "exam_id"), Index(None, "revision_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    revision_id: Mapped[int] = mapped_column(ForeignKey("revision.id"))
    exam_id: Mapped[int] = mapped_column(ForeignKey("exam.id"))
    fetus: Mapped[str | None]
    concept: Mapped[str]
    value: Mapped[float]
    unit: Mapped[str]


class IdentityRow(Base):
    """What persons and devices have in common; `id` is opaque and stays.

    `identity` is what a header identified it by: a new one makes a new row, always. `merged_into`
    names the one that it is an alias of, by a person's decision; the row keeps its own images, so
    that a split gives back exactly what a merge took. `name` is what a person called it.
    """

    __abstract__ = True

    id: Mapped[str] = mapped_column(primary_key=True)
    identity: Mapped[str]
    name: Mapped[str | None]
    created_at: Mapped[datetime]


class Person(IdentityRow):
    """An operator, by a code with its scheme, else by a name; `received_name` is a header's."""

    __tablename__ = "person"
    __table_args__ = (UniqueConstraint("identity"), Index(None, "merged_into"))

    merged_into: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    code: Mapped[str | None]
    scheme: Mapped[str | None]
    received_name: Mapped[str | None]


class Device(IdentityRow):
    """An ultrasound machine, by its serial number, else by station name, model and calling AE."""

    __tablename__ = "device"
    __table_args__ = (UniqueConstraint("identity"), Index(None, "merged_into"))

    merged_into: Mapped[str | None] = mapped_column(ForeignKey("device.id"))
    serial_number: Mapped[str | None]
    manufacturer: Mapped[str | None]
    model: Mapped[str | None]
    station_name: Mapped[str | None]
    calling_ae: Mapped[str | None]


class AcquisitionRow(Base):
    """Who made an image, where, when and with what, as its header says (`dicom.acquisition`).

    A scored revision without a row is one that an older version scored: it is still to be read.
    `site` is the institution folded, to compare by. `acquired` is local time without a zone.
    """

    __tablename__ = "acquisition"
    __table_args__ = (
        _one_of("state", AcquisitionState),
        Index(None, "device_id"),
        Index(None, "site"),
    )

    revision_id: Mapped[int] = mapped_column(
        ForeignKey("revision.id"), primary_key=True, autoincrement=False
    )
    state: Mapped[str]
    device_id: Mapped[str | None] = mapped_column(ForeignKey("device.id"))
    device_source: Mapped[str | None]
    software_versions: Mapped[str | None]
    transducer: Mapped[str | None]
    transducer_type: Mapped[str | None]
    institution: Mapped[str | None]
    department: Mapped[str | None]
    site: Mapped[str | None]
    performing_physician: Mapped[str | None]
    acquired: Mapped[str | None]
    acquired_zone: Mapped[str | None]
    acquired_source: Mapped[str | None]
    patient_age_years: Mapped[float | None]
    patient_size_m: Mapped[float | None]
    patient_weight_kg: Mapped[float | None]
    gestational_age_days: Mapped[int | None]
    gestational_age_source: Mapped[str | None]
    study_description: Mapped[str | None]
    burned_in_annotation: Mapped[bool | None]
    read_at: Mapped[datetime]


class AcquisitionOperator(Base):
    """An operator of an image; one with several is shared."""

    __tablename__ = "acquisition_operator"
    __table_args__ = (Index(None, "person_id"),)

    revision_id: Mapped[int] = mapped_column(
        ForeignKey("acquisition.revision_id"), primary_key=True, autoincrement=False
    )
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)


class IdentityChange(Base):
    """A person's decision on a person or device: append-only. `other_id` is what it was merged
    into or split from; `before` and `after` are the names of a rename."""

    __tablename__ = "identity_change"
    __table_args__ = (
        _one_of("kind", IdentityKind),
        _one_of("action", IdentityAction),
        Index(None, "subject_id"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    kind: Mapped[str]
    action: Mapped[str]
    subject_id: Mapped[str]
    other_id: Mapped[str | None]
    before: Mapped[str | None]
    after: Mapped[str | None]
    changed_by: Mapped[str]
    changed_at: Mapped[datetime]


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


class WebSessionRow(Base):
    """A log-in of an account, by the SHA-256 of what its cookie holds; ended by a person or by an
    operator at `ended_at`, by itself at `expires_at` or after a time without a request."""

    __tablename__ = "web_session"
    __table_args__ = (UniqueConstraint("token_sha256"), Index(None, "account_id"))

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    token_sha256: Mapped[str]
    account_id: Mapped[int] = mapped_column(ForeignKey("account.id"))
    address: Mapped[str]
    agent: Mapped[str]
    created_at: Mapped[datetime]
    used_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


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
        _one_of("action", AccessAction),
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
