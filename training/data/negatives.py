"""Negatives: pictures of none of the four views, made of real pixels.

Ultrasound of other organs, real NT pictures whose tiles are shuffled, and parts of real NT pictures
without any structure: they teach that texture alone is no view.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console

from detector.boxes import area, iou
from detector.errors import QCError
from detector.frame import Pixels
from detector.imaging.reader import read_frames
from detector.letterbox import crop
from training.data.dataset_folder import SAMPLES, write_listing
from training.data.regions import read_region
from training.data.samples import MIN_SIDE, Origin, Sample

DATASET = "negatives of qc-model"
_MAX_TILES = 5


def write_negatives(
    out: Path, dicom: Sequence[Path], pictures: Sequence[Sample], count: int, seed: int
) -> int:
    """Write PNG files and samples.json (view OTHER); returns their number, which may be 0.

    Every tissue region of the DICOM files' frames is written once, as real. Then, if there are
    pictures, up to `count` are made of them, as simulated: no scanner made them so.
    """
    generator = np.random.default_rng(seed)
    (out / "images").mkdir(parents=True, exist_ok=True)
    items = []
    for number, path in enumerate(dicom):
        for index, pixels in enumerate(read_negatives([path])):
            if min(pixels.shape[:2]) < MIN_SIDE:
                continue
            name = f"{number:03d}_{path.stem}_{index}".replace(".", "_")
            items.append(_write_picture(out, name, pixels, Origin.REAL) | {"exam": path.name})
    for index in range(count if pictures else 0):
        sample = pictures[int(generator.integers(len(pictures)))]
        pixels, boxes = read_region(sample)
        if min(pixels.shape[:2]) < MIN_SIDE + _MAX_TILES:
            continue
        negative = None
        if boxes and generator.random() < 0.5:
            negative = _cut_empty_part(pixels, [box.bbox for box in boxes], generator)
        if negative is None:
            negative = shuffle_tiles(pixels, generator)
        # It has the group of its picture, so that both are held out together.
        items.append(
            _write_picture(out, f"made_{index:05d}", negative, Origin.SIMULATED)
            | {"group": sample.group}
        )
    if items:
        write_listing(out, SAMPLES, items)
    return len(items)


def read_negatives(files: Sequence[Path]) -> list[Pixels]:
    """Read every tissue region of every frame of the files, as (H, W, 3) uint8 RGB; a file that no
    decoder reads gives none, and is named on standard error."""
    return [pixels for path in files for pixels in _read_regions(path)]


def _read_regions(path: Path) -> list[Pixels]:
    try:
        return [
            crop(frame, region).pixels for frame in read_frames(path) for region in frame.regions
        ]
    except QCError as error:
        Console(stderr=True, markup=False, emoji=False).print(
            f"left out: {path.name}: {error.message}", soft_wrap=True
        )
        return []


def shuffle_tiles(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """Put the picture's tiles (3 x 3 to 5 x 5) in random order, some rotated by 180 degrees; what
    does not fill a tile is cut off."""
    tiles = int(generator.integers(3, _MAX_TILES + 1))
    height, width = pixels.shape[0] // tiles, pixels.shape[1] // tiles
    output = np.zeros((height * tiles, width * tiles, 3), np.uint8)
    for position, tile in enumerate(generator.permutation(tiles * tiles)):
        y, x = divmod(int(tile), tiles)
        part = pixels[y * height : (y + 1) * height, x * width : (x + 1) * width]
        if generator.random() < 0.5:
            part = part[::-1, ::-1]
        row, column = divmod(position, tiles)
        output[row * height : (row + 1) * height, column * width : (column + 1) * width] = part
    return output


def _cut_empty_part(
    pixels: Pixels,
    boxes: Sequence[tuple[float, float, float, float]],
    generator: np.random.Generator,
) -> Pixels | None:
    """A random part that no box touches, a quarter to a half of each side; None if none is found
    in 20 tries."""
    height, width = pixels.shape[:2]
    for _ in range(20):
        w, h = (int(side * generator.uniform(0.25, 0.5)) for side in (width, height))
        x, y = int(generator.integers(width - w)), int(generator.integers(height - h))
        part = (float(x), float(y), float(x + w), float(y + h))
        if all(iou(part, box) == 0 for box in boxes) and area(part) >= 100 * 100:
            return np.ascontiguousarray(pixels[y : y + h, x : x + w])
    return None


def _write_picture(out: Path, name: str, pixels: Pixels, origin: Origin) -> dict[str, object]:
    path = out / "images" / f"{name}.png"
    if not cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {path}")
    return {
        "origin": origin.value,
        "dataset": DATASET,
        "image_path": f"images/{path.name}",
        "description": "",
        "class_label": "non-standard",
        "coordinates": [],
        "view": "OTHER",
    }
