"""Labelled planes: the published annotation CSV over DICOM, pictures, and their division."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from detector.console import UsageError
from detector.errors import QCError
from tests.support.dicom_objects import CANARY_ID, part10, ultrasound
from tests.support.planes import write_csv, write_dicom, write_pictures
from training.data.labelled import (
    check_labels,
    check_present,
    divide,
    leave_fold_out,
    leave_out,
)
from training.data.planes import (
    Plane,
    planes_hash,
    read_annotations,
    read_class_folders,
    read_class_names,
    read_fetal_planes,
    read_frame,
    read_pictures,
)
from training.data.samples import SampleError

STILL = np.arange(64 * 48).reshape(64, 48) % 251
CINE = np.stack([np.full((64, 48), level) for level in (10, 80, 150)])


def annotations(folder: Path, *rows: dict[str, Any]) -> Path:
    defaults = {"Unnamed: 0": 0, "split": "train", "class": "Femur", "class_int": 0, "frame": -1}
    numbered = [defaults | {"Unnamed: 0": i} | row for i, row in enumerate(rows)]
    return write_csv(folder / "annotations.csv", numbered)


def refused(*arguments: Path) -> str:
    with pytest.raises(SampleError) as caught:
        read_annotations(*arguments)
    assert "\n" not in str(caught.value)
    assert CANARY_ID not in str(caught.value)
    return str(caught.value)


def test_stills_and_frames_of_cines_are_read_together(tmp_path: Path) -> None:
    """Upstream validates without cines: its own example stops there."""
    files = tmp_path / "files"
    still = write_dicom(files / "still.dcm", STILL, PatientID="1")
    cine = write_dicom(files / "cine.dcm", CINE, PatientID="2")
    (files / "still.dcm").rename(files / still)
    (files / "cine.dcm").rename(files / f"{cine}.dcm")
    path = annotations(
        tmp_path,
        {"SOPInstanceUID": still},
        {"SOPInstanceUID": cine, "frame": 0, "split": "val", "class": "Spine", "class_int": 9},
        {"SOPInstanceUID": cine, "frame": 2, "split": "val", "class": "Spine", "class_int": 9},
    )
    planes = read_annotations(path, files)
    assert [plane.frame for plane in planes] == [1, 1, 3]
    assert [plane.label for plane in planes] == ["Femur", "Spine", "Spine"]
    assert [plane.split for plane in planes] == ["train", "val", "val"]
    # Greyscale, which upstream refuses, or reads as rows by columns by channels.
    levels = [read_frame(plane).pixels for plane in planes]
    assert (levels[0] == STILL[..., None]).all()
    assert [int(pixels.mean()) for pixels in levels[1:]] == [10, 150]


def test_a_file_is_found_by_the_uid_in_its_header(tmp_path: Path) -> None:
    uid = write_dicom(tmp_path / "files" / "IM_0001", STILL)
    (tmp_path / "files" / "notes.txt").write_text("no image")
    planes = read_annotations(annotations(tmp_path, {"SOPInstanceUID": uid}), tmp_path / "files")
    assert planes[0].path.name == "IM_0001"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"frame": 3}, "row 1: no frame 3: the file is a cine of frames 0 to 2"),
        ({"frame": -2}, "row 1: no frame -2: the file is a cine of frames 0 to 2"),
        ({"frame": -1}, "row 1: frame -1 means a still, but the file is a cine of 3 frames"),
        ({"frame": "x"}, "row 1: frame 'x' is no whole number"),
        ({"frame": ""}, "row 1: frame is missing"),
        ({"split": "validation"}, "row 1: split 'validation' is none of train, val, test"),
        ({"class": ""}, "row 1: class is missing"),
        ({"SOPInstanceUID": "1.2.3"}, "has no file of SOP Instance UID 1.2.3"),
        ({"SOPInstanceUID": "../cine"}, "'../cine' is no UID"),
    ],
)
def test_a_wrong_annotation_is_one_line(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    uid = write_dicom(tmp_path / "files" / "cine.dcm", CINE)
    path = annotations(tmp_path, {"SOPInstanceUID": uid, "frame": 0} | row)
    assert message in refused(path, tmp_path / "files")


def test_a_still_has_no_second_frame(tmp_path: Path) -> None:
    uid = write_dicom(tmp_path / "files" / "a.dcm", STILL)
    path = annotations(tmp_path, {"SOPInstanceUID": uid, "frame": 1})
    assert "no frame 1: the file is a still (-1)" in refused(path, tmp_path / "files")


def test_a_patient_in_two_splits_is_refused(tmp_path: Path) -> None:
    """Upstream checks nothing: frames of one exam may be learnt from and tested on."""
    files = tmp_path / "files"
    uids = [write_dicom(files / f"{i}.dcm", STILL + i) for i in range(2)]
    rows = [
        {"SOPInstanceUID": uid, "split": split}
        for uid, split in zip(uids, ("train", "test"), strict=True)
    ]
    message = refused(annotations(tmp_path, *rows), files)
    assert "row 2 (test) and annotations.csv: row 1 (train) are of one patient" in message


def test_a_frame_that_is_annotated_twice_is_refused(tmp_path: Path) -> None:
    uid = write_dicom(tmp_path / "files" / "a.dcm", STILL)
    row = {"SOPInstanceUID": uid}
    message = refused(annotations(tmp_path, row, row), tmp_path / "files")
    assert "row 2: the picture of annotations.csv: row 1 again" in message


def test_a_number_of_two_classes_is_refused(tmp_path: Path) -> None:
    files = tmp_path / "files"
    uids = [write_dicom(files / f"{i}.dcm", STILL + i) for i in range(2)]
    rows = [
        {"SOPInstanceUID": uid, "class": name}
        for uid, name in zip(uids, ("Femur", "Spine"), strict=True)
    ]
    message = refused(annotations(tmp_path, *rows), files)
    assert "class_int 0 is 'Spine' here, but 'Femur' above" in message


def jpeg_object(path: Path, picture: Image.Image) -> Plane:
    """A JPEG with chroma halved, its colours stored as YBR_FULL_422."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=95, subsampling=1)
    dataset = ultrasound(
        syntax=JPEGBaseline8Bit,
        Rows=picture.height,
        Columns=picture.width,
        SamplesPerPixel=3,
        PlanarConfiguration=0,
        PhotometricInterpretation="YBR_FULL_422",
        PixelData=encapsulate([stream.getvalue()]),
    )
    dataset["PixelData"].VR = "OB"
    path.write_bytes(part10(dataset))
    return Plane(path, "Femur", "p")


