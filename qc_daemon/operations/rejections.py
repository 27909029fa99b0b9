"""Rejections for an operator: reject an image, retract that, list what was rejected.

Only these functions make a rejection note: a destination may hide or delete the image (IHE IOCM).
"""

from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from qc_daemon.audit_trail.event import AuditKind
from qc_daemon.audit_trail.recorder import record
from qc_daemon.operations.shared import Listing, open_store, parse_person
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.listings import ALL, Window
from qc_daemon.records.patients import identities
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.results import rejections
from qc_daemon.records.results.rejections import RejectionRecord
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.key_objects import build_rejection, build_retraction
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.source_file import read_header
from qc_daemon.report.sr import codes
from qc_daemon.retain import Originals
from qc_daemon.routing import Routes, Traits
from qc_daemon.score.pixel_hash import pixel_hash
from qc_daemon.settings import Settings


def reject(
    settings: Settings,
    sop_instance_uid: str,
    reason: str,
    confirmed_by: str,
    clock: Clock = utc_now,
) -> str:
    """Make and queue the note that this person rejects the image; returns a line with the
    destinations.

    `reason` is a code value of `codes.REASONS`. Raises UsageError for an unknown reason, no name,
    or where no destination takes the note; QCError for an image that is unknown, no image, or
    rejected already.
    """
    code, name = _reason(reason), parse_person(confirmed_by, "--by")
    store = open_store(settings)
    with store.read() as session:
        facts = rejections.newest_revision(session, sop_instance_uid)
        if facts is None:
            raise QCError(ErrorCode.STORAGE, f"no image {sop_instance_uid} is here; see results")
        earlier_rejection = rejections.of_instance(session, sop_instance_uid)
        number = rejections.count_notes(session, facts.exam_id) + 1
        earlier_count = rejections.count_rejections(session, facts.instance_id)
    if earlier_rejection is not None:
        raise _rejected_already(sop_instance_uid)
    source = _source(settings, store, facts)
    destinations = _destinations(settings, facts, source)
    now = clock()
    note = build_rejection(source, code, number=number, created=now, again=earlier_count)
    with store.begin() as session:
        if not rejections.confirm(
            session,
            facts,
            _note_object(note),
            destinations,
            reason=reason,
            confirmed_by=name,
            now=now,
            number=earlier_count + 1,
        ):
            raise _rejected_already(sop_instance_uid)
    record(
        settings,
        AuditKind.REJECTED,
        study=facts.study_instance_uid,
        objects={"exam": facts.exam_id, "instance": sop_instance_uid},
        detail={"reason": reason},
        clock=clock,
    )
    return f"rejected ({code.meaning}); the note goes to {', '.join(destinations)}"


RETRACTIONS = {
    "wrong-image": "another image was meant",
    "wrong-reason": "the reason was wrong",
    "reconsidered": "the image was looked at again and is good enough",
}


def retract(
    settings: Settings,
    sop_instance_uid: str,
    reason: str,
    retracted_by: str,
    clock: Clock = utc_now,
) -> str:
    """Retract the rejection of this image; returns a line with the destinations of the note.

    The rejection and its note stay, with who retracted it, when and why (a key of `RETRACTIONS`).
    A note of its own goes to the destinations that the first was for, behind it. Raises UsageError
    for an unknown reason or no name, QCError for an image that does not stand rejected.
    """
    if reason not in RETRACTIONS:
        raise UsageError(f"--reason {reason}: give one of {list_retraction_reasons()}")
    name = parse_person(retracted_by, "--by")
    store = open_store(settings)
    with store.read() as session:
        facts = rejections.newest_revision(session, sop_instance_uid)
        rejection = rejections.open_rejection(session, sop_instance_uid)
        number = 0 if rejection is None else rejections.count_notes(session, rejection.exam_id) + 1
    if facts is None or rejection is None:
        raise _not_rejected(sop_instance_uid)
    note = dcmread(BytesIO(rejection.note))
    now = clock()
    retraction = build_retraction(
        _source(settings, store, facts), note, RETRACTIONS[reason], number=number, created=now
    )
    configured = {each.name for each in settings.destination}
    to = [each for each in rejection.destinations if each in configured]
    with store.begin() as session:
        if not rejections.retract(
            session,
            rejection,
            _note_object(retraction),
            to,
            reason=reason,
            retracted_by=name,
            now=now,
        ):
            raise _not_rejected(sop_instance_uid)
    record(
        settings,
        AuditKind.RETRACTED,
        study=facts.study_instance_uid,
        objects={"exam": facts.exam_id, "instance": sop_instance_uid},
        detail={"reason": reason},
        clock=clock,
    )
    outcome = (
        f"a note that says so goes to {', '.join(to)}" if to else "no destination is left to tell"
    )
    return (
        f"retracted; {outcome}. An archive that hid the image may not show it again by itself:"
        " ask its administrator"
    )


