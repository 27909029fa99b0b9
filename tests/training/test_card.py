"""The model card says what the manifest holds, and tells real pictures from simulated ones."""

import json
from typing import Any

import pytest

from model.bundle import locate
from training.card import model_card


@pytest.fixture
def facts() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((locate("default") / "bundle.json").read_text())
    return found


def test_real_pictures_stand_beside_all(facts: dict[str, Any]) -> None:
    facts["metrics"]["detector on real pictures"] = {
        "pictures": 12,
        "map50": {"value": 0.8125, "interval": [0.7, 0.9]},
        "ap50": {"NT": 0.625},
        "boxes": {"NT": 11},
    }
    lines = model_card(facts).splitlines()
    validation = facts["training"]["detector"]["validation"]
    assert any("of these 12 real: 0.812, 0.700 to 0.900" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("| NT | 0."))
    assert row.split(" | ")[1:] == [
        f"{validation['ap50']['NT']:.3f}",
        str(validation["truths"]["NT"]),
        "0.625",
        "11 |",
    ]
    assert any(line.startswith("| CRL |") and "not annotated | 0 |" in line for line in lines)


def test_every_command_that_made_it_is_named(facts: dict[str, Any]) -> None:
    facts["cross_validation"]["command"] = "qc-model cross-validate --out runs/folds"
    card = model_card(facts)
    for part in ("train detector", "train spatialclip", "cross-validate", "calibrate"):
        assert f"    qc-model {part} " in card


def test_a_manifest_without_real_pictures_has_a_card_too(facts: dict[str, Any]) -> None:
    del facts["cross_validation"]
    facts["metrics"]["detector on real pictures"] = None
    card = model_card(facts)
    assert "cross-validation on" not in card
    assert "AP50, real" not in card


def test_who_looks_at_mirror_images_is_told(facts: dict[str, Any]) -> None:
    facts["preprocessing"].pop("mirror images too", None)
    assert "at the mirror image" not in model_card(facts)
    facts["preprocessing"]["mirror images too"] = ["detector", "spatialclip"]
    assert model_card(facts).count("It looks at the mirror image too.") == 2


def test_notes_are_limits(facts: dict[str, Any]) -> None:
    facts["notes"] = ["Its detector is older."]
    card = model_card(facts)
    assert "\n- Its detector is older.\n" in card[card.index("## Limits") :]


def test_the_structures_that_are_hardest_to_find_are_named(facts: dict[str, Any]) -> None:
    facts["cross_validation"]["detector"]["ap50"] = {"TH": 0.99, "NT": 0.75, "NS": 0.61, "MB": 0.98}
    assert "over all boxed pictures: NS 0.61, NT 0.75, MB 0.98." in model_card(facts)
