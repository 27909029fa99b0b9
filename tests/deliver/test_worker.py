"""Deliver jobs end to end against a real storage SCP."""

import socket
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)
from sqlalchemy.exc import OperationalError

from detector.errors import ErrorCode, QCError
from qc_daemon.deliver import pool, run, worker
from qc_daemon.deliver.circuit_breaker import CircuitBreaker
from qc_daemon.operations.destinations import list_destinations
from qc_daemon.operations.queue import list_jobs
from qc_daemon.records.queue import jobs
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.results import reports
from qc_daemon.records.tables import JobKind, ObjectKind
from qc_daemon.settings import DestinationSettings
from tests.support.delivery import Delivery
from tests.support.dicom_objects import US, part10, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.pacs import Pacs
from tests.support.waiting import eventually

SR = "1.2.840.10008.5.1.4.1.1.88.34"


def data_set(content: bytes) -> bytes:
    """The bytes behind the meta group."""
    import io

    stream = io.BytesIO(content)
    pydicom.filereader.read_preamble(stream, False)
    pydicom.filereader._read_file_meta_info(stream)
    return stream.read()


def jpeg() -> Dataset:
    dataset = ultrasound(syntax=JPEGBaseline8Bit)
    dataset.PixelData = pydicom.encaps.encapsulate([b"compressed, never decoded here"])
    dataset["PixelData"].is_undefined_length = True
    return dataset


def test_source_arrives_byte_for_byte(delivery: Delivery, pacs: Pacs) -> None:
    pacs.syntaxes = (JPEGBaseline8Bit, ExplicitVRLittleEndian)
    pacs.start()
    paths = [delivery.admit(ultrasound()), delivery.admit(jpeg())]
    deliverer = delivery.deliverer()
    assert [deliverer.run_once() for _ in range(3)] == [True, True, False]
    deliverer.close()
    assert delivery.states() == [("done", None)] * 2
    assert [data for _, _, data in pacs.received] == [data_set(path.read_bytes()) for path in paths]
    assert [syntax for _, syntax, _ in pacs.received] == [ExplicitVRLittleEndian, JPEGBaseline8Bit]


def test_one_association_carries_a_batch(delivery: Delivery, pacs: Pacs) -> None:
    pacs.start()
    for _ in range(4):
        delivery.admit(ultrasound())
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    deliverer.close()
    assert len(pacs.uids()) == 4
    assert pacs.associations == 1


def test_report_object_is_sent_as_stored(delivery: Delivery, pacs: Pacs) -> None:
    pacs.sop_classes = (US, SR)
    pacs.start()
    delivery.admit(ultrasound(), destination="share")
    dataset = ultrasound(sop_class=SR)
    payload = part10(dataset)
    with delivery.store.begin() as session:
        jobs.insert(session, JobKind.REPORT, "exam:1", 1, exam_id=1, now=delivery.now)
        job = jobs.claim(session, [JobKind.REPORT], "test", delivery.now, 300)
        assert job is not None
        report_object = reports.ReportObject(ObjectKind.SR, dataset.SOPInstanceUID, SR, payload)
        reports.publish(session, job, [report_object], {"sr": ["pacs"]}, delivery.now)
        jobs.finish(session, job, delivery.now)
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    deliverer.close()
    assert delivery.states() == [("done", None)] * 2
    assert [data for _, _, data in pacs.received] == [data_set(payload)]


def test_destination_down_then_up_delivers_exactly_once(delivery: Delivery, pacs: Pacs) -> None:
    dataset = ultrasound()
    delivery.admit(dataset)
    assert delivery.deliverer().run_once()
    assert delivery.states() == [("ready", ErrorCode.DELIVERY_UNREACHABLE)]
    # Not due before its back-off has passed.
    assert not delivery.deliverer().run_once()
    pacs.start()
    delivery.now += timedelta(minutes=5)
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    deliverer.close()
    assert delivery.states() == [("done", None)]
    assert pacs.uids() == [dataset.SOPInstanceUID]


