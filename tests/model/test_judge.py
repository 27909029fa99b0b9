"""Judging a frame with the default bundle: shape of the answer, places, and the review rules."""

from copy import copy
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from detector.anatomy import LABELS, View
from detector.errors import Flag
from detector.frame import Frame, Region
from detector.letterbox import crop
from model.augment import augment
from model.bundle.bundle import Bundle
from model.calibration import Calibration, Scaling
from model.criteria import checks
from model.criteria.rules import MODEL_RULES
from model.criteria.thresholds import ThreeWayThreshold
from model.finding import NON_STANDARD, REVIEW, STANDARD
from model.judge import Judge, RegionPrediction, Thresholds
from model.site.calibrate import calibrate_site
from model.site.site_map import SiteMap
from model.site.use import SiteUse
from tests.support.sites import log_odds_of_site, question, site_samples
from training.phantom import make


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.open(Bundle.open("default"), device="cpu")


@pytest.fixture(scope="module")
def frame() -> Frame:
    phantom = make(77, View.NT, standard=True)
    region = Region(2, phantom.region, (phantom.spacing_mm, phantom.spacing_mm))
    return Frame(1, phantom.pixels, (region,))


@pytest.mark.parametrize("simulated", [True, False])
def test_a_view_without_real_evidence_gets_no_verdict_on_a_real_picture(
    judge: Judge, frame: Frame, simulated: bool
) -> None:
    ungrounded = copy(judge)
    ungrounded.real_views = frozenset({View.HEAD})
    (of_simulated,) = judge.judge(replace(frame, simulated=True))
    (judgement,) = ungrounded.judge(replace(frame, simulated=simulated))
    assert judgement.view is of_simulated.view is View.NT
    assert judgement.probability == of_simulated.probability
    assert (Flag.NO_REAL_EVIDENCE in judgement.flags) is not simulated
    assert judgement.quality == (of_simulated.quality if simulated else REVIEW)


def test_a_head_beyond_the_first_trimester_is_flagged_and_gets_no_verdict(judge: Judge) -> None:
    phantom = make(1, View.HEAD, standard=True)
    for scale, is_beyond in ((1.0, False), (2.0, True)):
        spacing = (scale * phantom.spacing_mm, scale * phantom.spacing_mm)
        region = Region(0, phantom.region, spacing)
        (judgement,) = judge.judge(Frame(1, phantom.pixels, (region,), simulated=True))
        assert judgement.view is View.HEAD
        assert (Flag.BEYOND_FIRST_TRIMESTER in judgement.flags) is is_beyond
        assert judgement.quality == (REVIEW if is_beyond else STANDARD)


def test_without_real_evidence_nothing_fails_for_what_was_not_detected(judge: Judge) -> None:
    phantom = next(
        p for n in range(100) if (p := make(n, View.HEAD)).criteria.get("CRIT-CHOROID") is False
    )
    frame = Frame(1, phantom.pixels, (Region(0, phantom.region),))
    outcomes = {}
    for simulated in (True, False):
        (judgement,) = judge.judge(replace(frame, simulated=simulated))
        assert judgement.view is View.HEAD
        outcomes[simulated] = {each.code: each.met for each in judgement.criteria}
        named = {reason.code for reason in judgement.reasons}
        assert ("CRIT-CHOROID" in named) is simulated
    assert outcomes[True]["CRIT-CHOROID"] is False
    assert outcomes[False]["CRIT-CHOROID"] is None
    assert outcomes[False]["CRIT-SIZE"] is outcomes[True]["CRIT-SIZE"]


def test_the_answer_is_whole(judge: Judge, frame: Frame) -> None:
    (judgement,) = judge.judge(frame)
    rows, columns = frame.pixels.shape[:2]
    assert judgement.region_index == 2
    assert sum(judgement.gates) == pytest.approx(1, abs=1e-5)
    assert [c.code for c in judgement.criteria] == [r.code for r in MODEL_RULES[judgement.view]]
    assert judgement.description
    for detection in judgement.detections:
        x0, y0, x1, y1 = detection.bbox
        assert 0 <= x0 < x1 <= columns
        assert 0 <= y0 < y1 <= rows


def test_the_same_frame_gets_the_same_answer(judge: Judge, frame: Frame) -> None:
    assert judge.judge(frame) == judge.judge(frame)


