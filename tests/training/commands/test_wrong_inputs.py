"""What users of the published systems get wrong: each is one line, and no traceback."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from model.fetalclip.checkpoint import save_fetalclip
from model.fetalclip.network import FetalClip
from model.nextgen_uia.checkpoint import load_tower, save_trained, tower_sha256
from model.nextgen_uia.network import AdaptedNetwork, HeadConfig, HeadKind, Task
from tests.support.clips import FOUR_BLOCKS, write_clip
from tests.support.lesions import write_published
from tests.support.planes import CLASSES, shape, write_csv, write_dicom, write_pictures
from tests.support.towers import tower_folder
from training import cli

TRAIN = "train dual-branch --out run --architecture resnet18 --size 32 --epochs 1 --device cpu"


def _annotations(folder: Path, **first: object) -> str:
    """Stills and a cine by the published CSV, the first row changed."""
    rows = []
    for patient, split in enumerate(("train", "val")):
        for name in CLASSES:
            cine = np.stack([shape(name, patient)[..., 0]] * 2)
            values = {"PatientID": f"P{patient}", "StudyInstanceUID": f"1.2.{patient}"}
            uid = write_dicom(folder / "files" / f"{patient}{name}.dcm", cine, **values)
            rows.append({"SOPInstanceUID": uid, "split": split, "class": name, "frame": 0})
    write_csv(folder / "a.csv", [rows[0] | first, *rows[1:]])
    return f"{TRAIN} --annotations a.csv --dicom files"


def _annotation_without_file(folder: Path) -> str:
    return _annotations(folder, SOPInstanceUID="1.2.3")


def _frame_out_of_range(folder: Path) -> str:
    return _annotations(folder, frame=2)


def _patient_in_two_splits(folder: Path) -> str:
    return _annotations(folder, split="test")


def _class_missing_from_the_split(folder: Path) -> str:
    # The only picture of the class to learn from validates.
    write_pictures(folder, 3, split=("train", "train", "val"))
    path = folder / "pictures.csv"
    lines = path.read_text().splitlines()
    kept = [line for line in lines if not ("ring" in line and ",train" in line)]
    path.write_text("\n".join(kept) + "\n")
    return f"{TRAIN} --pictures pictures.csv --batch 2"


def _checkpoint_of_another_architecture(folder: Path) -> str:
    network = torchvision.models.resnet34(weights=None)
    network.fc = nn.Linear(512, 16)
    torch.save(network.state_dict(), folder / "best_model.pth")
    return "dual-branch convert best_model.pth --out run --architecture resnet18"


def _adapters_of_another_tower(folder: Path) -> str:
    tower_folder(folder / "clip")
    state = {"visual.trunk.blocks.0.mona.project1.weight": torch.zeros(64, 32)}
    torch.save(state, folder / "best_model.pth")
    return "nextgen-uia convert best_model.pth --tower clip --out run"


def _prompt_file_without_a_class(folder: Path) -> str:
    write_clip(folder / "clip")
    (folder / "prompts.json").write_text(json.dumps({"bar": ["a bar"], "disc": ["a disc"]}))
    write_pictures(folder, 1)
    return (
        "zero-shot --model clip --prompts prompts.json --labels pictures.csv --label-column class"
        " --device cpu"
    )


def _picture_without_a_class(folder: Path) -> str:
    tower_folder(folder / "clip")
    labels = write_published(folder / "data") / "classification/BUSI/labels.csv"
    labels.write_text("".join(labels.read_text().splitlines(keepends=True)[1:]))
    return "train adapter --tower clip --out run --data data --dataset BUSI --device cpu"


def _mask_without_file(folder: Path) -> str:
    tower_folder(folder / "clip")
    (write_published(folder / "data") / "all/masks/case0.png").unlink()
    return "segment train --tower clip --out run --data data --dataset BUSI --device cpu"


def _decoder_of_another_tower(folder: Path) -> str:
    for seed, name in enumerate(("clip", "other")):
        torch.manual_seed(seed)
        save_fetalclip(folder / name, FetalClip(FOUR_BLOCKS))
    tower = load_tower(folder / "other", (0, 1, 2, 3))
    config = HeadConfig(Task.SEGMENTATION, ("background", "head"), 4, HeadKind.DECODER)
    head = AdaptedNetwork(tower, config).head
    save_trained(folder / "heads", tower, tower_sha256(tower), head=head, head_config=config)
    write_pictures(folder, 1)
    return "segment measure --run heads --tower clip 0_bar.png --device cpu"


def _frames(folder: Path, *rows: str) -> str:
    write_clip(folder / "clip")
    write_pictures(folder, 2)
    lines = ["file,patient,usable,split", *rows]
    (folder / "frames.csv").write_text("\n".join(lines) + "\n")
    return "iqa train --tower clip --frames frames.csv --out run --batch 1 --device cpu"


def _frame_without_file(folder: Path) -> str:
    return _frames(folder, "0_bar.png,p0,1,train", "9_bar.png,p0,0,train")


def _frames_without_a_usable_one(folder: Path) -> str:
    return _frames(folder, "0_bar.png,p0,1,train", "0_disc.png,p0,0,train", "1_bar.png,p1,0,val")


def _patient_who_learns_and_validates(folder: Path) -> str:
    return _frames(folder, "0_bar.png,007,1,train", "1_bar.png,7,0,val")


def _split_without_a_name_of_ours(folder: Path) -> str:
    return _frames(folder, "0_bar.png,p0,1,train", "1_bar.png,p1,0,dev")


def _classes_to_distil(folder: Path, prompts: tuple[str, ...], options: str) -> str:
    write_clip(folder / "clip")
    (folder / "prompts.json").write_text(json.dumps({name: [f"a {name}"] for name in prompts}))
    write_pictures(folder, 3, split=("train", "train", "val"))
    return (
        "distil --teacher clip --labels pictures.csv --label-column class --prompts prompts.json"
        f" --out run --batch 2 --device cpu {options}"
    )


def _class_to_distil_without_prompts(folder: Path) -> str:
    return _classes_to_distil(folder, ("bar", "disc"), "")


def _weight_that_is_no_number(folder: Path) -> str:
    return _classes_to_distil(folder, CLASSES, "--beta 2 nan")


def _caption_without_picture(folder: Path) -> str:
    write_clip(folder / "clip")
    (folder / "pairs.csv").write_text("filename,Caption\nno.png,a head\n")
    return "distil --teacher clip --captions pairs.csv --out run --device cpu"


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (_annotation_without_file, "row 1: files has no file of SOP Instance UID 1.2.3"),
        (_frame_out_of_range, "row 1: no frame 2: the file is a cine of frames 0 to 1"),
        (_patient_in_two_splits, "are of one patient: put them into one split"),
        (_class_missing_from_the_split, "split train has no picture of 'ring'"),
        (_checkpoint_of_another_architecture, "are not those of resnet18"),
        (_adapters_of_another_tower, "best_model.pth"),
        (_prompt_file_without_a_class, "no prompts for class 'ring'"),
        (_picture_without_a_class, "labels.csv has no class of 'case0.png'"),
        (_mask_without_file, "case0.png"),
        (_decoder_of_another_tower, "another tower"),
        (_frame_without_file, "frames.csv: row 2: 9_bar.png is no file there"),
        (_frames_without_a_usable_one, "split val has no picture of 'usable'"),
        (_patient_who_learns_and_validates, "are of one patient: put them into one split"),
        (_split_without_a_name_of_ours, "row 2: split 'dev' is none of train, val, test"),
        (_class_to_distil_without_prompts, "no prompts for class 'ring'"),
        (_weight_that_is_no_number, "--beta 2.0 nan: give finite numbers"),
        (_caption_without_picture, "pairs.csv: row 1: no picture 'no.png'"),
    ],
)
def test_a_wrong_input_is_one_line(
    prepare: Callable[[Path], str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["qc-model", *prepare(tmp_path).split()])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code in (1, 2)
    assert captured.err.count("\n") == 1, captured.err
    assert words in captured.err
    assert "Traceback" not in captured.err
    assert not captured.out
    # And nothing is left that looks like a run.
    assert not (tmp_path / "run").exists()
