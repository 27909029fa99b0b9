"""The storage SCP over real associations: what it takes, what it refuses, what it leaves behind."""

import errno
import hashlib
import io
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
)
from pynetdicom import AE, build_context, evt
from sqlalchemy import text

from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID
from qc_daemon.dicom.uids import VERIFICATION
from qc_daemon.observe import log
from qc_daemon.receive import presentation_contexts
from qc_daemon.receive.identifiers import file_head
from qc_daemon.receive.mpps import MPPS
from qc_daemon.records.tables import Exam, ExamHold, Instance, JobRow, Revision
from tests.support import raw_dimse
from tests.support.dicom_objects import CANARY_ID, US, US_RETIRED, ultrasound
from tests.support.peers import association, store
from tests.support.running_receiver import RunningReceiver
from tests.support.waiting import eventually

CANNOT_UNDERSTAND, MISMATCH, RESOURCES = 0xC000, 0xA900, 0xA700


def test_stored_object_has_its_file_and_rows(receiver: RunningReceiver) -> None:
    dataset = ultrasound(study="1.2.3.4.5")
    assert store(receiver.port, dataset) == [0x0000]
    (path,) = receiver.files()
    content = path.read_bytes()
    (revision,) = receiver.rows(Revision)
    assert revision.sha256 == hashlib.sha256(content).hexdigest() == path.stem
    assert receiver.spool.root / revision.path == path
    assert (revision.number, revision.size) == (1, len(content))
    assert revision.sop_class_uid == US
    assert revision.transfer_syntax_uid == ExplicitVRLittleEndian
    assert revision.calling_ae == "MODALITY"
    assert [row.sop_instance_uid for row in receiver.rows(Instance)] == [dataset.SOPInstanceUID]
    (exam,) = receiver.rows(Exam)
    assert (exam.study_instance_uid, exam.patient_id, exam.state) == (
        "1.2.3.4.5",
        CANARY_ID,
        "open",
    )
    assert sorted((job.kind, job.destination) for job in receiver.rows(JobRow)) == [
        ("deliver", "pacs"),
        ("score", ""),
    ]
    stored = pydicom.dcmread(path)
    assert stored.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert stored.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert stored.PixelData == dataset.PixelData


def test_same_object_again_is_success_without_work(receiver: RunningReceiver) -> None:
    dataset = ultrasound()
    assert store(receiver.port, dataset, dataset) == [0x0000, 0x0000]
    assert store(receiver.port, dataset) == [0x0000]
    assert len(receiver.files()) == len(receiver.rows(Revision)) == 1
    assert len(receiver.rows(JobRow)) == 2


def test_other_content_under_the_same_uid_is_a_revision(receiver: RunningReceiver) -> None:
    first = ultrasound()
    second = ultrasound(SOPInstanceUID=first.SOPInstanceUID, pixels=bytes(256))
    assert store(receiver.port, first, second) == [0x0000, 0x0000]
    assert len(receiver.rows(Instance)) == 1
    assert [revision.number for revision in receiver.rows(Revision)] == [1, 2]
    assert len(receiver.files()) == 2


@pytest.mark.parametrize(
    ("stated", "actual"), [("1.2.3.4", "1.2.3.5"), (US, "1.2.840.10008.5.1.4.1.1.3.1")]
)
def test_mismatch_with_the_command_is_a900(
    receiver: RunningReceiver, tmp_path: Path, stated: str, actual: str
) -> None:
    path = tmp_path / "lying.dcm"
    ultrasound(SOPInstanceUID="1.2.3.4").save_as(path, enforce_file_format=True)
    meta, mark, data = path.read_bytes().partition(b"\x08\x00\x16\x00UI")
    path.write_bytes(meta + mark + data.replace(stated.encode(), actual.encode()))
    assert chunked(receiver.port, path) == MISMATCH
    assert receiver.nothing_recorded()
    assert receiver.files() == []


def chunked(port: int, path: Path) -> int:
    """Send a file's bytes as they are, under its meta group's UIDs."""
    with association(port) as assoc:
        assert assoc.is_established
        return sent(assoc, path)


def sent(assoc: Any, path: Path) -> int:
    """The status for a file's bytes as they are, under its meta group's UIDs."""
    from pynetdicom import _config

    _config.STORE_SEND_CHUNKED_DATASET = True
    status: int = assoc.send_c_store(path).Status
    return status


def test_rubbish_is_c000(receiver: RunningReceiver, tmp_path: Path) -> None:
    dataset = ultrasound()
    path = tmp_path / "rubbish.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(content[:start] + b"\x08\x00\x16\x00UI\xff\x7f" + b"rubbish" * 20)
    assert chunked(receiver.port, path) == CANNOT_UNDERSTAND
    assert receiver.nothing_recorded()
    assert receiver.files() == []


