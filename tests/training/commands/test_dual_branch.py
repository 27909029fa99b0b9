"""`qc-model train dual-branch` and `qc-model dual-branch` on files."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from model.dual_branch.checkpoint import load_dual_branch, save_dual_branch
from model.dual_branch.network import (
    PUBLISHED_CLASSES,
    DualBranch,
    DualBranchConfig,
    build_backbone,
)
from tests.support.planes import CLASSES, shape, write_csv, write_dicom, write_pictures
from training import cli
from training.data.planes import read_pictures
from training.train.runs import write_learnt, write_validated

SMALL = ("--architecture", "resnet18", "--size", 32, "--epochs", 1, "--batch", 4, "--device", "cpu")


@pytest.fixture
def qc_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """`qc-model ARGUMENTS` in this process: (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qc-model", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("shapes"), 8)


def test_train_then_evaluate_then_classify(qc_model: Any, pictures: Path, tmp_path: Path) -> None:
    data = ("--pictures", pictures, "--fold", 0, "--seed", 4)
    training = ("--held-out", 0.4, *data, *SMALL)
    status, out, error = qc_model("train", "dual-branch", "--out", "run", *training)
    assert status == 0, error
    assert json.loads(out)["images"] > 0
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    assert facts["command"].startswith("qc-model train dual-branch --out run --held-out 0.4")
    # Without the folders of this machine.
    assert "--pictures pictures.csv" in facts["command"]
    files = ("--out", "figures.json", "--figure", "matrix.svg", "--predictions", "answers.csv")
    files += ("--roc", "roc.svg")
    model = ("--model", "run", "--device", "cpu")
    status, out, error = qc_model("dual-branch", "evaluate", *model, *data, *files)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    # The fold's patients neither trained nor validated.
    counts = [facts[name]["images"] for name in ("training", "validation")]
    assert [figures["pictures"], *counts] == [9, 12, 3]
    least = facts["validation"]["abstention"]["least_probability"]
    assert 0 <= figures["with abstention"]["coverage"]["value"] <= 1
    assert "<svg" in (tmp_path / "roc.svg").read_text()
    assert figures["confusion"]["labels"] == list(CLASSES)
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == figures["pictures"]
    assert all(row[row["predicted"]] == max(row[name] for name in CLASSES) for row in rows)
    shares = [max(float(row[name]) for name in CLASSES) for row in rows]
    answered = [row["answered"] == "1" for row in rows]
    assert answered == [share >= least for share in shares]
    assert np.mean(answered) == pytest.approx(figures["with abstention"]["coverage"]["value"])
    status, _, error = qc_model("dual-branch", "evaluate", *model, *data, *files)
    assert (status, error.count("\n")) == (2, 1)
    assert "figures.json exists: name another file" in error
    # All of the data: most of it has been learnt from.
    whole = ("--pictures", pictures)
    status, _, error = qc_model("dual-branch", "evaluate", *model, *whole)
    assert status == 2
    assert f"the model learnt from {facts['training']['images']} of these files" in error
    assert qc_model("dual-branch", "evaluate", *model, *whole, "--with-learnt")[0] == 0


def annotated(folder: Path, classes: tuple[str, ...] = CLASSES) -> tuple[object, ...]:
    """A cine of two frames for each class and patient, of which the second one is annotated."""
    rows = []
    for patient, split in enumerate(["train", "train", "val", "test"]):
        for name, label in zip(CLASSES, classes, strict=True):
            cine = np.stack([np.zeros((64, 64)), shape(name, patient)[..., 0]])
            values = {"PatientID": f"P{patient}", "StudyInstanceUID": f"1.2.{patient}"}
            path = folder / "files" / f"{patient}{name}.dcm"
            uid = write_dicom(path, cine, **values)
            rows.append({"SOPInstanceUID": uid, "split": split, "class": label, "frame": 1})
    path = write_csv(folder / "annotations.csv", rows)
    return "--annotations", path, "--dicom", folder / "files"


def test_cines_by_the_published_csv(qc_model: Any, tmp_path: Path) -> None:
    data = annotated(tmp_path)
    status, _, error = qc_model("train", "dual-branch", "--out", "run", *data, *SMALL)
    assert status == 0, error
    facts = json.loads((tmp_path / "run" / "training.json").read_text())
    assert (facts["training"]["images"], facts["validation"]["images"]) == (6, 3)
    arguments = ("dual-branch", "evaluate", "--model", "run", "--device", "cpu", *data)
    status, out, error = qc_model(*arguments, "--out", "figures.json")
    assert status == 0, error
    assert "3 pictures of 1 patients" in out
    assert json.loads((tmp_path / "figures.json").read_text())["pictures"] == 3


def test_published_names_make_the_published_classes_and_missing_ones_are_named(
    qc_model: Any, tmp_path: Path
) -> None:
    data = annotated(tmp_path, ("Femur", "Spine", "Cervix"))
    arguments = ("train", "dual-branch", "--out", "run", *data, *SMALL)
    status, _, error = qc_model(*arguments)
    assert (status, error.count("\n")) == (2, 1)
    assert "split train has no picture of 'Head (PPP, Tectum)', 'Head (Cerebellum)'" in error
    assert not (tmp_path / "run").exists()
    (tmp_path / "classes.txt").write_text("Spine\nFemur\nCervix\n")
    assert qc_model(*arguments, "--classes", "classes.txt")[0] == 0
    assert load_dual_branch(tmp_path / "run").config.classes == ("Spine", "Femur", "Cervix")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give one of --annotations, --pictures, --class-folders, --fetal-planes"),
        (("--pictures", "P", "--fetal-planes", "."), "give one of --annotations"),
        (("--pictures", "P", "--dicom", "."), "--annotations and --dicom go together"),
        (("--pictures", "P", "--leave-out", "heart"), "no such class, but bar, disc, ring"),
        (("--pictures", "P", "--gated"), "resnet18 has no gate"),
        (("--pictures", "P", "--published-layout"), "--size goes with our layout"),
        (("--pictures", "P", "--batch", "99"), "fewer than a batch of 99"),
        (("--pictures", "P", "--held-out", "0"), "no picture is held out"),
        (("--pictures", "P", "--held-out", "1"), "split train has no picture of"),
        (("--pictures", "P", "--device", "tpu"), "there is no device tpu"),
        (("--fetal-planes", "."), "is no labelled folder: labels.csv"),
    ],
)
def test_wrong_options_are_one_line_and_leave_nothing(
    options: tuple[str, ...], message: str, qc_model: Any, pictures: Path, tmp_path: Path
) -> None:
    own = [str(pictures) if option == "P" else option for option in options]
    status, _, error = qc_model("train", "dual-branch", "--out", "run", *SMALL, *own)
    assert (status, error.count("\n")) == (2, 1), error
    assert message in error
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_replaced_only_by_force(
    qc_model: Any, pictures: Path, tmp_path: Path
) -> None:
    arguments = ("train", "dual-branch", "--out", "run", "--pictures", pictures, *SMALL)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "training.json").write_text("{}")
    status, _, error = qc_model(*arguments)
    assert status == 2
    assert "run holds a run" in error
    assert qc_model(*arguments, "--force")[0] == 0
    assert len(json.loads((tmp_path / "run" / "training.json").read_text())["losses"]) == 1


