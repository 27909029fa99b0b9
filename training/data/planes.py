"""Frames labelled with the plane that they show, of several kinds of data set.

Kinds: the published annotation CSV over DICOM files; a CSV over pictures; a folder for each class;
FETAL_PLANES_DB.
"""

import hashlib
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread

from detector.errors import QCError
from detector.frame import Frame
from detector.imaging.reader import read_frames, read_header
from model.dual_branch.network import check_classes
from training.data.csv_rows import read_rows
from training.data.labelled import (
    LabelledPicture,
    check_pictures,
    check_split_names,
    read_labelled,
)
from training.data.samples import SampleError, file_hash

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_PATIENT = ("PatientID", "IssuerOfPatientID")
_STILL = -1
"""The frame of a still in the published annotations; those of cines count from 0."""


@dataclass(frozen=True, slots=True)
class Plane(LabelledPicture):
    """A frame of a file, and which plane of the fetus it shows. Its group is a hash where the
    patient comes from a header."""

    frame: int = 1  # From 1, as everywhere.

    @property
    def content(self) -> Hashable:
        return self.path.resolve(), self.frame


def read_annotations(path: Path, folder: Path) -> list[Plane]:
    """The published annotation CSV (SOPInstanceUID, split, class, class_int, frame) over the DICOM
    files in `folder`, in the order of its rows.

    A file is called as its SOP Instance UID, with or without `.dcm`, or has that UID in its header.
    The patient is the header's Patient ID, else its study. Raises SampleError with the row.
    """
    rows = read_rows(path, ("SOPInstanceUID", "split", "class", "frame"), "annotated")
    files = _DicomFiles(folder)
    planes: list[Plane] = []
    classes: dict[str, str] = {}
    for number, row in enumerate(rows, 1):
        where = f"{path.name}: row {number}"
        _check_number_of_class(classes, row, where)
        file = files.find(row["SOPInstanceUID"].strip(), where)
        frame = _frame_number(_parse_frame(row["frame"], where), file.frames, where)
        planes.append(Plane(file.path, row["class"], file.patient, row["split"], where, frame))
    check_split_names(planes)
    check_pictures(planes)
    return planes


def read_pictures(path: Path, label_column: str = "class") -> list[Plane]:
    """A CSV (file, class, patient, and where wanted split) over pictures or DICOM stills beside it,
    in the order of its rows. Raises UsageError or SampleError with the row."""
    planes = [Plane.of(picture) for picture in read_labelled(path, label_column=label_column)]
    check_split_names(planes)
    return planes


def read_class_folders(folder: Path) -> list[Plane]:
    """Pictures in a folder for each class, in the order of their names. The patient is what stands
    before the first "_" of a file's name. Raises SampleError."""
    planes = [
        Plane(path, path.parent.name, path.stem.partition("_")[0], location=_below(path, folder))
        for path in sorted(folder.glob("*/*"))
        if _is_picture(path)
    ]
    if not planes:
        raise SampleError(f"{folder} has no pictures in folders of classes (CLASS/PATIENT_1.png)")
    check_pictures(planes)
    return planes


def read_fetal_planes(folder: Path) -> list[Plane]:
    """FETAL_PLANES_DB (Burgos-Artizzu et al. 2020), in the order of its rows. Raises UsageError."""
    return read_pictures(folder / "labels.csv", "plane")


def read_class_names(path: Path) -> tuple[str, ...]:
    """The classes of a text file, one a line, in the order of the network's outputs.

    Raises SampleError.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except ValueError:
        raise SampleError(f"{path.name} is no text file of classes, one a line") from None
    names = tuple(line.strip() for line in lines if line.strip())
    try:
        check_classes(names)
    except ValueError as error:
        raise SampleError(f"{path.name}: {error}") from None
    return names


def read_frame(plane: Plane) -> Frame:
    """The plane's frame in RGB, however it is stored. Raises QCError naming its row."""
    try:
        return next(read_frames(plane.path, (plane.frame,)))
    except QCError as error:
        raise QCError(error.code, f"{plane.location}: {error.message}") from None


