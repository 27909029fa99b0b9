"""`qc-model`: what a user gets wrong is one line that names it, and nothing is lost or invented."""

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.numpy import save_file

from training import cli
from training.data.samples import Origin, read_samples
from training.phantom.dataset import write_dataset


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("settled"), 16, 41, progress=False)


@pytest.fixture
def qc_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """`qc-model ARGUMENTS` in this process, in a folder of its own: (status, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["qc-model", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        code = ended.value.code
        assert isinstance(code, int)
        return code, capsys.readouterr().err

    return run


def changed(path: Path, phantoms: Path, **changes: Any) -> Path:
    """The phantoms' samples with the first one changed."""
    items = json.loads(phantoms.read_text())
    for item in items:
        item["image_path"] = str(phantoms.parent / item["image_path"])
    items[0] |= changes
    path.write_text(json.dumps(items))
    return path


def small(samples: Path) -> list[object]:
    data = ["--samples", samples, "--held-out", 0.3]
    return ["train", "detector", "--out", "run", *data, "--size", 32, "--epochs", 1, "--batch", 4]


def test_debug_is_in_the_help(capsys: pytest.CaptureFixture[str], qc_model: Any) -> None:
    status, _ = qc_model("--version")
    assert status == 0
    with pytest.raises(SystemExit):
        cli.app(["--help"])
    assert "--debug" in capsys.readouterr().out


BOX = {"label": "NT", "bbox": [1, 2, 30, 40], "confidence": 1}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"coordinates": [BOX | {"label": "NOSE"}]}, "0: coordinates 0: label 'NOSE'"),
        ({"coordinates": [BOX | {"bbox": [-50, 0, 5000, 40]}]}, "0: coordinates 0: bbox"),
        ({"image_path": "absent.png"}, "0: no file 'absent.png'"),
        ({"image_path": "broken.png"}, "0: 'broken.png' is no readable picture"),
        ({"origin": None}, "0: origin is missing"),
    ],
)
@pytest.mark.parametrize("command", ["detector", "spatialclip", "evaluate", "calibrate"])
def test_a_bad_sample_is_named_by_every_command(
    phantoms: Path, tmp_path: Path, qc_model: Any, changes: Any, message: str, command: str
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "part").mkdir()
    samples = changed(tmp_path / "bad.json", phantoms, **changes)
    parts = ["--detector", "part", "--describer", "part"]
    for name in ("architecture.yaml", "detector.json", "config.json"):
        (tmp_path / "part" / name).write_text("{}")
    for name in ("weights.safetensors", "model.safetensors"):
        save_file({"a": np.zeros(1, np.float32)}, tmp_path / "part" / name)
    status, err = qc_model(
        *{
            "detector": small(samples),
            "spatialclip": ["train", "spatialclip", "--out", "run", *parts, "--samples", samples],
            "evaluate": ["evaluate", "--count", 0, "--samples", samples],
            "calibrate": [
                *("calibrate", "--out", "b", *parts, "--spatialclip", "part"),
                *("--samples", samples),
            ],
        }[command]
    )
    assert status == 2, err
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scale", "q"], "--scale"),
        (["--size", 100], "multiple of 32"),
        (["--size", 0], "--size"),
        (["--epochs", -3], "--epochs"),
        (["--epochs", 0], "--epochs"),
        (["--restart", 999], "--restart 999"),
        (["--batch", 0], "--batch"),
        (["--batch", 100000], "fewer than a batch of 100000"),
        (["--held-out", 1.5], "--held-out"),
        (["--held-out", "nan"], "--held-out"),
        (["--held-out", 1], "no picture is left to learn from"),
        (["--held-out", 0], "no picture is held out"),
        (["--simulated", "nan"], "--simulated"),
        (["--simulated", "inf"], "--simulated"),
        (["--simulated", -1], "--simulated"),
        (["--seed", -1], "--seed"),
        (["--start", "absent"], "--start"),
        (["--samples", "absent.json"], "absent.json"),
        (["--samples", "."], "--samples"),
        (["--fetus-framework", "absent"], "absent"),
        (["--origin", "virtual"], "--origin"),
        (["--fold", 1], "--fold 1 holds no real picture"),
        (["--split", "set1_train"], "--split goes with"),
        (["--out", "taken"], "taken is a file"),
    ],
)
def test_wrong_options_of_train_are_wrong_usage(
    phantoms: Path, tmp_path: Path, qc_model: Any, arguments: list[object], message: str
) -> None:
    (tmp_path / "taken").write_text("")
    status, err = qc_model(*small(phantoms), *arguments)
    assert status == 2, err
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["negatives", "--out", "n"], "give --dicom, --samples or --fetus-framework"),
        (["negatives", "--out", "n", "--dicom", "absent"], "absent"),
        (["negatives", "--out", "n", "--dicom", "."], "holds no .dcm file"),
        (["negatives", "--out", "n", "--fetus-framework", "absent"], "absent"),
        (["negatives", "--out", "n", "--fetus-framework", "."], "no Fetus Framework folder"),
        (["negatives", "--out", "n", "--dicom", ".", "--split", "x"], "--split goes with"),
        (["evaluate", "--count", 0, "--dicom", "us"], "files of other ultrasound can be judged"),
        (["evaluate", "--count", 1, "--held-out", 0.5], "--held-out goes with"),
        (["evaluate", "--count", 1, "--out", "/proc/none/f.json"], "/proc/none"),
        (["evaluate", "--count", 1, "--seed", 2**32], "--seed"),
        (["train", "describer", "--out", "d", "--seed", 2**64], "--seed"),
        (["evaluate", "--count", 0, "--held-out", "nan"], "--held-out"),
        (["evaluate", "--count", 0, "--dicom", "absent"], "absent"),
        (["evaluate", "--count", 1, "--bundle", "absent"], "absent"),
        (["evaluate", "--count", 1, "--out", "."], "--out"),
        (["phantom", "--out", "p", "--count", 0], "--count"),
        (["phantom", "--out", "p", "--other-share", "nan"], "--other-share"),
        (["train", "describer", "--out", "d", "--steps", 2], "--steps"),
        (["calibrate", "--out", "b", "--detector", "absent"], "absent"),
    ],
)
def test_wrong_options_of_other_commands_are_one_error(
    tmp_path: Path, qc_model: Any, arguments: list[object], message: str
) -> None:
    (tmp_path / "us").mkdir()
    for name in ("a.dcm", "b.dcm"):
        (tmp_path / "us" / name).write_bytes(b"no DICOM")
    status, err = qc_model(*arguments)
    assert status in (1, 2)
    assert message in err
    assert "internal error" not in err
    assert "Traceback" not in err


