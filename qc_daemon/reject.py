"""What a person asks about rejections: reject an image for its quality, and see what was rejected.

Nothing else makes a rejection note: whoever takes it may hide or delete the image (IHE IOCM).
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydicom.sr.coding import Code

from detector.codes import ErrorCode, QCError
from detector.console import UsageError
from qc_daemon.operate import open_store
from qc_daemon.records import rejections
from qc_daemon.records.reports import ReportObject
from qc_daemon.records.revisions import RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ObjectKind
from qc_daemon.report import codes
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.key_objects import build_rejection
from qc_daemon.report.source import Source
from qc_daemon.report.source_file import read_header
from qc_daemon.retain import Originals
from qc_daemon.routing import Routes, Traits
from qc_daemon.settings import Settings

_LONGEST_NAME = 64


def reject(settings: Settings, sop_instance_uid: str, reason: str, confirmed_by: str) -> str:
    """Make and queue the note that this person rejects the image; returns a line that says where.

    `reason` is a code value of `codes.REASONS`. Raises UsageError for an unknown reason, no name,
    or where no destination takes the note; QCError for an image that is unknown, no image, or
    rejected already.
    """
    code, name = _reason(reason), _name(confirmed_by)
    store = open_store(settings)
    with store.read() as session:
        facts = rejections.newest(session, sop_instance_uid)
        if facts is None:
            raise QCError(ErrorCode.STORAGE, f"no image {sop_instance_uid} is here; see results")
        known = rejections.of_instance(session, sop_instance_uid)
        number = rejections.count(session, facts.exam_id) + 1
    if known is not None:
        raise _rejected_already(sop_instance_uid)
    source = _source(settings, store, facts)
    destinations = _destinations(settings, facts, source)
    now = datetime.now(UTC)
    note = build_rejection(source, code, number=number, created=now)
    made = ReportObject(
        kind=ObjectKind.KEY_OBJECTS,
        sop_instance_uid=str(note.SOPInstanceUID),
        sop_class_uid=str(note.SOPClassUID),
        payload=to_bytes(note),
    )
    with store.begin() as session:
        if not rejections.confirm(
            session, facts, made, destinations, reason=reason, confirmed_by=name, now=now
        ):
            raise _rejected_already(sop_instance_uid)
    return f"rejected ({code.meaning}); the note goes to {', '.join(destinations)}"


def list_rejections(settings: Settings) -> list[dict[str, Any]]:
    """Rejected images, oldest first: why, by whom and when."""
    with open_store(settings).read() as session:
        return [
            {
                "sop_instance_uid": each.sop_instance_uid,
                "reason": f"{each.reason} {codes.REASONS[each.reason].meaning}",
                "confirmed by": each.confirmed_by,
                "confirmed": each.confirmed_at.isoformat(timespec="seconds"),
                "note": each.note_uid,
            }
            for each in rejections.listing(session)
        ]


def reasons() -> str:
    """The codes to choose from, in one line."""
    return ", ".join(f"{value} {code.meaning}" for value, code in codes.REASONS.items())


def _reason(value: str) -> Code:
    try:
        return codes.REASONS[value]
    except KeyError:
        raise UsageError(f"--reason {value}: give one of {reasons()}") from None


def _name(confirmed_by: str) -> str:
    name = confirmed_by.strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(
            f"--confirmed-by: give the person's name, 1 to {_LONGEST_NAME} letters on one line"
        )
    return name


def _source(settings: Settings, store: Store, facts: RevisionFacts) -> Source:
    def pixel_hash(path: Path) -> str:
        # Asked only when a destination gave an object back changed.
        from qc_daemon.score.decode import DecodeProcess

        with DecodeProcess(megabytes=settings.score.decode_megabytes) as decoder:
            return decoder.summary(path).pixel_sha256

    source = Source.of(read_header(Originals(store, settings, pixel_hash)(facts)), facts.sha256)
    if "Rows" not in source.header:
        raise QCError(ErrorCode.NOT_AN_IMAGE, f"{source.sop_instance_uid} is no image")
    return source


def _destinations(settings: Settings, facts: RevisionFacts, source: Source) -> tuple[str, ...]:
    """Where key objects of this image go. A person decided, so no rule asks for a verdict."""
    traits = Traits(facts.calling_ae, source.station_name, source.study_description)
    to = Routes.of(settings).route(ObjectKind.KEY_OBJECTS, [traits]).to
    if not to:
        raise UsageError('the note would go nowhere; add "key-objects" to a destination\'s objects')
    return to


def _rejected_already(sop_instance_uid: str) -> QCError:
    return QCError(
        ErrorCode.STORAGE, f"{sop_instance_uid} was rejected already; see rejection list"
    )