def test_files_are_classified_and_a_bad_one_is_named(qc_model: Any, tmp_path: Path) -> None:
    config = DualBranchConfig("resnet18", CLASSES, ((32, 32),))
    save_dual_branch(tmp_path / "run", DualBranch(config))
    Image.fromarray(shape("disc", 0)).save(tmp_path / "a.png")
    write_dicom(tmp_path / "cine.dcm", np.stack([shape("bar", i)[..., 0] for i in range(2)]))
    (tmp_path / "bad.dcm").write_text("nothing")
    arguments = ("dual-branch", "classify", "--model", "run", "--device", "cpu")
    status, out, _ = qc_model(*arguments, "bad.dcm", "a.png", "cine.dcm", "--format", "jsonl")
    assert status == 1
    answers = [json.loads(line) for line in out.splitlines()]
    assert answers[0]["error"]["code"] == "not-an-image"
    assert all(answer["class"] == answer["closest"] for answer in answers[1:])
    assert [answer.get("frame") for answer in answers] == [None, 1, 1, 2]
    for answer in answers[1:]:
        assert sum(answer["probabilities"].values()) == pytest.approx(1)
        assert answer["probability"] == max(answer["probabilities"].values())
    status, out, error = qc_model(*arguments, "a.png", "absent.png")
    assert status == 1
    assert out.splitlines()[1].startswith("a.png       1      ")
    assert "unreadable-file: cannot be opened" in out.splitlines()[2]
    assert error == "1 of 2 files could not be answered\n"


def published(path: Path, classes: int) -> Path:
    """A checkpoint as the published code writes one of a single ResNet18."""
    network = torchvision.models.resnet18(weights=None)
    network.fc = nn.Linear(512, classes)
    torch.save(network.state_dict(), path)
    return path


def test_a_published_checkpoint_becomes_a_folder(qc_model: Any, tmp_path: Path) -> None:
    source = published(tmp_path / "best_model.pth", 16)
    arguments = ("dual-branch", "convert", source, "--out", "run")
    status, out, error = qc_model(*arguments)
    assert status == 0, error
    assert out == "run written: resnet18, 16 classes\n"
    assert load_dual_branch(tmp_path / "run").config.classes == PUBLISHED_CLASSES
    assert qc_model(*arguments)[0] == 2
    status, _, error = qc_model(*arguments, "--force", "--architecture", "efficientnet-b0-b6")
    assert (status, error.count("\n")) == (1, 1)
    assert "are not those of efficientnet-b0-b6 but of resnet18" in error
    assert load_dual_branch(tmp_path / "run").config.classes == PUBLISHED_CLASSES


