"""Training data: strict SpatialCLIP JSON, the real set's rules, division by group."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.anatomy import View
from detector.console import UsageError
from training.data.fetus_framework import read_fetus_framework
from training.data.negatives import write_negatives
from training.data.other_organs import split_by_vendor
from training.data.samples import Origin, Sample, SampleError, data_hash, read_samples
from training.data.splits import load, split_by_group
from training.phantom.dataset import write_dataset

WIDTH, HEIGHT = 64, 48


def box(**changes: Any) -> dict[str, Any]:
    return {"label": "NT", "bbox": [1, 2, 30, 40], "confidence": 0.5} | changes


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image_path": "a.png",
        "origin": "real",
        "description": "Nuchal translucency.",
        "class_label": "standard",
        "coordinates": [box()],
        "ignored": 1,
    } | changes


def write(tmp_path: Path, items: Any) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(items))
    return path


def test_a_sample_is_read(tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path, [item(view="NT")]))
    assert sample.standard
    assert sample.view is View.NT
    assert sample.boxes[0].bbox == (1.0, 2.0, 30.0, 40.0)
    assert sample.source == tmp_path.name


@pytest.mark.parametrize("folder", ["set_of_ours", "phantoms"])
@pytest.mark.parametrize("origin", list(Origin))
def test_the_origin_is_that_of_the_file_whatever_its_folder_is_called(
    tmp_path: Path, folder: str, origin: Origin
) -> None:
    (tmp_path / folder).mkdir()
    path = write(tmp_path / folder, [item(origin=origin.value)])
    for default in (None, *Origin):
        (sample,) = read_samples(path, default)
        assert sample.origin is origin
        assert sample.simulated is (origin is Origin.SIMULATED)


def test_a_missing_origin_is_an_error_unless_one_is_given(tmp_path: Path) -> None:
    published = item()
    del published["origin"]
    path = write(tmp_path, [item(image_path="b.png", origin="simulated"), published])
    with pytest.raises(SampleError, match=r"samples\.json: 1 bad samples: 1: origin is missing"):
        read_samples(path)
    first, second = read_samples(path, Origin.REAL)
    assert (first.origin, second.origin) == (Origin.SIMULATED, Origin.REAL)


def test_phantoms_and_negatives_have_an_origin(tmp_path: Path) -> None:
    path = write_dataset(tmp_path / "settled", 2, 3, progress=False)
    samples = read_samples(path)
    assert {sample.origin for sample in samples} == {Origin.SIMULATED}
    assert write_negatives(tmp_path / "set of negatives", [], samples, 3, 0) == 3
    negatives = read_samples(tmp_path / "set of negatives" / "samples.json")
    assert {sample.origin for sample in negatives} == {Origin.SIMULATED}


def test_a_box_beyond_the_border_by_rounding_is_clipped(tmp_path: Path) -> None:
    box = {"label": "UNKNOWN", "bbox": [-0.5, 0, WIDTH + 1, HEIGHT], "confidence": 1}
    (sample,) = read_samples(write(tmp_path, [item(coordinates=[box])]))
    assert sample.boxes[0].bbox == (0.0, 0.0, WIDTH, HEIGHT)


@pytest.mark.parametrize(
    "changes",
    [
        {"class_label": "Standard"},
        {"class_label": None},
        {"image_path": "missing.png"},
        {"coordinates": [{"label": "NT", "bbox": [5, 5, 5, 9], "confidence": 1}]},
        {"coordinates": [{"label": "NT", "bbox": [1, 2, 3], "confidence": 1}]},
        {"coordinates": [{"label": "NT", "bbox": [1, 2, 3, 4], "confidence": 2}]},
        {"coordinates": [{"label": "NT", "bbox": [1, 2, 3, 4]}]},
        {"coordinates": [box(label="NOSE")]},
        {"coordinates": [box(label=["NT"])]},
        {"coordinates": [box(bbox=[-50, 2, 30, 40])]},
        {"coordinates": [box(bbox=[1, 2, 5000, 40])]},
        {"coordinates": [box(bbox=[30, 2, 1, 40])]},
        {"coordinates": [box(bbox=[1, 2, float("nan"), 40])]},
        {"coordinates": [box(bbox=[1, 2, float("inf"), 40])]},
        {"coordinates": [box(bbox=[1, 2, 10**400, 40])]},
        {"coordinates": [box(bbox=["1", 2, 30, 40])]},
        {"coordinates": [box(confidence=float("nan"))]},
        {"coordinates": [None]},
        {"coordinates": {}},
        {"description": None},
        {"view": "NOSE"},
        {"origin": "Real"},
        {"origin": True},
        {"spacing_mm": 0},
        {"spacing_mm": float("nan")},
        {"region": [0, 0, 3, 3]},
        {"region": [0, 0, 500, 48]},
        {"criteria": {"CRIT-GAIN": "yes"}},
        {"defects": "gain"},
        {"group": 3},
        {"group": "\ud800"},
        {"exam": [1]},
        {"image_path": ""},
        {"image_path": "x" * 5000},
        {"image_path": "samples.json"},
        {"image_path": "cut.png"},
        {"image_path": "small.png"},
        {"image_path": "c.png"},
    ],
)
def test_a_bad_sample_is_an_error_with_its_index(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = write(tmp_path, [item(image_path="c.png"), item(**changes)])
    whole = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "cut.png"), whole)
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    cv2.imwrite(str(tmp_path / "small.png"), whole[:8, :8])
    with pytest.raises(SampleError, match=r"1 bad samples: 1: ") as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)


def test_every_bad_sample_is_named(tmp_path: Path) -> None:
    bad = item(class_label="?")
    with pytest.raises(SampleError, match=r"2 bad samples: 0, 2: class_label"):
        read_samples(write(tmp_path, [bad, item(), bad]))


def test_one_picture_in_two_files_is_refused(tmp_path: Path) -> None:
    first = write(tmp_path, [item()])
    (tmp_path / "again.json").write_text(json.dumps([item()]))
    with pytest.raises(UsageError, match=r"a\.png is given twice"):
        load([first, tmp_path / "again.json"], None, None)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(
    items=JSON_VALUES
    | st.lists(
        st.builds(
            lambda changes: item(**changes),
            st.dictionaries(st.sampled_from([*item(), "view", "region", "exam"]), JSON_VALUES),
        ),
        max_size=3,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_json_gives_sound_samples_or_one_line(tmp_path: Path, items: Any) -> None:
    path = write(tmp_path, items)
    samples, message = [], str(path)
    try:
        samples = read_samples(path)
    except SampleError as error:
        message = str(error)
    assert message.startswith(str(path))
    assert "\n" not in message
    for sample in samples:
        assert sample.group.encode()
        for detection in sample.boxes:
            x0, y0, x1, y1 = detection.bbox
            assert 0 <= x0 < x1 <= WIDTH
            assert 0 <= y0 < y1 <= HEIGHT


@pytest.mark.parametrize("text", ["{}", "[", "3", "[]", "[" * 100_000, "\ud800", "9" * 5000])
def test_a_file_without_a_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SampleError, match=r"samples\.json"):
        read_samples(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("fname,structure\n1.png,NT\n", "row 1: x_min is missing"),
        ("fname,structure,x_min,y_min,x_max,y_max\n1.png,NT,1,2,3\n", "row 1: y_max is missing"),
        ("fname,structure,x_min,y_min,x_max,y_max\n1.png,NT,1,2,3,4,5\n", "more cells"),
        ("fname,structure,x_min,y_min,x_max,y_max\n1.png,NOSE,1,2,3,4\n", "structure 'NOSE'"),
        (
            "fname,structure,x_min,y_min,x_max,y_max\n1.png,NT,1,2,nan,4\n",
            "x_max .nan. is no number",
        ),
        ("fname,structure,x_min,y_min,x_max,y_max\n1.png,NT,one,2,3,4\n", "1.png"),
    ],
)
def test_a_bad_table_of_boxes_is_an_error_that_names_it(
    tmp_path: Path, rows: str, message: str
) -> None:
    (tmp_path / "boxes.csv").write_text(rows)
    (tmp_path / "labels.csv").write_text("fname,split,quality,local_file\n")
    with pytest.raises(SampleError, match=message):
        read_fetus_framework(tmp_path, ("set1_train",))


def test_a_missing_folder_of_the_real_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="no folder"):
        read_fetus_framework(tmp_path / "absent", ("set1_train",))


def test_no_samples_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        load(None, None, None)


def test_groups_are_never_split() -> None:
    samples = [Sample(Path("x"), True, group=f"g{i % 40}", origin=Origin.REAL) for i in range(400)]
    training, held_out = split_by_group(samples, 0.3, seed=1)
    assert len(training) + len(held_out) == 400
    assert held_out
    assert not {s.group for s in training} & {s.group for s in held_out}
    assert split_by_group(samples, 0.3, seed=1) == (training, held_out)


def test_the_real_set_follows_its_rules(shared_data: Path) -> None:
    samples = read_fetus_framework(shared_data / "fetus_framework", ("set1_train", "set2_train"))
    by_name = {sample.image.stem: sample for sample in samples}
    assert len(samples) == 1371
    assert "1290" not in by_name
    assert by_name["1104"].group == by_name["1105"].group
    assert by_name["134"].group == by_name["458"].group
    # Non-standard pictures were not annotated, which is not "nothing there".
    assert all(not s.annotated and not s.boxes for s in samples if not s.standard)
    assert sum(bool(s.annotated) for s in samples) == 1059
    assert data_hash(samples[:3]) == data_hash(samples[:3]) != data_hash(samples[:2])


def test_halves_share_no_vendor_and_no_uid(shared_data: Path) -> None:
    import pydicom

    def traits(paths: list[Path]) -> set[str]:
        headers = [pydicom.dcmread(p, stop_before_pixels=True, force=True) for p in paths]
        vendors = {"".join(str(h.Manufacturer).upper().split())[:8] for h in headers}
        return vendors | {str(h.SOPInstanceUID) for h in headers}

    tuning, judging = split_by_vendor(shared_data / "us_dicom")
    assert len(tuning) + len(judging) == 26
    assert min(len(tuning), len(judging)) >= 8
    assert not traits(tuning) & traits(judging)


def test_boxes_that_models_drew_are_no_truth(tmp_path: Path) -> None:
    drawn, made = read_samples(
        write(tmp_path, [item(boxes_by="person"), item(image_path="b.png", boxes_by="models")])
    )
    assert drawn.boxes
    assert drawn.annotated
    assert made.boxes == ()
    assert made.annotated == frozenset()
    with pytest.raises(SampleError, match="boxes_by 'me' is neither person nor models"):
        read_samples(write(tmp_path, [item(boxes_by="me")]))
