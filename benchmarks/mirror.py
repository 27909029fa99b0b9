"""What a detector gains by looking at mirror images too, on the real pictures held out of training.

.venv/bin/python benchmarks/mirror.py --fetus-framework ../shared/data/fetus_framework
"""

import argparse
from pathlib import Path

from detector.yolo.yolo import YoloDetector
from model.bundle.bundle import DETECTOR, locate
from training.data import splits
from training.data.regions import match_regions
from training.evaluation.metrics.detection import detection_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--fetus-framework", type=Path, required=True, help="the data set's folder")
    parser.add_argument("--bundle", default="default")
    arguments = parser.parse_args()
    samples = splits.load(None, arguments.fetus_framework, None)
    unseen = [s for s in splits.split_by_group(samples, 0.1, 0)[1] if s.annotated]
    detector = YoloDetector.load(locate(arguments.bundle) / DETECTOR)
    for mirrored in (False, True):
        detector.mirrored = mirrored
        figures = detection_metrics(match_regions(detector, unseen), [s.group for s in unseen])[
            "map50"
        ]
        low, high = figures["interval"]
        how = "mirror image too" if mirrored else "picture alone"
        print(
            f"{how}: mAP50 {figures['value']:.3f} ({low:.3f} to {high:.3f}), {len(unseen)} pictures"
        )


if __name__ == "__main__":
    main()