REJECTION_COLUMNS = (
    "sop_instance_uid",
    "state",
    "reason",
    "reason_meaning",
    "confirmed_by",
    "confirmed",
    "retraction_reason",
    "retracted_by",
    "retracted",
    "note",
    "retraction_note",
)
REJECTION_TABLE = REJECTION_COLUMNS[:9]
STATES = ("rejected", "retracted")


def list_rejections(settings: Settings, window: Window = ALL) -> Listing:
    """Rejections, oldest first: why, by whom and when, and the same of a retraction; the window is
    about when they were confirmed."""
    with open_store(settings).read() as session:
        rows, total = rejections.page(session, window)
    return Listing(map(_row, rows), total)


def _row(record: RejectionRecord) -> dict[str, Any]:
    retraction = record.retraction
    return {
        "sop_instance_uid": record.sop_instance_uid,
        "state": "rejected" if retraction is None else "retracted",
        "reason": record.reason,
        "reason_meaning": codes.REASONS[record.reason].meaning,
        "confirmed_by": record.confirmed_by,
        "confirmed": record.confirmed_at.isoformat(timespec="seconds"),
        "retraction_reason": None if retraction is None else retraction.reason,
        "retracted_by": None if retraction is None else retraction.retracted_by,
        "retracted": None
        if retraction is None
        else retraction.retracted_at.isoformat(timespec="seconds"),
        "note": record.note_uid,
        "retraction_note": None if retraction is None else retraction.note_uid,
    }


def list_retraction_reasons() -> str:
    """The words to choose from, in one line."""
    return ", ".join(f"{value} ({meaning})" for value, meaning in RETRACTIONS.items())


def list_reasons() -> str:
    """The codes to choose from, in one line."""
    return ", ".join(f"{value} {code.meaning}" for value, code in codes.REASONS.items())


def _reason(value: str) -> Code:
    try:
        return codes.REASONS[value]
    except KeyError:
        raise UsageError(f"--reason {value}: give one of {list_reasons()}") from None


def _note_object(note: Dataset) -> ReportObject:
    return ReportObject(
        kind=ObjectKind.KEY_OBJECTS,
        sop_instance_uid=str(note.SOPInstanceUID),
        sop_class_uid=str(note.SOPClassUID),
        payload=to_bytes(note),
    )


def _source(settings: Settings, store: Store, facts: RevisionFacts) -> SourceInstance:
    originals = Originals(store, settings, pixel_hash(settings.score))
    source = SourceInstance.of(read_header(originals(facts)), facts.sha256)
    with store.read() as session:
        source.correct_patient(identities.correction_of(session, facts.exam_id))
    if "Rows" not in source.header:
        raise QCError(ErrorCode.NOT_AN_IMAGE, f"{source.sop_instance_uid} is no image")
    return source


def _destinations(
    settings: Settings, facts: RevisionFacts, source: SourceInstance
) -> tuple[str, ...]:
    """The destinations of key objects of this image; a person decided, so rules see no verdict."""
    traits = Traits(facts.calling_ae, source.station_name, source.study_description)
    route = Routes.of(settings).route(ObjectKind.KEY_OBJECTS, [traits])
    if route.to:
        return route.to
    if route.rule is not None:
        raise UsageError(
            "the note that rejects an image would go nowhere: so says the rule"
            f" {route.rule} in the settings; change it, or take key-objects out of its objects"
        )
    raise UsageError(
        "no destination takes the note that rejects an image; add key-objects to one's objects in"
        ' the settings, as objects = ["source", "sr", "overlay", "key-objects"]'
    )


def _rejected_already(sop_instance_uid: str) -> QCError:
    return QCError(
        ErrorCode.STORAGE, f"{sop_instance_uid} was rejected already; see rejection list"
    )


def _not_rejected(sop_instance_uid: str) -> QCError:
    return QCError(
        ErrorCode.STORAGE, f"{sop_instance_uid} does not stand rejected; see rejection list"
    )
