"""Delivery into a folder."""

import errno
import stat
from dataclasses import replace
from datetime import date
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.uid import EncapsulatedPDFStorage, SecondaryCaptureImageStorage

from detector.errors import ErrorCode, FailureClass, QCError
from qc_daemon.deliver.folder import FolderTransport, _stem, exam_folder, file_name
from qc_daemon.deliver.transport import Exam, OutgoingObject
from qc_daemon.settings import DestinationSettings
from tests.support.dicom_objects import part10, ultrasound


def transport(folder: Path) -> FolderTransport:
    return FolderTransport(DestinationSettings(name="share", kind="folder", folder=folder))


def outgoing(
    name: str = "1.2.3", payload: bytes | None = b"object", path: Path | None = None
) -> OutgoingObject:
    return OutgoingObject("1.2", "1.2.3", "1.2.840.10008.1.2.1", name, path, payload)


def test_written_whole_under_its_uid(tmp_path: Path) -> None:
    transport(tmp_path).send(outgoing())
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.dcm"]
    assert (tmp_path / "1.2.3.dcm").read_bytes() == b"object"


@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600)])
def test_file_has_the_read_permissions_of_the_folder(
    tmp_path: Path, folder: int, file: int
) -> None:
    tmp_path.chmod(folder)
    transport(tmp_path).send(outgoing())
    assert stat.S_IMODE((tmp_path / "1.2.3.dcm").stat().st_mode) == file


@pytest.mark.parametrize("layout", ["flat", "study"])
def test_the_destinations_own_folder_is_never_made(tmp_path: Path, layout: str) -> None:
    """Where a share is not mounted, what would be written in its place would reach nobody."""
    folder = tmp_path / "mount" / "share"
    folder_transport = FolderTransport(
        DestinationSettings(name="share", kind="folder", folder=folder, layout=layout)
    )
    sent = replace(outgoing(), exam=Exam(12, "1.2.840.99", date(2026, 11, 2)))
    with pytest.raises(QCError) as caught:
        folder_transport.send(sent)
    assert caught.value.code is ErrorCode.DELIVERY_UNREACHABLE
    assert caught.value.failure_class is FailureClass.ALARM
    assert caught.value.message == (
        f"destination share: the folder {folder} is not there; mount its share, or make the folder"
    )
    assert not any(tmp_path.iterdir())
    folder.mkdir(parents=True)
    folder_transport.send(sent)
    assert [path.suffix for path in folder.rglob("*.dcm")] == [".dcm"]


def test_same_object_again_replaces_its_file(tmp_path: Path) -> None:
    stored = tmp_path / "stored.dcm"
    stored.write_bytes(b"from the spool")
    (tmp_path / "share").mkdir()
    folder_transport = transport(tmp_path / "share")
    folder_transport.send(outgoing(payload=None, path=stored))
    folder_transport.send(outgoing(payload=None, path=stored))
    assert [path.read_bytes() for path in (tmp_path / "share").iterdir()] == [b"from the spool"]


@given(st.text())
def test_no_name_leaves_the_folder(name: str) -> None:
    safe_name = file_name(name)
    assert Path(safe_name).name == safe_name
    assert safe_name.endswith(".dcm")
    assert not safe_name.startswith(".")


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", ".", "/x", "a\0b", "1.2/3", ""])
def test_a_name_that_is_no_uid_is_hashed(name: str) -> None:
    assert len(file_name(name)) == 64 + len(".dcm")


def test_two_revisions_have_two_names() -> None:
    assert file_name("1.2.3") != file_name("1.2.3-r2") == "1.2.3-r2.dcm"


def test_a_file_in_place_of_the_folder_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(QCError, match="is not a folder; move it away") as caught:
        transport(tmp_path / "file").send(outgoing())
    assert caught.value.code is ErrorCode.DELIVERY_UNREACHABLE


def test_a_folder_that_cannot_be_written_is_tried_again() -> None:
    """Root may write everywhere, but not in /proc."""
    with pytest.raises(QCError, match="share cannot be written: ") as caught:
        transport(Path("/proc")).send(outgoing())
    assert caught.value.code is ErrorCode.DELIVERY_UNREACHABLE


def test_missing_spool_file_is_an_alarm(tmp_path: Path) -> None:
    with pytest.raises(QCError) as caught:
        transport(tmp_path).send(outgoing(payload=None, path=tmp_path / "gone"))
    assert caught.value.code is ErrorCode.SPOOL_MISSING


