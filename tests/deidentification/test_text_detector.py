"""The text detector finds burned-in words, small and dim ones too, and leaves most tissue alone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from detector.errors import ErrorCode, QCError
from qc_daemon.deidentification import text_detector
from qc_daemon.deidentification.text_detector import TextDetector
from qc_daemon.language.catalogues import CHINESE
from tests.support.burned_in import burn_in, covered_share, speckle


@pytest.fixture(scope="module")
def detector() -> TextDetector:
    return TextDetector()


@pytest.mark.parametrize(("height", "grey"), [(9, 255), (12, 120), (14, 200), (24, 255)])
def test_words_in_tissue_are_covered(detector: TextDetector, height: int, grey: int) -> None:
    picture = burn_in(speckle(480, 416), height=height, grey=grey)
    words = detector.find_words(picture.pixels)
    for box in picture.boxes:
        assert covered_share(box, words, picture.pixels.shape) > 0.9
    for x0, y0, x1, y1 in words:
        assert 0 <= x0 < x1 <= 416
        assert 0 <= y0 < y1 <= 480


def test_words_beside_the_tissue_and_in_colour_are_found(detector: TextDetector) -> None:
    pixels = np.zeros((160, 320, 3), np.uint8)
    picture = burn_in(pixels, ("MUELLER ANNA", "F 12.03.1985"), 12)
    picture.pixels[..., 0] //= 4
    words = detector.find_words(picture.pixels)
    for box in picture.boxes:
        assert covered_share(box, words, picture.pixels.shape) > 0.9


@pytest.mark.parametrize(("height", "grey"), [(12, 140), (24, 255)])
def test_chinese_words_are_covered(detector: TextDetector, height: int, grey: int) -> None:
    """A name alone, one with sex and age, and a hospital."""
    words = ("张伟", "王小明 女 32岁", "协和医院超声科")
    picture = burn_in(speckle(260, 320, seed=1), words, height, grey, language=CHINESE)
    covered = detector.find_words(picture.pixels)
    for box in picture.boxes:
        assert covered_share(box, covered, picture.pixels.shape) > 0.9


def test_tissue_without_words_stays(detector: TextDetector) -> None:
    pixels = speckle(320, 320, seed=3)
    words = detector.find_words(pixels)
    assert covered_share((0, 0, 320, 320), words, pixels.shape) < 0.02


def test_a_word_is_covered_with_its_neighbours_in_the_line_and_a_head_is_no_word(
    detector: TextDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = np.zeros((300, 400), np.float32)
    shown[100:106, 200:240] = 0.9
    monkeypatch.setattr(detector, "_probabilities", lambda _pixels: shown)
    pixels = np.zeros((300, 400, 3), np.uint8)
    ((x0, y0, x1, y1),) = set(detector.find_words(pixels))
    # Half as high again above and below the core, and a letter's height and more beside it.
    assert (y0, y1) == (94, 112)
    assert (x0, x1) == (200 - 6 - 18, 240 + 6 + 18)
    shown[:] = 0
    shown[100:200, 150:290] = 1.0
    shown[20, 20] = 1.0
    shown[40:46, 40:80] = 0.35
    assert detector.find_words(pixels) == []


def test_a_large_picture_is_read_smaller(
    detector: TextDetector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_detector, "_MOST_PIXELS", 320 * 240)
    picture = burn_in(speckle(480, 640), ("MUELLER ANNA", "12.03.1985"), 32)
    words = detector.find_words(picture.pixels)
    for box in picture.boxes:
        assert covered_share(box, words, picture.pixels.shape) > 0.9


def test_a_small_picture_has_room_for_no_word(detector: TextDetector) -> None:
    assert detector.find_words(np.zeros((33, 47, 3), np.uint8)) == []


def test_without_weights_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(text_detector, "find_spec", lambda _name: None)
    with pytest.raises(QCError, match=r"qc-daemon\[teaching\]") as caught:
        TextDetector()
    assert caught.value.code is ErrorCode.NOT_AVAILABLE
    other = tmp_path / "other.onnx"
    other.write_bytes(b"no network")
    with pytest.raises(QCError, match="no text detector"):
        TextDetector(other)


def test_every_word_of_a_real_screen_is_found(shared_data: Path, detector: TextDetector) -> None:
    """Where the words of a Voluson screen stand was read off by eye."""
    path = shared_data / "voluson_screens" / "femur.png"
    pixels = np.asarray(Image.open(path).convert("RGB"))
    words = detector.find_words(pixels)
    for box in (
        *((12, 19, 56, 30), (42, 43, 56, 54), (435, 24, 535, 38), (592, 24, 640, 38)),
        *((408, 52, 564, 66), (590, 52, 644, 66), (753, 52, 841, 66), (862, 52, 946, 66)),
        *((897, 76, 957, 87), (898, 92, 957, 103), (886, 108, 957, 119), (912, 124, 957, 135)),
        *((901, 140, 957, 151), (906, 156, 957, 167), (855, 691, 957, 708), (855, 713, 957, 730)),
    ):
        assert covered_share(box, words, pixels.shape) > 0.9, box
