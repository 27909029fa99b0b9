"""How many burned-in words the text detector finds, by height and brightness of the letters, and
how much it blanks where there are none.

    python benchmarks/text_detector.py --data SHARED_DATA [--pictures 4]

Words are burned into real tissue (HC18 heads, whose publisher blacked out what was written in them,
and fetal planes); a word counts as found where nine tenths of it are covered.
"""

import argparse
import random
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from detector.frame import Pixels
from qc_daemon.deidentification.text_detector import TextDetector
from tests.support.burned_in import WORDS, burn_in, covered_share

HEIGHTS = (8, 10, 12, 16, 24, 36)
GREYS = (90, 120, 160, 255)
SIZE = (480, 400)


def pictures(folder: Path, count: int) -> list[Pixels]:
    """Pictures spread over the folder, RGB, at most SIZE."""
    paths = sorted(folder.rglob("*.jpg"))
    chosen = paths[:: max(1, len(paths) // count)][:count]
    columns, rows = SIZE
    return [np.asarray(Image.open(path).convert("RGB"))[:rows, :columns].copy() for path in chosen]


def find_share(
    detector: TextDetector, tissue: Iterable[Pixels], height: int, grey: int
) -> tuple[int, int]:
    """How many words the detector covers, of how many."""
    place = random.Random(height * grey)
    hits = count = 0
    for pixels in tissue:
        fitting = max(1, min(len(WORDS), (pixels.shape[0] - 20) // (3 * height)))
        left, top = place.randrange(5, 60), place.randrange(5, 20)
        picture = burn_in(pixels, WORDS[:fitting], height, grey, left, top)
        words = detector.find_words(picture.pixels)
        count += len(picture.boxes)
        hits += sum(covered_share(box, words, pixels.shape) > 0.9 for box in picture.boxes)
    return hits, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=4, help="of each data set")
    arguments = parser.parse_args()
    detector = TextDetector()
    heads = pictures(arguments.data / "hc18_heads", arguments.pictures)
    tissue = [*heads, *pictures(arguments.data / "fetal_planes", arguments.pictures)]
    print("letters (pixels) | " + " | ".join(f"grey {grey}" for grey in GREYS))
    for height in HEIGHTS:
        shares = [find_share(detector, tissue, height, grey) for grey in GREYS]
        print(f"{height} | " + " | ".join(f"{hits} of {count}" for hits, count in shares))
    began = time.process_time()
    blanked = [
        covered_share((0, 0, each.shape[1], each.shape[0]), detector.find_words(each), each.shape)
        for each in heads
    ]
    seconds = (time.process_time() - began) / max(1, len(heads))
    print(f"blanked of heads without words: {100 * float(np.mean(blanked)):.2f} %")
    print(f"processor time: {seconds:.2f} s a picture of at most {SIZE[0]} x {SIZE[1]}")


if __name__ == "__main__":
    main()
