"""Cross-validation at the smallest scale: nothing judges a picture it has seen, and it resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detector.anatomy import View
from detector.console import UsageError
from training.bundling import make
from training.crossval.folds import Plan, predictions
from training.crossval.run import cross_validate, keep_plan
from training.data import splits
from training.data.samples import Origin, data_hash, read_samples
from training.evaluation.ablation import ABLATIONS
from training.phantom.dataset import write_dataset
from training.recipes import DescriberRecipe, DetectorRecipe, SpatialClipRecipe
from training.train import small_spatialclip
from training.train.describer import fresh
from training.train.detector import train_detector


def test_models_of_another_plan_are_not_mixed_in(tmp_path: Path) -> None:
    pictures = read_samples(write_dataset(tmp_path / "p", 4, 5, progress=False))
    real = [replace(sample, origin=Origin.REAL) for sample in pictures]
    folders = (tmp_path / "describer", tmp_path / "detector", tmp_path / "clip")
    recipes = (DetectorRecipe(), SpatialClipRecipe())
    plan = Plan(tmp_path / "out", real, pictures, pictures, *folders, *recipes)
    keep_plan(plan)
    keep_plan(plan)
    for other, told in (
        (replace(plan, seed=1), "other seed:"),
        (replace(plan, real=real[:2]), "other real pictures:"),
        (replace(plan, spatialclip=SpatialClipRecipe(stages=(1, 0, 0))), "other spatialclip:"),
    ):
        with pytest.raises(UsageError, match=told):
            keep_plan(other)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_real_picture_is_judged_once_by_models_that_never_saw_it(tmp_path: Path) -> None:
    simulated = read_samples(write_dataset(tmp_path / "p", 60, 5, progress=False))
    real = [
        replace(s, source="set2_train", origin=Origin.REAL, group=f"real {i}", standard=i % 2 == 0)
        for i, s in enumerate(simulated[:40])
    ]
    fresh(DescriberRecipe(seed=0, layers=1, hidden=32, heads=2)).save(tmp_path / "describer")
    recipe = DetectorRecipe(size=64, epochs=1, batch=8, warmup_steps=1)
    train_detector(simulated[40:], real[:4], tmp_path / "base", recipe)
    evidence = small_spatialclip.prepare_out_of_fold(
        simulated[40:], [tmp_path / "base"], tmp_path / "describer", tmp_path / "cache", 0
    )
    small_spatialclip.train_small_spatialclip(
        evidence,
        evidence,
        tmp_path / "clip",
        SpatialClipRecipe(epochs=1, batch=8),
        resume=False,
        command="test",
    )
    plan = Plan(
        tmp_path / "out",
        real,
        simulated[40:50],
        simulated[50:],
        tmp_path / "describer",
        tmp_path / "base",
        tmp_path / "clip",
        recipe,
        SpatialClipRecipe(
            stages=(1, 0, 1), batch=8, simulated_ratio=1.0, ema_decay=0.9, cached_augmentations=1
        ),
        folds=3,
    )
    figures = cross_validate(plan, nested=True, looks=True, jobs=2)
    left_out = figures["looks left out"]
    assert len(left_out) >= 2
    assert sum(found["pictures"] for found in left_out.values()) == len(real)
    for found in left_out.values():
        for way in ("look left out", "fold left out"):
            assert found[way]["standard"] + found[way]["non-standard"] == found["pictures"]
            assert set(found[way]["ablation"]) == set(ABLATIONS)
    for folder in plan.out.glob("look-*"):
        unseen = {
            row["group"]
            for row in json.loads((folder / "spatialclip" / "predictions.json").read_text())
        }
        boxed = json.loads((folder / "detector" / "training.json").read_text())
        seen = [s for s in real if s.group not in unseen]
        assert boxed["training"]["sha256"] == data_hash([*seen, *simulated[40:50]])
        clip = json.loads((folder / "spatialclip" / "training.json").read_text())
        assert clip["training"]["sha256"] == data_hash([*seen, *simulated[50:]])
    assert set(figures["ablation"]) == set(ABLATIONS)
    assert set(figures["fold 0, nested and not"]) == {"nested", "not nested"}
    assert json.loads((plan.out / "figures.json").read_text()) == figures
    assert (plan.out / "figures.html").read_text().count("<svg") >= 5
    assert set(figures["alignment by fold"]) == {"fold 0", "fold 1", "fold 2"}
    judged = predictions(plan.out)
    assert sorted(row["group"] for row in judged) == sorted(s.group for s in real)
    for fold in range(3):
        training, held = splits.leave_fold_out([*real, *simulated[50:]], fold, 3, 0)
        facts = json.loads((plan.out / f"spatialclip-{fold}" / "training.json").read_text())
        assert facts["training"]["sha256"] == data_hash(training)
        assert {row["group"] for row in judged if row["fold"] == fold} == {s.group for s in held}
        boxed = json.loads((plan.out / f"detector-{fold}" / "training.json").read_text())
        own, _ = splits.leave_fold_out(real, fold, 3, 0)
        assert boxed["training"]["sha256"] == data_hash([*own, *simulated[40:50]])
    (tmp_path / "describer" / "training.json").write_text("{}")
    facts = make.make_bundle(
        tmp_path / "bundle",
        plan.out / "detector-0",
        tmp_path / "describer",
        plan.out / "spatialclip-0",
        simulated[:20],
        [],
        name="small",
        version="0",
        command="test",
        cross_validation=plan.out,
        notes=["Too small to be of use."],
    )
    seen = [s.view for s in real if s.view is not View.OTHER]
    assert facts["metrics"]["calibration"]["all"]["pictures"] == len(seen)
    assert facts["cross_validation"]["set 2"]["AUROC"] == figures["set 2"]["AUROC"]
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for told in (
        "3-fold cross-validation",
        "look 2 | look left out",
        "AUROC, fold 0, nested",
        "right view",
        "Too small to be of use.",
    ):
        assert told in card
    before = {p: p.stat().st_mtime_ns for p in plan.out.rglob("weights.safetensors")}
    assert cross_validate(plan, nested=True, looks=True) == figures
    assert before == {p: p.stat().st_mtime_ns for p in plan.out.rglob("weights.safetensors")}
