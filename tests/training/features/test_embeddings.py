"""Towers, embeddings on disk, nearest neighbours."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from detector.console import UsageError
from detector.errors import QCError
from model.spatialclip.checkpoint import save_spatialclip
from model.spatialclip.network import SpatialClip, small_config
from tests.support.clips import write_clip
from training.data.labelled import LabelledPicture
from training.features.embeddings import embed, load_embeddings, nearest, save_embeddings
from training.features.towers import ImageTower, load_tower, pool


def write_pictures(folder: Path, count: int) -> list[LabelledPicture]:
    generator = np.random.default_rng(0)
    pictures = []
    for number in range(count):
        path = folder / f"{number}.png"
        pixels = generator.integers(0, 256, (40 + number, 60, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        pictures.append(LabelledPicture(path, f"class{number % 2}", f"00{number // 2}"))
    return pictures


def mean_tower(calls: list[int]) -> ImageTower:
    """Features are the mean of each channel."""

    def features(pictures: Any) -> Any:
        calls.append(len(pictures))
        return np.stack([each.mean((0, 1)) for each in pictures]).astype(np.float32)

    return ImageTower("mean", "key0", features)


def test_pooling_leaves_the_letterbox_out() -> None:
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, :, 1:3] = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    maps[0, :, 0] = 99.0
    inside = torch.zeros(1, 4, 4, dtype=torch.bool)
    inside[0, 1:3] = True
    assert pool(maps, inside).tolist() == [[2.5, 2.5, 4.0, 4.0]]


def test_convolutional_features_are_of_the_tissue(shared_data: Path) -> None:
    weights = shared_data / "weights" / "sononet16.safetensors"
    tower = load_tower(f"sononet16={weights}")
    picture = np.random.default_rng(0).integers(0, 256, (60, 120, 3), np.uint8)
    features = tower.features([picture, picture[:, ::-1]])
    assert features.shape == (2, 256)
    assert not np.array_equal(features[0], features[1])
    assert np.array_equal(tower.features([picture])[0], features[0]) or np.allclose(
        tower.features([picture])[0], features[0], rtol=1e-3, atol=1e-3
    )


def test_clip_and_spatialclip_are_towers_and_join(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    save_spatialclip(tmp_path / "spatialclip", SpatialClip(small_config(stem="")))
    picture = np.full((50, 60, 3), 128, np.uint8)
    one = load_tower(f"clip={clip}")
    both = load_tower(f"clip={clip}+spatialclip={tmp_path / 'spatialclip'}")
    assert one.name == "clip=clip"
    assert both.name == "clip=clip+spatialclip=spatialclip"
    features = both.features([picture])
    assert features.shape == (1, 32 + 192)
    assert np.allclose(features[:, :32], one.features([picture]), atol=1e-5)
    assert both.key != one.key
    other = load_tower(f"clip={write_clip(tmp_path / 'other', seed=9)}")
    assert other.key != one.key


@pytest.mark.parametrize("text", ["resnet", "sononet16", "clip=", "efficientnet-lite0=x", "a+b"])
def test_no_towers_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="there is no tower"):
        load_tower(text)


def test_another_networks_weights_are_refused(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip")
    with pytest.raises(UsageError, match="is no SonoNet-16"):
        load_tower(f"sononet16={clip / 'model.safetensors'}")
    with pytest.raises(QCError, match="is no FetalCLIP folder"):
        load_tower(f"clip={tmp_path}")


def test_features_are_computed_once_and_kept(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, 5)
    calls: list[int] = []
    tower = mean_tower(calls)
    first = embed(tower, pictures[:3], tmp_path / "cache")
    assert sum(calls) == 3
    again = embed(tower, pictures, tmp_path / "cache")
    assert sum(calls) == 5
    assert np.array_equal(again.features[:3], first.features)
    assert np.array_equal(embed(tower, pictures).features, again.features)
    embed(replace(tower, key="key1"), pictures, tmp_path / "cache")
    assert sum(calls) == 15
    # Another picture under the same name is another picture.
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(pictures[0].path)
    changed = embed(tower, pictures, tmp_path / "cache")
    assert changed.features[0].tolist() == [0, 0, 0]
    assert np.array_equal(changed.features[1:], again.features[1:])


def test_joined_towers_take_the_features_of_their_parts(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, 3)
    calls: list[int] = []
    part = mean_tower(calls)
    first = embed(part, pictures, tmp_path / "cache")
    joined = ImageTower("both", "key0+key0", part.features, 2, (part, part))
    both = embed(joined, pictures, tmp_path / "cache")
    assert sum(calls) == 3
    assert (both.tower, both.tower_key) == ("both", "key0+key0")
    assert np.array_equal(both.features, np.concatenate([first.features] * 2, 1))


def test_a_damaged_cache_is_said(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path, 1)
    embed(mean_tower([]), pictures, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(b"cut")
    with pytest.raises(UsageError, match="is damaged; remove it"):
        embed(mean_tower([]), pictures, tmp_path / "cache")


@pytest.mark.parametrize("name", ["e.safetensors", "e.parquet"])
def test_embeddings_saved_and_loaded_are_the_same(name: str, tmp_path: Path) -> None:
    data = embed(mean_tower([]), write_pictures(tmp_path, 4))
    assert data.groups == ("0", "0", "1", "1")
    save_embeddings(tmp_path / name, data)
    again = load_embeddings(tmp_path / name)
    assert np.array_equal(again.features, data.features)
    assert replace(again, features=data.features) == replace(data, features=data.features)


@pytest.mark.parametrize("name", ["e.safetensors", "e.parquet"])
def test_a_file_without_embeddings_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError, match="holds no embeddings"):
        load_embeddings(tmp_path / name)


def test_neighbours_are_the_highest_cosines() -> None:
    generator = np.random.default_rng(0)
    features = generator.normal(size=(200, 16)).astype(np.float32)
    query = features[[3, 70]] * 5
    order, cosines = nearest(query, features, 7)
    assert order[:, 0].tolist() == [3, 70]
    for row in range(2):
        exact = [
            float(query[row] @ each / np.linalg.norm(query[row]) / np.linalg.norm(each))
            for each in features
        ]
        best = sorted(range(200), key=lambda k: -exact[k])[:7]
        assert order[row].tolist() == best
        assert cosines[row] == pytest.approx([exact[k] for k in best], abs=1e-5)
