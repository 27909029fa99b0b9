"""What frozen image networks know of a view's quality, and how far that travels: linear probes.

A logistic regression on the averaged features of each backbone, by folds, by styles left out, and
on the restyled pictures of benchmarks/scanners.py, judged by the folds that did not learn from the
picture. Nothing is tuned on the pictures that are judged.

.venv/bin/python benchmarks/backbones.py --fetus-framework ../shared/data/fetus_framework \
    --sononet ../shared/data/weights/sononet16.safetensors
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.scanners import CHANGES
from detector.frame import Pixels
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from training.crossval.folds import BOTH_CLASSES
from training.data import splits
from training.data.fetus_framework import SPLITS, read_fetus_framework
from training.data.regions import read_region
from training.data.samples import Sample
from training.data.styles import cluster_styles, style_features
from training.evaluation.metrics.curves import auroc
from training.recipes import FOLDS
from training.train.small_spatialclip import PICTURE_SIZE, load_backbone_weights

Floats = npt.NDArray[np.float64]
BACKBONES = ("tf_efficientnet_lite0", "sononet16", "tf_efficientnet_lite0+sononet16")
STRENGTH = 0.003
"""scikit-learn's C: hundreds of features meet about a thousand pictures."""


def average_features(
    samples: Sequence[Sample], sononet: Path, change: Callable[[Pixels], Pixels] | None = None
) -> dict[str, Floats]:
    """(N, C) features of each backbone, averaged over the picture."""
    stems = {}
    for name in BACKBONES:
        network = SpatialClip(small_config(stem=name)).eval()
        load_backbone_weights(network, sononet)
        stems[name] = network.trimodal_clip.stem
    preprocessor = Preprocessor(None, PICTURE_SIZE)
    rows: dict[str, list[Floats]] = {name: [] for name in BACKBONES}
    for start in track(range(0, len(samples), 16), "reading", console=Console(stderr=True)):
        regions = [read_region(sample)[0] for sample in samples[start : start + 16]]
        if change is not None:
            regions = [np.ascontiguousarray(change(region)) for region in regions]
        pixels = preprocessor.images([preprocessor.letterbox(region) for region in regions])
        for name, stem in stems.items():
            assert stem is not None
            with torch.inference_mode():
                rows[name].append(stem.forward_features(pixels).mean((2, 3)).double().numpy())
    return {name: np.concatenate(parts) for name, parts in rows.items()}


def fit(features: Floats, standard: Any) -> Any:
    """A logistic regression of "standard", its classes balanced."""
    return make_pipeline(
        StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=3000)
    ).fit(features, standard)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--fetus-framework", type=Path, required=True)
    parser.add_argument("--sononet", type=Path, required=True)
    arguments = parser.parse_args()
    samples = read_fetus_framework(arguments.fetus_framework, SPLITS)
    standard = np.array([bool(sample.standard) for sample in samples])
    judged = np.array([sample.source == BOTH_CLASSES for sample in samples])
    folds = np.array([splits.fold_of(sample, FOLDS, 0) for sample in samples])
    styles = np.array(cluster_styles([style_features(read_region(s)[0]) for s in samples])[0])
    plain = average_features(samples, arguments.sononet)
    by_fold = {
        name: [fit(plain[name][folds != fold], standard[folds != fold]) for fold in range(FOLDS)]
        for name in BACKBONES
    }

    def score(name: str, features: Floats, at: Floats) -> float:
        values = np.zeros(len(at))
        for fold, model in enumerate(by_fold[name]):
            own = folds[at] == fold
            values[own] = model.decision_function(features[own])
        return auroc(values, standard[at])

    both = np.flatnonzero(judged)
    table = Table("pictures of set 2", *BACKBONES)
    table.add_row("folds", *(f"{score(n, plain[n][both], both):.3f}" for n in BACKBONES))
    for style in sorted(set(styles.tolist())):
        held_out = judged & (styles == style)
        if len(set(standard[held_out].tolist())) == 2:
            areas = (
                auroc(
                    fit(plain[n][styles != style], standard[styles != style]).decision_function(
                        plain[n][held_out]
                    ),
                    standard[held_out],
                )
                for n in BACKBONES
            )
            table.add_row(f"{style} left out", *(f"{area:.3f}" for area in areas))
    for label, change in CHANGES.items():
        features = average_features([samples[i] for i in both], arguments.sononet, change)
        table.add_row(label, *(f"{score(n, features[n], both):.3f}" for n in BACKBONES))
    Console().print(table)


if __name__ == "__main__":
    main()
