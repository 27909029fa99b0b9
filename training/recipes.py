"""What decides each training, as values, and those that made the default bundle, stage by stage.

`qc-model` takes its defaults from here, training/make_bundle.sh its options (`python -m
training.recipes STEP` prints them). What they are worth: docs/experiments.md.

Those of bundle 1.1 are in this file's history (tag of its version in CHANGELOG.md).

Nothing here imports torch, for `qc-model --help` reads it.
"""

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from detector.console import UsageError


@dataclass(frozen=True, slots=True)
class DescriberRecipe:
    """Size of the describer and of its training; the defaults take minutes on one core."""

    seed: int = 0  # Of weights and of the made-up pictures.
    steps: int = 1500  # Batches.
    batch: int = 32  # Sentences a step.
    learning_rate: float = 2e-3  # Highest one, of AdamW, reached after the warm-up.
    warmup: int = 100  # Steps in which the learning rate rises; at most half of all.
    hidden: int = 128  # Width of BioGPT; its feed-forward layers are four times as wide.
    layers: int = 3  # Transformer blocks.
    heads: int = 4  # Attention heads a block.
    positions: int = 384  # Tokens of prompt and answer, for describer.MAX_STRUCTURES structures.
    vocabulary: int = 320  # Subwords of the tokenizer, learnt from our own sentences.
    held_out: int = 500  # Made-up pictures to validate on, of another random stream.


