"""The published sizes go through the very classes that serve the default bundle."""

import resource
import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing
from transformers import (
    BioGptConfig,
    BioGptForCausalLM,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from detector.anatomy import LABELS, View
from detector.frame import Frame, Region
from detector.yolo.yolo import build_network, save_detector
from model.bundle.build import build
from model.describer import tokenizer as subwords
from model.describer.describer import Describer
from model.describer.lexicon import NAMES, PLACES
from model.judge import Judge, Thresholds
from model.spatialclip.network import full_config
from training.data.prepared import prepare
from training.data.samples import read_samples
from training.phantom import make
from training.phantom.dataset import write_dataset
from training.recipes import SpatialClipRecipe
from training.train.spatialclip import train_spatialclip

CODES = tuple(label.code for label in LABELS if label.code != "UNKNOWN")


def yolo11x(folder):
    save_detector(folder, build_network("yolo11x.yaml", len(CODES)), CODES, 640)


def biogpt_347m(folder):
    """BioGptConfig's defaults are BioGPT-347M's."""
    texts = [name for of_label in NAMES.values() for name in of_label] + list(PLACES)
    tokenizer = subwords.train([*texts, "in the , ; : . and"], 500)
    Describer(BioGptForCausalLM(BioGptConfig()).half(), tokenizer).save(folder)


def clip_large(folder):
    """ViT-L/14 as it is published: 77 text positions, token numbers 49406 and 49407."""
    config = full_config().clip
    config["text_config"]["max_position_embeddings"] = 77
    CLIPModel(CLIPConfig(**config)).half().save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.post_processor = TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>",
        special_tokens=[("<|startoftext|>", 49406), ("<|endoftext|>", 49407)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    ).save_pretrained(folder)


def full_size(folder):
    torch.manual_seed(0)
    yolo11x(folder / "yolo")
    biogpt_347m(folder / "biogpt")
    clip_large(folder / "clip")
    bundle = build(
        folder / "yolo",
        folder / "biogpt",
        folder / "clip",
        folder / "bundle",
        name="full-size",
        version="0",
    )
    for part in ("yolo", "biogpt", "clip"):
        shutil.rmtree(folder / part)
    return bundle


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_bundle_judges_and_learns(tmp_path):
    """One picture judged, and one step of each published stage by the loop that trains the default
    bundle, in 24 GB. One test, so that two never stand in memory together."""
    bundle = full_size(tmp_path)
    judge = Judge.open(bundle, device="cpu")
    assert sum(p.numel() for p in judge.detector.network.parameters()) > 56e6
    assert 340e6 < sum(p.numel() for p in judge.describer.model.parameters()) < 355e6
    phantom = make(1, View.NT)
    frame = Frame(1, phantom.pixels, (Region(0, phantom.region),))
    (judgement,) = judge.judge(frame)
    assert sum(judgement.gates) == pytest.approx(1, abs=1e-5)
    (prediction,) = judge.predict([phantom.pixels])
    assert prediction.features.shape == (3, 768)
    assert np.isfinite(prediction.features).all()

    # Seed 6 makes a standard and a non-standard view.
    samples = read_samples(write_dataset(tmp_path / "phantoms", 2, 6, progress=False))
    evidence = prepare(
        samples, judge.detector, judge.describer, judge.preprocessor, thresholds=Thresholds()
    )
    network, preprocessor = judge.spatialclip, judge.preprocessor
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    recipe = SpatialClipRecipe(stages=(1, 1, 1), batch=2)
    facts = train_spatialclip(network, evidence, evidence, preprocessor, tmp_path / "run", recipe)
    assert facts["training"]["images"] == 2
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    vision = "trimodal_clip.clip_model.vision_model.encoder.layers."
    assert {f"{vision}{layer}.mlp.fc1.weight" for layer in range(16, 24)} <= changed
    assert not any(name.startswith(f"{vision}0.") for name in changed)
    assert any(name.startswith("trimodal_clip.clip_model.text_projection") for name in changed)
    assert all(p.isfinite().all() for p in network.parameters())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    print(f"peak {peak:.1f} GiB")
    assert peak < 24
