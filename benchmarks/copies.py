"""How much a JPEG copy of a real picture changes what is said of it, by networks that never saw it.

Everything is done anew for the copy, boxes and words too, by the fold's own networks of a
cross-validation; probabilities are calibrated on the pictures themselves, as a bundle's are.

.venv/bin/python benchmarks/copies.py --cross-validation runs/folds --describer runs/describer \
    --fetus-framework ../shared/data/fetus_framework --quality 90 --subsampling 4:2:2
"""

import argparse
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from detector.frame import Pixels
from detector.imaging.picture_file import read_picture
from model.spatialclip.checkpoint import load_spatialclip
from model.spatialclip.preprocess import Preprocessor
from training.crossval.folds import BOTH_CLASSES
from training.data import splits
from training.data.prepared import PreparedSample
from training.data.samples import Sample
from training.evaluation.select_calibration import select_calibration
from training.train import small_spatialclip
from training.train.spatialclip import predict


@dataclass(frozen=True, slots=True)
class Networks:
    """A cross-validation's folder, its describer, and the pictures of both classes."""

    out: Path
    describer: Path
    samples: Sequence[Sample]

    def predict_logits(
        self, change: Callable[[Pixels], Pixels] | None = None
    ) -> tuple[list[float], list[PreparedSample]]:
        """The logits of each fold's own networks for its pictures, fold by fold, and what they saw;
        of changed copies if `change` is given."""
        logits: list[float] = []
        samples: list[PreparedSample] = []
        with tempfile.TemporaryDirectory() as scratch:
            for folder, fold_samples in self._folds():
                pictures = fold_samples
                if change is not None:
                    pictures = [
                        write_changed_copy(sample, Path(scratch), change) for sample in fold_samples
                    ]
                prepared = small_spatialclip.prepare_out_of_fold(
                    pictures, self._detectors(), self.describer, Path(scratch), 0
                )
                preprocessor = Preprocessor.load(folder, small_spatialclip.PICTURE_SIZE)
                logits += predict(load_spatialclip(folder), prepared, preprocessor).logit.tolist()
                samples += prepared
        return logits, samples

    def fold_of(self, sample: Sample) -> int:
        """The fold whose networks never saw the sample."""
        return splits.fold_of(sample, len(self._detectors()), 0)

    def _folds(self) -> list[tuple[Path, list[Sample]]]:
        folders = sorted(self.out.glob("spatialclip-?"))
        return [
            (folder, [s for s in self.samples if self.fold_of(s) == fold])
            for fold, folder in enumerate(folders)
        ]

    def _detectors(self) -> list[Path]:
        return sorted(self.out.glob("detector-?"))


def networks(parser: argparse.ArgumentParser) -> tuple[Networks, argparse.Namespace]:
    """The networks that the command line names, and all that it asks for."""
    parser.add_argument("--cross-validation", type=Path, required=True, help="its folder")
    parser.add_argument("--describer", type=Path, required=True, help="folder of the describer")
    parser.add_argument("--fetus-framework", type=Path, required=True, help="the data set's folder")
    arguments = parser.parse_args()
    samples = splits.load(None, arguments.fetus_framework, [BOTH_CLASSES])
    return Networks(arguments.cross_validation, arguments.describer, samples), arguments


def write_changed_copy(sample: Sample, folder: Path, change: Callable[[Pixels], Pixels]) -> Sample:
    """The sample with its picture changed, kept in the folder without loss."""
    path = folder / f"{sample.image.stem}.png"
    Image.fromarray(change(read_picture(sample.image))).save(path)
    return replace(sample, image=path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quality", type=int, default=90, help="of the copies, 1 to 100")
    parser.add_argument("--subsampling", default="4:2:2", help="4:4:4, 4:2:2 or 4:2:0")
    fold_networks, arguments = networks(parser)

    def compressed(pixels: Pixels) -> Pixels:
        stream = io.BytesIO()
        Image.fromarray(pixels).save(
            stream, "JPEG", quality=arguments.quality, subsampling=arguments.subsampling
        )
        return np.asarray(Image.open(stream).convert("RGB"))

    before, items = fold_networks.predict_logits()
    after, _ = fold_networks.predict_logits(compressed)
    samples = [each.sample for each in items]
    calibration, _ = select_calibration(
        before, [float(s.standard) for s in samples], [s.group for s in samples]
    )
    gaps: npt.NDArray[np.float64] = np.abs(
        np.subtract(calibration.calibrate_many(before), calibration.calibrate_many(after))
    )
    print(
        f"JPEG {arguments.quality}, {arguments.subsampling}, {len(gaps)} pictures: P(standard)"
        f" changes by {np.quantile(gaps, 0.95):.4f} at the 95th percentile,"
        f" {gaps.max():.4f} at most"
    )


if __name__ == "__main__":
    main()