@dataclass(frozen=True, slots=True)
class DetectorRecipe:
    """What decides the training of a detector, beside its pictures."""

    scale: str = "n"  # Size of YOLO11: n, s, m, l or x.
    size: int = 416  # Side of the square it sees, in pixels; a multiple of 32, its coarsest stride.
    epochs: int = 30  # Each has every real picture once.
    batch: int = 16  # Pictures a step.
    learning_rate: float = 2e-3  # Highest one, of AdamW; then a cosine down to 1 % of it.
    weight_decay: float = 5e-4  # Of matrices and kernels; biases and normalisation have none.
    warmup_steps: int = 200  # Steps in which the learning rate rises.
    restart: int = 0  # After so many epochs it begins anew at half, for another cosine; 0: never.
    ema_decay: float = 0.999  # Of the moving average of weights, which is what is saved.
    simulated_ratio: float = 1.0  # Simulated pictures an epoch for each real one, drawn anew.
    unlabelled_ratio: float = 0.0  # The same of real pictures without a quality label; 0: all.
    lying_fraction: float = 0.0  # How often a simulated head is turned by a right angle.
    float32_head: bool = False  # Train the last module in full precision, the others in bfloat16.
    mirrored: bool = False  # It serves on the mirror image too, in twice the time.
    seed: int = 0  # Of weights, order and augmentation.

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders and manifests store."""
        return _stored(asdict(self))


@dataclass(frozen=True, slots=True)
class SpatialClipRecipe:
    """What decides the training of SpatialCLIP, beside its pictures.

    The contrastive weights are the published ones.
    """

    epochs: int = 16  # Everything learns at once; not read where one of `stages` is above 0.
    stages: tuple[int, int, int] = (0, 0, 0)  # Epochs of the published three (model stages.py).
    batch: int = 64  # Pictures a step.
    learning_rate: float = 6e-4  # Highest one, of AdamW, in each stage; then a cosine to 1 % of it.
    weight_decay: float = 0.05  # Of matrices; vectors and the linear heads have none.
    warmup: float = 0.05  # Share of a stage's steps in which the learning rate rises.
    image_text_weight: float = 0.06  # InfoNCE between image and text features.
    image_spatial_weight: float = 0.04  # InfoNCE between image and layout features.
    text_spatial_weight: float = 0.04  # InfoNCE between text and layout features.
    criteria_weight: float = 1.0  # Criteria: the one bit of quality teaches new encoders little.
    unimodal_weight: float = 0.0  # Quality of each modality alone: else they lean on the easiest.
    gate_prior_weight: float = 0.0  # KL(GATE_PRIOR, gates): free gates trust what is overfitted.
    preservation_weight: float = 0.1  # Top stage: keep the image and text features it began with.
    head_rate: float = 10.0  # Times the learning rate, for heads on features of unit length.
    backbone_rate: float = 0.2  # Times the learning rate, for the pretrained backbone; 0: frozen.
    modality_dropout: float = 0.1  # How often each of image, text and layout is hidden; <= 1/3.
    label_smoothing: float = 0.02  # Of quality and view.
    focal_gamma: float = 0.0  # Exponent of the focal loss (Lin et al. 2017); 0: cross-entropy.
    class_balanced: bool = False  # Weigh classes by effective number (Cui et al. 2019).
    simulated_ratio: float = 0.0  # Simulated pictures an epoch for each real one; 0: all of them.
    unlabelled_ratio: float = 0.0  # Real ones without a quality label, likewise.
    ema_decay: float = 0.0  # Of the moving average of weights, which is what is saved; 0: none.
    lora_rank: int = 0  # Adapters in place of whole top blocks (Hu et al. 2021); 0: none.
    cached_augmentations: int = 0  # Of a real picture, backbone run once on each; 0: always anew.
    backbone: str = "tf_efficientnet_lite0"  # Image networks of the tower (HybridEmbed).
    pooled: bool = False  # Give the network the backbone's average (SpatialClipConfig.pooled).
    mirrored: bool = False  # Let its backbone see mirror images too (SpatialClipConfig.mirrored).
    clean_fraction: float = 0.0  # Share of draws that show a picture unaugmented, as serving will.
    jpeg_consistency_weight: float = 0.0  # Squared change of logits in a JPEG copy of a clean draw.
    seed: int = 0  # Of weights, order, augmentation and dropout.

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The recipe of stored plain values, by today's names or the stored ones.

        Raises KeyError, TypeError or ValueError where they are none.
        """
        own = {_FIELD_NAMES.get(name, name): value for name, value in values.items()}
        return cls(**own | {"stages": tuple(own["stages"])})

    @classmethod
    def of_run(cls, folder: Path) -> Self:
        """The recipe of the run in `folder`; raises UsageError where none is recorded there."""
        try:
            return cls.from_json(json.loads((folder / "training.json").read_text())["recipe"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{folder} holds no run of SpatialCLIP: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Plain values under the names that run folders and manifests store."""
        return _stored(asdict(self) | {"stages": list(self.stages)})


STORED_NAMES = {
    "simulated_ratio": "simulated",
    "image_text_weight": "image_text",
    "image_spatial_weight": "image_spatial",
    "text_spatial_weight": "text_spatial",
    "criteria_weight": "criteria",
    "unimodal_weight": "alone",
    "gate_prior_weight": "hold_gates",
    "preservation_weight": "preservation",
    "backbone_rate": "stem_rate",
    "label_smoothing": "smoothing",
    "focal_gamma": "focal",
    "class_balanced": "balanced",
    "lora_rank": "lora",
    "cached_augmentations": "sights",
    "clean_fraction": "as_seen",
    "jpeg_consistency_weight": "steady",
}
"""Fields that training.json, checkpoints, plan.json and manifests store by another name: the one
they had up to bundle 1.1, so that its runs still load and resume."""
_FIELD_NAMES = {stored: field for field, stored in STORED_NAMES.items()}


def _stored(values: Mapping[str, Any]) -> dict[str, Any]:
    return {STORED_NAMES.get(name, name): value for name, value in values.items()}


# ----------------------------------------------------- the default bundle, stage by stage


@dataclass(frozen=True, slots=True)
class PhantomSet:
    """A set of simulated pictures (`qc-model phantom`)."""

    count: int  # Pictures.
    seed: int  # Sets of unlike seeds share no picture.
    other_share: float  # Share of pictures of none of the four views.


VERSION = "2.1"
FOLDS = 5
"""Parts of the real pictures' groups, each of which the networks of its fold do not learn from."""

# Simulated pictures, and what is no view.
PHANTOMS_DETECTOR = PhantomSet(count=2800, seed=1, other_share=0.1)
PHANTOMS_SPATIALCLIP = PhantomSet(count=5000, seed=2, other_share=0.12)
PHANTOMS_CALIBRATION = PhantomSet(count=3000, seed=3, other_share=0.1)
PHANTOMS_FOLDS = PhantomSet(count=1800, seed=4, other_share=0.12)
"""SpatialCLIP's stages on real pictures get phantoms that its start has not learnt by heart."""
NEGATIVES = 500
"""Pictures cut and shuffled from real ones, which SpatialCLIP learns as none of the views."""

# What learns from simulations only; the folds and the shipped parts begin with it.
DESCRIBER = DescriberRecipe()
DETECTOR_SIMULATED = DetectorRecipe(
    size=512, epochs=5, lying_fraction=0.5, float32_head=True, mirrored=True
)
"""It begins with YOLO11n of COCO where that file is at hand (make_bundle.sh)."""
SPATIALCLIP_SIMULATED = SpatialClipRecipe(
    epochs=6,
    ema_decay=0.99,
    backbone="tf_efficientnet_lite0+sononet16",
    backbone_rate=0.0,
    cached_augmentations=1,
    pooled=True,
    mirrored=True,
    clean_fraction=0.5,
)
"""Its image networks stay as they come, from photographs and from fetal ultrasound: phantoms teach
them nothing about texture."""
HELD_OUT_SIMULATED = 0.05
"""Share of the simulated groups that these two are validated on."""

# The folds: their detectors are smaller than the shipped one, for there are five and more of them.
DETECTOR_FOLD = DetectorRecipe(
    size=480,
    epochs=12,
    restart=6,
    simulated_ratio=0.3,
    unlabelled_ratio=0.4,
    lying_fraction=0.5,
    float32_head=True,
    mirrored=True,
)

# The shipped parts.
DETECTOR = replace(DETECTOR_FOLD, size=640, epochs=18, restart=12)
SPATIALCLIP = SpatialClipRecipe(
    stages=(2, 12, 4),
    learning_rate=3e-4,
    unimodal_weight=2.0,
    gate_prior_weight=3.0,
    modality_dropout=0.2,
    class_balanced=True,
    simulated_ratio=1.0,
    unlabelled_ratio=0.4,
    ema_decay=0.99,
    backbone="tf_efficientnet_lite0+sononet16",
    cached_augmentations=5,
    pooled=True,
    mirrored=True,
    clean_fraction=0.5,
    jpeg_consistency_weight=1.0,
)
"""Of the folds too, whose figures are to be those of the shipped network's like."""
HELD_OUT = 0.1
"""Share of the groups that the shipped parts are validated on; the real ones also calibrate."""


# ------------------------------------------------------------- what make_bundle.sh types of them

_OPTIONS = {
    "simulated_ratio": "--simulated",
    "unlabelled_ratio": "--unlabelled",
    "lying_fraction": "--lying",
    "ema_decay": "--ema",
}
"""Options of `qc-model` that are not called as their field."""


def _options(values: Any, defaults: Any = None) -> list[str]:
    """The fields as options of `qc-model`, but for those that are as in `defaults`."""
    options: list[str] = []
    for each in fields(values):
        value = getattr(values, each.name)
        if defaults is not None and value == getattr(defaults, each.name):
            continue
        options.append(_OPTIONS.get(each.name, f"--{each.name.replace('_', '-')}"))
        if value is not True:
            options.append(str(value))
    return options


STEPS: Mapping[str, list[str]] = {
    "phantoms-detector": _options(PHANTOMS_DETECTOR),
    "phantoms-spatialclip": _options(PHANTOMS_SPATIALCLIP),
    "phantoms-calibration": _options(PHANTOMS_CALIBRATION),
    "phantoms-folds": _options(PHANTOMS_FOLDS),
    "negatives": ["--count", str(NEGATIVES)],
    "describer": _options(DESCRIBER, DescriberRecipe()),
    "detector-simulated": [
        *_options(DETECTOR_SIMULATED, DetectorRecipe()),
        *("--held-out", str(HELD_OUT_SIMULATED)),
    ],
    "spatialclip-simulated": [
        *_options(SPATIALCLIP_SIMULATED, SpatialClipRecipe()),
        *("--held-out", str(HELD_OUT_SIMULATED)),
    ],
    "detector-real": [
        *_options(DETECTOR, DetectorRecipe()),
        *("--held-out", str(HELD_OUT)),
    ],
    # Its recipe is the folds' (--like), which `qc-model cross-validate` takes from SPATIALCLIP.
    "spatialclip-real": ["--held-out", str(HELD_OUT)],
    "calibrate": ["--version", VERSION, "--held-out", str(HELD_OUT)],
}
"""Options of `qc-model` by step of make_bundle.sh, which is the folder's name under runs/."""


if __name__ == "__main__":
    print(shlex.join(STEPS[sys.argv[1]]))