def test_outage_of_days_costs_no_attempt(delivery: Delivery, pacs: Pacs) -> None:
    """With the settings as they are by default; each try is one that found nobody."""
    dataset = ultrasound()
    delivery.admit(dataset)
    for _ in range(2 * delivery.settings.jobs.max_attempts):
        assert delivery.deliverer().run_once()
        assert delivery.states() == [("ready", ErrorCode.DELIVERY_UNREACHABLE)]
        delivery.now += timedelta(hours=2)
    pacs.start()
    deliverer = delivery.deliverer()
    assert deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)]
    assert pacs.uids() == [dataset.SOPInstanceUID]


def test_job_that_is_not_tried_does_not_back_off(delivery: Delivery) -> None:
    for _ in range(3):
        delivery.admit(ultrasound())
    deliverer = delivery.deliverer()
    assert deliverer.run_once()
    # The others are left as they are while the destination is known to be away.
    assert not deliverer.run_once()
    assert sorted(delivery.states(), key=str) == [
        ("ready", ErrorCode.DELIVERY_UNREACHABLE),
        ("ready", None),
        ("ready", None),
    ]


def test_full_disk_here_does_not_stop_report_delivery(
    delivery: Delivery, pacs: Pacs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there is none"))
    test_report_object_is_sent_as_stored(delivery, pacs)


def test_exception_of_a_library_fails_only_its_object(
    delivery: Delivery, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.start()
    delivery.admit(ultrasound())

    def throws(*_: object) -> bool:
        raise OSError("something of the Doe^Jane kind")

    deliverer = delivery.deliverer()
    with monkeypatch.context() as broken:
        broken.setattr("qc_daemon.deliver.c_store.StoreSCU.send", throws)
        assert deliverer.run_once()
    assert delivery.states() == [("ready", ErrorCode.INTERNAL)]
    delivery.now += timedelta(minutes=5)
    assert deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)]


@pytest.mark.parametrize(
    ("status", "state", "code"),
    [
        (0xB000, "done", None),
        (0xA700, "ready", ErrorCode.DELIVERY_RESOURCES),
        (0x0122, "quarantined", ErrorCode.DELIVERY_REFUSED),
        (0xA900, "quarantined", ErrorCode.DELIVERY_REFUSED),
        (0xC123, "quarantined", ErrorCode.DELIVERY_REFUSED),
    ],
)
def test_status_decides_the_jobs_state(
    delivery: Delivery, pacs: Pacs, status: int, state: str, code: ErrorCode | None
) -> None:
    pacs.status = status
    pacs.start()
    delivery.admit(ultrasound())
    deliverer = delivery.deliverer()
    deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [(state, code)]


def test_an_object_that_the_peer_aborts_on_holds_no_other_up(
    delivery: Delivery, pacs: Pacs
) -> None:
    """It counts attempts and ends, and the destination is not to blame."""
    delivery.settings.jobs.max_attempts = 3
    bad, good = ultrasound(), ultrasound()
    pacs.aborts_on = {bad.SOPInstanceUID}
    pacs.start()
    delivery.admit(bad)
    delivery.admit(good)
    deliverer = delivery.deliverer()
    assert [deliverer.run_once() for _ in range(3)] == [True, True, False]
    assert delivery.states() == [("ready", ErrorCode.DELIVERY_ABORTED), ("done", None)]
    assert pacs.uids() == [good.SOPInstanceUID]
    row = list_destinations(delivery.settings)[0]
    assert (row["state"], row["failing since"], row["aborted"]) == ("ok", None, 1)
    for _ in range(2):
        delivery.now += timedelta(hours=2)
        assert deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("dead", ErrorCode.DELIVERY_ABORTED), ("done", None)]
    row = list_destinations(delivery.settings)[0]
    assert (row["state"], row["aborted"], row["given up"]) == ("ok", 0, 1)


