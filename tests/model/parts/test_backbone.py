"""A SpatialCLIP on FetalCLIP's CLIP: its tensors are stored once, in the part, and hash-checked."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from detector.errors import ErrorCode, QCError
from model.bundle.build import build
from model.bundle.bundle import Bundle, locate, verify
from model.parts.part import Part
from model.spatialclip.checkpoint import save_spatialclip
from model.spatialclip.network import SpatialClip
from tests.support.parts import fetalclip_part

SIZES = {"layers": 1, "heads": 2, "ffn": 16}


@pytest.fixture(scope="module")
def fetal(tmp_path_factory: pytest.TempPathFactory) -> Part:
    return fetalclip_part(tmp_path_factory.mktemp("parts") / "fetal")


@pytest.fixture(scope="module")
def trained(fetal: Part, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SpatialCLIP on it, of which training has changed one tensor of the CLIP."""
    model = SpatialClip.from_clip(fetal.path / "model", **SIZES)
    with torch.no_grad():
        model.trimodal_clip.clip_model.visual_projection.weight.add_(0.5)
    folder = tmp_path_factory.mktemp("run")
    save_spatialclip(folder, model)
    for path in (fetal.path / "model").glob("tokenizer*.json"):
        shutil.copy(path, folder)
    return folder


def build_bundle(out: Path, spatialclip: Path, fetal: Part, *, parts: tuple[Path, ...]) -> Bundle:
    default = locate("default")
    return build(
        default / "detector",
        default / "describer",
        spatialclip,
        out,
        name="mine",
        version="1",
        parts=parts,
        backbone=fetal.path,
    )


def test_only_what_training_changed_is_stored(fetal: Part, trained: Path, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "bundle", trained, fetal, parts=(fetal.path,))
    with safe_open(bundle.path / "spatialclip" / "weights.safetensors", framework="pt") as file:
        stored = list(file.keys())
    names = [name for name in stored if ".clip_model." in name]
    assert names == ["trimodal_clip.clip_model.visual_projection.weight"]
    # The part lies in the bundle, so nothing has to be named.
    loaded = bundle.spatialclip().state_dict()
    expected = SpatialClip.from_clip(fetal.path / "model", **SIZES).trimodal_clip.clip_model
    own = expected.visual_projection.weight + 0.5
    name = "trimodal_clip.clip_model.text_projection.weight"
    assert torch.equal(loaded[name], expected.text_projection.weight)
    assert torch.allclose(loaded[names[0]], own, atol=1e-3)
    assert verify(bundle.path) == []
    assert "not stored here" in (bundle.path / "MODEL_CARD.md").read_text()
    assert "### Part fetal (fetalclip" in (bundle.path / "MODEL_CARD.md").read_text()
    assert [each["name"] for each in bundle.manifest["parts"]] == ["fetal"]


def test_another_clip_or_none_is_refused(fetal: Part, trained: Path, tmp_path: Path) -> None:
    bundle = build_bundle(tmp_path / "bundle", trained, fetal, parts=())
    with pytest.raises(QCError, match=r"stands on the CLIP fetal .* name its part in score.back"):
        bundle.spatialclip()
    assert bundle.spatialclip(backbone=fetal).config.dim == 32
    other = fetalclip_part(tmp_path / "other", name="other", seed=5)
    with pytest.raises(QCError, match="was trained on the CLIP fetal") as caught:
        bundle.spatialclip(backbone=other)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    with pytest.raises(QCError, match="does not stand on the CLIP of part other"):
        build_bundle(tmp_path / "second", trained, other, parts=())
    assert not (tmp_path / "second").exists()
