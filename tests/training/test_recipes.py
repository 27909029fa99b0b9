"""The recipes say what made the shipped bundle, and old runs' recipes are still read."""

import json
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

import training
from detector.console import UsageError
from model.bundle.bundle import MANIFEST, locate
from training import recipes
from training.recipes import (
    STEPS,
    STORED_NAMES,
    DescriberRecipe,
    DetectorRecipe,
    SpatialClipRecipe,
)

SCRIPT = (Path(training.__file__).parent / "make_bundle.sh").read_text()


@pytest.fixture(scope="module")
def manifest() -> Any:
    return json.loads((locate("default") / MANIFEST).read_text())


def test_recipes_are_those_that_the_shipped_manifest_records(manifest: Any) -> None:
    trained = manifest["training"]
    assert asdict(recipes.DESCRIBER) == trained["describer"]["settings"]
    # What a recipe has learnt to say since then had its default.
    for recipe, part in ((recipes.DETECTOR, "detector"), (recipes.SPATIALCLIP, "spatialclip")):
        assert recipe.to_json() == type(recipe)().to_json() | trained[part]["recipe"]
    assert SpatialClipRecipe.from_json(trained["spatialclip"]["recipe"]) == recipes.SPATIALCLIP
    assert manifest["version"] == recipes.VERSION
    assert manifest["cross_validation"]["folds"] == recipes.FOLDS


@pytest.mark.parametrize(
    ("step", "part"),
    [
        ("detector-real", "detector"),
        ("spatialclip-real", "spatialclip"),
        ("calibrate", "calibration"),
    ],
)
def test_options_are_those_of_the_commands_that_the_shipped_manifest_records(
    manifest: Any, step: str, part: str
) -> None:
    command = manifest["training"][part]["command"] + " "
    for option in re.findall(r"--\S+(?: [^-\s]\S*)?", " ".join(STEPS[step])):
        assert f" {option} " in command


def test_the_script_states_no_recipe_and_asks_for_every_step() -> None:
    steps = re.findall(r"^(?:recipe|phantoms) (\S+)$", SCRIPT, re.MULTILINE)
    assert sorted(steps) == sorted(STEPS)
    values = [option for step in STEPS.values() for option in step if option.startswith("--")]
    assert not set(values) & set(SCRIPT.split())


def test_a_recipe_is_stored_by_the_names_of_bundle_1_1_and_read_by_these_and_today_s(
    tmp_path: Path,
) -> None:
    recipe = SpatialClipRecipe(stages=(1, 2, 3), unimodal_weight=0.7, class_balanced=True)
    stored = recipe.to_json()
    assert stored["alone"] == 0.7
    assert "unimodal_weight" not in stored
    for written in (stored, asdict(recipe)):
        (tmp_path / "training.json").write_text(json.dumps({"recipe": written}))
        assert SpatialClipRecipe.of_run(tmp_path) == recipe


def test_a_run_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """As 1.0 wrote it."""
    written = {
        "epochs": 16,
        "stages": [2, 12, 4],
        "batch": 64,
        "learning_rate": 0.0003,
        "weight_decay": 0.05,
        "warmup": 0.05,
        "image_text": 0.06,
        "image_spatial": 0.04,
        "text_spatial": 0.04,
        "criteria": 1.0,
        "alone": 2.0,
        "hold_gates": 3.0,
        "preservation": 0.1,
        "head_rate": 10.0,
        "stem_rate": 0.2,
        "modality_dropout": 0.2,
        "smoothing": 0.02,
        "focal": 0.0,
        "balanced": True,
        "simulated": 1.0,
        "ema_decay": 0.99,
        "lora": 0,
        "sights": 10,
        "pooled": True,
        "mirrored": True,
        "as_seen": 0.5,
        "steady": 1.0,
        "seed": 0,
    }
    (tmp_path / "training.json").write_text(json.dumps({"recipe": written}))
    recipe = SpatialClipRecipe.of_run(tmp_path)
    assert recipe == SpatialClipRecipe(
        stages=(2, 12, 4),
        learning_rate=3e-4,
        unimodal_weight=2.0,
        gate_prior_weight=3.0,
        modality_dropout=0.2,
        class_balanced=True,
        simulated_ratio=1.0,
        ema_decay=0.99,
        cached_augmentations=10,
        pooled=True,
        mirrored=True,
        clean_fraction=0.5,
        jpeg_consistency_weight=1.0,
    )
    today = recipe.to_json()
    assert [(name, today[name]) for name in today if name in written] == list(written.items())


@pytest.mark.parametrize(
    "broken", ["{}", "no json", '{"recipe": []}', '{"recipe": {"stages": [1, 2, 3], "colour": 1}}']
)
def test_a_folder_without_a_recipe_is_refused(tmp_path: Path, broken: str) -> None:
    (tmp_path / "training.json").write_text(broken)
    with pytest.raises(UsageError, match="holds no run"):
        SpatialClipRecipe.of_run(tmp_path)


def test_every_stored_name_is_of_a_field() -> None:
    names = {f.name for kind in (DetectorRecipe, SpatialClipRecipe) for f in fields(kind)}
    assert set(STORED_NAMES) <= names
    assert not set(STORED_NAMES.values()) & names


def test_every_recipe_field_has_its_comment_on_its_line() -> None:
    source = Path(recipes.__file__).read_text()
    for kind in (DescriberRecipe, DetectorRecipe, SpatialClipRecipe, recipes.PhantomSet):
        body = source.partition(f"class {kind.__name__}:")[2].partition("\n    @")[0]
        for each in fields(kind):
            assert re.search(rf"^    {each.name}: .*  # .*\.$", body, re.MULTILINE), each.name
