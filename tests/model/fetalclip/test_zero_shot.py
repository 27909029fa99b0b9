"""Zero-shot classes: prompts averaged as published, rejection, prompt files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from detector.console import UsageError
from model.fetalclip.network import FetalClip
from model.fetalclip.preprocess import TextEncoder, read_vocabulary
from model.fetalclip.prompts import read_prompts, read_templates, require_classes
from model.fetalclip.zero_shot import RejectRule, ZeroShotClassifier
from tests.support.clips import SMALL, random_clip, write_vocabulary

PROMPTS = {"brain": ("a brain", "the head"), "femur": ("a femur",), "other": ("nothing here",)}


@pytest.fixture(scope="module")
def network() -> FetalClip:
    return random_clip(seed=1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    path = write_vocabulary(tmp_path_factory.mktemp("v") / "v.gz")
    return TextEncoder(read_vocabulary(path, SMALL.vocabulary), SMALL)


def test_a_class_is_the_mean_of_its_prompts_unit_vectors(
    network: FetalClip, encoder: TextEncoder
) -> None:
    classifier = ZeroShotClassifier(network, encoder, PROMPTS)
    features = network.text_features(encoder.tokens(PROMPTS["brain"]))
    # The length of a prompt's feature must not weigh it.
    expected = normalize(normalize(features, dim=-1).mean(0), dim=-1)
    assert torch.allclose(classifier.directions[0], expected, atol=1e-6)


def test_probabilities_are_of_100_times_the_cosine(
    network: FetalClip, encoder: TextEncoder
) -> None:
    classifier = ZeroShotClassifier(network, encoder, PROMPTS)
    image = torch.randn(2, SMALL.embed_dim)
    first = classifier.classify(7 * image)[0]
    cosines = normalize(image, dim=-1)[0] @ classifier.directions.T
    expected = (100 * cosines).softmax(0)
    assert list(first.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-5)
    assert first.label == first.closest == list(PROMPTS)[int(cosines.argmax())]
    assert first.cosine == pytest.approx(float(cosines.max()), abs=1e-5)
    assert first.reason is None


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        (RejectRule(), None),
        (RejectRule(min_cosine=0.99), None),
        (RejectRule(classes=frozenset({"femur"})), None),
        (RejectRule(classes=frozenset({"brain"})), "reject-class"),
    ],
)
def test_a_picture_like_a_class_is_named(
    rule: RejectRule, reason: str | None, network: FetalClip, encoder: TextEncoder
) -> None:
    classifier = ZeroShotClassifier(network, encoder, PROMPTS, rule)
    result = classifier.classify(classifier.directions[:1])[0]
    assert result.closest == "brain"
    assert result.reason == reason
    assert result.label == (None if reason else "brain")


def test_a_picture_unlike_all_is_rejected_however_sure_the_softmax_is(
    network: FetalClip, encoder: TextEncoder
) -> None:
    """Upstream has no way to say "none": the nearest class always gets its share."""
    rule = RejectRule(min_cosine=0.2)
    classifier = ZeroShotClassifier(network, encoder, PROMPTS, rule)
    directions = classifier.directions
    # Away from all of them, and from the last two most.
    away = -directions.sum(0) + 0.2 * directions[0]
    result = classifier.classify(away[None])[0]
    assert result.probability == max(result.probabilities.values())
    assert (result.label, result.reason) == (None, "low-similarity")
    sure = RejectRule(min_probability=1.0)
    unsure = ZeroShotClassifier(network, encoder, PROMPTS, sure).classify(directions.mean(0)[None])
    assert unsure[0].reason == "low-probability"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no JSON", "is no file of prompts"),
        ('["a"]', "an object of two classes at least"),
        ('{"a": ["x"]}', "an object of two classes at least"),
        ('{"a": ["x"], "b": []}', "class 'b' has no list of prompts"),
        ('{"a": ["x"], "b": "y"}', "class 'b' has no list of prompts"),
        ('{"a": ["x"], "b": [" "]}', "class 'b' has a prompt that is no text"),
        ('{"a": ["x"], "a": ["y"]}', "class 'a' stands in it twice"),
    ],
)
def test_a_wrong_prompt_file_gives_one_line(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=words) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_a_class_without_prompts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('{"brain": ["x"], "femur": ["y"]}')
    with pytest.raises(UsageError, match="has no prompts for class 'thorax'; it has brain, femur"):
        require_classes(read_prompts(path), ["brain", "thorax"], "prompts.json")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("a head at {weeks} weeks and {day} days", "does not name {pixel_spacing}"),
        ("{weeks} {day} {pixel_spacing} {plane}", "cannot be filled in: 'plane'"),
        ("{weeks} {day} {pixel_spacing", "cannot be filled in"),
        ("{weeks.x} {day} {pixel_spacing}", "cannot be filled in"),
    ],
)
def test_a_wrong_template_gives_one_line(template: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "age.json"
    path.write_text(json.dumps([template]))
    with pytest.raises(UsageError) as caught:
        read_templates(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("form", ["list", "object"])
def test_templates_are_a_list_or_an_objects_only_one(form: str, tmp_path: Path) -> None:
    path = tmp_path / "age.json"
    texts: Any = ["{weeks} weeks {day} days {pixel_spacing} mm"]
    path.write_text(json.dumps(texts if form == "list" else {"brain": texts}))
    assert read_templates(path) == tuple(texts)
