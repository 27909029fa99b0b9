"""The model card says what the manifest holds, and tells real pictures from simulated ones."""

import json
from typing import Any

import pytest

from model.bundle.bundle import locate
from training.bundling.model_card import model_card
from training.evaluation.summary import FAULT_NAMED, UNMET_ON_STANDARD


@pytest.fixture
def facts() -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((locate("default") / "bundle.json").read_text())
    return manifest


def test_real_pictures_stand_beside_all(facts: dict[str, Any]) -> None:
    facts["metrics"]["detector on real pictures"] = {
        "pictures": 12,
        "map50": {"value": 0.8125, "interval": [0.7, 0.9]},
        "ap50": {"NT": 0.625},
        "boxes": {"NT": 11},
    }
    lines = model_card(facts).splitlines()
    validation = facts["training"]["detector"]["validation"]
    figures = "; on the 12 real boxed ones given to calibrate on: 0.812, 0.700 to 0.900"
    assert any(figures in line for line in lines)
    (row,) = (line for line in lines if line.startswith("| NT | 0."))
    assert row.split(" | ")[1:] == [
        f"{validation['ap50']['NT']:.3f}",
        str(validation["truths"]["NT"]),
        "0.625",
        "11 |",
    ]
    assert any(line.startswith("| CRL |") and "not annotated | 0 |" in line for line in lines)


def test_the_card_has_every_command(facts: dict[str, Any]) -> None:
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


def test_the_card_says_which_part_sees_mirror_images(facts: dict[str, Any]) -> None:
    facts["preprocessing"].pop("mirror images too", None)
    assert "at the mirror image" not in model_card(facts)
    facts["preprocessing"]["mirror images too"] = ["detector", "spatialclip"]
    assert model_card(facts).count("It looks at the mirror image too.") == 2


ROW = {
    "dataset": "",
    "source": "clinic",
    "origin": "real",
    "view": "CRL",
    "standard": 30,
    "non-standard": 12,
    "groups": 40,
    "hospitals": 2,
    "boxed": 42,
    "boxed non-standard": 12,
}
PHANTOMS = ROW | {
    "dataset": "phantoms of qc-model",
    "source": "ph",
    "origin": "simulated",
    "view": "NT",
    "hospitals": 0,
}


