"""`qc-model evaluate` on labelled pictures: sets, held-out groups, report, and what it refuses."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from detector.anatomy import View
from detector.errors import QCError
from detector.frame import Frame, Region
from model.bundle.bundle import Bundle
from model.judge import Judge
from tests.support.command_line import qc_model, qc_model_here
from training.data import splits
from training.data.samples import read_samples
from training.evaluation.ablation import ABLATIONS, ablate
from training.evaluation.predict import LabelledPicture, assign_styles, judge_pictures
from training.phantom import make
from training.phantom.dataset import write_dataset


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.open(Bundle.open("default"), device="cpu")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("hospital"), 8, 41, progress=False)


def test_labelled_pictures_are_judged_as_serving_judges(judge: Judge) -> None:
    """Labelled pictures are judged as frames are: as serving judges them."""
    phantom = make(4711, View.NT)
    picture = LabelledPicture.of_phantom(phantom)
    (sample,) = judge_pictures(judge, [picture])
    region = Region(0, phantom.region, (phantom.spacing_mm, phantom.spacing_mm))
    (judgement,) = judge.judge(Frame(1, phantom.pixels, (region,)))
    assert sample.probability == judgement.probability
    assert (sample.predicted_view, sample.label) == (judgement.view, judgement.quality)
    assert sample.criteria_outcomes == judgement.criteria
    assert sample.style_features is None, "a phantom has no scanner"


def test_ablations_depend_on_their_branches_only(judge: Judge, samples: Path) -> None:
    pictures = [LabelledPicture.of_sample(sample) for sample in read_samples(samples)]
    predictions = judge.predict([picture.pixels for picture in pictures])
    features = np.stack([each.features for each in predictions])
    assert np.linalg.norm(features, axis=-1) == pytest.approx(np.ones((8, 3)), abs=1e-5)
    ablated = ablate(judge.spatialclip, features)
    assert [each["all"] for each in ablated] == pytest.approx(
        [each.logit for each in predictions], abs=1e-4
    )
    other = features.copy()
    other[:, 0] = np.roll(features[:, 0], 1, axis=0)
    changed = ablate(judge.spatialclip, other)
    for before, after in zip(ablated, changed, strict=True):
        for name, (image, _, _) in ABLATIONS.items():
            assert (before[name] != after[name]) == image, name


def test_samples_keep_their_order_and_get_a_style(judge: Judge, samples: Path) -> None:
    pictures = [LabelledPicture.of_sample(sample) for sample in read_samples(samples)]
    assert {picture.is_real for picture in pictures} == {False}, "phantoms have no scanner's look"
    evaluated, _ = assign_styles(
        judge_pictures(judge, [replace(picture, is_real=True) for picture in pictures])
    )
    assert {sample.style for sample in evaluated} == {"look 1"}
    assert [v.picture for v in evaluated] == [s.image.name for s in read_samples(samples)]
    assert all(0 <= p <= 1 for v in evaluated for p in v.ablated_probabilities.values())


@pytest.mark.slow
def test_the_command_writes_a_report_of_each_set(samples: Path, tmp_path: Path) -> None:
    process = qc_model(
        "evaluate",
        "--samples",
        samples,
        "--count",
        4,
        "--ablate",
        "--report",
        tmp_path / "my r.html",
    )
    assert process.returncode == 0, process.stderr
    assert "AUROC" in process.stdout
    figures = json.loads((tmp_path / "my r.json").read_text())
    assert set(figures["sets"]) == {"phantoms", samples.parent.name}
    own = figures["sets"][samples.parent.name]
    assert own["pictures"] == 8
    assert {"quality", "curves", "labels", "views", "gates", "alignment", "detector"} <= set(own)
    assert set(own["ablation"]) == set(ABLATIONS)
    command = shlex.split(figures["command"])
    assert command[:2] == ["qc-model", "evaluate"]
    assert command[-1] == "my r.html", "no folder of this machine, but what can be typed again"
    text = (tmp_path / "my r.html").read_text()
    assert str(samples.parent.parent) not in text + (tmp_path / "my r.json").read_text()


@pytest.mark.slow
def test_held_out_evaluates_only_those_groups(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "fetus_framework"
    every = splits.load(None, folder, ["set2_train"])
    held_out = splits.split_by_group(every, 0.02, 3)[1]
    assert 3 <= len(held_out) <= 40
    process = qc_model(
        *("evaluate", "--count", 0, "--fetus-framework", folder, "--split", "set2_train"),
        *("--held-out", 0.02, "--seed", 3, "--worst", 500, "--out", tmp_path / "f.json"),
    )
    assert process.returncode == 0, process.stderr
    figures = json.loads((tmp_path / "f.json").read_text())["sets"]["set2_train"]
    assert figures["pictures"] == len(held_out)
    assert figures["detector"]["pictures"] == sum(bool(sample.annotated) for sample in held_out)
    names = {sample.image.name for sample in held_out}
    assert {each["picture"] for each in figures["failures"]} <= names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", "0"], "no pictures"),
        (["--report", "report.pdf"], ".html"),
        (["--samples", "absent.json"], "absent.json"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str) -> None:
    process = qc_model_here("evaluate", *arguments)
    assert process.returncode == 2
    assert message in process.stderr
    assert "Traceback" not in process.stderr


def test_a_file_that_is_no_picture_is_named(tmp_path: Path, samples: Path) -> None:
    (sample, *_) = read_samples(samples)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(QCError, match=r"sample 0: broken\.png is no readable picture"):
        LabelledPicture.of_sample(replace(sample, image=broken))
