"""How much a JPEG copy of a real picture changes what is said of it, by networks that never saw it.

Everything is done anew for the copy, boxes and words too, by the fold's own networks of a
cross-validation; probabilities are calibrated on the pictures themselves, as a bundle's are.

.venv/bin/python benchmarks/copies.py --cross-validation runs/folds --describer runs/describer \
    --fetus-framework ../shared/data/fetus_framework --quality 90 --subsampling 4:2:2
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.picture import read_picture
from model.checkpoint import load_spatialclip
from model.inputs import Preprocessor
from training import corpus, pipeline
from training.choice import choose
from training.folds import BOTH_CLASSES
from training.samples import Sample
from training.spatialclip import predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cross-validation", type=Path, required=True, help="its folder")
    parser.add_argument("--describer", type=Path, required=True, help="folder of the describer")
    parser.add_argument("--fetus-framework", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--quality", type=int, default=90, help="of the copies, 1 to 100")
    parser.add_argument("--subsampling", default="4:2:2", help="4:4:4, 4:2:2 or 4:2:0")
    asked = parser.parse_args()
    samples = corpus.gather(None, asked.fetus_framework, [BOTH_CLASSES])
    folders = sorted(asked.cross_validation.glob("spatialclip-?"))
    detectors = [f.with_name(f.name.replace("spatialclip", "detector")) for f in folders]
    judged: list[Sample] = []
    before: list[float] = []
    after: list[float] = []
    with tempfile.TemporaryDirectory() as scratch:
        for fold, folder in enumerate(folders):
            held = [s for s in samples if corpus.fold_of(s, len(folders), 0) == fold]
            copies = [copied(s, Path(scratch), asked.quality, asked.subsampling) for s in held]
            judged += held
            for logits, pictures in ((before, held), (after, copies)):
                logits += said(pictures, folder, detectors, asked.describer, Path(scratch)).tolist()
    calibration, _ = choose(before, [float(s.standard) for s in judged], [s.group for s in judged])
    gaps: npt.NDArray[np.float64] = np.abs(
        np.subtract(calibration.calibrate_many(before), calibration.calibrate_many(after))
    )
    print(
        f"JPEG {asked.quality}, {asked.subsampling}, {len(gaps)} pictures: P(standard) changes by"
        f" {np.quantile(gaps, 0.95):.4f} at the 95th percentile, {gaps.max():.4f} at most"
    )


def copied(sample: Sample, folder: Path, quality: int, subsampling: str) -> Sample:
    """The sample, its picture compressed and kept in the folder without further loss."""
    path = folder / f"{sample.image.stem}.png"
    compressed = path.with_suffix(".jpg")
    picture = Image.fromarray(read_picture(sample.image))
    picture.save(compressed, quality=quality, subsampling=subsampling)
    Image.open(compressed).convert("RGB").save(path)
    return replace(sample, image=path)


def said(
    samples: Sequence[Sample], network: Path, detectors: Sequence[Path], writer: Path, cache: Path
) -> npt.NDArray[np.float64]:
    """The (N,) logits of these pictures, each boxed by its own fold's detector."""
    seen = pipeline.gather_folds(samples, detectors, writer, cache, 0)
    preprocessor = Preprocessor.load(network, pipeline.PICTURE_SIZE)
    return predict(load_spatialclip(network), seen, preprocessor).logit


if __name__ == "__main__":
    main()
