"""open_clip's checkpoints and ours: the same features, strict names, nothing but tensors read."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detector.errors import ErrorCode, QCError
from model.fetalclip import checkpoint
from model.fetalclip.network import Architecture, FetalClip
from model.spatialclip.network import SpatialClip
from tests.support.clips import SMALL, open_clip_json, random_clip, write_clip
from tests.support.environment import require

TOLERANCE = 1e-5


def open_clip_model(architecture: Architecture) -> Any:
    try:
        from open_clip.model import CLIP
    except ImportError:
        require(False, "open_clip (PyPI's open-clip-torch and ftfy)")
    torch.manual_seed(1)
    model = CLIP(**open_clip_json(architecture)).eval()
    # Its own start has many zeros, which any mapping of names would pass.
    for tensor in model.parameters():
        if tensor.ndim == 1:
            tensor.data.add_(0.1 * torch.randn_like(tensor))
    return model


def tokens(architecture: Architecture) -> torch.Tensor:
    """A short text, and one that fills every position."""
    generator = torch.Generator().manual_seed(2)
    full = torch.randint(1, architecture.begin, (2, architecture.context), generator=generator)
    full[:, 0] = architecture.begin
    full[1, -1] = architecture.end
    full[0, 9] = architecture.end
    full[0, 10:] = 0
    return full


def check_same(theirs: Any, ours: FetalClip) -> None:
    architecture = ours.architecture
    pixels = torch.randn(2, 3, architecture.image, architecture.image)
    texts = tokens(architecture)
    with torch.inference_mode():
        image, text = theirs.encode_image(pixels), theirs.encode_text(texts)
        logits = theirs.get_logits(pixels, texts)[0]
        own = ours.clip(input_ids=texts, pixel_values=pixels).logits_per_image
    assert (ours.image_features(pixels) - image).abs().max() < TOLERANCE
    assert (ours.text_features(texts) - text).abs().max() < TOLERANCE
    assert (own - logits).abs().max() < TOLERANCE * max(1.0, float(logits.abs().max()))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_wrapped", [True, False])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_open_clips_checkpoint_gives_the_same_features(
    prefix: str, is_wrapped: bool, suffix: str, tmp_path: Path
) -> None:
    model = open_clip_model(SMALL)
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": state, "epoch": 20} if is_wrapped else state, path)
    else:
        save_file(state, path)
    network = checkpoint.from_open_clip(
        checkpoint.read_open_clip(path, checkpoint.file_sha256(path)), SMALL
    )
    check_same(model, network)
    checkpoint.save_fetalclip(tmp_path / "ours", network)
    check_same(model, checkpoint.load_fetalclip(tmp_path / "ours"))


def test_ours_goes_back_to_open_clip() -> None:
    model, ours = open_clip_model(SMALL), random_clip(seed=3)
    model.load_state_dict(checkpoint.to_open_clip(ours), strict=True)
    check_same(model, ours)


def test_there_and_back_is_bit_exact() -> None:
    ours = random_clip(seed=4)
    again = checkpoint.from_open_clip(checkpoint.to_open_clip(ours), SMALL)
    for name, tensor in ours.clip.state_dict().items():
        assert torch.equal(tensor, again.clip.state_dict()[name])


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_published_size_agrees_both_ways() -> None:
    model = open_clip_model(Architecture())
    assert sum(tensor.numel() for tensor in model.parameters()) == 427_647_233
    assert len(model.state_dict()) == 446
    network = checkpoint.from_open_clip(model.state_dict())
    check_same(model, network)
    model.load_state_dict(checkpoint.to_open_clip(network), strict=True)
    check_same(model, network)


def test_the_quick_gelu_is_another_network() -> None:
    """FetalCLIP has the exact GELU; transformers' CLIP has the quick one by default."""
    state = checkpoint.to_open_clip(random_clip(seed=5))
    quick = Architecture(**{**architecture_sizes(SMALL), "quick_gelu": True})
    pixels = torch.randn(1, 3, SMALL.image, SMALL.image)
    exact = checkpoint.from_open_clip(state, SMALL).image_features(pixels)
    other = checkpoint.from_open_clip(state, quick).image_features(pixels)
    assert (exact - other).abs().max() > 100 * TOLERANCE


def architecture_sizes(architecture: Architecture) -> dict[str, Any]:
    return {name: getattr(architecture, name) for name in architecture.__slots__}