def test_colours_are_converted_once(tmp_path: Path) -> None:
    """Upstream converts YBR_FULL_422 after pydicom has: red becomes 75, 255, 27."""
    plane = jpeg_object(tmp_path / "a.dcm", Image.new("RGB", (64, 48), (254, 0, 0)))
    colour = read_frame(plane).pixels.reshape(-1, 3).mean(0)
    assert np.abs(colour - (254, 0, 0)).max() < 4


def test_monochrome1_is_inverted_and_channels_are_in_order(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.full((40, 40), 250), PhotometricInterpretation="MONOCHROME1")
    assert read_frame(Plane(tmp_path / "a.dcm", "x", "p")).pixels.max() == 5
    write_dicom(tmp_path / "b.dcm", np.full((40, 40, 3), (200, 100, 30)))
    pixels = read_frame(Plane(tmp_path / "b.dcm", "x", "p")).pixels
    assert pixels[0, 0].tolist() == [200, 100, 30]


def test_a_frame_that_cannot_be_decoded_names_its_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(QCError, match=r"^a\.csv: row 7: "):
        read_frame(Plane(tmp_path / "a.png", "x", "p", location="a.csv: row 7"))


def test_pictures_of_a_csv(tmp_path: Path) -> None:
    planes = read_pictures(write_pictures(tmp_path, 2, split=("train", "test")))
    assert [plane.split for plane in planes] == ["train"] * 3 + ["test"] * 3
    assert {plane.group for plane in planes} == {"p0", "p1"}
    (tmp_path / "1_disc.png").unlink()
    with pytest.raises(UsageError, match=r"row 5: 1_disc\.png is no file there"):
        read_pictures(tmp_path / "pictures.csv")