def test_files_in_a_folder_are_not_overwritten(
    tmp_path: Path, qc_model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert qc_model("phantom", "--out", "ph", "--count", 5)[0] == 0
    (tmp_path / "ph" / "images" / "mine.png").write_bytes(b"mine")
    before = (tmp_path / "ph" / "samples.json").read_bytes()
    status, err = qc_model("phantom", "--out", "ph", "--count", 2, "--seed", 1)
    assert (status, "--force" in err) == (2, True)
    assert (tmp_path / "ph" / "samples.json").read_bytes() == before
    assert qc_model("phantom", "--out", "ph", "--count", 2, "--seed", 1, "--force")[0] == 0
    left = sorted(path.name for path in (tmp_path / "ph" / "images").iterdir())
    assert left == ["000000.png", "000001.png", "mine.png"], "old pictures go, others stay"
    # What was interrupted is begun again without a word.
    (tmp_path / "ph" / "samples.json").rename(tmp_path / "ph" / "samples.partial")
    assert qc_model("phantom", "--out", "ph", "--count", 2, "--seed", 1)[0] == 0
    assert len(read_samples(tmp_path / "ph" / "samples.json")) == 2


def test_a_run_is_resumed_or_replaced_only_by_option(
    phantoms: Path, tmp_path: Path, qc_model: Any
) -> None:
    assert qc_model(*small(phantoms))[0] == 0
    facts = (tmp_path / "run" / "training.json").read_bytes()
    status, err = qc_model(*small(phantoms))
    assert (status, "--resume" in err, "--force" in err) == (2, True, True)
    assert qc_model(*small(phantoms), "--resume", "--force")[0] == 2
    assert (tmp_path / "run" / "training.json").read_bytes() == facts
    status, err = qc_model(*small(phantoms), "--scale", "s", "--resume")
    assert (status, "another scale:" in err) == (2, True)
    status, err = qc_model(*small(phantoms), "--batch", 2, "--resume")
    assert (status, "another batch:" in err) == (2, True)
    assert qc_model(*small(phantoms), "--resume")[0] == 0
    assert qc_model(*small(phantoms), "--force")[0] == 0
    learnt = json.loads(facts)["training"]["data"]
    assert {row["origin"] for row in learnt} == {"simulated"}
    assert (
        sum(row["standard"] + row["non-standard"] for row in learnt)
        == (json.loads(facts)["training"]["images"])
    )


def test_a_loss_that_is_not_finite_ends_the_run_without_weights(
    phantoms: Path, tmp_path: Path, qc_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.train import detector

    honest = detector.DetectionLoss.__call__
    monkeypatch.setattr(
        detector.DetectionLoss, "__call__", lambda *arguments: honest(*arguments) * float("nan")
    )
    status, err = qc_model(*small(phantoms))
    assert status == 1
    assert "the loss of step 0 is nan" in err
    assert not list((tmp_path / "run").glob("*.safetensors"))
    assert not (tmp_path / "run" / "training.json").exists()


def test_negatives_of_one_source_alone(
    phantoms: Path, tmp_path: Path, qc_model: Any, shared_data: Path
) -> None:
    of_pictures = ("negatives", "--out", "n", "--samples", phantoms, "--count", 3)
    assert qc_model(*of_pictures)[0] == 0
    assert qc_model(*of_pictures)[0] == 2
    assert qc_model(*of_pictures, "--force")[0] == 0
    samples = read_samples(tmp_path / "n" / "samples.json")
    assert len(samples) == 3
    assert {sample.view for sample in samples} == {"OTHER"}
    (tmp_path / "us").mkdir()
    for name in ("gdcm-US-ALOKA-16.dcm",):
        (tmp_path / "us" / name).write_bytes((shared_data / "us_dicom" / name).read_bytes())
    status, err = qc_model("negatives", "--out", "m", "--dicom", "us")
    assert status == 0, err
    assert {s.origin for s in read_samples(tmp_path / "m" / "samples.json")} == {Origin.REAL}


def test_figures_are_not_overwritten(tmp_path: Path, qc_model: Any) -> None:
    (tmp_path / "f.json").write_text("{}")
    status, err = qc_model("evaluate", "--count", 1, "--out", "f.json")
    assert (status, "f.json exists" in err) == (2, True)


def test_a_truncated_jpeg_is_named(phantoms: Path, tmp_path: Path, qc_model: Any) -> None:
    (sample, *_) = read_samples(phantoms)
    pixels = cv2.imread(str(sample.image))
    cv2.imwrite(str(tmp_path / "cut.jpg"), pixels)
    content = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(content[: len(content) // 2])
    status, err = qc_model(*small(changed(tmp_path / "c.json", phantoms, image_path="cut.jpg")))
    assert status == 2
    assert "0: 'cut.jpg' is no readable picture" in err
