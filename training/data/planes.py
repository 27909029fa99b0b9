"""Frames labelled with the plane that they show, of several kinds of data set, and their division
by patient.

Kinds: the published annotation CSV over DICOM files; a CSV over pictures; a folder for each class;
FETAL_PLANES_DB.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydicom import dcmread

from detector.errors import QCError
from detector.frame import Frame
from detector.imaging.reader import read_frames, read_header
from model.dual_branch.network import check_classes
from training.data.csv_rows import read_rows
from training.data.labelled import group_key, read_labelled
from training.data.samples import SampleError, file_hash
from training.data.splits import group_hash

SPLITS = ("train", "val", "test")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_PATIENT = ("PatientID", "IssuerOfPatientID")
_STILL = -1
"""The frame of a still in the published annotations; those of cines count from 0."""


@dataclass(frozen=True, slots=True)
class Plane:
    """A frame of a file, and which plane of the fetus it shows."""

    path: Path
    label: str  # name of its class
    patient: str  # never divided between learning and judging; a hash where it comes from a header
    frame: int = 1  # from 1, as everywhere
    split: str | None = None  # one of SPLITS, where the data set says so
    location: str = ""  # file and row, for messages


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
        split = _parse_split(row["split"], where)
        _check_number_of_class(classes, row, where)
        file = files.find(row["SOPInstanceUID"].strip(), where)
        frame = _frame_number(_parse_frame(row["frame"], where), file.frames, where)
        planes.append(Plane(file.path, row["class"], file.patient, frame, split, where))
    _check(planes)
    return planes


def read_pictures(path: Path, label_column: str = "class") -> list[Plane]:
    """A CSV (file, class, patient, and where wanted split) over pictures or DICOM stills beside it,
    in the order of its rows. Raises UsageError or SampleError with the row."""
    planes = [
        Plane(
            picture.path,
            picture.label,
            group_key(picture.group),
            split=_parse_split(picture.split, f"{path.name}: row {row}") if picture.split else None,
            location=f"{path.name}: row {row}",
        )
        for row, picture in enumerate(read_labelled(path, label_column=label_column), 1)
    ]
    _check(planes)
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
    _check(planes)
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


def leave_out(planes: Sequence[Plane], classes: Sequence[str]) -> list[Plane]:
    """The planes without those of these classes; raises SampleError on a class that is none."""
    labels = {plane.label for plane in planes}
    for name in classes:
        if name not in labels:
            raise SampleError(
                f"--leave-out {name}: the data have no such class, but {', '.join(sorted(labels))}"
            )
    return [plane for plane in planes if plane.label not in classes]


def check_labels(planes: Sequence[Plane], classes: Sequence[str]) -> None:
    """Raises SampleError on a plane whose class is none of `classes`."""
    for plane in planes:
        if plane.label not in classes:
            raise SampleError(
                f"{plane.location}: class {plane.label!r} is none of {', '.join(classes)};"
                " correct it, name it (--classes) or leave it out (--leave-out)"
            )


def check_present(planes: Sequence[Plane], classes: Sequence[str], split: str) -> None:
    """Raises SampleError where a class has no plane in this split: it could not be learnt."""
    missing = [name for name in classes if name not in {plane.label for plane in planes}]
    if missing:
        raise SampleError(
            f"split {split} has no picture of {', '.join(map(repr, missing))}: add some, or name"
            " the classes without it (--classes)"
        )


def divide(
    planes: Sequence[Plane], share: float, seed: int
) -> tuple[list[Plane], list[Plane], list[Plane]]:
    """(train, val, test): as the data set says; where it says nothing, about `share` of the
    patients validate, and none is kept for testing."""
    if any(plane.split for plane in planes):
        unsplit = next((plane for plane in planes if not plane.split), None)
        if unsplit is not None:
            raise SampleError(f"{unsplit.location}: split is missing, which other rows have")
    else:
        planes = [
            replace(plane, split=SPLITS[group_hash(plane.patient, seed) < share])
            for plane in planes
        ]
    train, val, test = ([plane for plane in planes if plane.split == name] for name in SPLITS)
    return train, val, test


def leave_fold_out(
    planes: Sequence[Plane], fold: int, folds: int, seed: int
) -> tuple[list[Plane], list[Plane]]:
    """(training, held out): the patients of that fold are held out.

    Raises SampleError where the data set has splits of its own.
    """
    if any(plane.split for plane in planes):
        raise SampleError("--fold goes with data without splits; these have their own")
    held_out = [p for p in planes if int(group_hash(p.patient, seed) * folds) == fold]
    patients = {plane.patient for plane in held_out}
    return [plane for plane in planes if plane.patient not in patients], held_out


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
            "patients": len({plane.patient for plane in planes if plane.label == label}),
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


def _parse_split(value: str, where: str) -> str:
    if value not in SPLITS:
        raise SampleError(f"{where}: split {value!r} is none of {', '.join(SPLITS)}")
    return value


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


def _check(planes: Sequence[Plane]) -> None:
    """Raises SampleError on a frame that is given twice and on a patient in two splits."""
    first: dict[tuple[Path, int], Plane] = {}
    of_patient: dict[str, Plane] = {}
    for plane in planes:
        same = first.setdefault((plane.path.resolve(), plane.frame), plane)
        if same is not plane:
            raise SampleError(f"{plane.location}: the frame of {same.location} again")
        other = of_patient.setdefault(plane.patient, plane)
        if other.split != plane.split:
            raise SampleError(
                f"{plane.location} ({plane.split}) and {other.location} ({other.split}) are of one"
                " patient: put them into one split"
            )


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()