def test_a_peer_that_breaks_off_at_every_object_is_to_blame_itself(
    delivery: Delivery, pacs: Pacs
) -> None:
    """Its storing hangs while C-ECHO works: no object is given up for that."""
    delivery.settings.jobs.max_attempts = 3
    objects = [ultrasound() for _ in range(4)]
    pacs.aborts_on = {each.SOPInstanceUID for each in objects}
    pacs.start()
    for each in objects:
        delivery.admit(each)
    breaker = CircuitBreaker(lambda: delivery.now.timestamp())
    deliverer = deliver_runner(
        delivery.store, delivery.settings, clock=delivery.clock, breaker=breaker
    )
    for _ in range(6):
        delivery.now += timedelta(hours=2)
        while deliverer.run_once():
            delivery.now += timedelta(minutes=2)
    with delivery.store.read() as session:
        listed = jobs.listing(session, kinds=[JobKind.DELIVER])
    assert [job.state for job in listed] == ["ready"] * 4
    assert sum(job.attempts for job in listed) == 2
    assert list_destinations(delivery.settings)[0]["state"] == "failing"
    pacs.aborts_on = set()
    delivery.now += timedelta(hours=2)
    while deliverer.run_once():
        pass
    deliverer.close()
    assert delivery.states() == [("done", None)] * 4


def test_a_peer_that_is_stopped_during_an_object_costs_at_most_one_attempt(
    delivery: Delivery, pacs: Pacs
) -> None:
    dataset = ultrasound()
    pacs.aborts_on = {dataset.SOPInstanceUID}
    pacs.start()
    delivery.admit(dataset)
    delivery.deliverer().run_once()
    pacs.stop()
    for _ in range(5):
        delivery.now += timedelta(hours=2)
        delivery.deliverer().run_once()
    with delivery.store.read() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.DELIVER])
    assert (job.error_code, job.attempts, job.alarms) == (ErrorCode.DELIVERY_UNREACHABLE, 1, 5)
    assert list_destinations(delivery.settings)[0]["state"] == "failing"
    pacs.aborts_on = set()
    pacs.start()
    delivery.now += timedelta(hours=2)
    deliverer = delivery.deliverer()
    deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)]


def test_no_accepted_context_is_refused(delivery: Delivery, pacs: Pacs) -> None:
    pacs.start()
    delivery.admit(jpeg())
    deliverer = delivery.deliverer()
    deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED)]


def test_uncompressed_is_converted_where_the_peer_wants_it(delivery: Delivery, pacs: Pacs) -> None:
    pacs.syntaxes = (ImplicitVRLittleEndian,)
    pacs.start()
    dataset = ultrasound()
    delivery.admit(dataset)
    deliverer = delivery.deliverer()
    deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)]
    ((_, syntax, data),) = pacs.received
    assert syntax == ImplicitVRLittleEndian
    assert dataset.PixelData in data


def test_peer_that_restarts_between_two_objects_is_reached_again(
    delivery: Delivery, pacs: Pacs
) -> None:
    pacs.start()
    deliverer = delivery.deliverer()
    delivery.admit(ultrasound())
    deliverer.run_once()
    pacs.stop()
    pacs.start()
    delivery.admit(ultrasound())
    with deliverer.handlers[0].pool.transport("pacs") as transport:
        eventually(lambda: not transport._association.is_established)
    deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)] * 2


def test_a_job_for_a_destination_that_the_settings_lack_waits(delivery: Delivery) -> None:
    delivery.admit(ultrasound(), destination="archive")
    assert not delivery.deliverer().run_once()
    assert delivery.states() == [("ready", None)]


def test_two_daemons_with_different_settings_share_a_queue(
    delivery: Delivery, tmp_path: Path
) -> None:
    """As two hosts on one database, or one restarted after an edit of its settings."""
    other = delivery.settings.model_copy(deep=True)
    (tmp_path / "archive").mkdir()
    other.destination = [
        DestinationSettings(name="archive", kind="folder", folder=tmp_path / "archive")
    ]
    delivery.admit(ultrasound(), destination="archive")
    delivery.admit(ultrasound(), destination="share")
    assert [delivery.deliverer().run_once() for _ in range(3)] == [True, False, False]
    assert delivery.states() == [("ready", None), ("done", None)]
    rows = {row["name"]: row for row in list_destinations(delivery.settings)}
    assert (rows["archive"]["waiting"], rows["archive"]["state"]) == (1, "not in the settings")
    assert deliver_runner(delivery.store, other, "other", clock=delivery.clock).run_once()
    assert delivery.states() == [("done", None)] * 2


