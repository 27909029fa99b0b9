"""The data side: strict SpatialCLIP JSON, the real set's rules, division by group."""

import json
from pathlib import Path
from typing import Any

import pytest

from detector.console import UsageError
from detector.vocabulary import View
from training.corpus import divide, gather
from training.fetus_framework import read_fetus_framework
from training.samples import Sample, SampleError, data_hash, read_samples
from training.us_dicom import halves


def item(**changes: Any) -> dict[str, Any]:
    return {
        "image_path": "a.png",
        "description": "Nuchal translucency.",
        "class_label": "standard",
        "coordinates": [{"label": "NT", "bbox": [1, 2, 30, 40], "confidence": 0.5}],
        "ignored": 1,
    } | changes


def write(tmp_path: Path, items: Any) -> Path:
    (tmp_path / "a.png").write_bytes(b"picture")
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(items))
    return path


def test_a_sample_is_read(tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path, [item(view="NT")]))
    assert sample.standard
    assert sample.view is View.NT
    assert sample.boxes[0].bbox == (1.0, 2.0, 30.0, 40.0)


def test_an_unknown_label_is_kept_as_unknown(tmp_path: Path) -> None:
    box = {"label": "XYZ", "bbox": [1, 2, 3, 4], "confidence": 1}
    (sample,) = read_samples(write(tmp_path, [item(coordinates=[box])]))
    assert sample.boxes[0].label == "UNKNOWN"


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
        {"description": None},
        {"view": "NOSE"},
    ],
)
def test_a_bad_sample_is_an_error_with_its_index(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(SampleError, match=r"1 bad samples: 1: "):
        read_samples(write(tmp_path, [item(), item(**changes)]))


def test_every_bad_sample_is_named(tmp_path: Path) -> None:
    bad = item(class_label="?")
    with pytest.raises(SampleError, match=r"0: .*; 2: "):
        read_samples(write(tmp_path, [bad, item(), bad]))


@pytest.mark.parametrize("text", ["{}", "[", "3"])
def test_what_is_no_list_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "samples.json"
    path.write_text(text)
    with pytest.raises(SampleError):
        read_samples(path)


def test_nothing_to_train_on_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no pictures"):
        gather(None, None, None)


def test_groups_are_never_split() -> None:
    samples = [Sample(Path("x"), True, group=f"g{i % 40}") for i in range(400)]
    training, held_out = divide(samples, 0.3, seed=1)
    assert len(training) + len(held_out) == 400
    assert held_out
    assert not {s.group for s in training} & {s.group for s in held_out}
    assert divide(samples, 0.3, seed=1) == (training, held_out)


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

    tuning, judging = halves(shared_data / "us_dicom")
    assert len(tuning) + len(judging) == 26
    assert min(len(tuning), len(judging)) >= 8
    assert not traits(tuning) & traits(judging)