def test_an_object_with_truncated_pixels_is_stored(
    receiver: RunningReceiver, tmp_path: Path
) -> None:
    path = tmp_path / "cut.dcm"
    ultrasound().save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    assert chunked(receiver.port, path) == 0x0000
    assert len(receiver.rows(Revision)) == 1


def test_no_character_set_refuses_an_object(receiver: RunningReceiver, tmp_path: Path) -> None:
    path = tmp_path / "charset.dcm"
    ultrasound(SpecificCharacterSet="ISO_IR 999").save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(CANARY_ID.encode(), b"\xff\xfe" + b"\xe9" * 10))
    assert chunked(receiver.port, path) == 0x0000


def test_missing_study_is_stored_all_the_same(receiver: RunningReceiver) -> None:
    dataset = ultrasound()
    del dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    assert store(receiver.port, dataset) == [0x0000]
    (exam,) = receiver.rows(Exam)
    assert (exam.study_instance_uid, exam.patient_id) == ("", CANARY_ID)


def test_objects_that_name_neither_study_nor_patient_share_no_exam(
    receiver: RunningReceiver,
) -> None:
    first, second = ultrasound(), ultrasound()
    for each in (first, second):
        del each.StudyInstanceUID, each.PatientID
    again = ultrasound(SOPInstanceUID=first.SOPInstanceUID, pixels=bytes(256))
    del again.StudyInstanceUID, again.PatientID
    assert store(receiver.port, first, second, again) == [0x0000] * 3
    assert len({exam.study_instance_uid for exam in receiver.rows(Exam)}) == 2
    exams = [revision.exam_id for revision in receiver.rows(Revision)]
    assert exams[0] == exams[2] != exams[1]


@pytest.mark.parametrize("implicit", [False, True])
def test_two_patients_whose_elements_are_out_of_order_are_two_exams(
    receiver: RunningReceiver, tmp_path: Path, implicit: bool
) -> None:
    """A private group in front, identifiers behind the image's description, as some machines do."""
    syntax = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    for patient in ("FIRST", "SECOND"):
        dataset = ultrasound(study=f"1.2.3.{len(patient)}", PatientID=patient, syntax=syntax)
        moved = Dataset()
        for name in ("StudyInstanceUID", "SeriesInstanceUID", "PatientID"):
            moved[name] = dataset[name]
        del dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.PatientID
        pixels = dataset.PixelData
        del dataset.PixelData
        encoded = [raw_dimse.encode_dataset(each, syntax) for each in (dataset, moved)]
        last = Dataset()
        last.PixelData = pixels
        last["PixelData"].VR = "OB"
        private = Dataset()
        private.add_new(0x00311010, "LO", "A MAKER")
        parts = [
            raw_dimse.encode_dataset(private, syntax),
            *encoded,
            raw_dimse.encode_dataset(last, syntax),
        ]
        with association(receiver.port, [(US, syntax)]) as assoc:
            path = tmp_path / f"{patient}.dcm"
            meta = file_head(US, str(dataset.SOPInstanceUID), syntax, "1.2.3", "X")
            path.write_bytes(meta + b"".join(parts))
            assert sent(assoc, path) == 0x0000
    exams = sorted((exam.study_instance_uid, exam.patient_id) for exam in receiver.rows(Exam))
    assert exams == [("1.2.3.5", "FIRST"), ("1.2.3.6", "SECOND")]


@pytest.mark.parametrize(
    "change",
    [
        {"StudyInstanceUID": "DOE^JANE"},
        {"StudyInstanceUID": "1." + "2" * 63},
        {"StudyInstanceUID": "1." + "2" * 9000},
        {"SeriesInstanceUID": "1.2.O"},
        {"PatientID": "9" * 9000},
    ],
    ids=["text", "65", "9002", "series", "patient"],
)
def test_identifiers_that_no_row_can_hold_are_c000_and_leave_nothing(
    receiver: RunningReceiver, tmp_path: Path, change: dict[str, str]
) -> None:
    dataset = ultrasound(syntax=ImplicitVRLittleEndian)
    with pydicom.config.disable_value_validation():
        for name, value in change.items():
            setattr(dataset, name, value)
        path = tmp_path / "odd.dcm"
        dataset.save_as(path, enforce_file_format=True)
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        with association(receiver.port, [(US, ImplicitVRLittleEndian)]) as assoc:
            assert sent(assoc, path) == CANNOT_UNDERSTAND
    finally:
        log.configure("critical")
    assert receiver.nothing_recorded()
    assert receiver.files() == []
    assert "DOE" not in stream.getvalue()
    assert "object refused" in stream.getvalue()


