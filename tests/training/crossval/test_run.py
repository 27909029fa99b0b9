"""Cross-validation at the smallest scale: held-out pictures are never learnt from; it resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from detector.anatomy import View
from detector.console import UsageError
from training.bundling import make
from training.crossval.folds import Plan, load_predictions
from training.crossval.run import cross_validate, write_plan
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
    write_plan(plan)
    write_plan(plan)
    for changed, message in (
        (replace(plan, seed=1), "other seed:"),
        (replace(plan, real=real[:2]), "other real pictures:"),
        (replace(plan, unlabelled=real[:2]), "other unlabelled pictures:"),
        (replace(plan, spatialclip=SpatialClipRecipe(stages=(1, 0, 0))), "other spatialclip:"),
    ):
        with pytest.raises(UsageError, match=message):
            write_plan(changed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_real_picture_is_judged_once_by_models_that_did_not_learn_from_it(
    tmp_path: Path,
) -> None:
    simulated = read_samples(write_dataset(tmp_path / "p", 60, 5, progress=False))
    real = [
        replace(s, source="set2_train", origin=Origin.REAL, group=f"real {i}", standard=i % 2 == 0)
        for i, s in enumerate(simulated[:40])
    ]
    unlabelled = [
        replace(s, source="heads", origin=Origin.REAL, group=f"head {i}", standard=None)
        for i, s in enumerate(simulated[40:46])
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
        unlabelled=unlabelled,
    )
    figures = cross_validate(plan, nested=True, leave_styles_out=True, jobs=2)
    styles = figures["looks left out"]
    assert len(styles) >= 2
    assert sum(style["pictures"] for style in styles.values()) == len(real)
    for style in styles.values():
        for key in ("look left out", "fold left out"):
            assert style[key]["standard"] + style[key]["non-standard"] == style["pictures"]
            assert set(style[key]["ablation"]) == set(ABLATIONS)
    for folder in plan.out.glob("look-*"):
        held_out = {
            row["group"]
            for row in json.loads((folder / "spatialclip" / "predictions.json").read_text())
        }
        detector = json.loads((folder / "detector" / "training.json").read_text())
        training = [s for s in real if s.group not in held_out]
        boxed = [*training, *unlabelled, *simulated[40:50]]
        assert detector["training"]["sha256"] == data_hash(boxed)
        clip = json.loads((folder / "spatialclip" / "training.json").read_text())
        judged = [*training, *unlabelled, *simulated[50:]]
        assert clip["training"]["sha256"] == data_hash(judged)
    assert set(figures["ablation"]) == set(ABLATIONS)
    assert set(figures["fold 0, nested and not"]) == {"nested", "not nested"}
    assert json.loads((plan.out / "figures.json").read_text()) == figures
    assert (plan.out / "figures.html").read_text().count("<svg") >= 5
    assert set(figures["alignment by fold"]) == {"fold 0", "fold 1", "fold 2"}
    predictions = load_predictions(plan.out)
    assert sorted(row["group"] for row in predictions) == sorted(s.group for s in real)
    for fold in range(3):
        training, held_out = splits.leave_fold_out([*real, *simulated[50:]], fold, 3, 0)
        facts = json.loads((plan.out / f"spatialclip-{fold}" / "training.json").read_text())
        others, _ = splits.leave_fold_out(unlabelled, fold, 3, 0)
        order = [*training[: -len(simulated[50:])], *others, *simulated[50:]]
        assert facts["training"]["sha256"] == data_hash(order)
        assert {row["group"] for row in predictions if row["fold"] == fold} == {
            s.group for s in held_out
        }
        detector = json.loads((plan.out / f"detector-{fold}" / "training.json").read_text())
        boxed, _ = splits.leave_fold_out([*real, *unlabelled], fold, 3, 0)
        assert detector["training"]["sha256"] == data_hash([*boxed, *simulated[40:50]])
    assert figures["detector"]["unlabelled"]["heads"]["pictures"] == len(unlabelled)
    called = figures["views of unlabelled pictures"]
    assert sum(each["pictures"] for each in called.values()) == len(unlabelled)
    for each in called.values():
        assert sum(share["value"] for share in each["called"].values()) == pytest.approx(1)
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
    views = [s.view for s in real if s.view is not View.OTHER]
    assert facts["metrics"]["calibration"]["all"]["pictures"] == len(views)
    assert facts["cross_validation"]["set 2"]["AUROC"] == figures["set 2"]["AUROC"]
    card = (tmp_path / "bundle" / "MODEL_CARD.md").read_text()
    for text in (
        "3-fold cross-validation",
        "look 2 | look left out",
        "AUROC, fold 0, nested",
        "right view",
        "Too small to be of use.",
    ):
        assert text in card
    before = {p: p.stat().st_mtime_ns for p in plan.out.rglob("weights.safetensors")}
    assert cross_validate(plan, nested=True, leave_styles_out=True) == figures
    assert before == {p: p.stat().st_mtime_ns for p in plan.out.rglob("weights.safetensors")}
