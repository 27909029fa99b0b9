"""FetalCLIP's preprocessing: what is published, and what goes wrong upstream."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from detector.errors import QCError
from detector.imaging.picture_file import read_picture
from model.fetalclip.network import Architecture
from model.fetalclip.preprocess import TextEncoder, images, read_vocabulary, resize, square
from model.spatialclip.preprocess import MEAN, STD
from tests.support.clips import SMALL, write_vocabulary
from tests.support.environment import require


def levels(tensor: torch.Tensor) -> torch.Tensor:
    """Normalised pictures back in 0..255."""
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))
    return (tensor * std + mean) * 255


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(40, 90), (91, 40), (64, 64)])
def test_the_tensor_is_pillows_and_open_clips(size: tuple[int, int]) -> None:
    pixels = noise(*size)
    picture = Image.fromarray(pixels)
    side = max(size)
    black = Image.new("RGB", (side, side))
    black.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    try:
        from open_clip.transform import PreprocessCfg, image_transform_v2
    except ImportError:
        require(False, "open_clip (PyPI's open-clip-torch and ftfy)")
    expected = image_transform_v2(PreprocessCfg(size=32), is_train=False)(black)
    assert torch.allclose(images([pixels], 32)[0], expected, atol=1e-6)


def test_the_sides_of_a_wide_picture_are_kept() -> None:
    """A centre crop without padding, as upstream's quick start has it, would cut them off."""
    pixels = np.zeros((100, 300, 3), np.uint8)
    pixels[:, :30] = pixels[:, -30:] = 255
    tensor = levels(images([pixels], 224))[0, 0]
    assert tensor[112, 5] > 250
    assert tensor[112, -5] > 250
    assert tensor[5].max() < 1  # Padding is black.


def test_an_odd_pixel_of_padding_goes_right_and_below() -> None:
    canvas = square(np.full((2, 5, 3), 9, np.uint8))
    assert canvas[:, 0, 0].tolist() == [0, 9, 9, 0, 0]
    assert square(np.full((5, 2, 3), 9, np.uint8))[0, :, 0].tolist() == [0, 9, 9, 0, 0]


def test_channels_are_red_green_blue_and_not_swapped(tmp_path: Path) -> None:
    """Upstream mixes OpenCV's BGR with Pillow's RGB, and converts twice."""
    path = tmp_path / "red.png"
    Image.new("RGB", (50, 50), (200, 100, 30)).save(path)
    tensor = levels(images([read_picture(path)], 32))
    assert tensor.mean((0, 2, 3)).round().tolist() == [200, 100, 30]


def test_fine_detail_is_averaged_not_sampled() -> None:
    """OpenCV's cubic filter, which upstream's probes use, lets a fine grating through."""
    grating = np.zeros((448, 448, 3), np.uint8)
    grating[:, ::4] = grating[:, 1::4] = 255
    assert resize(grating, 149).std() < 20
    assert cv2.resize(grating, (149, 149), interpolation=cv2.INTER_CUBIC).std() > 80


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_kind_of_picture_file_is_read(mode: str, tmp_path: Path) -> None:
    """Upstream stops at all but RGB and L, some copies of its code at RGBA too."""
    grey = np.tile(np.linspace(0, 255, 60, dtype=np.uint8), (40, 1))
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(path)
    else:
        Image.fromarray(grey).convert("RGB").convert(mode).save(path)
    tensor = levels(images([read_picture(path)], 224))[0]
    dark, bright = tensor[:, 60:160, 10:50], tensor[:, 60:160, -50:-10]
    assert (bright.mean((1, 2)) - dark.mean((1, 2))).min() > 100


def test_each_picture_has_its_own_size() -> None:
    assert images([noise(40, 60), noise(33, 32)], 32).shape == (2, 3, 32, 32)


TEXTS = [
    "Ultrasound image of the fetal BRAIN, highlighting  the thalami; 20 weeks & 3 days",
    "don't 0.17mm/pixel éa Ünïcode 中文 &amp;amp; x",
    "",
    "a " * 300,
    "<test> [4.5] naïve’s “quote”",
    "line\nbreak\tand tab",
]


def test_tokens_are_open_clips(shared_data: Path) -> None:
    try:
        from open_clip.tokenizer import SimpleTokenizer
    except ImportError:
        require(False, "open_clip (PyPI's open-clip-torch and ftfy)")
    path = shared_data / "tokenizers" / "bpe_simple_vocab_16e6.txt.gz"
    encoder = TextEncoder(read_vocabulary(path, 49408), Architecture())
    theirs = SimpleTokenizer(context_length=117)(TEXTS)
    ours = encoder.tokens(TEXTS)
    padded = torch.zeros_like(theirs)
    padded[:, : ours.shape[1]] = ours
    assert torch.equal(padded, theirs)


def test_a_long_text_keeps_its_end_and_zeros_pad(tmp_path: Path) -> None:
    encoder = TextEncoder(
        read_vocabulary(write_vocabulary(tmp_path / "v.gz"), SMALL.vocabulary), SMALL
    )
    tokens = encoder.tokens(["the " * 200, "the"])
    assert tokens.shape == (2, 117)
    assert tokens[0, -1] == SMALL.end
    end = int((tokens[1] == SMALL.end).nonzero()[0, 0])
    assert not tokens[1, end + 1 :].any()
    assert (tokens[:, 0] == SMALL.begin).all()


def test_a_tokenizer_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    tokenizer = read_vocabulary(write_vocabulary(tmp_path / "v.gz"), SMALL.vocabulary)
    tokenizer.save_pretrained(tmp_path / "folder")
    encoder = TextEncoder.load(tmp_path / "folder", SMALL)
    assert torch.equal(encoder.tokens(TEXTS), TextEncoder(tokenizer, SMALL).tokens(TEXTS))


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    short = write_vocabulary(tmp_path / "v.gz", 5)
    with pytest.raises(QCError, match="with 86 pairs at least"):
        read_vocabulary(short, SMALL.vocabulary)
    short.write_bytes(b"plain text")
    with pytest.raises(QCError, match="not CLIP's list of byte pairs"):
        read_vocabulary(short, SMALL.vocabulary)
    tokenizer = read_vocabulary(write_vocabulary(tmp_path / "w.gz"), SMALL.vocabulary)
    with pytest.raises(QCError, match="another model's"):
        TextEncoder(tokenizer, Architecture())
    with pytest.raises(QCError, match="has no tokenizer"):
        TextEncoder.load(tmp_path, SMALL)
