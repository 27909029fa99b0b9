"""Division of samples by group, and into folds."""

from pathlib import Path

from detector.anatomy import View
from training.data.samples import Origin, Sample
from training.data.splits import fold_of, leave_fold_out, split_by_group


def test_held_out_groups_stay_when_pictures_are_added(phantom_samples: list[Sample]) -> None:
    few, many = (
        split_by_group(phantom_samples[:12], 0.5, 0)[1],
        split_by_group(phantom_samples, 0.5, 0)[1],
    )
    assert [s for s in many if s in phantom_samples[:12]] == few
    assert all(s.view in View for s in phantom_samples)


def test_folds_hold_each_real_picture_out_once_and_no_simulated_one(
    phantom_samples: list[Sample],
) -> None:
    real = [
        Sample(Path(f"{i}.png"), True, group=f"group {i // 2}", origin=Origin.REAL)
        for i in range(60)
    ]
    mixed = [*phantom_samples, *real]
    held = [leave_fold_out(mixed, fold, 5, 0)[1] for fold in range(5)]
    assert sorted(str(s.image) for part in held for s in part) == sorted(str(s.image) for s in real)
    for fold, part in enumerate(held):
        training = leave_fold_out(mixed, fold, 5, 0)[0]
        assert {s.group for s in training}.isdisjoint(s.group for s in part)
        assert {fold_of(s, 5, 0) for s in part} <= {fold}
