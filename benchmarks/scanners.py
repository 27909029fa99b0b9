"""Real pictures as another scanner or sonographer might show them, judged by networks that never
saw them: what a hospital that training never saw may cost.

Made up, and each of one strength for all pictures; training draws grey curves, contrast,
sharpness, size and place at random too, mostly of less strength. No substitute for another
hospital's own pictures. Probabilities are calibrated on the pictures as they are. Beside it: a
logistic regression on nothing but the detector's best confidence of each structure, in log-odds,
fitted on the other folds' pictures as they are.

.venv/bin/python benchmarks/scanners.py --cross-validation runs/folds --describer runs/describer \
    --fetus-framework ../shared/data/fetus_framework --out benchmarks/out_of_fold.csv

--out keeps the log odds of each picture, those of styles that were left out too, of which
benchmarks/sites.py makes hospitals.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.copies import networks
from detector.anatomy import BY_CODE, LABELS
from detector.frame import Pixels
from model.site.samples import log_odds_of
from training.crossval.folds import BOTH_CLASSES
from training.crossval.leave_style_out import load_style_predictions
from training.data.prepared import PreparedSample
from training.evaluation.ablation import ALL_BRANCHES
from training.evaluation.metrics import classification
from training.evaluation.metrics.classification import Floats
from training.evaluation.metrics.curves import auroc
from training.evaluation.select_calibration import select_calibration


def darker(pixels: Pixels, exponent: float = 1.8) -> Pixels:
    """A grey curve; an exponent below 1 makes pictures brighter."""
    curve: Any = 255 * (np.arange(256) / 255) ** exponent
    return np.asarray(curve.astype(np.uint8)[pixels])


def local_contrast(pixels: Pixels) -> Pixels:
    """Smoothed (median of 5 x 5), then contrast limited adaptive histogram equalisation."""
    grey = cv2.medianBlur(np.ascontiguousarray(pixels[..., 0]), 5)
    even: Any = cv2.createCLAHE(4, (8, 8)).apply(grey)
    return np.asarray(np.repeat(even[..., None], 3, axis=2), np.uint8)


def coarse(pixels: Pixels) -> Pixels:
    """0.35 of the resolution, and a little brighter."""
    height, width = pixels.shape[:2]
    small = cv2.resize(
        pixels, (int(width * 0.35), int(height * 0.35)), interpolation=cv2.INTER_AREA
    )
    again = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return darker(np.asarray(again), 0.8)


def grainy(pixels: Pixels) -> Pixels:
    """Speckle of 25 % of the brightness, the same wherever the same picture is."""
    generator = np.random.default_rng(int(pixels.sum()))
    noise: Any = cv2.GaussianBlur(generator.normal(0, 1, pixels.shape[:2]), (0, 0), 1.2)
    noise /= noise.std()
    return np.asarray(np.clip(pixels * (1 + 0.25 * noise[..., None]), 0, 255), np.uint8)


def nearer(pixels: Pixels, factor: float = 1.35) -> Pixels:
    """The middle only, that much larger."""
    height, width = pixels.shape[:2]
    high, wide = int(height / factor), int(width / factor)
    top, left = (height - high) // 2, (width - wide) // 2
    middle = np.ascontiguousarray(pixels[top : top + high, left : left + wide])
    return np.asarray(cv2.resize(middle, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def farther(pixels: Pixels, factor: float = 0.7) -> Pixels:
    """Smaller, black around it."""
    height, width = pixels.shape[:2]
    small = cv2.resize(
        pixels, (int(width * factor), int(height * factor)), interpolation=cv2.INTER_AREA
    )
    canvas = np.zeros_like(pixels)
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    canvas[top : top + small.shape[0], left : left + small.shape[1]] = small
    return canvas


def wider(pixels: Pixels) -> Pixels:
    """Pixels that are not square: 1.3 times as wide."""
    height, width = pixels.shape[:2]
    return np.asarray(cv2.resize(pixels, (int(width * 1.3), height)), np.uint8)


CHANGES = {
    "darker (gamma 1.8)": darker,
    "brighter (gamma 0.55)": lambda pixels: darker(pixels, 0.55),
    "local contrast": local_contrast,
    "coarse": coarse,
    "grainy": grainy,
    "nearer (1.35)": nearer,
    "farther (0.7)": farther,
    "wider (1.3)": wider,
}


def confidence_log_odds(samples: Sequence[PreparedSample]) -> Floats:
    """(N, labels) log-odds of each structure's most confident box, of 0.02 where it has none."""
    best = np.full((len(samples), len(LABELS)), 0.02)
    for row, each in zip(best, samples, strict=True):
        for box in each.detections[0]:
            at = BY_CODE[box.label].index
            row[at] = max(row[at], min(box.confidence, 0.98))
    return np.asarray(np.log(best / (1 - best)))


def fit_regression(features: Floats, standard: Any) -> Any:
    """A logistic regression of "standard" with balanced classes."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=2000)
    ).fit(features, standard)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="CSV of every picture's log odds")
    fold_networks, arguments = networks(parser)
    rows: list[tuple[str, str, int, float]] = []
    plain, originals = fold_networks.predict_logits()
    standard = np.array([bool(each.sample.standard) for each in originals])
    groups = [each.sample.group for each in originals]
    calibration, _ = select_calibration(plain, standard.astype(float).tolist(), groups)
    folds = np.array([fold_networks.fold_of(each.sample) for each in originals])
    unchanged = confidence_log_odds(originals)
    by_fold = {
        fold: fit_regression(unchanged[folds != fold], standard[folds != fold])
        for fold in sorted(set(folds.tolist()))
    }
    table = Table("pictures", "AUROC", "ECE", "AUROC of confidences")
    for name, change in {"as they are": None, **CHANGES}.items():
        logits, samples = plain, originals
        if change is not None:
            logits, samples = fold_networks.predict_logits(change)
        probabilities = calibration.calibrate_many(logits)
        metrics = classification.classification_metrics(probabilities, standard, groups)
        rows += evidence_rows(name, samples, probabilities)
        confidences, score = confidence_log_odds(samples), np.zeros(len(samples))
        for fold, regression in by_fold.items():
            score[folds == fold] = regression.decision_function(confidences[folds == fold])
        table.add_row(
            name,
            cell(metrics["AUROC"]),
            cell(metrics["ECE"]),
            f"{auroc(score, standard):.3f}",
        )
    Console().print(table)
    if arguments.out is not None:
        for style, of_style in load_style_predictions(arguments.cross_validation).items():
            part = [row for row in of_style if row["source"] == BOTH_CLASSES]
            probabilities = calibration.calibrate_many([r["logits"][ALL_BRANCHES] for r in part])
            rows += [
                (f"{style} left out", row["picture"], int(row["standard"]), float(log_odds_of(p)))
                for row, p in zip(part, probabilities, strict=True)
            ]
        with arguments.out.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("pictures", "picture", "standard", "log_odds"))
            writer.writerows((*row[:3], f"{row[3]:.4f}") for row in rows)


def evidence_rows(
    name: str, samples: Sequence[PreparedSample], probabilities: Floats
) -> list[tuple[str, str, int, float]]:
    """(pictures, picture, 1 for standard, calibrated log odds) of each sample."""
    return [
        (name, each.sample.image.stem, int(bool(each.sample.standard)), float(log_odds_of(p)))
        for each, p in zip(samples, probabilities, strict=True)
    ]


def cell(figure: Any) -> str:
    """The figure and its interval."""
    low, high = figure["interval"]
    return f"{figure['value']:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