def test_boxes_stand_in_the_stored_image(judge: Judge, frame: Frame) -> None:
    """A wider canvas around the same region moves the boxes and changes nothing else."""
    rows, columns = frame.pixels.shape[:2]
    canvas = np.zeros((rows + 40, columns + 60, 3), np.uint8)
    canvas[30 : 30 + rows, 50 : 50 + columns] = frame.pixels
    region = frame.regions[0]
    x0, y0, x1, y1 = region.bbox
    moved = replace(region, bbox=(x0 + 50, y0 + 30, x1 + 50, y1 + 30))
    (here,) = judge.judge(frame)
    (there,) = judge.judge(Frame(1, canvas, (moved,)))
    assert there.probability == here.probability
    assert there.description == here.description
    for a, b in zip(here.detections, there.detections, strict=True):
        assert b.bbox == pytest.approx([v + d for v, d in zip(a.bbox, (50, 30) * 2, strict=True)])


def test_each_region_is_judged(judge: Judge, frame: Frame) -> None:
    x0, y0, x1, y1 = frame.regions[0].bbox
    half = Region(5, (x0, y0, (x0 + x1) / 2, y1))
    judgements = judge.judge(replace(frame, regions=(frame.regions[0], half)))
    assert [j.region_index for j in judgements] == [2, 5]


def test_an_empty_picture_is_other_and_review(judge: Judge) -> None:
    black = np.zeros((400, 500, 3), np.uint8)
    (judgement,) = judge.judge(Frame(1, black, (Region(0, (0, 0, 500, 400)),)))
    assert judgement.view is View.OTHER
    assert judgement.quality == REVIEW
    assert judgement.probability is None
    assert judgement.criteria == ()


@pytest.mark.parametrize(
    ("bias", "quality"), [(50.0, STANDARD), (-50.0, NON_STANDARD), (None, REVIEW)]
)
def test_the_label_follows_the_calibrated_probability(
    judge: Judge, frame: Frame, bias: float | None, quality: str
) -> None:
    """Sure calibrations decide; one that says a half for everything leaves it to a person."""
    scaling = Scaling(1.0, bias) if bias is not None else Scaling(1e9, 0.0)
    forced = Judge(
        judge.bundle_id,
        judge.detector,
        judge.describer,
        judge.spatialclip,
        judge.preprocessor,
        Calibration(scaling),
        judge.outlier.with_threshold(float("inf")),
        Thresholds(detection=0.0, view=0.0),
        judge.criteria_thresholds,
    )
    (judgement,) = forced.judge(frame)
    assert judgement.view is not View.OTHER, "the phantom is one of the views"
    assert judgement.quality == quality
    criteria_codes = [r.code for r in judgement.reasons if r.kind == "criterion"]
    if quality == STANDARD:
        assert judgement.reasons == ()
    else:
        unmet = {c.code for c in judgement.criteria if c.met is False}
        assert set(criteria_codes) == unmet
    if quality == NON_STANDARD:
        assert judgement.reasons


@pytest.mark.parametrize(("bias", "quality"), [(50.0, STANDARD), (-50.0, NON_STANDARD)])
def test_verdict_and_criteria_are_one_judgement(
    judge: Judge, frame: Frame, bias: float, quality: str
) -> None:
    """A picture that is just too dark is called so unless the view is called standard; one far too
    dark always is, and then the view is not called standard."""
    for level, is_told in ((0.55, quality == NON_STANDARD), (0.2, True)):
        dark = replace(frame, pixels=(frame.pixels * level).astype(np.uint8))
        forced = copy(judge)
        forced.calibration = Calibration(Scaling(1.0, bias))
        forced.outlier = judge.outlier.with_threshold(float("inf"))
        forced.thresholds = replace(judge.thresholds, view=0.0)
        forced.criteria_thresholds = replace(
            judge.criteria_thresholds,
            measured={View.NT: {"CRIT-GAIN": ThreeWayThreshold(0.2, 0.2, 0.53, 0.53)}},
        )
        (prediction,) = judge.predict([crop(frame, frame.regions[0]).pixels])
        tissue = crop(dark, frame.regions[0])
        judgement = forced.judgement(
            dark, frame.regions[0], tissue, replace(prediction, pixels=tissue.pixels)
        )
        is_contradicted = quality == STANDARD and is_told
        assert judgement.quality == (REVIEW if is_contradicted else quality)
        gain = {c.code: c for c in judgement.criteria}["CRIT-GAIN"]
        assert gain.value is not None
        assert gain.met is (False if is_told else None), gain
        if is_told:
            (reason,) = [r for r in judgement.reasons if r.code == "CRIT-GAIN"]
            assert (reason.direction, reason.words) == (
                "low",
                "gain too low: turn the overall gain up",
            )


