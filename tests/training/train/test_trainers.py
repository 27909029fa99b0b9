"""The training loops learn, resume and write what serving loads; at the smallest scale."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from detector.anatomy import View
from detector.boxes import Detection
from detector.yolo.flip import mirror_detections
from detector.yolo.yolo import YoloDetector
from model.describer.describer import Describer
from model.judge import Thresholds
from model.spatialclip.checkpoint import load_spatialclip
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from model.spatialclip.stages import Stage, set_stage
from training.data.augment import augment
from training.data.negatives import shuffle_tiles
from training.data.prepared import PreparedSample, prepare_cached
from training.data.samples import Origin, Sample, file_hash, read_samples
from training.data.splits import fold_of, leave_fold_out, split_by_group
from training.phantom.dataset import write_dataset
from training.recipes import DescriberRecipe, DetectorRecipe, SpatialClipRecipe
from training.train import detector as detector_training
from training.train.batches import modality_mask
from training.train.describer import fresh
from training.train.detector import Picture, batches, load_picture
from training.train.losses import CriteriaHeads, class_weights, contrastive_loss, quality_loss
from training.train.optim import epoch_order
from training.train.small_spatialclip import (
    PICTURE_SIZE,
    prepare_out_of_fold,
    train_small_spatialclip,
)
from training.train.spatialclip import parameter_groups


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    out = tmp_path_factory.mktemp("phantoms")
    return read_samples(write_dataset(out, 24, 31, other_share=0.1, progress=False))


@pytest.fixture(scope="module")
def detector_folder(samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("detector")
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, warmup_steps=1)
    detector_training.train_detector(samples[:16], samples[16:], out, recipe)
    return out


def test_the_detector_s_run_can_be_loaded_and_resumed(
    detector_folder: Path, samples: list[Sample]
) -> None:
    facts = json.loads((detector_folder / "training.json").read_text())
    assert facts["training"]["images"] == 16
    before = YoloDetector.load(detector_folder)
    recipe = DetectorRecipe(size=64, epochs=2, batch=8, warmup_steps=1)
    detector_training.train_detector(
        samples[:16], samples[16:], detector_folder, recipe, resume=True
    )
    state = torch.load(detector_folder / "checkpoint.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (2, 4)
    after = YoloDetector.load(detector_folder)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(before.network.parameters(), after.network.parameters(), strict=True)
    )


def test_a_run_can_begin_with_another_s_weights(
    detector_folder: Path, samples: list[Sample], tmp_path: Path
) -> None:
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, learning_rate=0.0, warmup_steps=1)
    facts = detector_training.train_detector(
        samples[:16], samples[16:], tmp_path, recipe, start=detector_folder
    )
    assert facts["start"] == file_hash(detector_folder / "weights.safetensors")
    first, again = (load_file(f / "weights.safetensors") for f in (detector_folder, tmp_path))
    kept = [name for name in first if name.endswith("conv.weight")]
    assert kept
    assert all(torch.equal(first[name], again[name]) for name in kept)


def test_an_epoch_takes_every_real_picture_and_some_simulated() -> None:
    simulated = [True] * 40 + [False] * 10
    epochs = [epoch_order(simulated, 1.5, np.random.default_rng(seed)) for seed in range(2)]
    for order in epochs:
        assert sorted(i for i in order if not simulated[i]) == list(range(40, 50))
        assert sum(simulated[i] for i in order) == 15
        assert len(set(order)) == 25
    assert set(epochs[0]) != set(epochs[1])
    assert sorted(epoch_order([True] * 5, 1.0, np.random.default_rng(0))) == list(range(5))


def test_an_epoch_is_the_same_for_the_same_seed(samples: list[Sample]) -> None:
    pictures = [load_picture(sample, 64) for sample in samples[:8]]
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
    seen = set()
    for seed in range(40):
        moved, found = detector_training.augment(picture, np.random.default_rng(seed))
        for code, (x0, y0, x1, y1) in found:
            patch = moved[round(y0) + 2 : round(y1) - 1, round(x0) + 2 : round(x1) - 1]
            if patch.size == 0:
                continue
            red = patch[..., 0].mean() > patch[..., 1].mean()
            # The red patch is CP1 as drawn; a mirrored picture calls it CP2.
            seen.add((code, bool(red)))
    assert seen == {("CP1", True), ("CP2", True), ("CP2", False), ("CP1", False)}


def test_labels_that_were_not_annotated_cost_nothing(samples: list[Sample]) -> None:
    """Scores of unknown labels get no gradient: unannotated is not negative."""
    from detector.yolo.yolo import build_network

    torch.manual_seed(0)
    network = build_network("yolo11n.yaml", len(detector_training.CODES))
    loss = detector_training.DetectionLoss(network)
    known = frozenset({"NT"})
    pixels = np.full((64, 64, 3), 90, np.uint8)
    batch = detector_training.collate([(pixels, [("NT", (8.0, 8.0, 40.0, 40.0))], known)] * 2)
    network.train()
    output = network(batch.images)
    output["scores"].retain_grad()
    loss(output, batch).backward()
    gradient = output["scores"].grad.abs().sum(dim=(0, 2))
    index = detector_training.CODES.index("NT")
    assert gradient[index] > 0
    assert torch.count_nonzero(gradient) == 1


@pytest.fixture(scope="module")
def describer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("describer")
    fresh(DescriberRecipe(seed=0, layers=1, hidden=32, heads=2)).save(out)
    return out


@pytest.fixture(scope="module")
def seen(
    samples: list[Sample],
    detector_folder: Path,
    describer_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> list[PreparedSample]:
    cache = tmp_path_factory.mktemp("evidence")
    return prepare_out_of_fold(samples, [detector_folder], describer_folder, cache, 0)


def test_spatialclip_trains_saves_and_resumes(
    seen: list[PreparedSample], describer_folder: Path, tmp_path: Path
) -> None:
    arguments = (seen[:16], seen[16:], tmp_path / "run")
    recipe = SpatialClipRecipe(epochs=1, batch=8)
    first = train_small_spatialclip(*arguments, recipe, resume=False, command="test")
    assert first["training"]["images"] == 16
    longer = SpatialClipRecipe(epochs=2, batch=8)
    train_small_spatialclip(*arguments, longer, resume=True, command="test")
    state = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert state["place"] == [0, 2, 4, 2]
    network = load_spatialclip(tmp_path / "run")
    preprocessor = Preprocessor.load(tmp_path / "run", PICTURE_SIZE)
    detections = [[Detection("NT", (10.0, 20.0, 60.0, 50.0), 0.8)]]
    picture = np.zeros((PICTURE_SIZE, PICTURE_SIZE, 3), np.uint8)
    inputs = preprocessor.batch(
        [picture],
        Describer.load(describer_folder).describe_batch(detections, [(100, 80)]),
        detections,
        [(100, 80)],
    )
    with torch.inference_mode():
        output = network(**inputs.arguments())
    assert torch.isfinite(output.logit).all()

    # The published stages go on from there, and from a checkpoint between two of them.
    more = SpatialClipRecipe(
        stages=(1, 1, 1), batch=8, ema_decay=0.9, focal_gamma=1.5, class_balanced=True, lora_rank=2
    )
    staged = replace(more, stages=(1, 0, 0))
    further = (seen[:16], seen[16:], tmp_path / "staged")
    train_small_spatialclip(*further, staged, start=tmp_path / "run", resume=False, command="test")
    before = load_spatialclip(tmp_path / "run").state_dict()
    after = load_spatialclip(tmp_path / "staged").state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any(".clip_model." in name for name in moved)
    train_small_spatialclip(*further, more, start=tmp_path / "run", resume=True, command="test")
    state = torch.load(tmp_path / "staged" / "checkpoint.pt", weights_only=True)
    assert state["place"] == [2, 1, 2, 3]
    assert state["before"] is not None
    assert any(".lora_A." in name for name in state["network"])
    # Begun again from within the stage that has adapters, it ends without them all the same.
    train_small_spatialclip(*further, more, start=tmp_path / "run", resume=True, command="test")
    assert list(load_spatialclip(tmp_path / "staged").state_dict()) == list(before)


@pytest.mark.parametrize("stage", list(Stage))
def test_the_optimizer_holds_every_trainable_parameter_once(stage: Stage) -> None:
    network = SpatialClip(small_config(300))
    set_stage(network, stage)
    heads = CriteriaHeads(network.config.dim)
    groups = parameter_groups(network, heads, SpatialClipRecipe())
    held = [id(p) for group in groups for p in group["params"]]
    wanted = [p for p in (*network.parameters(), *heads.parameters()) if p.requires_grad]
    assert sorted(held) == sorted(map(id, wanted))


def test_each_fold_s_pictures_are_seen_by_its_own_detector(
    samples: list[Sample], describer_folder: Path, detector_folder: Path, tmp_path: Path
) -> None:
    """Three copies that find different labels tell which of them looked at which picture."""
    folders = []
    for fold, codes in enumerate((("NT",), ("CRL",), ("AS",))):
        folders.append(tmp_path / f"fold-{fold}")
        shutil.copytree(detector_folder, folders[-1])
        description = json.loads((folders[-1] / "detector.json").read_text())
        renamed = [*codes, *(c for c in description["labels"] if c not in codes)]
        description |= {"labels": renamed, "confidence": 0.0}
        (folders[-1] / "detector.json").write_text(json.dumps(description))
    real = [replace(s, origin=Origin.REAL, group=f"g{i}") for i, s in enumerate(samples[:9])]
    mixed = [*real, *samples[9:12]]
    together = prepare_out_of_fold(mixed, folders, describer_folder, tmp_path / "cache", 0)
    assert [e.sample for e in together] == mixed
    for item in together:
        fold = 0 if item.sample.simulated else fold_of(item.sample, 3, 0)
        (own,) = prepare_out_of_fold(
            [item.sample], [folders[fold]], describer_folder, tmp_path / "own", 0
        )
        assert own.detections == item.detections


def test_boxes_move_with_the_varied_picture() -> None:
    """A bright patch marks the structure: wherever the picture goes, its box lies on it."""
    pixels = np.full((128, 128, 3), 30, np.uint8)
    pixels[40:64, 70:100] = 200
    for origin in Origin:
        sample = Sample(Path("none"), True, view=View.NT, origin=origin)
        own = (Detection("NT", (70.0, 40.0, 100.0, 64.0), 0.9),)
        item = PreparedSample(
            pixels, (own, mirror_detections(own, 128)), ("one", "two"), (128, 128), sample
        )
        sides = set()
        for seed in range(30):
            picture, words, (box,), size = augment(item, np.random.default_rng(seed))
            x0, y0, x1, y1 = (round(v) for v in box.bbox)
            inside = picture[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean()
            assert inside > picture[:30, :30].mean() + 40
            assert size == (128, 128)
            sides.add((words, (x0 + x1) / 2 > 64))
        assert sides == {("one", True), ("two", False)}


def test_a_box_that_left_the_picture_is_gone() -> None:
    sample = Sample(Path("none"), True, view=View.NT, origin=Origin.REAL)
    own = (Detection("NT", (0.0, 60.0, 4.0, 64.0), 0.9),)
    item = PreparedSample(
        np.zeros((128, 128, 3), np.uint8),
        (own, mirror_detections(own, 128)),
        ("", ""),
        (128, 128),
        sample,
    )
    counts = {len(augment(item, np.random.default_rng(seed))[2]) for seed in range(40)}
    assert counts == {0, 1}


def test_focal_loss_counts_the_hard_and_weights_even_the_classes() -> None:
    logits, target = torch.tensor([3.0, -3.0]), torch.ones(2)
    plain, focal = quality_loss(logits, target, 0.0), quality_loss(logits, target, 2.0)
    sure = logits.sigmoid()
    assert torch.allclose(focal, plain * (1 - sure) ** 2)
    weights = class_weights([True] * 300 + [False] * 100)
    assert weights[0] > weights[1]
    assert (weights[0] * 100 + weights[1] * 300) / 400 == pytest.approx(1.0)
    assert class_weights([True] * 5)[0] == 0


def test_gathered_evidence_is_the_same_when_read_again(
    samples: list[Sample], detector_folder: Path, tmp_path: Path
) -> None:
    fresh(DescriberRecipe(seed=0, layers=1, hidden=32, heads=2)).save(tmp_path / "describer")
    first, again = (
        prepare_cached(
            samples[:4],
            detector_folder,
            tmp_path / "describer",
            Preprocessor(None, 64),
            tmp_path / "cache",
            thresholds=Thresholds(detection=0.0, layout=0.0),
        )
        for _ in range(2)
    )
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.picture, b.picture)
        assert (a.detections, a.descriptions, a.size) == (b.detections, b.descriptions, b.size)
        assert a.sample is b.sample
    kept = len(list((tmp_path / "cache").glob("*.npy")))
    # The same weights find other boxes when they look at mirror images too.
    looking_twice = tmp_path / "detector"
    shutil.copytree(detector_folder, looking_twice)
    description = json.loads((looking_twice / "detector.json").read_text())
    (looking_twice / "detector.json").write_text(json.dumps(description | {"mirrored": True}))
    prepare_cached(
        samples[:4],
        looking_twice,
        tmp_path / "describer",
        Preprocessor(None, 64),
        tmp_path / "cache",
        thresholds=Thresholds(detection=0.0, layout=0.0),
    )
    assert len(list((tmp_path / "cache").glob("*.npy"))) == kept + 1


def test_equal_captions_are_no_negatives() -> None:
    features = torch.eye(4)
    same = contrastive_loss(features, features, torch.tensor(50.0), ["a", "b", "c", "d"])
    assert same < 1e-6
    # With one caption for all, a model that tells nothing apart loses nothing but the entropy.
    flat = torch.ones(4, 4) / 2
    assert contrastive_loss(flat, flat, torch.tensor(50.0), ["a"] * 4) == pytest.approx(np.log(4))
    assert contrastive_loss(features, features, torch.tensor(50.0), ["a"] * 4) > 10


def test_at_most_one_modality_is_dropped() -> None:
    present = modality_mask(2000, 0.1, torch.Generator().manual_seed(0))
    assert present.sum(1).min() == 2
    dropped = (~present).float().mean(0)
    assert torch.all((dropped > 0.07) & (dropped < 0.13))


def test_a_shuffled_picture_keeps_its_pixels(samples: list[Sample]) -> None:
    pixels = np.arange(60 * 60 * 3, dtype=np.uint32).reshape(60, 60, 3).astype(np.uint8)
    made = shuffle_tiles(pixels, np.random.default_rng(3))
    assert made.shape == pixels.shape
    assert np.array_equal(np.sort(made, axis=None), np.sort(pixels, axis=None))
    assert not np.array_equal(made, pixels)


def test_held_out_groups_do_not_change_when_pictures_join(samples: list[Sample]) -> None:
    few, many = split_by_group(samples[:12], 0.5, 0)[1], split_by_group(samples, 0.5, 0)[1]
    assert [s for s in many if s in samples[:12]] == few
    assert all(s.view in View for s in samples)


def test_the_folds_hold_each_real_picture_out_once_and_no_simulated_one(
    samples: list[Sample],
) -> None:
    real = [
        Sample(Path(f"{i}.png"), True, group=f"group {i // 2}", origin=Origin.REAL)
        for i in range(60)
    ]
    mixed = [*samples, *real]
    held = [leave_fold_out(mixed, fold, 5, 0)[1] for fold in range(5)]
    assert sorted(str(s.image) for part in held for s in part) == sorted(str(s.image) for s in real)
    for fold, part in enumerate(held):
        training = leave_fold_out(mixed, fold, 5, 0)[0]
        assert {s.group for s in training}.isdisjoint(s.group for s in part)
        assert {fold_of(s, 5, 0) for s in part} <= {fold}