class TestByStudy:
    """Layout `study`: a person finds an exam, and reads it without a DICOM viewer."""

    EXAM = Exam(12, "1.2.840.99", date(2026, 11, 2))

    def deliver(self, folder: Path, *items: OutgoingObject) -> dict[str, bytes]:
        folder_transport = FolderTransport(
            DestinationSettings(name="share", kind="folder", folder=folder, layout="study")
        )
        for each in items:
            folder_transport.send(replace(each, exam=self.EXAM))
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    def test_images_by_day_and_exam(self, tmp_path: Path) -> None:
        images = outgoing(), replace(outgoing("1.2.3-r2"), revision=2)
        assert sorted(self.deliver(tmp_path, *images)) == [
            "2026-11-02/exam-12_1.2.840.99/image_1.2.3-r2.dcm",
            "2026-11-02/exam-12_1.2.840.99/image_1.2.3.dcm",
        ]

    @pytest.mark.parametrize(("mode", "file"), [(0o2750, 0o640), (0o700, 0o600)])
    def test_exam_folders_have_the_permissions_of_the_destinations_folder(
        self, tmp_path: Path, mode: int, file: int
    ) -> None:
        tmp_path.chmod(mode)
        (path,) = self.deliver(tmp_path, outgoing())
        assert stat.S_IMODE((tmp_path / path).stat().st_mode) == file
        for folder in (tmp_path / path).parents[:2]:
            assert stat.S_IMODE(folder.stat().st_mode) == mode

    def test_a_summary_has_its_pdf_beside_it(self, tmp_path: Path) -> None:
        document = b"%PDF-1.7 odd"[:-1]
        dataset = ultrasound(sop_class=EncapsulatedPDFStorage)
        dataset.EncapsulatedDocument = document + b"\0"
        dataset.EncapsulatedDocumentLength = len(document)
        payload = part10(dataset)
        report_object = OutgoingObject(
            EncapsulatedPDFStorage, "1.9", "1.2.840.10008.1.2.1", "1.9", payload=payload
        )
        files = self.deliver(tmp_path, replace(report_object, kind="pdf", revision=3))
        stem = "2026-11-02/exam-12_1.2.840.99/summary-3_1.9"
        assert files == {f"{stem}.dcm": payload, f"{stem}.pdf": document}

    def test_an_overlay_has_its_picture_beside_it(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        dataset = ultrasound(
            sop_class=SecondaryCaptureImageStorage,
            pixels=pixels.tobytes() + b"\0",
            Rows=5,
            Columns=7,
            SamplesPerPixel=3,
            PlanarConfiguration=0,
            PhotometricInterpretation="RGB",
        )
        report_object = OutgoingObject(
            SecondaryCaptureImageStorage,
            "1.8",
            "1.2.840.10008.1.2.1",
            "1.8",
            payload=part10(dataset),
        )
        files = self.deliver(tmp_path, replace(report_object, kind="overlay"))
        stem = "2026-11-02/exam-12_1.2.840.99/overlay-1_1.8"
        assert sorted(files) == [f"{stem}.dcm", f"{stem}.png"]
        assert (np.asarray(Image.open(BytesIO(files[f"{stem}.png"]))) == pixels).all()

    def test_what_was_received_is_opened_by_nobody(self, tmp_path: Path) -> None:
        """Not even if it says that it is a PDF."""
        stored = tmp_path / "stored.dcm"
        stored.write_bytes(b"a stranger's")
        report_object = OutgoingObject(
            EncapsulatedPDFStorage, "1.7", "1.2.840.10008.1.2.1", "1.7", path=stored
        )
        (tmp_path / "share").mkdir()
        files = self.deliver(tmp_path / "share", report_object)
        assert list(files) == ["2026-11-02/exam-12_1.2.840.99/image_1.7.dcm"]

    @given(st.text(), st.text(), st.sampled_from(["source", "sr", "overlay"]))
    def test_no_name_leaves_the_folder(self, study: str, name: str, kind: str) -> None:
        folder = exam_folder(Exam(1, study, date(2026, 1, 1)))
        assert len(folder.parts) == 2
        assert ".." not in folder.parts
        assert not folder.is_absolute()
        stem = _stem(replace(outgoing(name), kind=kind))
        assert Path(stem).name == stem


def test_a_full_disk_leaves_nothing_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(QCError, match="No space left") as caught:
            transport(tmp_path).send(outgoing())
    assert caught.value.code is ErrorCode.DELIVERY_RESOURCES
    assert list(tmp_path.iterdir()) == []
    transport(tmp_path).send(outgoing())
    assert [path.name for path in tmp_path.iterdir()] == ["1.2.3.dcm"]
