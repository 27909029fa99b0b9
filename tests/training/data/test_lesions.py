"""NextGen-UIA's data layouts: what is wrong is said in one line, before anything is learnt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.lesions import write_published
from training.data.labelled import check_labels, check_present, divide, draw_shots
from training.data.lesions import (
    Ellipse,
    Lesion,
    circumference,
    contour_ellipse,
    draw_ellipse,
    read_hc18,
    read_published,
    read_truth,
)
from training.data.samples import SampleError


def test_the_published_layout_is_read(tmp_path: Path) -> None:
    lesions = read_published(write_published(tmp_path), "classification", "BUSI")
    assert [len(part) for part in divide(lesions, 0, 0, 0).values()] == [8, 4, 4]
    assert {lesion.label for lesion in lesions} == {"0", "1"}
    (first, *_) = read_published(tmp_path, "segmentation", "BUSI")
    assert read_truth(first, 36, 48).sum() > 50


def _line(root: Path, task: str = "classification") -> str:
    with pytest.raises(SampleError) as caught:
        read_published(root, task, "BUSI")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_picture_without_a_class_is_no_picture_of_class_0(tmp_path: Path) -> None:
    root = write_published(tmp_path)
    labels = root / "classification/BUSI/labels.csv"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    assert _line(root) == "train.txt: line 1: labels.csv has no class of 'case0.png'"
    labels.write_text("filename,label\n")
    assert "no header" in _line(root)


def test_a_missing_mask_picture_or_list_is_named(tmp_path: Path) -> None:
    root = write_published(tmp_path)
    (root / "all/masks/case9.png").unlink()
    assert _line(root, "segmentation") == "val.txt: line 2: all/masks has no file 'case9.png'"
    (root / "all/images/case0.png").unlink()
    assert _line(root) == "train.txt: line 1: all/images has no file 'case0.png'"
    (root / "classification/BUSI/val.txt").unlink()
    assert _line(root) == "BUSI: val.txt is missing or no text"


def test_a_patient_in_two_splits_is_named(tmp_path: Path) -> None:
    root = write_published(tmp_path, patients=True)
    patients = root / "patients.csv"
    patients.write_text(patients.read_text().replace("case8.png,p8", "case8.png,p0"))
    assert _line(root).endswith("are of one patient: put them into one split")


def test_a_picture_in_two_lists_is_named(tmp_path: Path) -> None:
    root = write_published(tmp_path)
    test = root / "classification/BUSI/test.txt"
    test.write_text(test.read_text() + "case0.png\n")
    assert _line(root).endswith("the picture of train.txt: line 1 again")


def test_several_masks_of_a_picture_are_one(tmp_path: Path) -> None:
    root = write_published(tmp_path)
    more = np.zeros((36, 48), np.uint8)
    more[:4, :4] = 255
    Image.fromarray(more).save(root / "all/masks/case0_1.png")
    first = read_published(root, "segmentation", "BUSI")[0]
    assert [path.name for path in first.masks] == ["case0.png", "case0_1.png"]
    assert read_truth(first, 36, 48)[:4, :4].all()
    Image.fromarray(more[:5]).save(root / "all/masks/case0_1.png")
    with pytest.raises(SampleError, match=r"mask case0_1\.png is 48 x 5, its picture 48 x 36"):
        read_truth(first, 36, 48)


def _lesions(patients: int, label: str) -> list[Lesion]:
    return [
        Lesion(Path(f"{label}{n}_{k}.png"), label, f"{label}{n}")
        for n in range(patients)
        for k in range(2)
    ]


def test_shots_are_patients_of_each_class_and_nested() -> None:
    lesions = _lesions(9, "a") + _lesions(5, "b")
    few, more = (draw_shots(lesions, shots, 0) for shots in (2, 4))
    assert {label: len({x.group for x in few if x.label == label}) for label in "ab"} == {
        "a": 2,
        "b": 2,
    }
    assert len(few) == 8
    assert set(few) < set(more)
    with pytest.raises(SampleError, match="class 'b' has 5 patients to learn from, fewer than 6"):
        draw_shots(lesions, 6, 0)


def test_patients_are_not_divided() -> None:
    parts = divide(_lesions(200, "a"), 0.2, 0.1, 0)
    lesions = [lesion for part in parts.values() for lesion in part]
    splits: dict[str, set[str]] = {}
    for lesion in lesions:
        splits.setdefault(lesion.group, set()).add(lesion.split)
    assert all(len(each) == 1 for each in splits.values())
    assert 50 < len(parts["test"]) < 110
    with pytest.raises(SampleError, match="split is missing"):
        divide([replace(lesions[0], split=""), *lesions[1:]], 0.2, 0.1, 0)


def test_a_class_that_a_split_lacks_is_named() -> None:
    with pytest.raises(SampleError, match="split train has no picture of 'b'"):
        check_present(_lesions(2, "a"), ("a", "b"), "train")
    with pytest.raises(SampleError, match="class 'c' is none of a, b"):
        check_labels(_lesions(2, "c"), ("a", "b"))


@pytest.mark.parametrize("angle", [0, 30, 91, 140])
def test_an_ellipse_is_found_again_in_its_mask(angle: float) -> None:
    ellipse = Ellipse(150.3, 120.7, 110, 160, angle)
    fitted = contour_ellipse(draw_ellipse(ellipse, 240, 320))
    assert fitted is not None
    assert abs(fitted.cx - ellipse.cx) < 0.5
    assert abs(fitted.cy - ellipse.cy) < 0.5
    assert sorted((fitted.axis1, fitted.axis2)) == pytest.approx([110, 160], abs=0.6)


def test_nothing_has_no_ellipse() -> None:
    assert contour_ellipse(np.zeros((40, 40), np.uint8)) is None


def test_hc18s_circumference_is_that_of_its_ellipses(shared_data: Path) -> None:
    lesions = read_hc18(shared_data / "hc18_heads")
    assert len(lesions) == 863
    errors = [
        circumference(lesion.ellipse) * lesion.spacing_mm - lesion.circumference_mm
        for lesion in lesions
        if lesion.ellipse and lesion.spacing_mm and lesion.circumference_mm
    ]
    assert np.abs(errors).max() < 0.05