def test_a_destination_that_is_down_is_listed_with_its_error(
    delivery: Delivery, pacs: Pacs
) -> None:
    delivery.admit(ultrasound())
    began = delivery.now.isoformat()
    for _ in range(2):
        delivery.deliverer().run_once()
        row = list_destinations(delivery.settings)[0]
        assert (row["state"], row["failing since"]) == ("failing", began)
        assert row["last error code"] == ErrorCode.DELIVERY_UNREACHABLE
        assert row["last error"] == (
            "destination pacs cannot be reached: connection refused: nothing listens at the port"
        )
        assert row["last error at"] == delivery.now.isoformat()
        delivery.now += timedelta(hours=2)
    pacs.start()
    deliverer = delivery.deliverer()
    deliverer.run_once()
    deliverer.close()
    row = list_destinations(delivery.settings)[0]
    assert (row["state"], row["failing since"]) == ("ok", None)
    assert row["last error code"] == ErrorCode.DELIVERY_UNREACHABLE


def test_a_database_that_fails_meanwhile_is_not_the_destinations_fault(
    delivery: Delivery, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.start()
    delivery.admit(ultrasound())

    def fails(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("the database is gone"))

    for _ in range(2 * delivery.settings.jobs.max_attempts):
        with monkeypatch.context() as broken:
            broken.setattr("qc_daemon.records.results.reports.deliverable", fails)
            assert delivery.deliverer().run_once()
        delivery.now += timedelta(hours=2)
    assert delivery.states() == [("ready", ErrorCode.STORAGE)]
    assert list_destinations(delivery.settings)[0]["state"] == "ok"
    deliverer = delivery.deliverer()
    assert deliverer.run_once()
    deliverer.close()
    assert delivery.states() == [("done", None)]


def test_missing_spool_file_stays_in_the_queue_as_an_alarm(delivery: Delivery) -> None:
    delivery.admit(ultrasound(), destination="share").unlink()
    delivery.deliverer().run_once()
    assert delivery.states() == [("ready", ErrorCode.SPOOL_MISSING)]


def test_an_original_is_sent_from_where_it_was_fetched_back_to(delivery: Delivery) -> None:
    file = delivery.admit(ultrasound(), destination="share")
    back = file.rename(delivery.spool / "elsewhere.dcm")
    deliverer = deliver_runner(
        delivery.store, delivery.settings, "test", originals=lambda _facts: back
    )
    deliverer.run_once()
    folder = delivery.settings.destination[1].folder
    assert folder is not None
    assert [path.read_bytes() for path in folder.iterdir()] == [back.read_bytes()]


def test_an_original_that_nobody_has_is_quarantined(delivery: Delivery) -> None:
    delivery.admit(ultrasound(), destination="share")

    def nowhere(_facts: RevisionFacts) -> Path:
        raise QCError(ErrorCode.NOT_AVAILABLE, "nowhere")

    deliver_runner(delivery.store, delivery.settings, originals=nowhere).run_once()
    assert delivery.states() == [("quarantined", ErrorCode.NOT_AVAILABLE)]


def test_folder_and_second_revision(delivery: Delivery) -> None:
    first = ultrasound()
    delivery.admit(first, destination="share")
    delivery.admit(
        ultrasound(SOPInstanceUID=first.SOPInstanceUID, pixels=bytes(256)), destination="share"
    )
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    folder = delivery.settings.destination[1].folder
    assert folder is not None
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{first.SOPInstanceUID}-r2.dcm",
        f"{first.SOPInstanceUID}.dcm",
    ]


def test_a_folder_by_study_keeps_an_exam_together(delivery: Delivery) -> None:
    delivery.settings.destination[1].layout = "study"
    folder = delivery.settings.destination[1].folder
    assert folder is not None
    datasets = [ultrasound(), ultrasound()]
    for each in datasets:
        delivery.admit(each, destination="share")
        # The second one comes on the next day.
        delivery.now += timedelta(hours=20)
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm")) == sorted(
        f"2026-11-02/exam-1_1.2.3.4.5/image_{each.SOPInstanceUID}.dcm" for each in datasets
    )