def test_a_non_standard_view_without_a_fault_names_what_weighs_most(
    judge: Judge, frame: Frame
) -> None:
    forced = copy(judge)
    forced.calibration = Calibration(Scaling(1.0, -50.0))
    forced.thresholds = replace(judge.thresholds, view=0.0)
    # No criterion can be unmet, and nothing is expected but what was detected.
    forced.criteria_thresholds = checks.CriteriaThresholds(
        detectable=frozenset({"NT"}), presence={}, measured={}
    )
    (judgement,) = forced.judge(replace(frame, simulated=True))
    assert judgement.quality == NON_STANDARD
    assert not [c for c in judgement.criteria if c.met is False]
    (reason,) = judgement.reasons
    assert reason.kind in ("structure", "region")
    assert judgement == forced.judge(replace(frame, simulated=True))[0]


def test_an_outlier_goes_to_review(judge: Judge, frame: Frame) -> None:
    wary = Judge(
        judge.bundle_id,
        judge.detector,
        judge.describer,
        judge.spatialclip,
        judge.preprocessor,
        Calibration(Scaling(1.0, 50.0)),
        judge.outlier.with_threshold(-1e9),
        Thresholds(detection=0.0, view=0.0),
        judge.criteria_thresholds,
    )
    (judgement,) = wary.judge(frame)
    assert judgement.quality == REVIEW
    assert "out-of-distribution" in judgement.flags


@pytest.mark.parametrize(
    "thresholds",
    [Thresholds(detection=1.0, view=0.0), Thresholds(detection=0.0, view=1.0)],
    ids=["no structure of the view was found", "the view is not likely enough"],
)
def test_a_view_with_weak_evidence_is_named_and_goes_to_review(
    judge: Judge, frame: Frame, thresholds: Thresholds
) -> None:
    unsure = Judge(
        judge.bundle_id,
        judge.detector,
        judge.describer,
        judge.spatialclip,
        judge.preprocessor,
        Calibration(Scaling(1.0, 50.0)),
        judge.outlier.with_threshold(float("inf")),
        thresholds,
        judge.criteria_thresholds,
    )
    predictions = unsure.predict([crop(frame, frame.regions[0]).pixels])
    views = {View.OTHER: 0.3, View.NT: 0.5, View.CRL: 0.2}
    (judgement,) = with_views(unsure, predictions, views).judge(frame)
    assert (judgement.view, judgement.quality) == (View.NT, REVIEW)
    assert judgement.probability is not None


def test_other_is_the_view_when_it_is_likelier_than_all_views_together(
    judge: Judge, frame: Frame
) -> None:
    predictions = judge.predict([crop(frame, frame.regions[0]).pixels])
    changed = with_views(judge, predictions, {View.OTHER: 0.5, View.NT: 0.5, View.CRL: 0.0})
    assert changed.judge(frame)[0].view is View.OTHER
    changed = with_views(judge, predictions, {View.OTHER: 0.45, View.NT: 0.4, View.CRL: 0.15})
    assert changed.judge(frame)[0].view is View.NT


def with_views(
    judge: Judge, predictions: list[RegionPrediction], views: dict[View, float]
) -> Judge:
    """The same judge, whose networks see these views in every picture."""
    changed = copy(judge)
    changed.predict = lambda _: [replace(prediction, views=views) for prediction in predictions]  # type: ignore[method-assign]
    return changed


def test_test_time_augmentation_is_off_by_default(judge: Judge, frame: Frame) -> None:
    assert judge.augment == 0
    assert augmented(judge, 0).judge(frame) == judge.judge(frame)


def test_augmentation_averages_the_logits_and_keeps_the_picture_s_own_boxes(
    judge: Judge, frame: Frame
) -> None:
    pixels = crop(frame, frame.regions[0]).pixels
    first, *others = (
        judge.predict([each])[0] for each in (pixels, augment(pixels, 0), augment(pixels, 1))
    )
    (averaged,) = augmented(judge, 2).predict([pixels])
    assert {other.logit for other in others} != {first.logit}
    assert averaged.logit == pytest.approx(np.mean([each.logit for each in (first, *others)]))
    assert sum(averaged.views.values()) == pytest.approx(1)
    odds = [np.log(each.views[View.NT] / each.views[View.CRL]) for each in (first, *others)]
    assert np.log(averaged.views[View.NT] / averaged.views[View.CRL]) == pytest.approx(
        np.mean(odds)
    )
    assert sum(averaged.gates) == pytest.approx(1)
    assert (averaged.detections, averaged.description) == (first.detections, first.description)
    assert averaged.outlier == first.outlier