def test_a_text_in_the_place_of_a_uid_is_not_logged(receiver: RunningReceiver) -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        dataset = ultrasound()
        del dataset.file_meta
        with raw_dimse.association(receiver.port, [US]) as peer:
            command = raw_dimse.command("C-STORE", US, "DOE^JANE", has_data=True)
            assert peer.ask(1, command, raw_dimse.encode_dataset(dataset)) == MISMATCH
            created = raw_dimse.command("N-CREATE", MPPS, "DOE^JANE", has_data=True)
        with raw_dimse.association(receiver.port, [MPPS]) as peer:
            assert peer.ask(1, created, raw_dimse.encode_dataset(dataset)) == 0x0117
    finally:
        log.configure("critical")
    assert "DOE" not in stream.getvalue()
    assert receiver.nothing_recorded()


@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGBaseline8Bit,
        RLELossless,
    ],
)
def test_each_transfer_syntax_is_stored_unchanged(
    receiver: RunningReceiver, tmp_path: Path, syntax: str
) -> None:
    dataset = ultrasound(syntax=ExplicitVRLittleEndian)
    if syntax in (JPEGBaseline8Bit, RLELossless):
        dataset.PixelData = pydicom.encaps.encapsulate([b"never decoded here"])
        dataset["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "sent.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with association(receiver.port, [(US, syntax)]) as assoc:
        assert assoc.send_c_store(pydicom.dcmread(path)).Status == 0x0000
    (revision,) = receiver.rows(Revision)
    assert revision.transfer_syntax_uid == syntax
    stored = pydicom.dcmread(receiver.files()[0])
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored.get("PixelData") == dataset.get("PixelData")


def test_every_ultrasound_class_is_accepted_in_every_syntax(receiver: RunningReceiver) -> None:
    syntaxes = presentation_contexts.transfer_syntaxes()
    assert {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.108", "1.2.840.10008.1.2.5"} <= set(
        syntaxes
    )
    for sop_class in (US, US_RETIRED, "1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.3.1"):
        contexts = [(sop_class, syntax) for syntax in syntaxes]
        with association(receiver.port, contexts) as assoc:
            assert assoc.is_established
            assert assoc.rejected_contexts == []


def test_retired_class_is_stored(receiver: RunningReceiver) -> None:
    ae = AE("MODALITY")
    dataset = ultrasound(sop_class=US_RETIRED)
    assoc = ae.associate(
        "127.0.0.1",
        receiver.port,
        contexts=[build_context(US_RETIRED, ExplicitVRLittleEndian)],
        ae_title="QCDAEMON",
    )
    assert assoc.send_c_store(dataset).Status == 0x0000
    assoc.release()


def test_other_sop_classes_are_not_accepted(receiver: RunningReceiver) -> None:
    ct = "1.2.840.10008.5.1.4.1.1.2"
    with association(receiver.port, [(ct, ExplicitVRLittleEndian)]) as assoc:
        assert not assoc.accepted_contexts


def test_echo_and_pdu_size(receiver: RunningReceiver) -> None:
    with association(receiver.port, [("1.2.840.10008.1.1", ImplicitVRLittleEndian)]) as assoc:
        assert assoc.send_c_echo().Status == 0x0000
        assert assoc.acceptor.maximum_length == 1 << 20


def test_unknown_caller_is_rejected(start_receiver: Callable[..., RunningReceiver]) -> None:
    receiver = start_receiver(peer=[{"ae_title": "VOLUSON1", "address": "127.0.0.0/8"}])
    with association(receiver.port, calling="STRANGER") as assoc:
        assert assoc.is_rejected
        assert assoc.acceptor.primitive.diagnostic == 0x03
    with association(receiver.port, calling="VOLUSON1") as assoc:
        assert assoc.is_established


def test_wrong_called_title_is_rejected(receiver: RunningReceiver) -> None:
    with association(receiver.port, called="SOMEONE") as assoc:
        assert assoc.is_rejected
        assert assoc.acceptor.primitive.diagnostic == 0x07


def test_too_many_associations_are_a_transient_rejection(
    start_receiver: Callable[..., RunningReceiver],
) -> None:
    receiver = start_receiver(max_associations=1)
    with association(receiver.port) as first:
        assert first.is_established
        with association(receiver.port) as second:
            assert second.is_rejected
            assert second.acceptor.primitive.result == 0x02
    eventually(lambda: not receiver.scp._associations)
    with association(receiver.port) as third:
        assert third.is_established


def test_full_disk_is_a700_and_nothing_recorded(
    start_receiver: Callable[..., RunningReceiver], small_disk: Path
) -> None:
    receiver = start_receiver(spool=small_disk / "spool")
    large = ultrasound(pixels=bytes(1 << 20))
    small = ultrasound()
    assert store(receiver.port, large, small) == [RESOURCES, 0x0000]
    assert [row.sop_instance_uid for row in receiver.rows(Instance)] == [small.SOPInstanceUID]
    assert len(receiver.files()) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failing_sync_is_a700_and_nothing_recorded(
    receiver: RunningReceiver, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(code, os.strerror(code))

    dataset = ultrasound()
    with monkeypatch.context() as patch:
        patch.setattr("qc_daemon.spool.spool.os.fsync", fail)
        assert store(receiver.port, dataset) == [RESOURCES]
    assert receiver.nothing_recorded()
    assert receiver.files() == []
    assert store(receiver.port, dataset) == [0x0000]


def test_without_the_spool_a700_and_recovery(receiver: RunningReceiver) -> None:
    moved_spool = receiver.spool.root.with_name("away")
    receiver.spool.root.rename(moved_spool)
    dataset = ultrasound()
    assert store(receiver.port, dataset) == [RESOURCES]
    moved_spool.rename(receiver.spool.root)
    assert receiver.nothing_recorded()
    assert store(receiver.port, dataset) == [0x0000]


def test_without_the_database_a700_and_recovery(receiver: RunningReceiver) -> None:
    with receiver.store.begin() as session:
        session.execute(text("ALTER TABLE revision RENAME TO elsewhere"))
    dataset = ultrasound()
    assert store(receiver.port, dataset) == [RESOURCES]
    with receiver.store.begin() as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO revision"))
    assert receiver.nothing_recorded()
    assert store(receiver.port, dataset) == [0x0000]
    assert len(receiver.files()) == 1


def test_association_holds_its_exam_until_it_ends(receiver: RunningReceiver) -> None:
    with association(receiver.port) as assoc:
        assoc.send_c_store(ultrasound())
        (hold,) = receiver.rows(ExamHold)
        receiver.scp.renew_holds()
        (renewed,) = receiver.rows(ExamHold)
        assert renewed.token == hold.token
        assert renewed.expires_at >= hold.expires_at
    eventually(lambda: not receiver.rows(ExamHold))


def test_lost_connection_ends_the_hold(receiver: RunningReceiver) -> None:
    with association(receiver.port) as assoc:
        assoc.send_c_store(ultrasound())
        assert receiver.rows(ExamHold)
        assoc.abort()
        eventually(lambda: not receiver.rows(ExamHold))


def test_connection_lost_inside_an_object_leaves_nothing(receiver: RunningReceiver) -> None:
    with association(receiver.port) as assoc:
        assoc.dimse.maximum_pdu_size  # noqa: B018 - the association is up before its socket is cut
        sent = threading.Event()

        def cut(_event: Any) -> None:
            if not sent.is_set():
                sent.set()
                assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)

        assoc.bind(evt.EVT_DATA_SENT, cut)
        assoc.send_c_store(ultrasound(pixels=bytes(4 << 20)))
    eventually(lambda: not receiver.scp._associations)
    assert receiver.nothing_recorded()
    eventually(lambda: not receiver.files())


def test_probes_leave_nothing_behind(receiver: RunningReceiver) -> None:
    before = threading.active_count()
    for _ in range(3):
        socket.create_connection(("127.0.0.1", receiver.port)).close()
    assert store(receiver.port, ultrasound()) == [0x0000]
    # An association leaves the list a moment before its thread does.
    eventually(lambda: not receiver.scp._associations and threading.active_count() <= before)


def test_drain_lets_an_association_finish(receiver: RunningReceiver) -> None:
    with association(receiver.port) as assoc:
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
        aborted: list[int] = []
        drain = threading.Thread(target=lambda: aborted.append(receiver.scp.drain(30)))
        drain.start()
        assert assoc.send_c_store(ultrasound()).Status == 0x0000
        assoc.release()
        drain.join(60)
    assert aborted == [0]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", receiver.port)).close()
    assert len(receiver.rows(Revision)) == 2


def test_drain_does_not_wait_for_an_idle_association(receiver: RunningReceiver) -> None:
    """Nor for the peer of one to close its connection: it may have been switched off."""
    with (
        association(receiver.port) as idle,
        raw_dimse.association(receiver.port, [VERIFICATION]),
    ):
        assert idle.send_c_store(ultrasound()).Status == 0x0000
        assert receiver.scp.drain(3600) == 2
    assert not receiver.scp._associations
    assert len(receiver.rows(Revision)) == 1


def test_logs_carry_reasons_but_no_patient(
    receiver: RunningReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "log"
    with lines.open("w") as stream:
        log.configure("debug", stream)
        try:
            store(receiver.port, ultrasound())
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", lambda *_: Path("/CANARY").stat())
                store(receiver.port, ultrasound())
        finally:
            log.configure("critical")
    entries = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["event"] for each in entries] == ["object stored", "object refused"]
    assert entries[1]["status"] == "A700"
    assert entries[1]["reason"] == "spool: no such file or directory"
    assert "CANARY" not in lines.read_text()
