"""The published sizes go through the very classes that serve the default bundle."""

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

from detector.vocabulary import LABELS
from detector.yolo import build_network, save_detector
from model import subwords
from model.build import build
from model.describer import Describer
from model.lexicon import NAMES, PLACES
from model.spatialclip import full_config

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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_full_size_bundle_judges_a_picture(tmp_path):
    torch.manual_seed(0)
    yolo11x(tmp_path / "yolo")
    biogpt_347m(tmp_path / "biogpt")
    clip_large(tmp_path / "clip")
    bundle = build(
        tmp_path / "yolo",
        tmp_path / "biogpt",
        tmp_path / "clip",
        tmp_path / "bundle",
        name="full-size",
        version="0",
    )
    for part in ("yolo", "biogpt", "clip"):
        shutil.rmtree(tmp_path / part)

    detector = bundle.detector()
    assert sum(p.numel() for p in detector.network.parameters()) > 56e6
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    found = detector.detect([picture], confidence=0.0)
    del detector
    describer = bundle.describer()
    assert 340e6 < sum(p.numel() for p in describer.model.parameters()) < 355e6
    words = describer.describe_batch([found[0][:2]], [(640, 480)])
    del describer

    model = bundle.spatialclip()
    preprocessor = bundle.preprocessor()
    inputs = preprocessor.batch([preprocessor.letterbox(picture)], words, found, [(640, 480)])
    with torch.inference_mode():
        out = model(**{name: getattr(inputs, name) for name in inputs.__slots__})
    assert out.image.shape == (1, 768)
    assert all(value.isfinite().all() for value in out)
    assert out.gates.sum().item() == pytest.approx(1, abs=1e-5)
