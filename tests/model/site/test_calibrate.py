"""Calibrating made-up sites: what helps, what is left alone and why, and the record of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from detector.anatomy import View
from model.calibration import expected_calibration_error
from model.site.calibrate import calibrate_site
from model.site.record import MIN_OF_VIEW, SiteRecord
from model.site.reference import KEY, Reference
from model.site.reviewed import Groups, left_out_log_odds
from model.site.samples import Samples, SiteSample
from model.site.site_map import SiteMap
from model.site.use import SiteUse
from tests.support.sites import REFERENCE, log_odds_of_site, question, site_samples

SITES = 8


def errors(pictures: int, shift: float, reviews: int) -> tuple[list[float], list[float], list[str]]:
    """Calibration errors before and after at SITES sites, and the kinds of their calibrations."""
    before, after, kinds = [], [], []
    for seed in range(SITES):
        generator = np.random.default_rng(seed)
        s, y = log_odds_of_site(generator, pictures, shift=shift)
        reviewed = set(generator.permutation(pictures)[:reviews].tolist())
        rows = [
            replace(row, is_standard=bool(y[i]) if i in reviewed else None)
            for i, row in enumerate(site_samples(s))
        ]
        record = calibrate_site(rows, question())
        kinds.append(record.kind)
        before.append(expected_calibration_error(expit(s), y))
        after.append(expected_calibration_error(record.map.probability(s), y))
    return before, after, kinds


def test_another_hospital_is_calibrated_without_labels() -> None:
    before, after, kinds = errors(150, 3.0, 0)
    assert set(kinds) == {"unlabelled"}
    assert np.median(before) > 0.12
    assert np.median(after) < 0.06


def test_the_hospital_that_the_bundle_knows_is_left_as_it_is() -> None:
    before, after, kinds = errors(150, 0.0, 0)
    assert set(kinds) == {"unlabelled"}
    assert all(a <= b + 0.01 for b, a in zip(before, after, strict=True))


def test_fifty_reviews_make_it_good() -> None:
    before, after, kinds = errors(150, 3.0, 50)
    assert set(kinds) == {"reviewed"}
    assert np.median(before) > 0.12
    assert np.median(after) < 0.04


@pytest.mark.parametrize(
    ("pictures", "share", "words"),
    [
        (400, 1.0, "not enough to tell"),
        (400, 0.0, "not enough to tell"),
        (20, 0.45, "at least 30"),
    ],
)
def test_a_site_that_tells_too_little_is_left_alone(
    pictures: int, share: float, words: str
) -> None:
    for seed in range(3):
        s, _ = log_odds_of_site(np.random.default_rng(seed), pictures, share=share, shift=2.0)
        record = calibrate_site(site_samples(s), question())
        assert record.kind == "none"
        assert record.map.is_identity
        assert not record.is_calibrated
        assert words in record.reason


def test_pictures_of_few_exams_are_few() -> None:
    s, _ = log_odds_of_site(np.random.default_rng(1), 200)
    rows = [replace(row, exam=i % 20) for i, row in enumerate(site_samples(s))]
    assert "20 exams" in calibrate_site(rows, question()).reason


def test_a_bundle_without_figures_needs_labels() -> None:
    s, y = log_odds_of_site(np.random.default_rng(1), 120, shift=2.0)
    unknown = question(reference=None)
    assert calibrate_site(site_samples(s), unknown).kind == "none"
    assert calibrate_site(site_samples(s, y), unknown).kind == "reviewed"


def test_reviews_of_one_verdict_change_nothing_by_themselves() -> None:
    s, _ = log_odds_of_site(np.random.default_rng(1), 40)
    record = calibrate_site(site_samples(s, np.ones(40)), question(reference=None))
    assert record.kind == "none"
    assert "all of one verdict" in record.reason


def test_reviews_weigh_as_many_findings_as_they_stand_for() -> None:
    s, y = log_odds_of_site(np.random.default_rng(5), 100)
    tilted = [
        replace(row, weight=9.0 if (row.log_odds > 0) != row.is_standard else 1.0)
        for row in site_samples(s, y)
    ]
    plain = calibrate_site(site_samples(s, y), question()).map
    assert calibrate_site(tilted, question()).map.slope < plain.slope


def test_figures_are_of_exams_left_out() -> None:
    s, y = log_odds_of_site(np.random.default_rng(2), 60, shift=3.0)
    record = calibrate_site(site_samples(s, y), question())
    assert record.before is not None
    assert record.after is not None
    assert record.before.reviews == record.after.reviews == 60
    assert record.after.calibration_error.value < record.before.calibration_error.value
    assert record.after.calibration_error.interval is not None
    assert sum(record.after.called) == pytest.approx(1)


def test_figures_are_of_as_many_findings_as_each_review_stands_for() -> None:
    """Nine tenths of the weight lie on reviews that the bundle gets right."""
    s, y = np.r_[np.full(20, 3.0), np.full(20, -3.0)], np.tile([1.0, 0.0], 20)
    rows = [
        replace(row, weight=9.0 if (row.log_odds > 0) == row.is_standard else 1.0)
        for row in site_samples(s, y)
    ]
    before = calibrate_site(rows, question()).before
    assert before is not None
    assert before.accuracy.value == pytest.approx(0.9)
    plain = calibrate_site(site_samples(s, y), question()).before
    assert plain is not None
    assert plain.accuracy.value == pytest.approx(0.5)
    assert sum(before.called) == pytest.approx(1)


def test_views_have_offsets_only_where_both_are_known_well() -> None:
    generator = np.random.default_rng(3)
    s, y = log_odds_of_site(generator, 240)
    rows = [
        replace(row, view=View.HEAD if i % 2 else View.NT, log_odds=row.log_odds - (i % 2))
        for i, row in enumerate(site_samples(s, y))
    ]
    site_map = calibrate_site(rows, question()).map
    assert set(site_map.views) == {View.NT, View.HEAD}
    assert site_map.views[View.HEAD] > site_map.views[View.NT]
    few = [replace(row, view=View.HEAD if i < 20 else View.NT) for i, row in enumerate(rows)]
    assert Groups.of(Samples.of(few)).views == ()


def test_a_fit_that_makes_its_own_figures_worse_says_so() -> None:
    """The bundle is right there; twenty reviews, few of them wrong, pull it away."""
    s, y = log_odds_of_site(np.random.default_rng(4), 20)
    record = calibrate_site(site_samples(s, y), question())
    assert record.kind == "reviewed"
    assert record.makes_worse
    assert record.before is not None
    assert record.after is not None
    assert record.after.is_worse_than(record.before)
    assert not record.before.is_worse_than(record.after)
    assert not record.before.is_worse_than(record.before)
    assert SiteRecord.from_json(json.loads(json.dumps(record.to_json()))).makes_worse


def test_where_one_figure_is_better_it_is_not_worse() -> None:
    s, y = log_odds_of_site(np.random.default_rng(4), 20)
    record = calibrate_site(site_samples(s, y), question())
    assert record.before is not None
    assert record.after is not None
    mixed = replace(record.after, calibration_error=record.before.calibration_error)
    assert not mixed.is_worse_than(record.before)
    mixed = replace(record.after, log_loss=record.before.log_loss)
    assert not mixed.is_worse_than(record.before)


def test_a_fit_that_helps_is_proposed() -> None:
    for seed in range(SITES):
        s, y = log_odds_of_site(np.random.default_rng(seed), 30, shift=3.0)
        assert not calibrate_site(site_samples(s, y), question()).makes_worse


def test_a_record_of_an_earlier_version_has_no_log_loss_and_keeps_its_id() -> None:
    s, y = log_odds_of_site(np.random.default_rng(4), 20)
    record = calibrate_site(site_samples(s, y), question())
    assert record.before is not None
    assert record.after is not None
    earlier = replace(
        record,
        before=replace(record.before, log_loss=None),
        after=replace(record.after, log_loss=None),
    )
    body = json.loads(json.dumps(earlier.to_json()))
    assert "log_loss" not in body["before"]
    assert SiteRecord.from_json(body) == earlier
    assert not earlier.makes_worse


def test_the_record_is_read_back_and_its_id_is_of_its_content() -> None:
    s, y = log_odds_of_site(np.random.default_rng(4), 150)
    record = calibrate_site(site_samples(s, y), question(view=View.NT))
    body = json.loads(json.dumps(record.to_json()))
    assert SiteRecord.from_json(body) == record
    assert SiteRecord.from_json(body).id == record.id
    body["thresholds"] = [0.1, 0.9]
    with pytest.raises(ValueError, match="changed after it was fitted"):
        SiteRecord.from_json(body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema is 2"),
        ({"kind": "guessed"}, "guessed"),
        ({"map": {"bias": 0.0}}, "slope is missing"),
        ({"map": None}, "wrong type"),
        ({"thresholds": [0.9, 0.1]}, "must rise"),
        ({"exams": -1}, "no whole number"),
        ({"note": "x"}, "unknown keys: note"),
        ({"bundle": {"name": "x"}}, "wrong type"),
    ],
)
def test_what_is_no_record_is_refused(change: dict[str, object], words: str) -> None:
    s, _ = log_odds_of_site(np.random.default_rng(4), 40)
    body = calibrate_site(site_samples(s), question()).to_json()
    with pytest.raises(ValueError, match=words):
        SiteRecord.from_json(body | change)


def test_the_same_findings_in_another_order_have_the_same_hash() -> None:
    s, y = log_odds_of_site(np.random.default_rng(4), 40)
    rows = site_samples(s, y)
    assert Samples.of(rows).sha256() == Samples.of(rows[::-1]).sha256()
    assert Samples.of(rows).sha256() != Samples.of(rows[1:]).sha256()


def test_a_reference_is_measured_or_follows_from_the_auroc() -> None:
    assert REFERENCE.distance == pytest.approx(REFERENCE.standard_deviation**2)
    assert not REFERENCE.is_measured
    s, y = log_odds_of_site(np.random.default_rng(0), 2000)
    measured = Reference.from_manifest({KEY: Reference.measure(s, y)})
    assert measured is not None
    assert measured.is_measured
    assert measured.standard_mean == pytest.approx(s[y == 1].mean())
    assert Reference.from_manifest({"metrics": {}}) is None
    with pytest.raises(ValueError, match=KEY):
        Reference.from_manifest({KEY: {"standard": {"mean": 1}}})


def test_no_findings_are_no_site() -> None:
    with pytest.raises(ValueError, match="no findings"):
        calibrate_site([], question())


def test_isotonic_is_taken_where_a_line_cannot_follow() -> None:
    generator = np.random.default_rng(7)
    s = generator.uniform(-6, 6, 2000)
    truth = np.where(np.abs(s) < 4, 0.5, np.where(s > 0, 0.98, 0.02))
    y = (generator.random(2000) < truth).astype(float)
    rows = [SiteSample(str(i), float(v), i, View.NT, None, bool(y[i])) for i, v in enumerate(s)]
    site_map = calibrate_site(rows, question()).map
    assert site_map.knots
    assert np.all(np.diff(site_map.log_odds_of(np.sort(s))) > 0)
    assert expected_calibration_error(site_map.probability(s), y) < expected_calibration_error(
        SiteMap(site_map.bias, site_map.slope).probability(s), y
    )


def test_figures_are_of_the_map_that_is_given() -> None:
    """Steps, not the line that they were chosen before: it says 0.5 for nobody."""
    generator = np.random.default_rng(7)
    s = generator.uniform(-6, 6, 600)
    truth = np.where(np.abs(s) < 4, 0.5, np.where(s > 0, 0.98, 0.02))
    y = (generator.random(600) < truth).astype(float)
    record = calibrate_site(site_samples(s, y), question())
    assert record.map.knots
    assert record.after is not None
    line = left_out_log_odds(Samples.of(site_samples(s, y)), SiteMap())
    assert record.after.calibration_error.value < expected_calibration_error(expit(line), y)


@pytest.mark.parametrize("row", [{"log_odds": float("nan")}, {"weight": 0.0}, {"weight": -1.0}])
def test_what_is_no_number_is_no_finding(row: dict[str, float]) -> None:
    rows = site_samples(np.zeros(40))
    with pytest.raises(ValueError, match=r"no number|above 0"):
        calibrate_site([*rows, replace(rows[0], **row)], question())  # type: ignore[arg-type]


def test_pictures_that_come_twice_are_no_trouble() -> None:
    for seed in range(4):
        generator = np.random.default_rng(seed)
        s, y = log_odds_of_site(generator, 150)
        at = generator.choice(150, 260)
        assert calibrate_site(site_samples(s[at], y[at]), question()).kind == "reviewed"


def test_a_map_of_reviews_alone_says_nothing_of_views_without_reviews() -> None:
    """The log odds of all findings lie in one group, so that only the reviews say anything."""
    generator = np.random.default_rng(0)
    s = generator.normal(0, 1, 120)
    y = (s + generator.normal(0, 1, 120) > 0).astype(float)
    rows = site_samples(s, y)
    heads = [
        replace(row, view=View.HEAD, key=f"head {row.key}", exam=1000 + i, is_standard=None)
        for i, row in enumerate(rows[:40])
    ]
    record = calibrate_site([*rows, *heads], question())
    assert record.kind == "reviewed"
    assert record.share is None
    assert record.is_about(View.NT)
    assert not record.is_about(View.HEAD)
    assert record.findings == 160
    # Where the fit of all findings stands behind it, they count.
    far = np.r_[s[:60] - 3, s[60:] + 3]
    both = [replace(row, log_odds=float(v)) for row, v in zip(rows, far, strict=True)]
    both = [replace(row, is_standard=row.log_odds > 0) for row in both]
    heads = [replace(head, log_odds=row.log_odds) for head, row in zip(heads, both, strict=False)]
    assert calibrate_site([*both, *heads], question()).is_about(View.HEAD)


def test_a_view_that_was_not_fitted_stays_as_the_bundle_has_it() -> None:
    rows = site_samples(log_odds_of_site(np.random.default_rng(0), 150, shift=3.0)[0])
    record = calibrate_site(rows, question())
    assert record.is_calibrated
    assert record.by_view == {View.NT: len(rows)}
    use = SiteUse.of_record(record)
    assert use.applied(View.NT) is record
    assert use.is_commissioned(View.NT)
    assert use.applied(View.HEAD) is None
    assert not use.is_commissioned(View.HEAD)
    assert use.probability(0.3, 0.57, View.HEAD) == 0.57
    few = [*rows, *(replace(row, view=View.HEAD) for row in rows[: MIN_OF_VIEW - 1])]
    assert SiteUse.of_record(calibrate_site(few, question())).applied(View.HEAD) is None