def test_pictures_in_folders_of_classes(tmp_path: Path) -> None:
    for name in ("brain/A_1.png", "brain/A_2.png", "femur/B_1.jpg", "femur/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    planes = read_class_folders(tmp_path)
    assert [(plane.label, plane.group) for plane in planes] == [
        ("brain", "A"),
        ("brain", "A"),
        ("femur", "B"),
    ]
    with pytest.raises(SampleError, match="no pictures in folders of classes"):
        read_class_folders(tmp_path / "brain")


def plane(patient: str, label: str = "a", split: str = "") -> Plane:
    return Plane(Path(f"{patient}{label}"), label, patient, split=split, location=f"row {patient}")


def test_patients_are_never_divided() -> None:
    planes = [plane(str(patient), label) for patient in range(200) for label in "abc"]
    train, val, test = divide(planes, 0, 0.25, 0).values()
    assert not test
    assert not {p.group for p in train} & {p.group for p in val}
    assert 30 <= len(val) / 3 <= 70
    assert divide(planes, 0, 0.25, 0)["val"] == val != divide(planes, 0, 0.25, 1)["val"]
    folds = [leave_fold_out(planes, fold, 5, 0) for fold in range(5)]
    assert sorted(p.group for _, held_out in folds for p in held_out) == sorted(
        p.group for p in planes
    )
    for training, held_out in folds:
        assert not {p.group for p in training} & {p.group for p in held_out}


def test_the_data_sets_own_splits_are_kept() -> None:
    planes = [plane("1", split="train"), plane("2", split="val"), plane("3", split="test")]
    parts = divide(planes, 0, 0.5, 0)
    assert [[p.group for p in part] for part in parts.values()] == [["1"], ["2"], ["3"]]
    with pytest.raises(SampleError, match="row 4: split is missing"):
        divide([*planes, plane("4")], 0, 0.5, 0)
    with pytest.raises(SampleError, match="--fold goes with data without splits"):
        leave_fold_out(planes, 0, 5, 0)


def test_classes_that_do_not_fit_the_data_are_one_line(tmp_path: Path) -> None:
    planes = [plane("1", "a"), plane("2", "b")]
    with pytest.raises(SampleError, match="row 2: class 'b' is none of a, c"):
        check_labels(planes, ("a", "c"))
    with pytest.raises(SampleError, match="split train has no picture of 'c', 'd'"):
        check_present(planes, ("a", "b", "c", "d"), "train")
    assert leave_out(planes, ["b"]) == planes[:1]
    with pytest.raises(SampleError, match="no such class, but a, b"):
        leave_out(planes, ["c"])
    names = tmp_path / "classes.txt"
    names.write_text("b\n\na \n")
    assert read_class_names(names) == ("b", "a")
    names.write_text("a\na\n")
    with pytest.raises(SampleError, match=r"classes\.txt: class 'a' is named twice"):
        read_class_names(names)


def test_the_hash_changes_with_frame_class_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    first = Plane(tmp_path / "a", "x", "p")
    hashes = {planes_hash([first]), planes_hash([Plane(tmp_path / "a", "y", "p")])}
    hashes.add(planes_hash([Plane(tmp_path / "a", "x", "p", frame=2)]))
    (tmp_path / "a").write_bytes(b"2")
    hashes.add(planes_hash([first]))
    assert len(hashes) == 4


def test_fetal_planes_is_read(shared_data: Path) -> None:
    planes = read_fetal_planes(shared_data / "fetal_planes")
    assert len(planes) == 1266
    assert len({plane.group for plane in planes}) == 649
    assert len(leave_out(planes, ("other", "cervix"))) == 1219