def augmented(judge: Judge, copies: int) -> Judge:
    """The same judge, averaging over so many augmented copies."""
    changed = copy(judge)
    changed.augment = copies
    return changed


def test_no_structure_of_another_name_is_described(judge: Judge, frame: Frame) -> None:
    (judgement,) = judge.judge(frame)
    detected = {d.label for d in judgement.detections}
    for label in LABELS:
        if label.code not in detected and label.view is not None:
            assert label.meaning not in judgement.description.lower()


def test_a_frame_of_no_ultrasound_gets_no_verdict(judge: Judge, frame: Frame) -> None:
    (usual,) = judge.judge(frame)
    (judgement,) = judge.judge(replace(frame, flags=(Flag.NOT_ULTRASOUND,)))
    assert judgement.quality == REVIEW
    assert {Flag.OUT_OF_DISTRIBUTION, Flag.NOT_ULTRASOUND} <= set(judgement.flags)
    assert judgement.probability == usual.probability


def test_a_frame_coloured_all_over_gets_no_verdict(judge: Judge, frame: Frame) -> None:
    for tint in ((0, 1, 0), (1, 0.7, 0.4), (0.3, 0.6, 1)):
        tinted = (frame.pixels * np.array(tint)).astype(np.uint8)
        (judgement,) = judge.judge(replace(frame, pixels=tinted))
        assert judgement.quality == REVIEW, tint
        assert Flag.OUT_OF_DISTRIBUTION in judgement.flags


def test_the_reader_s_flags_are_passed_on_and_cost_no_verdict(judge: Judge, frame: Frame) -> None:
    (usual,) = judge.judge(frame)
    doubts = (Flag.COLOUR_DOUBTFUL, Flag.MORE_FRAMES_THAN_STATED)
    (judgement,) = judge.judge(replace(frame, flags=doubts))
    assert judgement.quality == usual.quality
    assert judgement.flags == (*usual.flags, *doubts)


def test_a_site_gives_the_probability_and_the_verdict(judge: Judge, frame: Frame) -> None:
    (plain,) = judge.judge(frame)
    assert plain.site is None
    assert plain.probability is not None
    record = calibrate_site(
        site_samples(*log_odds_of_site(np.random.default_rng(0), 150)), question(view=View.NT)
    )
    low = replace(record, kind="unlabelled", map=SiteMap(-7.0, 1.0), thresholds=(0.4, 0.6))
    (judgement,) = judge.judge(frame, SiteUse.of_record(low))
    expected = SiteMap(-7.0, 1.0).log_odds_of(logit(plain.probability))
    assert judgement.probability == pytest.approx(expit(expected), abs=1e-6)
    assert judgement.raw_probability == plain.raw_probability
    assert judgement.site is not None
    assert judgement.site.bundle_probability == plain.probability
    assert judgement.site.shift == -7.0
    assert Flag.NOT_COMMISSIONED not in judgement.flags
    strict = replace(low, map=SiteMap(), thresholds=(0.0, 1.0))
    assert judge.judge(frame, SiteUse.of_record(strict))[0].quality == REVIEW


def test_a_site_without_a_calibration_for_the_view_is_not_commissioned(
    judge: Judge, frame: Frame
) -> None:
    (plain,) = judge.judge(frame)
    record = calibrate_site(
        site_samples(*log_odds_of_site(np.random.default_rng(0), 150)), question(view=View.HEAD)
    )
    for use in (SiteUse("here"), SiteUse("here", (record,)), SiteUse("here", (record,), "machine")):
        (judgement,) = judge.judge(frame, use)
        assert judgement.probability == plain.probability
        assert judgement.quality == plain.quality
        assert Flag.NOT_COMMISSIONED in judgement.flags
        assert judgement.site is not None
        assert (judgement.site.kind, judgement.site.calibration) == ("none", None)
    (waived,) = judge.judge(frame, SiteUse("here", is_waived=True))
    assert Flag.NOT_COMMISSIONED not in waived.flags