def test_a_published_checkpoint_of_other_classes_needs_their_names(
    qc_model: Any, tmp_path: Path
) -> None:
    source = published(tmp_path / "best_model.pth", 3)
    status, _, error = qc_model("dual-branch", "convert", source, "--out", "run")
    assert status == 1
    assert "the checkpoint has 3 classes, not 16" in error
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    arguments = ("dual-branch", "convert", source, "--out", "run", "--classes", "names.txt")
    assert qc_model(*arguments)[0] == 0


def untrained(folder: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    """A classifier with random weights, which has seen nothing."""
    torch.manual_seed(0)
    save_dual_branch(folder, DualBranch(DualBranchConfig("resnet18", classes, ((32, 32),))))
    return folder


def test_classifiers_over_folds_are_judged_together(
    qc_model: Any, pictures: Path, tmp_path: Path
) -> None:
    planes = read_pictures(pictures)
    for name, part in (("a", planes[:12]), ("b", planes[12:])):
        write_learnt(untrained(tmp_path / name), (plane.path for plane in part[:9]), set())
        write_validated(tmp_path / name, (plane.path for plane in part[9:]))
    data = ("--pictures", pictures, "--device", "cpu")
    models = ("--model", "a", "--model", "b")
    arguments = ("dual-branch", "evaluate", *data, "--out", "figures.json", "--force")
    status, _, error = qc_model(*arguments, *models)
    assert status == 0, error
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["pictures"], figures["groups"]) == (24, 8)
    status, _, error = qc_model(*arguments, "--model", "a", "--model", "a")
    assert (status, error.count("\n")) == (2, 1)
    assert "each of the 2 models learnt from 0_bar.png" in error
    untrained(tmp_path / "c", ("bar", "disc"))
    status, _, error = qc_model(*arguments, *models, "--model", "c")
    assert (status, error.count("\n")) == (2, 1)
    assert "c has other classes than a" in error


def test_a_threshold_is_fitted_kept_and_used(qc_model: Any, pictures: Path, tmp_path: Path) -> None:
    untrained(tmp_path / "run", ("bar", "disc"))
    model = ("--model", "run", "--device", "cpu")
    known = ("--pictures", pictures, "--leave-out", "ring")
    fit = ("dual-branch", "abstention", *model, *known, "--accuracy", 0.5)
    status, out, error = qc_model(*fit)
    assert status == 0, error
    fitted = json.loads((tmp_path / "run" / "abstention.json").read_text())
    assert json.loads(out) == fitted
    assert (fitted["pictures"], fitted["patients"], fitted["target"]) == (16, 8, 0.5)
    status, _, error = qc_model(*fit)
    assert (status, error.count("\n")) == (2, 1)
    assert qc_model(*fit, "--force")[0] == 0

    evaluate = ("dual-branch", "evaluate", *model, "--pictures", pictures, "--unknown", "ring")
    status, out, error = qc_model(*evaluate, "--out", "figures.json", "--least-probability", 1)
    assert status == 0, error
    assert "no picture gets a class" in out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["unknown"] == {"pictures": 8, "rejected": 1}
    assert figures["with abstention"]["coverage"]["value"] == 0

    picture = pictures.parent / "0_disc.png"
    classify = ("dual-branch", "classify", *model, picture, "--format", "jsonl")
    answers = [
        json.loads(qc_model(*classify, *options)[1])
        for options in ((), ("--least-probability", 1), ("--least-probability", 0))
    ]
    assert [answer["closest"] for answer in answers] == [answers[0]["closest"]] * 3
    is_sure = answers[0]["probability"] >= fitted["least_probability"]
    assert (answers[0]["class"] is not None) == is_sure
    assert answers[1]["class"] is None
    assert answers[2]["class"] == answers[2]["closest"]


def test_imagenets_files_begin_a_run_and_wrong_ones_do_not(
    qc_model: Any, pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    save_file(build_backbone("resnet18").state_dict(), tmp_path / "r18.safetensors")
    arguments = ("train", "dual-branch", "--out", "run", "--pictures", pictures, *SMALL)
    for option, message in (
        ("resnet34=r18.safetensors", "resnet18 has no backbone resnet34"),
        ("resnet18=absent.safetensors", "give NAME=FILE, a .safetensors file that is there"),
    ):
        status, _, error = qc_model(*arguments, "--backbone", option)
        assert status in (1, 2)
        assert error.count("\n") == 1
        assert message in error
        assert not (tmp_path / "run").exists()
    more = ("--backbone", "resnet18=r18.safetensors", "--frozen-backbones")
    status, _, error = qc_model(*arguments, *more)
    assert status == 0, error
    state = load_dual_branch(tmp_path / "run").branches[0].state_dict()
    expected = load_file(tmp_path / "r18.safetensors")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())
