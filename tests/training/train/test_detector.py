"""The trainer of the detector, at the smallest scale."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detector.anatomy import View
from detector.console import UsageError
from detector.yolo.yolo import YoloDetector, build_network
from training.data.samples import Origin, Sample, file_hash
from training.recipes import DetectorRecipe
from training.train import detector as detector_training
from training.train.detector import CODES, Picture, augment, batches, lay_down, load_picture
from training.train.runs import learnt_pictures
from training.train.start import Start, load_start


def test_a_run_loads_and_resumes(
    detector_run: Path, phantom_samples: list[Sample], tmp_path: Path
) -> None:
    run = shutil.copytree(detector_run, tmp_path / "run")
    facts = json.loads((run / "training.json").read_text())
    assert facts["training"]["images"] == 16
    # From scratch: it learnt from these and no other.
    assert learnt_pictures(run) == {file_hash(s.image) for s in phantom_samples[:16]}
    before = YoloDetector.load(run)
    recipe = DetectorRecipe(size=64, epochs=2, restart=1, batch=8, warmup_steps=1)
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
        phantom_samples[:16], phantom_samples[16:], tmp_path, recipe, start=Start(detector_run)
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
        moved = augment(picture, DetectorRecipe(), np.random.default_rng(seed))
        for code, (x0, y0, x1, y1) in moved.boxes:
            patch = moved.pixels[round(y0) + 2 : round(y1) - 1, round(x0) + 2 : round(x1) - 1]
            if patch.size == 0:
                continue
            is_red = patch[..., 0].mean() > patch[..., 1].mean()
            # The red patch is CP1 as drawn; a mirrored picture calls it CP2.
            marks.add((code, bool(is_red)))
    assert marks == {("CP1", True), ("CP2", True), ("CP2", False), ("CP1", False)}


def test_labels_that_were_not_annotated_have_no_loss(phantom_samples: list[Sample]) -> None:
    """Scores of unknown labels get no gradient: unannotated is not negative."""
    torch.manual_seed(0)
    network = build_network("yolo11n.yaml", len(detector_training.CODES))
    loss = detector_training.DetectionLoss(network)
    annotated = frozenset({"NT"})
    pixels = np.full((64, 64, 3), 90, np.uint8)
    boxes = [("NT", (8.0, 8.0, 40.0, 40.0))]
    picture = Picture(pixels, boxes, annotated, phantom_samples[0])
    batch = detector_training.collate([picture] * 2)
    network.train()
    output = network(batch.images)
    output["scores"].retain_grad()
    loss(output, batch).backward()
    gradient = output["scores"].grad.abs().sum(dim=(0, 2))
    index = detector_training.CODES.index("NT")
    assert gradient[index] > 0
    assert torch.count_nonzero(gradient) == 1


@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_a_run_begins_with_the_fitting_weights_of_another_network(
    kind: str, phantom_samples: list[Sample], tmp_path: Path
) -> None:
    other = build_network("yolo11n.yaml", 80)
    path = tmp_path / f"other.{kind}"
    if kind == "pt":
        torch.save({"model": other, "train_args": {}}, path)
    else:
        save_file(other.state_dict(), path)
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, learning_rate=0.0, warmup_steps=1)
    facts = detector_training.train_detector(
        phantom_samples[:16],
        phantom_samples[16:],
        tmp_path / "run",
        recipe,
        start=Start(path, is_trusted=True),
    )
    assert facts["start file"] == path.name
    assert facts["start data"] is None
    # What another network's weights have learnt from, nobody tells.
    assert not (tmp_path / "run" / "pictures.txt").exists()
    own = load_file(tmp_path / "run" / "weights.safetensors")
    begun = {k: t.half() for k, t in other.state_dict().items() if k.endswith("conv.weight")}
    other_kernels = {name for name, t in begun.items() if not torch.equal(own[name], t)}
    # Only the branch of the classes, of which there are others, begins anew.
    assert other_kernels
    assert all(".cv3." in name for name in other_kernels)


def test_weights_of_no_detector_of_ours_are_refused(tmp_path: Path) -> None:
    network = build_network("yolo11n.yaml", 19)
    path = tmp_path / "weights.safetensors"
    save_file(build_network("yolo11s.yaml", 80).state_dict(), path)
    with pytest.raises(UsageError, match="of another --scale, or no YOLO11"):
        load_start(network, Start(path))
    path.write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="no safetensors file"):
        load_start(network, Start(path))
    pickle = tmp_path / "weights.pt"
    pickle.write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="give --trust"):
        load_start(network, Start(pickle))
    with pytest.raises(UsageError, match="no ultralytics checkpoint"):
        load_start(network, Start(pickle, is_trusted=True))
    with pytest.raises(UsageError, match=r"give a run's folder, a \.safetensors file"):
        load_start(network, Start(tmp_path / "weights.txt"))


def test_a_float32_head_gives_what_the_whole_network_gives(
    phantom_samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without bfloat16 both ways are the same arithmetic.
    monkeypatch.setattr(detector_training, "autocast", lambda device: nullcontext())
    network = build_network("yolo11n.yaml", len(CODES)).train()
    images = torch.rand(2, 3, 64, 96)
    whole, split = (
        detector_training._forward(network, images, DetectorRecipe(float32_head=way))
        for way in (False, True)
    )
    assert torch.allclose(whole["scores"], split["scores"], atol=1e-4)
    assert torch.allclose(whole["boxes"], split["boxes"], atol=1e-4)


def test_a_head_that_is_laid_down_has_its_plexuses_named_above_and_below() -> None:
    boxes = {"CF": (30.0, 10.0, 34.0, 60.0), "CP1": (12.0, 30.0, 24.0, 50.0)}
    boxes["CP2"] = (40.0, 30.0, 52.0, 50.0)
    pixels = np.zeros((64, 64, 3), np.uint8)
    for value, box in enumerate(boxes.values(), 1):
        x0, y0, x1, y1 = map(int, box)
        pixels[y0:y1, x0:x1] = value
    sample = Sample(Path("a.png"), True, view=View.HEAD, origin=Origin.SIMULATED)
    turned = lay_down(Picture(pixels, list(boxes.items()), frozenset(boxes), sample))
    lying = dict(turned.boxes)
    assert lying["CP1"][3] < lying["CF"][1]
    assert lying["CF"][3] < lying["CP2"][1]
    # The left plexus comes below: turned against the clock.
    for value, name in ((1, "CF"), (2, "CP2"), (3, "CP1")):
        x0, y0, x1, y1 = map(int, lying[name])
        assert (turned.pixels[y0:y1, x0:x1] == value).all()
        assert (turned.pixels == value).sum() == 3 * (x1 - x0) * (y1 - y0)


def test_the_name_of_a_mirrored_plexus_is_annotated_with_it() -> None:
    sample = Sample(Path("a.png"), None, view=View.HEAD, origin=Origin.REAL)
    standing = [("CF", (30.0, 10.0, 34.0, 60.0)), ("CP1", (12.0, 30.0, 24.0, 50.0))]
    picture = Picture(np.zeros((64, 64, 3), np.uint8), standing, frozenset({"CF", "CP1"}), sample)
    recipe = DetectorRecipe(size=64)
    copies = [augment(picture, recipe, np.random.default_rng(seed)) for seed in range(20)]
    assert {code for copy in copies for code, _ in copy.boxes} == {"CF", "CP1", "CP2"}
    assert all(code in copy.annotated for copy in copies for code, _ in copy.boxes)
