"""FetalCLIP's published figures from its published outputs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detector.console import UsageError
from training.evaluation.fetalclip_figures import age_figures, published_figures


@pytest.fixture(scope="module")
def result(shared_data: Path) -> dict[str, Any]:
    return published_figures(shared_data / "fetalclip_ga")


def test_the_valid_rate_of_hc18_is_the_published_one(result: dict[str, Any]) -> None:
    validity = result["gestational age"]["validity"]
    assert (validity["hits"], validity["pictures"]) == (679, 814)
    assert f"{validity['value']:.4f}" == "0.8342"
    assert [f"{each:.4f}" for each in validity["interval"]] == ["0.8096", "0.8587"]
    difference = result["gestational age"]["difference in days"]
    assert difference["mean absolute"] == pytest.approx(7.7, abs=0.05)
    assert difference["median absolute"] == pytest.approx(4.6, abs=0.05)
    assert difference["bias"] == pytest.approx(4.2, abs=0.05)
    assert difference["95th centile"] == pytest.approx(25, abs=0.5)


def test_macro_f1_of_planes_is_the_published_one(result: dict[str, Any]) -> None:
    planes, brain = result["planes"], result["brain planes"]
    assert f"{planes['macro F1']['value']:.4f}" == "0.9727"
    assert planes["pictures"] == 8187
    classes = {name: round(each["F1"], 3) for name, each in planes["by class"].items()}
    assert classes == {
        "abdomen": 0.935, "brain": 0.981, "femur": 0.994, "heart": 0.967, "cervix": 0.987,
    }  # fmt: skip
    assert f"{brain['macro F1']['value']:.4f}" == "0.6929"
    notes = {figure["name"]: figure["note"] for figure in result["figures"]}
    assert "86 pictures go to the 4 others" in notes["five planes, macro-F1"]
    # What the note says of the table's 70.15 holds.
    low, high = brain["macro F1"]["interval"]
    assert low < 0.7015 < high
    means = ("macro F1", "macro precision", "macro recall", "accuracy", "weighted F1")
    assert all(abs(brain[name]["value"] - 0.7015) > 0.005 for name in means)


def test_first_trimester_heads_are_not_answered(result: dict[str, Any]) -> None:
    """What the published rate leaves out: below 100 mm no answer is valid, all are too high."""
    first = result["gestational age"]["by head circumference"][0]
    assert first["mm"] == [0, 100]
    assert first["pictures"] == 184
    assert first["value"] == 0
    assert first["bias"] == pytest.approx(31, abs=0.5)
    abstention = result["gestational age"]["abstention"]
    assert abstention["below 14 weeks by median curve, not answered"]["value"] > 0.95
    assert abstention["100 to 342 mm, not answered"]["value"] < 0.06
    assert abstention["100 to 342 mm, valid where answered"]["value"] > 0.8342


def test_figures_follow_the_data() -> None:
    """Ages that fit their heads are all valid; shifted by eight weeks none is."""
    from model.fetalclip import gestational_age as ages

    days = np.array([150, 180, 210, 240])
    similarity = -np.abs(ages.DAYS[None] - days[:, None]).astype(float)
    heads = ages.head_circumference(days)
    assert age_figures(heads, similarity)["validity"]["value"] == 1
    late = ages.head_circumference(np.minimum(days + 56, 270))
    assert age_figures(late, similarity)["validity"]["value"] == 0


@pytest.mark.parametrize("name", ["hc18_similarity.npz", "test_five_planes_prediction.json"])
@pytest.mark.parametrize("content", [None, b"{}"])
def test_a_missing_or_foreign_file_is_named(
    name: str, content: bytes | None, shared_data: Path, tmp_path: Path
) -> None:
    for path in (shared_data / "fetalclip_ga").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=name) as caught:
        published_figures(tmp_path)
    assert "\n" not in str(caught.value)


def test_unlike_lists_are_refused(shared_data: Path, tmp_path: Path) -> None:
    for path in (shared_data / "fetalclip_ga").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    lists = {"label": ["a", "b"], "prediction": ["a"]}
    (tmp_path / "test_brain_subplanes_prediction.json").write_text(json.dumps(lists))
    with pytest.raises(UsageError, match="as many labels as predictions"):
        published_figures(tmp_path)
