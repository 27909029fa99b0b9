"""The division into training and validation, and into folds, by group."""

from pathlib import Path

from training.data.samples import Origin, Sample
from training.data.splits import fold_of, leave_fold_out, split_by_group


def samples(count: int, origin: Origin, pictures_per_group: int = 1) -> list[Sample]:
    return [
        Sample(
            Path(f"{origin}-{i}.png"),
            True,
            group=f"{origin} group {i // pictures_per_group}",
            origin=origin,
        )
        for i in range(count)
    ]


def test_held_out_groups_do_not_change_when_pictures_join() -> None:
    many = samples(60, Origin.SIMULATED)
    few = many[:20]
    held_out = split_by_group(few, 0.5, 0)[1]
    assert 0 < len(held_out) < len(few)
    assert [s for s in split_by_group(many, 0.5, 0)[1] if s in few] == held_out


def test_the_folds_hold_each_real_picture_out_once_and_no_simulated_one() -> None:
    real = samples(60, Origin.REAL, pictures_per_group=2)
    mixed = [*samples(24, Origin.SIMULATED), *real]
    parts = [leave_fold_out(mixed, fold, 5, 0) for fold in range(5)]
    held_out = [str(s.image) for _, part in parts for s in part]
    assert sorted(held_out) == sorted(str(s.image) for s in real)
    for fold, (training, part) in enumerate(parts):
        assert {s.group for s in training}.isdisjoint(s.group for s in part)
        assert {fold_of(s, 5, 0) for s in part} <= {fold}
