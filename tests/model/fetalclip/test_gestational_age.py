"""Gestational age: the median of the most similar days, growth curves, and no answer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from model.fetalclip import age_prompts
from model.fetalclip import gestational_age as ages
from model.fetalclip.age_prompts import AgePrompts, network_spacing
from model.fetalclip.preprocess import TextEncoder, read_vocabulary
from model.fetalclip.prompts import fill_template
from tests.support.clips import SMALL, random_clip, write_vocabulary

TEMPLATES = (
    "{weeks} weeks {day} days {pixel_spacing} mm",
    "head {pixel_spacing}, {weeks} {day}",
)


def peak(day: float, width: float = 20.0) -> np.ndarray:
    """Similarities that are highest around a day."""
    return 50 - ((ages.DAYS - day) / width) ** 2


def test_the_axis_is_from_14w0d_to_38w6d() -> None:
    assert (ages.in_words(int(ages.DAYS[0])), ages.in_words(int(ages.DAYS[-1]))) == (
        "14w0d",
        "38w6d",
    )
    assert len(ages.DAYS) == 175


def test_the_answer_is_the_median_of_the_fifteen_most_similar_days() -> None:
    similarity = np.zeros(175)
    # An outlier wins the highest similarity and must not win the answer.
    similarity[170] = 99
    similarity[40:54] = 50
    assert ages.median_of_most_similar(similarity[None])[0] == ages.DAYS[47]


@pytest.mark.parametrize("day", [200, 260, 266, 272])
def test_the_last_week_of_the_axis_is_answered(day: int) -> None:
    """Upstream's list of days is shorter than its axis: an index past it at 38w0d and later."""
    median = int(ages.median_of_most_similar(peak(day)[None])[0])
    assert abs(median - min(day, 265)) <= 1


@pytest.mark.parametrize("shape", [(1, 174), (175,), (1, 176)])
def test_another_axis_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="not \\(pictures, 175\\)"):
        ages.median_of_most_similar(np.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        ages.median_of_most_similar(np.full((1, 175), np.nan))


def test_no_answer_below_14_weeks_and_the_reason_is_said() -> None:
    by_head = ages.estimate_age(peak(180), head_circumference_mm=70)
    assert (by_head.days, by_head.reason) == (None, ages.BELOW_14_WEEKS)
    by_date = ages.estimate_age(peak(180), known_days=12 * 7 + 3)
    assert (by_date.days, by_date.reason) == (None, ages.BELOW_14_WEEKS)
    at_floor = ages.estimate_age(peak(112))
    assert (at_floor.days, at_floor.reason) == (None, ages.AT_THE_FLOOR)
    assert at_floor.median_days == 112
    given = ages.estimate_age(peak(180), head_circumference_mm=220)
    assert given.reason is None
    assert given.days is not None
    assert abs(given.days - 180) <= 1
    # A known date weighs more than a measurement.
    assert ages.estimate_age(peak(180), known_days=180, head_circumference_mm=70).days
    assert set(ages.REASONS) == {ages.BELOW_14_WEEKS, ages.AT_THE_FLOOR}


def test_the_growth_curve() -> None:
    # WHO's chart for head circumference: medians in mm at 20 and 30 weeks.
    assert ages.head_circumference([140, 210]) == pytest.approx([175, 280], abs=4)
    days = np.arange(98, 273)
    middle = ages.head_circumference(days)
    assert (np.diff(middle) > 0).all()
    assert (ages.head_circumference(days, 2.5) < middle).all()
    assert ages.median_age(middle) == pytest.approx(days, abs=0.02)
    assert ages.is_plausible([175, 175], [140, 100]).tolist() == [True, False]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    path = write_vocabulary(tmp_path_factory.mktemp("v") / "v.gz")
    return TextEncoder(read_vocabulary(path, SMALL.vocabulary), SMALL)


def test_similarity_is_the_mean_over_templates(encoder: TextEncoder) -> None:
    network = random_clip(seed=2)
    prompts = AgePrompts(network, encoder, TEMPLATES)
    image = torch.randn(2, SMALL.embed_dim)
    days = (0, 70, 174)
    expected = np.zeros((2, len(days)))
    for template in TEMPLATES:
        texts = [fill_template(template, int(ages.DAYS[day]), 0.43) for day in days]
        features = normalize(network.text_features(encoder.tokens(texts)), dim=-1)
        expected += (100 * normalize(image, dim=-1) @ features.T).numpy() / len(TEMPLATES)
    similarity = prompts.similarity(image, 0.4321)
    assert similarity.shape == (2, 175)
    assert similarity[:, days] == pytest.approx(expected, abs=1e-3)


def test_prompts_of_a_spacing_are_encoded_once(
    encoder: TextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Upstream encodes 875 prompts for each picture."""
    network = random_clip(seed=2)
    texts = 0
    encode = network.text_features

    def counted(tokens: torch.Tensor) -> torch.Tensor:
        nonlocal texts
        texts += len(tokens)
        return encode(tokens)

    monkeypatch.setattr(network, "text_features", counted)
    prompts = AgePrompts(network, encoder, TEMPLATES[:1], tmp_path / "cache", "weights")
    image = torch.randn(1, SMALL.embed_dim)
    first = prompts.similarity(image, 0.301)
    assert texts == 175
    prompts.similarity(image, 0.304)
    assert texts == 175
    prompts.similarity(image, 0.31)
    assert texts == 350
    again = AgePrompts(network, encoder, TEMPLATES[:1], tmp_path / "cache", "weights")
    assert np.array_equal(again.similarity(image, 0.3), first)
    assert texts == 350
    AgePrompts(network, encoder, TEMPLATES[:1], tmp_path / "cache", "others").directions(0.3)
    assert texts == 525


def test_templates_are_filled_with_two_decimals() -> None:
    assert fill_template(TEMPLATES[0], 101, 0.4) == "14 weeks 3 days 0.40 mm"
    assert fill_template("{pixel_spacing:.3f}", 101, 0.4) == "0.400"


def test_the_networks_pixel_is_of_the_longer_side() -> None:
    assert network_spacing(800, 540, 0.1, 224) == pytest.approx(0.357, abs=1e-3)
    assert age_prompts.DAYS is ages.DAYS