def count_planes(planes: Sequence[Plane]) -> list[dict[str, Any]]:
    """Pictures and patients of each class, for training.json."""
    pictures = Counter(plane.label for plane in planes)
    return [
        {
            "class": label,
            "pictures": count,
            "patients": len({plane.group for plane in planes if plane.label == label}),
        }
        for label, count in sorted(pictures.items())
    ]


def planes_hash(planes: Sequence[Plane]) -> str:
    """SHA-256 over the planes' files, frames and classes."""
    digest = hashlib.sha256()
    hashes: dict[Path, str] = {}
    for plane in planes:
        if plane.path not in hashes:
            hashes[plane.path] = file_hash(plane.path)
        digest.update(f"{hashes[plane.path]} {plane.frame} {plane.label}\n".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    frames: int
    patient: str


class _DicomFiles:
    """The DICOM files of a folder by SOP Instance UID."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, _File] = {}
        self._by_uid: dict[str, Path] | None = None

    def find(self, uid: str, where: str) -> _File:
        """Raises SampleError where no file has that UID, or it is no image."""
        if uid not in self._files:
            path = self._path(uid, where)
            try:
                self._files[uid] = _read_file(path)
            except QCError as error:
                raise SampleError(f"{where}: {uid}: {error.message}") from None
        return self._files[uid]

    def _path(self, uid: str, where: str) -> Path:
        if uid != Path(uid).name:
            raise SampleError(f"{where}: SOPInstanceUID {uid!r} is no UID")
        for name in (uid, f"{uid}.dcm"):
            if (self.folder / name).is_file():
                return self.folder / name
        if self._by_uid is None:
            self._by_uid = _uids(self.folder)
        path = self._by_uid.get(uid.removesuffix(".dcm"))
        if path is None:
            raise SampleError(f"{where}: {self.folder} has no file of SOP Instance UID {uid}")
        return path


def _uids(folder: Path) -> dict[str, Path]:
    """The files of a folder by the SOP Instance UID of their header."""
    paths: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        try:
            uid = read_header(path).sop_instance_uid if path.is_file() else None
        except QCError:
            continue  # Other files may lie in the folder.
        if uid:
            paths.setdefault(uid, path)
    return paths


def _read_file(path: Path) -> _File:
    header = read_header(path)
    key = _patient_id(path) or header.study_instance_uid or file_hash(path)
    # Identifiers of patients go into no file and no message.
    return _File(path, header.frames, hashlib.sha256(key.encode()).hexdigest()[:16])


def _patient_id(path: Path) -> str:
    """Patient ID and its issuer; empty where there is none. Our own reader leaves patients out."""
    if _is_picture(path):
        return ""
    try:
        dataset = dcmread(path, stop_before_pixels=True, specific_tags=list(_PATIENT), force=True)
        parts = [str(dataset.get(keyword) or "").strip() for keyword in _PATIENT]
    except Exception:
        # Our reader takes files that pydicom does not, whose parser can fail in many ways.
        return ""
    return "\n".join(parts) if parts[0] else ""


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _parse_frame(value: str, where: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise SampleError(f"{where}: frame {value!r} is no whole number") from None


def _frame_number(index: int, frames: int, where: str) -> int:
    """The frame from 1 of an annotation's index; raises SampleError where there is none."""
    if index == _STILL:
        if frames != 1:
            raise SampleError(
                f"{where}: frame -1 means a still, but the file is a cine of {frames} frames: give"
                f" 0 to {frames - 1}"
            )
        return 1
    if not 0 <= index < frames:
        last = "a still (-1)" if frames == 1 else f"a cine of frames 0 to {frames - 1}"
        raise SampleError(f"{where}: no frame {index}: the file is {last}")
    return index + 1


def _check_number_of_class(classes: dict[str, str], row: dict[str, str], where: str) -> None:
    """Raises SampleError where class and class_int contradict an earlier row."""
    number = (row.get("class_int") or "").strip()
    if number and classes.setdefault(f"class_int {number}", row["class"]) != row["class"]:
        raise SampleError(
            f"{where}: class_int {number} is {row['class']!r} here, but"
            f" {classes[f'class_int {number}']!r} above"
        )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
