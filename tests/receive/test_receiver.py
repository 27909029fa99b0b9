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
from qc_daemon.observe import log
from qc_daemon.receive import presentation_contexts
from qc_daemon.receive.identifiers import file_head
from qc_daemon.receive.mpps import MPPS
from qc_daemon.records.tables import AssociationLease, Exam, Instance, JobRow, Revision
from tests.receive.conftest import Site
from tests.support import raw_dimse
from tests.support.dicom_peers import (
    CANARY_ID,
    US,
    US_RETIRED,
    association,
    eventually,
    store,
    ultrasound,
)

CANNOT_UNDERSTAND, MISMATCH, RESOURCES = 0xC000, 0xA900, 0xA700


def test_stored_object_has_its_file_and_rows(site: Site) -> None:
    dataset = ultrasound(study="1.2.3.4.5")
    assert store(site.port, dataset) == [0x0000]
    (path,) = site.files()
    content = path.read_bytes()
    (revision,) = site.rows(Revision)
    assert revision.sha256 == hashlib.sha256(content).hexdigest() == path.stem
    assert site.spool.root / revision.path == path
    assert (revision.number, revision.size) == (1, len(content))
    assert revision.sop_class_uid == US
    assert revision.transfer_syntax_uid == ExplicitVRLittleEndian
    assert revision.calling_ae == "MODALITY"
    assert [row.sop_instance_uid for row in site.rows(Instance)] == [dataset.SOPInstanceUID]
    (exam,) = site.rows(Exam)
    assert (exam.study_instance_uid, exam.patient_id, exam.state) == (
        "1.2.3.4.5",
        CANARY_ID,
        "open",
    )
    assert sorted((job.kind, job.destination) for job in site.rows(JobRow)) == [
        ("deliver", "pacs"),
        ("score", ""),
    ]
    stored = pydicom.dcmread(path)
    assert stored.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert stored.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert stored.PixelData == dataset.PixelData


def test_same_object_again_is_success_without_work(site: Site) -> None:
    dataset = ultrasound()
    assert store(site.port, dataset, dataset) == [0x0000, 0x0000]
    assert store(site.port, dataset) == [0x0000]
    assert len(site.files()) == len(site.rows(Revision)) == 1
    assert len(site.rows(JobRow)) == 2


def test_other_content_under_the_same_uid_is_a_revision(site: Site) -> None:
    first = ultrasound()
    second = ultrasound(SOPInstanceUID=first.SOPInstanceUID, pixels=bytes(256))
    assert store(site.port, first, second) == [0x0000, 0x0000]
    assert len(site.rows(Instance)) == 1
    assert [revision.number for revision in site.rows(Revision)] == [1, 2]
    assert len(site.files()) == 2


@pytest.mark.parametrize(
    ("told", "held"), [("1.2.3.4", "1.2.3.5"), (US, "1.2.840.10008.5.1.4.1.1.3.1")]
)
def test_mismatch_with_the_command_is_a900(
    site: Site, tmp_path: Path, told: str, held: str
) -> None:
    path = tmp_path / "lying.dcm"
    ultrasound(SOPInstanceUID="1.2.3.4").save_as(path, enforce_file_format=True)
    meta, mark, data = path.read_bytes().partition(b"\x08\x00\x16\x00UI")
    path.write_bytes(meta + mark + data.replace(told.encode(), held.encode()))
    assert chunked(site.port, path) == MISMATCH
    assert site.nothing_recorded()
    assert site.files() == []


def chunked(port: int, path: Path) -> int:
    """Send a file's bytes as they are, under its meta group's UIDs."""
    with association(port) as made:
        assert made.is_established
        return sent(made, path)


def sent(made: Any, path: Path) -> int:
    """The status for a file's bytes as they are, under its meta group's UIDs."""
    from pynetdicom import _config

    _config.STORE_SEND_CHUNKED_DATASET = True
    status: int = made.send_c_store(path).Status
    return status