def test_lost_lease_records_nothing(
    delivery: Delivery, pacs: Pacs, monkeypatch: pytest.MonkeyPatch
) -> None:
    pacs.start()
    delivery.admit(ultrasound())
    deliverer = delivery.deliverer()

    class Thief:
        def send(self, _item: Any) -> None:
            with delivery.store.begin() as session:
                jobs.release_owner(session, "test", delivery.now, count_death=False)

        def close(self) -> None: ...

    monkeypatch.setattr(pool, "create_transport", lambda *_: Thief())
    deliverer.run_once()
    assert delivery.states() == [("ready", None)]


def test_outage_blocks_a_destination_for_a_while() -> None:
    clock = [100.0]
    breaker = CircuitBreaker(lambda: clock[0])
    breaker.check("pacs")
    breaker.record_failure("pacs", 20.0)
    with pytest.raises(QCError, match="pacs"):
        breaker.check("pacs")
    breaker.check("share")
    clock[0] += 40.0
    breaker.check("pacs")


def test_run_delivers_until_stopped(delivery: Delivery, pacs: Pacs) -> None:
    pacs.start()
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(delivery.store, delivery.settings, "test", stop))
    thread.start()
    try:
        delivery.admit(ultrasound())
        delivery.admit(ultrasound(), destination="share")
        eventually(lambda: delivery.states() == [("done", None)] * 2)
    finally:
        stop.set()
        thread.join(60)
    assert not thread.is_alive()


