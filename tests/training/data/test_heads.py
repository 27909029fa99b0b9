"""Real heads and planes without a quality label."""

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.anatomy import View
from detector.console import UsageError
from training.data.fetal_planes import read_fetal_planes
from training.data.heads import NOT_IN_A_HEAD, read_hc18, read_head_structures
from training.data.samples import Origin, SampleError
from training.data.splits import load_unlabelled

HC18 = "file,id,width,height,pixel_mm,first_trimester,cx,cy,axis1,axis2,angle_deg\n"
BOXES = "file,id,structure,x_min,y_min,x_max,y_max\n"
PLANES = "file,patient,plane\n"


def _folder(tmp_path: Path, name: str, text: str, *pictures: str) -> Path:
    (tmp_path / name).write_text(text)
    for picture in pictures:
        assert cv2.imwrite(str(tmp_path / picture), np.full((240, 320), 90, np.uint8))
    return tmp_path


def test_a_skull_is_the_bounding_box_of_its_ellipse(tmp_path: Path) -> None:
    rows = "a.png,243_3,320,240,0.1,1,160,120,100,60,30\nb.png,243,320,240,0.2,0,160,120,60,40,90\n"
    first, later = read_hc18(_folder(tmp_path, "labels.csv", HC18 + rows, "a.png", "b.png"))
    points = cv2.ellipse2Poly((1600, 1200), (500, 300), 30, 0, 360, 1) / 10
    (skull,) = first.boxes
    assert skull.label == "CB"
    expected = (*points.min(0), *points.max(0))
    assert skull.bbox == pytest.approx(expected, abs=0.2)
    assert later.boxes[0].bbox == pytest.approx((140, 90, 180, 150))
    assert first.annotated == NOT_IN_A_HEAD | {"CB"}
    assert (first.view, later.view) == (View.HEAD, View.OTHER)
    assert first.standard is None
    assert first.origin is Origin.REAL
    assert first.group == later.group, "pictures of one fetus"
    assert math.isclose(first.spacing_mm or 0, 0.1)


def test_of_a_head_only_the_boxed_plexus_is_annotated(tmp_path: Path) -> None:
    rows = (
        "a.png,7,falx,40,100,280,140\na.png,7,choroid_plexus,150,150,220,200\n"
        "a.png,7,cavum_septi_pellucidi,60,100,90,130\nb.png,8,falx,40,100,280,140\n"
    )
    folder = _folder(tmp_path, "boxes.csv", BOXES + rows, "a.png", "b.png")
    with_plexus, without = read_head_structures(folder)
    assert [box.label for box in with_plexus.boxes] == ["CF", "CP2"]
    assert with_plexus.annotated == NOT_IN_A_HEAD | {"CF", "CP2"}
    assert without.annotated == NOT_IN_A_HEAD | {"CF"}


def test_a_plane_is_annotated_with_what_it_cannot_show(tmp_path: Path) -> None:
    rows = "a.png,1,femur\nb.png,1,abdomen\nc.png,2,brain\nd.png,3,other\n"
    folder = _folder(tmp_path, "labels.csv", PLANES + rows, "a.png", "b.png", "c.png", "d.png")
    femur, abdomen, brain, other = read_fetal_planes(folder)
    assert {"CB", "NT", "AS"} <= femur.annotated
    assert abdomen.annotated & {"AS", "CB"} == {"CB"}
    assert brain.annotated & {"CB", "NT"} == {"NT"}
    assert not other.annotated
    assert {sample.view for sample in (femur, abdomen, brain, other)} == {View.OTHER}
    assert femur.group == abdomen.group != brain.group


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("a.png,1,320,240,0.1,2,160,120,100,60,30\n", "first_trimester is neither 0 nor 1"),
        ("a.png,1,320,240,0.1,1,160,inf,100,60,30\n", "cy 'inf' is no number"),
        ("a.png,1,320,240,0.1,1,900,120,100,60,30\n", "the ellipse lies beside the picture"),
        ("a.png,1,320,240,0.1,1,160,120,100,60\n", "row 1: angle_deg is missing"),
        ("z.png,1,320,240,0.1,1,160,120,100,60,30\n", "lacks 1 of its pictures"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: str, problem: str) -> None:
    folder = _folder(tmp_path, "labels.csv", HC18 + rows, "a.png")
    with pytest.raises(SampleError, match=problem):
        read_hc18(folder)
    with pytest.raises(UsageError, match=problem):
        load_unlabelled(folder, None, None)


def test_an_unknown_structure_or_plane_is_named(tmp_path: Path) -> None:
    folder = _folder(tmp_path, "boxes.csv", BOXES + "a.png,7,tail,1,1,9,9\n", "a.png")
    with pytest.raises(SampleError, match="unknown structure 'tail'"):
        read_head_structures(folder)
    (tmp_path / "labels.csv").write_text(PLANES + "a.png,1,spine\n")
    with pytest.raises(SampleError, match="plane 'spine' is none of"):
        read_fetal_planes(folder)
