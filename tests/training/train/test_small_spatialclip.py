"""The trainer of the small SpatialCLIP, at the smallest scale."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from detector.boxes import Detection
from detector.console import UsageError
from model.describer.describer import Describer
from model.spatialclip.checkpoint import load_spatialclip, save_spatialclip
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from training.data.prepared import PreparedSample
from training.data.samples import Origin, Sample
from training.data.splits import fold_of
from training.recipes import SpatialClipRecipe
from training.train.small_spatialclip import (
    PICTURE_SIZE,
    load_backbone_weights,
    load_start,
    prepare_out_of_fold,
    train_small_spatialclip,
)


def test_a_run_trains_saves_and_resumes_in_all_stages(
    prepared_samples: list[PreparedSample], describer_run: Path, tmp_path: Path
) -> None:
    arguments = (prepared_samples[:16], prepared_samples[16:], tmp_path / "run")
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
        Describer.load(describer_run).describe_batch(detections, [(100, 80)]),
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
    further = (prepared_samples[:16], prepared_samples[16:], tmp_path / "staged")
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


def test_a_frozen_backbone_stays_as_it_came_and_runs_once_on_each_augmentation(
    prepared_samples: list[PreparedSample], tmp_path: Path
) -> None:
    recipe = SpatialClipRecipe(
        epochs=1,
        batch=8,
        backbone_rate=0.0,
        cached_augmentations=1,
        pooled=True,
        mirrored=True,
        clean_fraction=0.5,
    )
    arguments = (prepared_samples[:16], prepared_samples[16:], tmp_path / "run")
    train_small_spatialclip(*arguments, recipe, resume=False, command="test")
    network = load_spatialclip(tmp_path / "run")
    assert network.config.pooled
    assert network.config.mirrored
    begun = SpatialClip(network.config)
    load_backbone_weights(begun, None)
    stem, start = network.trimodal_clip.stem, begun.trimodal_clip.stem
    assert stem is not None
    assert start is not None
    for name, weight in stem.networks.state_dict().items():
        assert torch.equal(weight, start.networks.state_dict()[name].half().float()), name
    assert len(list((tmp_path / "run" / "sights").glob("*.npz"))) == len(prepared_samples)


def test_boxes_of_a_fold_come_from_its_own_detector(
    phantom_samples: list[Sample], describer_run: Path, detector_run: Path, tmp_path: Path
) -> None:
    """Three copies that find different labels tell which of them looked at which picture."""
    folders = []
    for fold, codes in enumerate((("NT",), ("CRL",), ("AS",))):
        folders.append(tmp_path / f"fold-{fold}")
        shutil.copytree(detector_run, folders[-1])
        description = json.loads((folders[-1] / "detector.json").read_text())
        renamed = [*codes, *(c for c in description["labels"] if c not in codes)]
        description |= {"labels": renamed, "confidence": 0.0}
        (folders[-1] / "detector.json").write_text(json.dumps(description))
    real = [
        replace(s, origin=Origin.REAL, group=f"g{i}") for i, s in enumerate(phantom_samples[:9])
    ]
    mixed = [*real, *phantom_samples[9:12]]
    together = prepare_out_of_fold(mixed, folders, describer_run, tmp_path / "cache", 0)
    assert [e.sample for e in together] == mixed
    for item in together:
        fold = 0 if item.sample.simulated else fold_of(item.sample, 3, 0)
        (own,) = prepare_out_of_fold(
            [item.sample], [folders[fold]], describer_run, tmp_path / "own", 0
        )
        assert own.detections == item.detections


def test_sononet_needs_its_weights_and_a_start_of_the_same_backbone(tmp_path: Path) -> None:
    network = SpatialClip(small_config(300, stem="sononet16"))
    with pytest.raises(UsageError, match="needs the weights"):
        load_backbone_weights(network, None)
    other = tmp_path / "other.safetensors"
    save_file({"features.0.0.0.weight": torch.zeros(2)}, other)
    with pytest.raises(UsageError, match="is no SonoNet-16"):
        load_backbone_weights(network, other)
    save_spatialclip(tmp_path / "start", network)
    with pytest.raises(UsageError, match="has the backbone sononet16"):
        load_start(tmp_path / "start", SpatialClipRecipe())


def test_sononet_begins_with_its_published_weights(shared_data: Path) -> None:
    weights = shared_data / "weights" / "sononet16.safetensors"
    network = SpatialClip(small_config(300, stem="tf_efficientnet_lite0+sononet16"))
    load_backbone_weights(network, weights)
    stem = network.trimodal_clip.stem
    assert stem is not None
    assert stem.sononet is not None
    published = load_file(weights)
    gain = (
        published["features.0.0.1.weight"] / (published["features.0.0.1.running_var"] + 1e-5).sqrt()
    )
    folded = published["features.0.0.0.weight"] * gain.view(-1, 1, 1, 1)
    assert torch.allclose(stem.sononet.blocks[0][0][0].weight, folded, rtol=1e-4)