@pytest.fixture
def own(facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a bundle of other data, each part's counted."""
    del facts["cross_validation"]
    facts |= {"notes": [], "real_views": ["CRL"]}
    training = facts["training"]
    for part in ("detector", "spatialclip"):
        training[part]["start"] = None
        training[part]["training"]["data"] = [ROW, PHANTOMS]
        training[part]["command"] = f"qc-model train {part} --samples clinic/samples.json"
    training["detector"]["validation"]["data"] = [ROW]
    training["spatialclip"]["validation data"] = [ROW]
    training["calibration"] = {
        "command": "qc-model calibrate --samples clinic/held-out.json",
        "data": [ROW],
        "criteria data": [],
        "other ultrasound files": 0,
        "learnt from": 0,
    }
    return facts


def test_the_card_of_other_data_does_not_mention_the_shipped_data(own: dict[str, Any]) -> None:
    card = model_card(own)
    for absent in (
        "Fetus Framework",
        "Cui",
        "set 1",
        "set 2",
        "one hospital",
        "other ultrasound f",
    ):
        assert absent not in card, absent
    assert "**Only CRL has learnt from real pictures, of 1 part of 1 data set (clinic)." in card
    assert (
        "| detector, learnt from | not named | clinic | real | CRL | 30 | 12 | 0 | 40 | 2 |" in card
    )
    assert "| ph | simulated | NT | 30 | 12 | 0 | 40 | not named |" in card
    assert "Calibration pictures: 42 real (30 standard)." in card
    assert "a part learnt from none" in card
    assert "Only standard real pictures are boxed" not in card


def test_the_card_says_what_was_not_recorded(own: dict[str, Any]) -> None:
    del own["training"]["detector"]["training"]["data"]
    own["training"]["calibration"]["learnt from"] = None
    card = model_card(own)
    assert "not all recorded" in card
    assert "| detector, learnt from | not recorded: trained by an earlier version |" in card
    assert "Whether a part learnt from some of them was not recorded." in card


def test_pictures_without_a_label_are_counted_and_their_views_told(own: dict[str, Any]) -> None:
    heads = ROW | {"view": "HEAD", "standard": 0, "non-standard": 0, "unlabelled": 98}
    own["training"]["detector"]["training"]["data"] = [ROW, PHANTOMS, heads]
    share = {"value": 0.9, "interval": [0.83, 0.95]}
    views = {"HEAD": share} | {view: {"value": 0.025} for view in ("NT", "CRL", "ABDOMEN", "OTHER")}
    own["cross_validation"] = json.loads((locate("default") / "bundle.json").read_text())[
        "cross_validation"
    ]
    own["cross_validation"]["views of unlabelled pictures"] = {
        "hc18_heads, HEAD": {"pictures": 98, "called": views, "called standard": {"value": 0.0}}
    }
    own["cross_validation"]["detector"]["unlabelled"] = {
        "hc18_heads": {"map50": {"value": 0.9}, "ap50": {"CB": 0.95}, "boxes": {"CB": 863}}
    }
    own["view prior"] = {"log odds of HEAD": 2.0}
    card = model_card(own)
    assert "| real | HEAD | 0 | 0 | 98 | 40 | 2 |" in card
    assert "98 heads of 14w0d or less, called HEAD 0.900 (0.830 to 0.950)" in card
    assert "| hc18_heads, HEAD | 98 | 0.900 | 0.025 | 0.025 | 0.025 | 0.025 | 0.000 |" in card
    assert "| hc18_heads | CB | 0.950 | 863 |" in card
    assert "(by 7.4 in this" in card


def test_what_a_part_began_with_counts_as_learnt(own: dict[str, Any]) -> None:
    clip = own["training"]["spatialclip"]
    clip |= {"start": "0" * 64, "start data": [ROW | {"view": "HEAD", "source": "first"}]}
    card = model_card(own)
    assert "Only HEAD, CRL have learnt from real pictures, of 2 parts of 2 data sets" in card
    assert "| SpatialCLIP, began with a model of | not named | first | real | HEAD |" in card


def test_the_card_counts_real_pictures_of_no_view(own: dict[str, Any]) -> None:
    for part in ("detector", "spatialclip"):
        own["training"][part]["training"]["data"] = [PHANTOMS, ROW | {"view": "not told"}]
    note = "**Trained on simulations, and on 84 real pictures that show or name none of the views."
    assert note in model_card(own)
    for part in ("detector", "spatialclip"):
        own["training"][part]["training"]["data"] = [PHANTOMS]
    assert "**Trained on simulations. " in model_card(own)


def test_the_named_data_set_is_cited_where_it_was_used(own: dict[str, Any]) -> None:
    own["training"]["detector"]["training"]["data"].append(ROW | {"dataset": "Fetus Framework"})
    assert "doi:10.17632/n2rbrb9t4f.1" in model_card(own)


def test_the_card_says_that_calibration_pictures_were_learnt_from(own: dict[str, Any]) -> None:
    own["training"]["calibration"]["learnt from"] = 42
    assert "a part learnt from 42." in model_card(own)


def test_notes_are_limits(facts: dict[str, Any]) -> None:
    facts["notes"] = ["Its detector is older."]
    card = model_card(facts)
    assert "\n- Its detector is older.\n" in card[card.index("## Limits") :]


def test_the_structures_that_are_hardest_to_find_are_named(facts: dict[str, Any]) -> None:
    facts["cross_validation"]["detector"]["ap50"] = {"TH": 0.99, "NT": 0.75, "NS": 0.61, "MB": 0.98}
    assert "over all boxed pictures: NS 0.61, NT 0.75, MB 0.98." in model_card(facts)


def test_the_card_says_how_criteria_fit_real_pictures(facts: dict[str, Any]) -> None:
    del facts["metrics"]["criteria on real pictures"]
    assert "Criteria of the truly standard ones" not in model_card(facts)
    shares = {"met": 0.9, "not met": 0.02, "undecided": 0.08}
    facts["metrics"]["criteria on real pictures"] = {
        "look 1 left out": {
            UNMET_ON_STANDARD: {"value": 0.031, "interval": [0.0, 0.1]},
            FAULT_NAMED: {"value": 0.97, "interval": [0.9, 1.0]},
            "criteria": {"CRIT-NASAL": {"standard": shares}},
        }
    }
    lines = model_card(facts).splitlines()
    assert "| look 1 left out | 0.031 | 0.970 |" in lines
    assert "| look 1 left out | CRIT-NASAL | 0.900 | 0.020 | 0.080 |" in lines