def test_run_does_not_wait_for_a_destination_that_does_not_answer(
    delivery: Delivery, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        pacs = delivery.settings.destination[0]
        pacs.port, pacs.timeout = silent.getsockname()[1], 3600
        delivery.admit(ultrasound())
        stop = threading.Event()
        thread = threading.Thread(
            target=run, args=(delivery.store, delivery.settings, "test", stop)
        )
        thread.start()
        connection, _ = silent.accept()
        with connection:
            stop.set()
            thread.join(250)
            assert not thread.is_alive()
            # Its lease is as it was; whoever starts the process releases it.
            assert delivery.states() == [("leased", None)]
    assert "sending not finished" in capsys.readouterr().out


def test_a_folder_that_is_not_there_is_logged_at_the_start(
    delivery: Delivery, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its objects wait until it is, and are not written into one that we make."""
    folder = delivery.settings.destination[1].folder
    assert folder is not None
    folder.rmdir()
    delivery.admit(ultrasound(), destination="share")
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(delivery.store, delivery.settings, "test", stop))
    thread.start()
    try:
        waiting = [("ready", ErrorCode.DELIVERY_UNREACHABLE)]
        eventually(lambda: delivery.states() == waiting)
    finally:
        stop.set()
        thread.join(60)
    assert not folder.exists()
    logged = capsys.readouterr().out
    assert "destination folder missing" in logged
    assert f"the folder {folder} is not there; mount its share, or make the folder" in logged
    assert list_destinations(delivery.settings)[1]["state"] == "failing"
    folder.mkdir()
    delivery.now += timedelta(hours=2)
    delivery.deliverer().run_once()
    assert delivery.states() == [("done", None)]


def test_exception_in_a_thread_ends_run(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_self: Any) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(worker.JobRunner, "run_once", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _args: None)
    with pytest.raises(ZeroDivisionError):
        run(delivery.store, delivery.settings, "test", threading.Event())


REFUSED_STUDY = "1.2.840.99.666"


def admit_corrected(delivery: Delivery, destination: str = "pacs") -> None:
    """An image of a study that the PACS refuses, and the same image corrected by its sender."""
    wrong = ultrasound(SOPInstanceUID="1.2.840.99.5")
    wrong.StudyInstanceUID = REFUSED_STUDY
    delivery.admit(wrong, destination)
    delivery.admit(ultrasound(SOPInstanceUID="1.2.840.99.5"), destination)


@pytest.mark.parametrize("status", [0xA700, 0x0110])
def test_corrected_image_arrives_though_the_first_is_refused_for_ever(
    delivery: Delivery, pacs: Pacs, status: int
) -> None:
    pacs.statuses = {REFUSED_STUDY: status}
    pacs.start()
    admit_corrected(delivery)
    deliverer = delivery.deliverer()
    for _ in range(4):
        while deliverer.run_once():
            pass
        delivery.now += timedelta(hours=1)
    # The PACS would take the first now, and put it in the place of the corrected one.
    pacs.statuses = {}
    rows = {row["revision"]: row for row in list_jobs(delivery.settings, ["dead", "done"])}
    with delivery.store.begin() as session:
        jobs.retry(session, [rows[1]["id"]], delivery.now)
    while deliverer.run_once():
        pass
    deliverer.close()
    assert pacs.uids() == ["1.2.840.99.5"]
    rows = {row["revision"]: row for row in list_jobs(delivery.settings, ["dead", "done"])}
    assert (rows[1]["state"], rows[1]["code"]) == ("dead", "cancelled")
    assert "revision 2" in rows[1]["message"]
    assert rows[2]["state"] == "done"


def test_folder_gets_the_earlier_image_too(delivery: Delivery) -> None:
    """Each content has a file of its own there: nothing is replaced."""
    share = delivery.settings.destination[1].folder
    admit_corrected(delivery, "share")
    share.rename(share.parent / "away")
    deliverer = delivery.deliverer()
    for _ in range(3):
        deliverer.run_once()
        delivery.now += timedelta(hours=2)
    (share.parent / "away").rename(share)
    deliverer = delivery.deliverer()
    while deliverer.run_once():
        pass
    deliverer.close()
    assert sorted(each.name for each in share.glob("*.dcm")) == [
        "1.2.840.99.5-r2.dcm",
        "1.2.840.99.5.dcm",
    ]


def test_queue_list_says_what_a_job_waits_for(delivery: Delivery) -> None:
    admit_corrected(delivery)
    first, second = list_jobs(delivery.settings, ["ready"], kinds=["deliver"])
    assert (first["waits for"], first["wait reason"]) == (None, None)
    assert (second["waits for"], second["wait reason"]) == (first["id"], "an earlier revision")


def send_due(delivery: Delivery, deliverer) -> dict[str, object]:
    """Send what is due, an hour later than before; the row of the destination."""
    delivery.now += timedelta(hours=1)
    while deliverer.run_once():
        pass
    return list_destinations(delivery.settings)[0]


@pytest.mark.parametrize("status", [0xA700, 0x0213, 0x0110])
def test_one_object_that_is_not_stored_makes_no_destination_fail(
    delivery: Delivery, pacs: Pacs, status: int
) -> None:
    pacs.statuses = {REFUSED_STUDY: status}
    pacs.start()
    deliverer = delivery.deliverer()
    delivery.admit(ultrasound(study=REFUSED_STUDY))
    states = []
    for stored in (True, True, True, False, False, False, False):
        if stored:
            delivery.admit(ultrasound())
        states.append(send_due(delivery, deliverer)["state"])
    deliverer.close()
    assert states == ["ok"] * 7
    (job,) = list_jobs(delivery.settings, ["ready"], kinds=["deliver"])
    assert job["tries"] == 7


def test_destination_that_stores_none_of_three_objects_fails_until_it_stores_one(
    delivery: Delivery, pacs: Pacs
) -> None:
    pacs.status = 0xA700
    pacs.start()
    deliverer = delivery.deliverer()
    for _ in range(2):
        delivery.admit(ultrasound())
    assert send_due(delivery, deliverer)["state"] == "ok"
    delivery.admit(ultrasound())
    row = send_due(delivery, deliverer)
    assert row["state"] == "failing"
    pacs.status = 0
    assert send_due(delivery, deliverer)["state"] == "ok"
    deliverer.close()


def test_destination_that_does_not_store_its_only_object_fails_at_the_third_try(
    delivery: Delivery, pacs: Pacs
) -> None:
    pacs.status = 0xA700
    pacs.start()
    deliverer = delivery.deliverer()
    delivery.admit(ultrasound())
    assert [send_due(delivery, deliverer)["state"] for _ in range(3)] == ["ok", "ok", "failing"]
    deliverer.close()