def test_rubbish_is_c000(site: Site, tmp_path: Path) -> None:
    dataset = ultrasound()
    path = tmp_path / "rubbish.dcm"
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    start = content.index(b"\x08\x00\x16\x00UI")
    path.write_bytes(content[:start] + b"\x08\x00\x16\x00UI\xff\x7f" + b"rubbish" * 20)
    assert chunked(site.port, path) == CANNOT_UNDERSTAND
    assert site.nothing_recorded()
    assert site.files() == []


def test_truncated_pixels_are_kept_for_the_scorer_to_judge(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "cut.dcm"
    ultrasound().save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes()[:-100])
    assert chunked(site.port, path) == 0x0000
    assert len(site.rows(Revision)) == 1


def test_no_character_set_refuses_an_object(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "charset.dcm"
    ultrasound(SpecificCharacterSet="ISO_IR 999").save_as(path, enforce_file_format=True)
    path.write_bytes(path.read_bytes().replace(CANARY_ID.encode(), b"\xff\xfe" + b"\xe9" * 10))
    assert chunked(site.port, path) == 0x0000


def test_missing_study_is_stored_all_the_same(site: Site) -> None:
    dataset = ultrasound()
    del dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    assert store(site.port, dataset) == [0x0000]
    (exam,) = site.rows(Exam)
    assert (exam.study_instance_uid, exam.patient_id) == ("", CANARY_ID)


def test_objects_that_name_neither_study_nor_patient_share_no_exam(site: Site) -> None:
    first, second = ultrasound(), ultrasound()
    for each in (first, second):
        del each.StudyInstanceUID, each.PatientID
    again = ultrasound(SOPInstanceUID=first.SOPInstanceUID, pixels=bytes(256))
    del again.StudyInstanceUID, again.PatientID
    assert store(site.port, first, second, again) == [0x0000] * 3
    assert len({exam.study_instance_uid for exam in site.rows(Exam)}) == 2
    exams = [revision.exam_id for revision in site.rows(Revision)]
    assert exams[0] == exams[2] != exams[1]


@pytest.mark.parametrize("implicit", [False, True])
def test_two_patients_whose_elements_are_out_of_order_are_two_exams(
    site: Site, tmp_path: Path, implicit: bool
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
        encoded = [raw_dimse.encoded(each, syntax) for each in (dataset, moved)]
        last = Dataset()
        last.PixelData = pixels
        last["PixelData"].VR = "OB"
        private = Dataset()
        private.add_new(0x00311010, "LO", "A MAKER")
        parts = [raw_dimse.encoded(private, syntax), *encoded, raw_dimse.encoded(last, syntax)]
        with association(site.port, [(US, syntax)]) as made:
            path = tmp_path / f"{patient}.dcm"
            meta = file_head(US, str(dataset.SOPInstanceUID), syntax, "1.2.3", "X")
            path.write_bytes(meta + b"".join(parts))
            assert sent(made, path) == 0x0000
    found = sorted((exam.study_instance_uid, exam.patient_id) for exam in site.rows(Exam))
    assert found == [("1.2.3.5", "FIRST"), ("1.2.3.6", "SECOND")]


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
    site: Site, tmp_path: Path, change: dict[str, str]
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
        with association(site.port, [(US, ImplicitVRLittleEndian)]) as made:
            assert sent(made, path) == CANNOT_UNDERSTAND
    finally:
        log.configure("critical")
    assert site.nothing_recorded()
    assert site.files() == []
    assert "DOE" not in stream.getvalue()
    assert "object refused" in stream.getvalue()


def test_a_text_in_the_place_of_a_uid_is_not_logged(site: Site) -> None:
    stream = io.StringIO()
    log.configure("debug", stream)
    try:
        dataset = ultrasound()
        del dataset.file_meta
        with raw_dimse.association(site.port, [US]) as peer:
            asked = raw_dimse.command("C-STORE", US, "DOE^JANE", has_data=True)
            assert peer.ask(1, asked, raw_dimse.encoded(dataset)) == MISMATCH
            created = raw_dimse.command("N-CREATE", MPPS, "DOE^JANE", has_data=True)
        with raw_dimse.association(site.port, [MPPS]) as peer:
            assert peer.ask(1, created, raw_dimse.encoded(dataset)) == 0x0117
    finally:
        log.configure("critical")
    assert "DOE" not in stream.getvalue()
    assert site.nothing_recorded()


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
def test_each_transfer_syntax_is_kept_as_it_came(site: Site, tmp_path: Path, syntax: str) -> None:
    dataset = ultrasound(syntax=ExplicitVRLittleEndian)
    if syntax in (JPEGBaseline8Bit, RLELossless):
        dataset.PixelData = pydicom.encaps.encapsulate([b"never decoded here"])
        dataset["PixelData"].is_undefined_length = True
    elif syntax == ExplicitVRBigEndian:
        del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "sent.dcm"
    dataset.save_as(path, enforce_file_format=True)
    with association(site.port, [(US, syntax)]) as made:
        assert made.send_c_store(pydicom.dcmread(path)).Status == 0x0000
    (revision,) = site.rows(Revision)
    assert revision.transfer_syntax_uid == syntax
    stored = pydicom.dcmread(site.files()[0])
    assert stored.file_meta.TransferSyntaxUID == syntax
    assert stored.get("PixelData") == dataset.get("PixelData")


def test_every_ultrasound_class_is_accepted_in_every_syntax(site: Site) -> None:
    syntaxes = presentation_contexts.transfer_syntaxes()
    assert {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.108", "1.2.840.10008.1.2.5"} <= set(
        syntaxes
    )
    for sop_class in (US, US_RETIRED, "1.2.840.10008.5.1.4.1.1.3", "1.2.840.10008.5.1.4.1.1.3.1"):
        wanted = [(sop_class, syntax) for syntax in syntaxes]
        with association(site.port, wanted) as made:
            assert made.is_established
            assert made.rejected_contexts == []


def test_retired_class_is_stored(site: Site) -> None:
    ae = AE("MODALITY")
    dataset = ultrasound(sop_class=US_RETIRED)
    made = ae.associate(
        "127.0.0.1",
        site.port,
        contexts=[build_context(US_RETIRED, ExplicitVRLittleEndian)],
        ae_title="QCDAEMON",
    )
    assert made.send_c_store(dataset).Status == 0x0000
    made.release()


def test_other_modalities_are_not_accepted(site: Site) -> None:
    ct = "1.2.840.10008.5.1.4.1.1.2"
    with association(site.port, [(ct, ExplicitVRLittleEndian)]) as made:
        assert not made.accepted_contexts


def test_echo_and_pdu_size(site: Site) -> None:
    with association(site.port, [("1.2.840.10008.1.1", ImplicitVRLittleEndian)]) as made:
        assert made.send_c_echo().Status == 0x0000
        assert made.acceptor.maximum_length == 1 << 20


def test_unknown_caller_is_rejected(open_site: Callable[..., Site]) -> None:
    site = open_site(peer=[{"ae_title": "VOLUSON1", "address": "127.0.0.0/8"}])
    with association(site.port, calling="STRANGER") as made:
        assert made.is_rejected
        assert made.acceptor.primitive.diagnostic == 0x03
    with association(site.port, calling="VOLUSON1") as made:
        assert made.is_established


def test_wrong_called_title_is_rejected(site: Site) -> None:
    with association(site.port, called="SOMEONE") as made:
        assert made.is_rejected
        assert made.acceptor.primitive.diagnostic == 0x07


def test_too_many_associations_are_a_transient_rejection(open_site: Callable[..., Site]) -> None:
    site = open_site(max_associations=1)
    with association(site.port) as first:
        assert first.is_established
        with association(site.port) as second:
            assert second.is_rejected
            assert second.acceptor.primitive.result == 0x02
    eventually(lambda: not site.receiver._associations)
    with association(site.port) as third:
        assert third.is_established


def test_full_disk_is_a700_and_nothing_recorded(
    open_site: Callable[..., Site], small_disk: Path
) -> None:
    site = open_site(spool=small_disk / "spool")
    large = ultrasound(pixels=bytes(1 << 20))
    small = ultrasound()
    assert store(site.port, large, small) == [RESOURCES, 0x0000]
    assert [row.sop_instance_uid for row in site.rows(Instance)] == [small.SOPInstanceUID]
    assert len(site.files()) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_failing_sync_is_a700_and_nothing_recorded(
    site: Site, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(_fd: int) -> None:
        raise OSError(code, os.strerror(code))

    dataset = ultrasound()
    with monkeypatch.context() as patch:
        patch.setattr("qc_daemon.spool.spool.os.fsync", fail)
        assert store(site.port, dataset) == [RESOURCES]
    assert site.nothing_recorded()
    assert site.files() == []
    assert store(site.port, dataset) == [0x0000]


def test_vanished_spool_is_a700_and_recovers(site: Site) -> None:
    away = site.spool.root.with_name("away")
    site.spool.root.rename(away)
    dataset = ultrasound()
    assert store(site.port, dataset) == [RESOURCES]
    away.rename(site.spool.root)
    assert site.nothing_recorded()
    assert store(site.port, dataset) == [0x0000]


def test_database_gone_is_a700_and_recovers(site: Site) -> None:
    with site.store.begin() as session:
        session.execute(text("ALTER TABLE revision RENAME TO elsewhere"))
    dataset = ultrasound()
    assert store(site.port, dataset) == [RESOURCES]
    with site.store.begin() as session:
        session.execute(text("ALTER TABLE elsewhere RENAME TO revision"))
    assert site.nothing_recorded()
    assert store(site.port, dataset) == [0x0000]
    assert len(site.files()) == 1


def test_association_holds_its_exam_until_it_ends(site: Site) -> None:
    with association(site.port) as made:
        made.send_c_store(ultrasound())
        (hold,) = site.rows(AssociationLease)
        site.receiver.renew_holds()
        (renewed,) = site.rows(AssociationLease)
        assert renewed.token == hold.token
        assert renewed.expires_at >= hold.expires_at
    eventually(lambda: not site.rows(AssociationLease))


def test_lost_connection_ends_the_hold(site: Site) -> None:
    with association(site.port) as made:
        made.send_c_store(ultrasound())
        assert site.rows(AssociationLease)
        made.abort()
        eventually(lambda: not site.rows(AssociationLease))


def test_connection_lost_inside_an_object_leaves_nothing(site: Site) -> None:
    with association(site.port) as made:
        made.dimse.maximum_pdu_size  # noqa: B018 - the association is up before its socket is cut
        sent = threading.Event()

        def cut(_event: Any) -> None:
            if not sent.is_set():
                sent.set()
                made.dul.socket.socket.shutdown(socket.SHUT_RDWR)

        made.bind(evt.EVT_DATA_SENT, cut)
        made.send_c_store(ultrasound(pixels=bytes(4 << 20)))
    eventually(lambda: not site.receiver._associations)
    assert site.nothing_recorded()
    eventually(lambda: not site.files())


def test_probes_leave_nothing_behind(site: Site) -> None:
    before = threading.active_count()
    for _ in range(3):
        socket.create_connection(("127.0.0.1", site.port)).close()
    assert store(site.port, ultrasound()) == [0x0000]
    # An association leaves the list a moment before its thread does.
    eventually(lambda: not site.receiver._associations and threading.active_count() <= before)


def test_drain_lets_an_association_finish(site: Site) -> None:
    with association(site.port) as made:
        assert made.send_c_store(ultrasound()).Status == 0x0000
        aborted: list[int] = []
        drain = threading.Thread(target=lambda: aborted.append(site.receiver.drain(30)))
        drain.start()
        assert made.send_c_store(ultrasound()).Status == 0x0000
        made.release()
        drain.join(60)
    assert aborted == [0]
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", site.port)).close()
    assert len(site.rows(Revision)) == 2


def test_logs_carry_reasons_but_no_patient(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = tmp_path / "log"
    with lines.open("w") as stream:
        log.configure("debug", stream)
        try:
            store(site.port, ultrasound())
            with monkeypatch.context() as patch:
                patch.setattr(Path, "replace", lambda *_: Path("/CANARY").stat())
                store(site.port, ultrasound())
        finally:
            log.configure("critical")
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [each["event"] for each in told] == ["object stored", "object refused"]
    assert told[1]["status"] == "A700"
    assert told[1]["reason"] == "spool: no such file or directory"
    assert "CANARY" not in lines.read_text()
