"""Pictures and captions: read strictly, divided by case, tuned on, and found again."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.console import UsageError
from model.fetalclip.checkpoint import load_fetalclip
from model.fetalclip.preprocess import TextEncoder
from model.nextgen_uia.adapters import AdapterConfig, Kind, adapters
from tests.support.towers import tower_folder
from training.adapter_recipes import CaptionRecipe
from training.data.captions import divide_captions, read_captions
from training.data.samples import SampleError
from training.train.fetalclip import caption_tuning
from training.train.fetalclip.caption_tuning import (
    Pairs,
    apply_to,
    encode_pictures,
    picture_features,
    tune_on_captions,
)

RECIPE = CaptionRecipe(epochs=3, batch=4, learning_rate=3e-3)
ADAPTERS = AdapterConfig(Kind.HYBRID, (0, 1), bottleneck=8)


def _write(folder: Path, count: int = 12) -> Path:
    (folder / "images").mkdir(parents=True)
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["filename", "Caption", "case"])
        writer.writeheader()
        for number in range(count):
            level = int(20 + 200 * number / count)
            pixels = np.random.default_rng(number).normal(level, 10, (36, 40, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
                folder / "images" / f"{number}.png"
            )
            caption = f"a fetal head, {number} % of it in shadow"
            writer.writerow(
                {"filename": f"{number}.png", "Caption": caption, "case": f"c{number // 2}"}
            )
    return path


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return tower_folder(tmp_path / "clip")


def _line(path: Path, **columns: Any) -> str:
    with pytest.raises(SampleError) as caught:
        read_captions([path], **columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_captions_are_kept_whole_and_cases_are_not_divided(tmp_path: Path) -> None:
    first, second = _write(tmp_path / "a", 60), _write(tmp_path / "b", 60)
    pairs = read_captions([first, second], group_column="case")
    assert len(pairs) == 120
    # Upstream deletes the per cent sign.
    assert pairs[3].caption == "a fetal head, 3 % of it in shadow"
    # Both folders have a 3.png: each its own.
    assert pairs[3].image != pairs[63].image
    training, validation = divide_captions(pairs, 0.3, 0)
    assert not {pair.group for pair in training} & {pair.group for pair in validation}
    assert validation


def test_a_copy_of_the_data_elsewhere_is_divided_the_same(tmp_path: Path) -> None:
    parts = []
    for folder in (tmp_path / "here", tmp_path / "elsewhere"):
        (folder / "images").mkdir(parents=True)
        names = [f"{number}.png" for number in range(40)]
        for name in names:
            Image.new("RGB", (8, 8)).save(folder / "images" / name)
        rows = [f"{name},a picture" for name in names]
        (folder / "pairs.csv").write_text("\n".join(["filename,Caption", *rows]) + "\n")
        training, validation = divide_captions(read_captions([folder / "pairs.csv"]), 0.3, 0)
        assert training
        assert validation
        parts.append([pair.image.name for pair in validation])
    assert parts[0] == parts[1]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path = _write(tmp_path / "a")
    assert _line(path, group_column="patient") == f"{path}: row 1: patient is missing"
    (tmp_path / "a/images/2.png").unlink()
    assert _line(path).startswith("pairs.csv: row 3: no picture '2.png'")
    path.write_text("filename,Caption\n../x.png,a head\n")
    assert "does not lie below" in _line(path)
    path.write_text("filename,Caption\n0.png,a head\n0.png, a  head\n")
    assert _line(path) == "pairs.csv: row 2: the pair of pairs.csv: row 1 again"


def test_tuning_resumes_and_its_adapters_load(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = read_captions([_write(tmp_path / "data")])
    training, validation = pairs[:8], pairs[8:]

    def tune(out: str, **options: Any) -> dict[str, Any]:
        network = load_fetalclip(clip)
        encoder = TextEncoder.load(clip, network.architecture)
        return tune_on_captions(
            network, encoder, training, validation, tmp_path / out, RECIPE, ADAPTERS, **options
        )

    whole = tune("a")
    assert whole["losses"][-1] < whole["losses"][0]
    end_epoch = caption_tuning._Run.end_epoch

    def die(self: Any, loss: float, validated: float) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt
        end_epoch(self, loss, validated)

    with monkeypatch.context() as patch:
        patch.setattr(caption_tuning._Run, "end_epoch", die)
        with pytest.raises(KeyboardInterrupt):
            tune("b")
    again = tune("b", resume=True)
    assert again["losses"] == whole["losses"]
    assert again["validation losses"] == whole["validation losses"]
    state = torch.load(tmp_path / "a/checkpoint.pt", weights_only=True)
    names = {"learnt", "optimizer", "best", "run", "place", "losses", "validated"}
    assert set(state) == names

    features = []
    for name in ("a", "b", None):
        network = load_fetalclip(clip)
        if name:
            apply_to(network, tmp_path / name)
        encoder = TextEncoder.load(clip, network.architecture)
        features.append(picture_features(network, Pairs(validation, network, encoder), 2))
    assert torch.equal(features[0], features[1])
    assert not torch.allclose(features[0], features[2], atol=1e-4)


def test_a_validation_that_is_not_finite_is_never_the_best(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = read_captions([_write(tmp_path / "data")])
    network = load_fetalclip(clip)
    encoder = TextEncoder.load(clip, network.architecture)
    losses = iter([math.nan, 1.5, math.nan])
    monkeypatch.setattr(caption_tuning, "validation_loss", lambda *_: next(losses))
    facts = tune_on_captions(
        network, encoder, pairs[:8], pairs[8:], tmp_path / "a", RECIPE, ADAPTERS
    )
    assert facts["best epoch"] == 2
    assert json.loads((tmp_path / "a/training.json").read_text())["validation losses"] == [
        None,
        1.5,
        None,
    ]


def test_the_text_tower_evaluates_while_adapters_train(
    tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream's model.train() turns the dropout of its frozen text tower on."""
    pairs = read_captions([_write(tmp_path / "data")])
    network = load_fetalclip(clip)
    encoder = TextEncoder.load(clip, network.architecture)
    modes: list[tuple[bool, bool]] = []

    def encode(network: Any, pictures: Any) -> Any:
        adapter = next(adapters(network.clip))[1]
        modes.append((network.clip.text_model.training, adapter.training))
        return encode_pictures(network, pictures)

    monkeypatch.setattr(caption_tuning, "encode_pictures", encode)
    recipe = replace(RECIPE, epochs=1)
    tune_on_captions(network, encoder, pairs[:8], pairs[8:], tmp_path / "a", recipe, ADAPTERS)
    assert {text for text, _ in modes} == {False}
    assert [adapter for _, adapter in modes[:2]] == [True, True]


def test_too_few_pairs_are_refused(tmp_path: Path, clip: Path) -> None:
    pairs = read_captions([_write(tmp_path / "data", 4)])
    network = load_fetalclip(clip)
    encoder = TextEncoder.load(clip, network.architecture)
    with pytest.raises(UsageError, match="fewer than a batch of 64"):
        tune_on_captions(network, encoder, pairs, pairs, tmp_path / "a", CaptionRecipe(), ADAPTERS)
    with pytest.raises(UsageError, match="two pairs at least have to validate"):
        tune_on_captions(network, encoder, pairs, [], tmp_path / "a", RECIPE, ADAPTERS)
