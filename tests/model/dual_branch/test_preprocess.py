"""The dual-branch preprocessing: what is published, and what goes wrong upstream."""

import numpy as np
import pytest
from scipy.ndimage import zoom

from detector.frame import Frame, Region
from model.dual_branch.network import DualBranchConfig, Layout
from model.dual_branch.preprocess import BANNER_RGB, SCREEN, Preprocessor, fit, published_screen

THREE = ("a", "b", "c")


def frame(pixels: np.ndarray, *boxes: tuple[float, float, float, float]) -> Frame:
    rows, columns = pixels.shape[:2]
    boxes = boxes or ((0, 0, columns, rows),)
    return Frame(1, pixels, tuple(Region(i, box) for i, box in enumerate(boxes)))


def ours(rows: int = 64, columns: int = 64) -> Preprocessor:
    return Preprocessor(DualBranchConfig("resnet18", THREE, ((rows, columns),)))


def test_a_circle_stays_a_circle() -> None:
    """Upstream stretches every picture to 852 x 1136 and then to a square."""
    rows, columns = np.mgrid[:100, :300]
    disc = (np.hypot(rows - 50, columns - 150) < 40).astype(np.uint8) * 255
    canvas = ours().canvas(frame(np.repeat(disc[..., None], 3, -1)))[..., 0] > 127
    height, width = (np.flatnonzero(canvas.any(axis)).size for axis in (1, 0))
    assert abs(height - width) <= 1
    assert 15 <= height <= 19


def test_only_the_largest_region_is_seen_and_no_text_around_it() -> None:
    pixels = np.full((200, 200, 3), 90, np.uint8)
    pixels[:50] = 255
    canvas = ours().canvas(frame(pixels, (0, 0, 200, 40), (0, 60, 200, 200)))
    assert set(np.unique(canvas)) == {0, 90}


def test_no_row_of_the_anatomy_is_covered() -> None:
    """Upstream paints over 68 rows of the resized picture, whatever they show."""
    pixels = np.full((300, 300, 3), 200, np.uint8)
    assert (ours(300, 300).canvas(frame(pixels)) == 200).all()


def test_levels_are_imagenets_and_the_published_layout_has_its_own() -> None:
    pixels = np.full((64, 64, 3), (255, 128, 0), np.uint8)
    tensor = ours().normalise([ours().canvas(frame(pixels))])[0, :, 32, 32]
    expected = [(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, -0.406 / 0.225]
    assert tensor.tolist() == pytest.approx(expected, abs=1e-5)
    config = DualBranchConfig("resnet18", THREE, layout=Layout.PUBLISHED)
    published = Preprocessor(config)
    tensor = published.normalise([published.canvas(frame(pixels))])
    assert tensor.shape == (1, 3, *SCREEN)
    assert tensor[0, :, 400, 500].tolist() == pytest.approx([1, 256 / 255 - 1, -1], abs=1e-5)


def test_the_published_screen_is_scipys_zoom_with_its_banner_covered() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (71, 90, 3), np.uint8)
    expected = zoom(pixels, (SCREEN[0] / 71, SCREEN[1] / 90, 1), order=1)
    screen = published_screen(pixels)
    assert screen.shape == expected.shape
    assert np.abs(screen[68:].astype(int) - expected[68:]).max() <= 1
    assert (screen[:68] == BANNER_RGB).all()


def test_fine_detail_is_averaged() -> None:
    grating = np.zeros((400, 400, 3), np.uint8)
    grating[:, ::4] = grating[:, 1::4] = 255
    assert fit(grating, (133, 133)).std() < 45


def test_the_canvas_is_that_of_the_largest_branch() -> None:
    config = DualBranchConfig("resnet18-resnet34", THREE, ((32, 48), (64, 40)))
    canvas = Preprocessor(config).canvas(frame(np.ones((50, 20, 3), np.uint8)))
    assert canvas.shape == (64, 48, 3)
