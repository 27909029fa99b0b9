"""The trainer of the detector, at the smallest scale."""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from detector.yolo.yolo import YoloDetector
from training.data.samples import Origin, Sample, file_hash
from training.recipes import DetectorRecipe
from training.train import detector as detector_training
from training.train.detector import Picture, batches, load_picture


def test_a_run_loads_and_resumes(
    detector_run: Path, phantom_samples: list[Sample], tmp_path: Path
) -> None:
    run = shutil.copytree(detector_run, tmp_path / "run")
    facts = json.loads((run / "training.json").read_text())
    assert facts["training"]["images"] == 16
    before = YoloDetector.load(run)
    recipe = DetectorRecipe(size=64, epochs=2, batch=8, warmup_steps=1)
    detector_training.train_detector(
        phantom_samples[:16], phantom_samples[16:], run, recipe, resume=True
    )
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (2, 4)
    after = YoloDetector.load(run)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.network.parameters(), after.network.parameters(), strict=True)
    )


def test_a_run_begins_with_the_weights_of_start(
    detector_run: Path, phantom_samples: list[Sample], tmp_path: Path
) -> None:
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, learning_rate=0.0, warmup_steps=1)
    facts = detector_training.train_detector(
        phantom_samples[:16], phantom_samples[16:], tmp_path, recipe, start=detector_run
    )
    assert facts["start"] == file_hash(detector_run / "weights.safetensors")
    first, again = (load_file(f / "weights.safetensors") for f in (detector_run, tmp_path))
    convolutions = [name for name in first if name.endswith("conv.weight")]
    assert convolutions
    assert all(torch.equal(first[name], again[name]) for name in convolutions)


def test_the_same_seed_gives_the_same_epoch(phantom_samples: list[Sample]) -> None:
    pictures = [load_picture(sample, 64) for sample in phantom_samples[:8]]
    recipe = DetectorRecipe(size=64, batch=4)
    first, again = (list(batches(pictures, recipe, 3)) for _ in range(2))
    assert len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets["bboxes"], b.targets["bboxes"])


def test_mirroring_moves_boxes_and_renames_sides() -> None:
    """A bright patch marks each structure; after augmentation its box still lies on it."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[10:20, 4:16] = (255, 0, 0)
    pixels[30:44, 40:60] = (0, 255, 0)
    sample = Sample(Path("none"), True, origin=Origin.REAL)
    boxes = [("CP1", (4.0, 10.0, 16.0, 20.0)), ("CP2", (40.0, 30.0, 60.0, 44.0))]
    picture = Picture(pixels, boxes, frozenset({"CP1", "CP2"}), sample)
    marks = set()
    for seed in range(40):
        augmented, moved = detector_training.augment(picture, np.random.default_rng(seed))
        for code, (x0, y0, x1, y1) in moved:
            patch = augmented[round(y0) + 2 : round(y1) - 1, round(x0) + 2 : round(x1) - 1]
            if patch.size == 0:
                continue
            is_red = patch[..., 0].mean() > patch[..., 1].mean()
            # The red patch is CP1 as drawn; a mirrored picture calls it CP2.
            marks.add((code, bool(is_red)))
    assert marks == {("CP1", True), ("CP2", True), ("CP2", False), ("CP1", False)}


def test_labels_that_were_not_annotated_have_no_loss(phantom_samples: list[Sample]) -> None:
    """Scores of unknown labels get no gradient: unannotated is not negative."""
    from detector.yolo.yolo import build_network

    torch.manual_seed(0)
    network = build_network("yolo11n.yaml", len(detector_training.CODES))
    loss = detector_training.DetectionLoss(network)
    annotated = frozenset({"NT"})
    pixels = np.full((64, 64, 3), 90, np.uint8)
    batch = detector_training.collate([(pixels, [("NT", (8.0, 8.0, 40.0, 40.0))], annotated)] * 2)
    network.train()
    output = network(batch.images)
    output["scores"].retain_grad()
    loss(output, batch).backward()
    gradient = output["scores"].grad.abs().sum(dim=(0, 2))
    index = detector_training.CODES.index("NT")
    assert gradient[index] > 0
    assert torch.count_nonzero(gradient) == 1
