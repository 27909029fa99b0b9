"""An overlay's bytes leave the database once every destination has held it for its days."""

import zlib
from datetime import timedelta

import pytest
from sqlalchemy import select, text, update

from detector.errors import ErrorCode, QCError
from qc_daemon.records.received import retention
from qc_daemon.records.results.reports import ReportObject, deliverable
from qc_daemon.records.tables import JobKind, JobRow, JobState, ObjectKind, ReportObjectRow
from tests.support.records import Records

KEEP = timedelta(days=7)
SR = ReportObject(ObjectKind.SR, "2.25.1", "1.2.840.10008.5.1.4.1.1.88.34", bytes(128) + b"DICMsr")
OVERLAY = ReportObject(
    ObjectKind.OVERLAY, "2.25.2", "1.2.840.10008.5.1.4.1.1.7", bytes(128) + b"DICM" + bytes(9999)
)


@pytest.fixture
def reported(records: Records) -> Records:
    """An exam whose report is made, for two destinations, and not delivered yet."""
    records.receive()
    records.score_all()
    records.wait(60)
    records.close_due()
    records.publish(SR, OVERLAY, sr=["pacs"], overlay=["pacs", "archive"])
    return records


def set_deliveries(records: Records, state: JobState = JobState.DONE, *destinations: str) -> None:
    with records.store.begin() as session:
        session.execute(
            update(JobRow)
            .where(JobRow.kind == JobKind.DELIVER, JobRow.destination.in_(destinations))
            .values(state=state, updated_at=records.now)
        )


def drop(records: Records) -> int:
    with records.store.begin() as session:
        return retention.drop_overlays(session, records.now, KEEP, limit=10)


def payloads(records: Records) -> dict[str, bytes | None]:
    with records.store.read() as session:
        rows = session.execute(select(ReportObjectRow.kind, ReportObjectRow.payload))
        return dict(rows.tuples().all())


def test_overlay_bytes_are_dropped_when_all_destinations_have_had_them_for_the_days(
    reported: Records,
) -> None:
    set_deliveries(reported, JobState.DONE, "pacs", "archive")
    reported.wait(KEEP.total_seconds() - 1)
    assert drop(reported) == 0
    assert payloads(reported) == {"sr": SR.payload, "overlay": OVERLAY.payload}
    reported.wait(1)
    assert drop(reported) == 1
    assert payloads(reported) == {"sr": SR.payload, "overlay": None}
    assert drop(reported) == 0


@pytest.mark.parametrize("state", [JobState.READY, JobState.SENT, JobState.DEAD])
def test_overlay_stays_while_a_delivery_is_not_done(reported: Records, state: JobState) -> None:
    set_deliveries(reported, JobState.DONE, "pacs")
    set_deliveries(reported, state, "archive")
    reported.wait(10 * KEEP.total_seconds())
    assert drop(reported) == 0


def test_overlay_without_delivery_stays(records: Records) -> None:
    records.receive()
    records.score_all()
    records.wait(60)
    records.close_due()
    records.publish(OVERLAY)
    records.wait(10 * KEEP.total_seconds())
    assert drop(records) == 0


def test_delivering_a_dropped_overlay_is_not_available(reported: Records) -> None:
    set_deliveries(reported, JobState.DONE, "pacs", "archive")
    reported.wait(KEEP.total_seconds())
    assert drop(reported) == 1
    (job,) = (each for each in reported.jobs(JobKind.DELIVER) if each.destination == "archive")
    with (
        reported.store.read() as session,
        pytest.raises(QCError, match="no longer kept") as caught,
    ):
        deliverable(session, job)
    assert caught.value.code is ErrorCode.NOT_AVAILABLE


def test_payloads_are_stored_deflated_and_older_ones_still_read(reported: Records) -> None:
    with reported.store.begin() as session:
        raw = dict(session.execute(text("SELECT kind, payload FROM report_object")).tuples().all())
        assert zlib.decompress(bytes(raw["overlay"])) == OVERLAY.payload
        assert len(raw["overlay"]) < len(OVERLAY.payload) / 10
        session.execute(
            text("UPDATE report_object SET payload = :raw WHERE kind = 'overlay'"),
            {"raw": OVERLAY.payload},
        )
    assert payloads(reported)["overlay"] == OVERLAY.payload