def small_state() -> dict[str, torch.Tensor]:
    return checkpoint.to_open_clip(random_clip())


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda s: s.pop("ln_final.weight"), ErrorCode.BUNDLE_INCOMPLETE, "lacks ln_final.weight"),
        (
            lambda s: s.update({"visual.attn_pool.q": torch.zeros(2)}),
            ErrorCode.BUNDLE_MISMATCH,
            "it also has visual.attn_pool.q",
        ),
        (
            lambda s: s.update(positional_embedding=torch.zeros(77, 48)),
            ErrorCode.BUNDLE_MISMATCH,
            "positional_embedding is 77 x 48, not 117 x 48",
        ),
        (
            lambda s: s.update(logit_scale=torch.tensor(float("nan"))),
            ErrorCode.BUNDLE_MISMATCH,
            "logit_scale has values that are infinite or no numbers",
        ),
    ],
)
def test_another_checkpoint_is_refused_in_one_line(change: Any, code: Any, words: str) -> None:
    state = small_state()
    change(state)
    with pytest.raises(QCError) as caught:
        checkpoint.from_open_clip(state, SMALL)
    assert caught.value.code is code
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


class Harmful:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("harm"),))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (pickle.dumps({"state_dict": Harmful()}), "more than tensors"),
        (b"", "no torch file"),
        (b"PK\x03\x04 cut", "no torch file"),
    ],
)
def test_what_is_no_plain_checkpoint_is_refused(
    content: bytes, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(QCError, match=words):
        checkpoint.read_open_clip(path)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, {"epoch": 3}, [1, 2]])
def test_a_torch_file_without_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(QCError, match="cannot be used"):
        checkpoint.read_open_clip(path)


def test_another_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(small_state(), path)
    with pytest.raises(QCError, match="another SHA-256"):
        checkpoint.read_open_clip(path, "0" * 64)


def test_a_changed_folder_is_refused(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    weights = load_file(folder / checkpoint.WEIGHTS)
    save_file({**weights, "logit_scale": torch.tensor(1.0)}, folder / checkpoint.WEIGHTS)
    with pytest.raises(QCError, match="its SHA-256 is not the one"):
        checkpoint.load_fetalclip(folder)


@pytest.mark.parametrize("name", [checkpoint.CONFIG, checkpoint.WEIGHTS])
def test_an_unfinished_folder_is_refused(name: str, tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    (folder / name).unlink()
    with pytest.raises(QCError, match=f"{name} is missing"):
        checkpoint.load_fetalclip(folder)


def test_a_clip_of_the_quick_gelu_is_read_as_one(tmp_path: Path) -> None:
    """A folder of transformers' CLIP says its activation, which is kept."""
    quick = Architecture(**{**architecture_sizes(SMALL), "quick_gelu": True})
    checkpoint.save_fetalclip(tmp_path, FetalClip(quick))
    assert checkpoint.load_fetalclip(tmp_path).architecture == quick


def test_spatialclip_takes_the_folder_as_its_start(tmp_path: Path) -> None:
    folder = write_clip(tmp_path / "clip")
    model = SpatialClip.from_clip(folder, heads=2, ffn=16)
    ours = checkpoint.load_fetalclip(folder)
    pixels = torch.randn(1, 3, SMALL.image, SMALL.image)
    with torch.inference_mode():
        feature = model.trimodal_clip.encode_image(pixels)
    assert torch.allclose(
        feature, torch.nn.functional.normalize(ours.image_features(pixels)), atol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("text_cfg"), "'text_cfg' is missing"),
        (lambda c: c["vision_cfg"].update(timm_model_name="fastvit_mci0"), "timm_model_name"),
        (lambda c: c["vision_cfg"].update(layers=0), "no positive number"),
        (lambda c: c["vision_cfg"].update(mlp_ratio=3), "mlp_ratio 3"),
        (lambda c: c["vision_cfg"].update(width=100), "multiple of 64"),
    ],
)
def test_another_configuration_is_refused_in_one_line(
    change: Any, words: str, tmp_path: Path
) -> None:
    data = open_clip_json(SMALL)
    change(data)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data))
    with pytest.raises(QCError, match=words):
        Architecture.of_open_clip(path)


def test_open_clips_configuration_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_cfg": open_clip_json(SMALL)}))
    assert Architecture.of_open_clip(path) == SMALL
