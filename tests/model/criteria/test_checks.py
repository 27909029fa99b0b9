import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from model.criteria.checks import (
    CHECKS,
    CriteriaThresholds,
    expected_structures,
    failures,
    judge,
)
from model.criteria.rules import FOR_A_PERSON, MODEL_RULES, RULES
from model.criteria.sonogram import Sonogram
from model.criteria.thresholds import ThreeWayThreshold

WIDTH, HEIGHT = 400, 300
VIEWS = [view for view in View if view is not View.OTHER]


def speckle(level=0.35, sigma=0.0, seed=0):
    """A picture full of speckle with a few dark lakes; `sigma` blurs it."""
    import cv2

    rng = np.random.default_rng(seed)
    real = cv2.GaussianBlur(rng.standard_normal((2, HEIGHT, WIDTH))[0], (0, 0), 1.0)
    imaginary = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH)), (0, 0), 1.0)
    grey = np.hypot(real, imaginary)
    grey *= level / np.percentile(cv2.GaussianBlur(grey, (0, 0), 3), 90)
    for x in (80, 200, 320):
        cv2.circle(grey, (x, 150), 25, 0.05 * level, -1)
    if sigma:
        grey = cv2.GaussianBlur(grey, (0, 0), sigma)
    return np.repeat(np.clip(grey * 255, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def verdicts(view, detections, pixels=None, thresholds=None):
    pixels = speckle() if pixels is None else pixels
    criteria = judge(view, detections, WIDTH, HEIGHT, pixels, thresholds or CriteriaThresholds())
    return {criterion.code: criterion for criterion in criteria}


def head(**boxes):
    """A standard head; a keyword replaces a box, or takes it out with None."""
    placed = {
        "CB": (100, 40, 300, 260),
        "CP1": (120, 100, 190, 200),
        "CP2": (210, 100, 280, 200),
        "CF": (196, 50, 204, 250),
    } | boxes
    return [Detection(code, box, 0.9) for code, box in placed.items() if box]


def abdomen(*codes):
    boxes = {
        "AS": (120, 60, 300, 240),
        "S": (230, 130, 270, 160),
        "UC": (190, 20, 240, 60),
        "UI": (195, 50, 225, 75),
    }
    return [Detection(code, boxes[code], 0.9) for code in codes]


@pytest.mark.parametrize("view", View)
def test_one_outcome_for_each_rule_in_order(view):
    codes = [c.code for c in judge(view, [], 400, 300, speckle(), CriteriaThresholds())]
    assert codes == [rule.code for rule in MODEL_RULES[view]]
    assert set(CHECKS[view]) == set(codes)


@pytest.mark.parametrize("view", VIEWS)
def test_without_detections_only_the_pixels_are_judged(view):
    outcomes = verdicts(view, [])
    assert {code for code, c in outcomes.items() if c.met is not None} <= {
        "CRIT-GAIN",
        "CRIT-FOCUS",
    }
    assert all(c.evidence == () for c in outcomes.values())


def test_standard_head():
    outcomes = verdicts(View.HEAD, head())
    for code in ("CRIT-SKULL", "CRIT-FALX", "CRIT-CHOROID", "CRIT-SIZE", "CRIT-COMPLETE"):
        assert outcomes[code].met is True, code
    assert outcomes["CRIT-CHOROID"].evidence == ("CP1", "CP2")
    assert outcomes["CRIT-FALX"].evidence == ("CF", "CB")
    assert outcomes["CRIT-SIZE"].value == pytest.approx(220 / 300)


def test_falx_off_the_middle():
    outcomes = verdicts(View.HEAD, head(CF=(236, 50, 244, 250)))
    assert outcomes["CRIT-FALX"].met is False
    assert outcomes["CRIT-FALX"].value == pytest.approx(0.2)


def test_small_head():
    small = [Detection("CB", (150, 110, 220, 190), 0.9)]
    assert verdicts(View.HEAD, small)["CRIT-SIZE"].met is False


def test_section_at_the_edge_is_not_complete():
    at_edge = [Detection("AS", (230, 60, 404, 240), 0.9), *abdomen("UC", "UI")]
    outcomes = verdicts(View.ABDOMEN, at_edge)
    assert outcomes["CRIT-COMPLETE"].met is False
    assert outcomes["CRIT-OUTLINE"].met is False
    inside = verdicts(View.ABDOMEN, abdomen("AS", "UC", "UI"))
    assert inside["CRIT-COMPLETE"].met is True
    assert inside["CRIT-OUTLINE"].met is True


def test_missing_structure_of_a_sure_view():
    outcomes = verdicts(View.HEAD, head(CP2=None))
    assert outcomes["CRIT-CHOROID"].met is False
    assert outcomes["CRIT-CHOROID"].value == 0
    assert outcomes["CRIT-CHOROID"].evidence == ("CP1",)


def test_a_missing_structure_of_an_unsure_view_is_cannot_tell():
    weak = [Detection("CB", (100, 40, 300, 260), 0.4)]
    assert verdicts(View.HEAD, weak)["CRIT-CHOROID"].met is None


def test_a_missing_structure_the_detector_does_not_know_is_cannot_tell():
    detectable = frozenset({"CB", "CF", "CP1"})
    thresholds = CriteriaThresholds(detectable=detectable)
    outcomes = verdicts(View.HEAD, head(CP2=None), thresholds=thresholds)
    assert outcomes["CRIT-CHOROID"].met is None
    assert verdicts(View.HEAD, head(CF=None), thresholds=thresholds)["CRIT-FALX"].met is False


def test_a_faint_structure_is_cannot_tell():
    faint = [*abdomen("AS", "UC", "UI"), Detection("S", (230, 130, 270, 160), 0.28)]
    assert verdicts(View.ABDOMEN, faint)["CRIT-STOMACH"].met is None


def test_either_cord_label_shows_the_cord():
    assert verdicts(View.ABDOMEN, abdomen("AS", "S", "UI"))["CRIT-CORD"].met is True
    assert verdicts(View.ABDOMEN, abdomen("AS", "S"))["CRIT-CORD"].met is False


def test_flattened_section_is_oblique():
    round_ = verdicts(View.ABDOMEN, abdomen("AS", "S", "UC", "UI"))["CRIT-PLANE"]
    flat = [*abdomen("S"), Detection("AS", (60, 100, 340, 200), 0.9)]
    assert round_.met is True
    assert verdicts(View.ABDOMEN, flat)["CRIT-PLANE"].met is False


def test_of_two_boxes_the_likelier_counts():
    detections = [*head(), Detection("CF", (290, 50, 298, 250), 0.5)]
    assert verdicts(View.HEAD, detections)["CRIT-FALX"].met is True
    assert verdicts(View.HEAD, detections[::-1])["CRIT-FALX"].met is True


@pytest.mark.parametrize(
    ("box", "ends", "level"),
    [
        ((60, 100, 340, 200), True, True),
        ((60, 100, 404, 220), False, True),
        ((130, 30, 280, 270), True, False),
    ],
)
def test_crown_rump(box, ends, level):
    outcomes = verdicts(View.CRL, [Detection("CRL", box, 0.9)])
    assert outcomes["CRIT-ENDS"].met is ends
    assert outcomes["CRIT-HORIZONT"].met is level
    assert outcomes["CRIT-HORIZONT"].unit == "deg"
    assert outcomes["CRIT-PLANE"].met is None
    assert outcomes["CRIT-NECK"].met is None


@pytest.mark.parametrize(("height", "met"), [(20, True), (90, None), (160, False)])
def test_a_level_nape(height, met):
    outcomes = verdicts(View.NT, [Detection("NT", (100, 100, 260, 100 + height), 0.9)])
    assert outcomes["CRIT-HORIZONT"].met is met
    assert outcomes["CRIT-HORIZONT"].unit == "deg"
    assert verdicts(View.NT, [])["CRIT-HORIZONT"].met is None


@pytest.mark.parametrize(("angle", "met"), [(98, True), (87, None), (75, False), (125, False)])
def test_neck_needs_face_base_and_nape(angle, met):
    """The nape lies 30 degrees below the horizontal as seen from the skull base at (200, 200)."""

    def at(code, degrees, distance):
        x = 200 + distance * np.cos(np.radians(degrees))
        y = 200 + distance * np.sin(np.radians(degrees))
        return Detection(code, (x - 5, y - 5, x + 5, y + 5), 0.9)

    nose, base, nape = at("NB", 30 - angle, 90), at("CM", 0, 0), at("NT", 30, 60)
    outcomes = verdicts(View.CRL, [nose, base, nape])["CRIT-NECK"]
    assert outcomes.value == pytest.approx(angle)
    assert outcomes.met is met
    assert set(outcomes.evidence) == {"NB", "CM", "NT"}
    assert verdicts(View.CRL, [nose, nape])["CRIT-NECK"].met is None


def test_of_the_nt_view_a_person_judges_neck_and_completeness():
    codes = verdicts(View.NT, [Detection("NT", (100, 100, 260, 120), 0.9)])
    assert set(codes).isdisjoint({"CRIT-NECK", "CRIT-COMPLETE"})
    assert {rule.code for rule in RULES[View.NT]} - set(codes) == FOR_A_PERSON[View.NT]


@pytest.mark.parametrize(("level", "met"), [(0.1, False), (0.38, True), (0.75, False)])
def test_gain(level, met):
    gain = verdicts(View.HEAD, head(), speckle(level))["CRIT-GAIN"]
    assert gain.met is met
    assert gain.value == pytest.approx(level, rel=0.12)


def test_sharpness_falls_with_blur_and_not_with_gain():
    sharp = Sonogram.of(speckle(0.3)).sharpness()
    assert Sonogram.of(speckle(0.2)).sharpness() == pytest.approx(sharp, rel=0.05)
    assert Sonogram.of(speckle(0.3, sigma=1.5)).sharpness() < 0.8 * sharp
    assert verdicts(View.HEAD, head(), speckle(sigma=5.0))["CRIT-FOCUS"].met is False


def test_band_of_dark_beams_is_a_shadow():
    clear = speckle()
    shaded = clear.copy()
    shaded[60:, 180:225] //= 20
    before = verdicts(View.HEAD, head(), clear)["CRIT-SHADOW"]
    after = verdicts(View.HEAD, head(), shaded)["CRIT-SHADOW"]
    assert before.met is True
    assert after.met is False
    beside = clear.copy()
    beside[60:, 350:] //= 20
    assert verdicts(View.HEAD, head(), beside)["CRIT-SHADOW"].met is True


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        np.zeros((1, 1, 3), np.uint8),
        np.zeros((2, 900, 3), np.uint8),
    ],
)
def test_every_criterion_of_an_empty_picture_is_cannot_tell(pixels):
    outcomes = verdicts(View.HEAD, [], pixels)
    assert all(c.met is None for c in outcomes.values())
    assert verdicts(View.HEAD, head(), pixels)["CRIT-GAIN"].met is None


def test_even_grey_has_no_sharpness():
    even = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    outcomes = verdicts(View.HEAD, head(), even)
    assert outcomes["CRIT-FOCUS"].met is not True
    assert outcomes["CRIT-SHADOW"].value == pytest.approx(0, abs=0.01)


def test_a_criterion_without_a_threshold_is_cannot_tell():
    outcomes = verdicts(View.HEAD, head(), thresholds=CriteriaThresholds(measured={}))
    assert outcomes["CRIT-SIZE"].met is None
    assert outcomes["CRIT-SIZE"].value is not None
    assert outcomes["CRIT-CHOROID"].met is True


ANY_BOX = st.tuples(*[st.floats(-20, 420, allow_nan=False)] * 4).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)
PIXELS = speckle(seed=4)


@settings(max_examples=40)
@given(
    st.sampled_from(VIEWS),
    st.lists(
        st.builds(
            Detection, st.sampled_from([label.code for label in LABELS]), ANY_BOX, st.floats(0, 1)
        ),
        max_size=6,
    ),
)
def test_any_boxes_give_finite_values_and_true_evidence(view, detections):
    for criterion in judge(view, detections, WIDTH, HEIGHT, PIXELS, CriteriaThresholds()):
        assert criterion.value is None or np.isfinite(criterion.value)
        assert set(criterion.evidence) <= {d.label for d in detections}
        json.dumps([criterion.met, criterion.value])


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4).map(sorted), st.floats(-2e6, 2e6))
def test_band_judges_and_returns_from_json(four, value):
    band = ThreeWayThreshold(*four)
    assert ThreeWayThreshold.from_json(json.loads(json.dumps(band.to_json()))) == band
    if value < four[0] or value > four[3]:
        assert band.judge(value) is False
    elif four[1] <= value <= four[2]:
        assert band.judge(value) is True
    else:
        assert band.judge(value) is None


@given(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4).map(sorted), st.floats(-5e6, 5e6))
def test_far_beyond_is_at_least_one_more_undecided_band_away(four, value):
    unmet_below, met_from, met_to, unmet_above = four
    band = ThreeWayThreshold(*four)
    is_low = value < unmet_below - (met_from - unmet_below)
    is_high = value > unmet_above + (unmet_above - met_to)
    if band.is_far_beyond(value):
        assert band.judge(value) is False
        assert (is_low, is_high) in ((True, False), (False, True))
    if value < unmet_below:
        assert band.direction(value) == "low"
    elif value > unmet_above:
        assert band.direction(value) == "high"
    else:
        assert band.direction(value) is None
        assert not band.is_far_beyond(value)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4).map(sorted),
    st.floats(-5e6, 5e6),
    st.floats(0, 1e6),
)
def test_what_is_far_beyond_stays_so_further_out(four, value, step):
    band = ThreeWayThreshold(*four)
    if band.is_far_beyond(value):
        further = value - step if band.direction(value) == "low" else value + step
        assert band.is_far_beyond(further)


@pytest.mark.parametrize(
    ("ends", "unmet", "far"),
    [
        ((0.2, 0.25, 0.5, 0.55), (0.18, 0.6), (0.14, 0.7)),
        # A fitted band may have no width: then a quarter of the end is the distance.
        ((0.2, 0.2, 0.5, 0.5), (0.16, 0.6), (0.14, 0.63)),
        # Around zero a quarter is nothing.
        ((0.0004, 0.0004, float("inf"), float("inf")), (-0.01,), (-0.03,)),
    ],
)
def test_far_beyond_in_numbers(ends, unmet, far):
    band = ThreeWayThreshold(*ends)
    for value in unmet:
        assert band.judge(value) is False
        assert not band.is_far_beyond(value)
    assert all(band.is_far_beyond(value) for value in far)


def nuchal(confidence=0.9, **others):
    """A whole NT view; a keyword changes the confidence of a label, 0 takes it out."""
    codes = ("NT", "NB", "F", "NA", "TH", "MB", "PAL", "IT", "CM", "NS")
    confidences = dict.fromkeys(codes, confidence) | others
    boxes = {code: (40 + 20 * i, 80, 70 + 20 * i, 120) for i, code in enumerate(codes)}
    return [Detection(code, boxes[code], c) for code, c in confidences.items() if c]


@pytest.mark.parametrize(
    ("confidence", "trace", "is_certain"),
    [
        (0.9, 0, True),
        (0.9, 0.06, True),  # Noise.
        (0.4, 0, False),  # Too little of the rest was detected.
    ],
)
def test_a_structure_is_missing_for_certain_among_many(confidence, trace, is_certain):
    detections, weak = nuchal(confidence, NB=0), nuchal(confidence, NB=trace)
    thresholds = CriteriaThresholds()
    criteria = judge(View.NT, detections, WIDTH, HEIGHT, PIXELS, thresholds, weak)
    by_code = {f.code: f for f in failures(View.NT, criteria, detections, thresholds)}
    assert set(by_code) == {c.code for c in criteria if c.met is False}
    assert by_code["CRIT-NASAL"].is_certain is is_certain
    assert by_code["CRIT-NASAL"].direction is None


def test_a_structure_with_a_trace_is_undecided():
    for trace, met in ((0.06, False), (0.11, None), (0.2, None)):
        detections, weak = nuchal(0.9, NB=0), nuchal(0.9, NB=trace)
        criteria = judge(View.NT, detections, WIDTH, HEIGHT, PIXELS, CriteriaThresholds(), weak)
        (nasal,) = (c for c in criteria if c.code == "CRIT-NASAL")
        assert nasal.met is met


def test_a_measured_failure_has_its_direction_and_distance():
    thresholds = CriteriaThresholds()
    for level, direction, is_certain in ((0.05, "low", True), (0.19, "low", False)):
        criteria = judge(View.NT, nuchal(), WIDTH, HEIGHT, speckle(level), thresholds)
        (failure,) = (
            f for f in failures(View.NT, criteria, nuchal(), thresholds) if f.code == "CRIT-GAIN"
        )
        assert (failure.direction, failure.is_certain) == (direction, is_certain)


def test_expected_structures_are_those_that_criteria_need_and_the_detector_knows():
    assert expected_structures(View.HEAD, CriteriaThresholds()) == (
        ("CB",), ("CF",), ("CP1",), ("CP2",)
    )  # fmt: skip
    few = CriteriaThresholds(detectable=frozenset({"NA", "TH", "NT"}))
    assert expected_structures(View.NT, few) == (("NT",), ("NA",), ("TH",))
    assert expected_structures(View.OTHER, few) == ()


@pytest.mark.parametrize("data", [None, [1, 2, 3], [2, 1, 3, 4], [1, 2, 5, 4], "1234"])
def test_no_band(data):
    with pytest.raises((ValueError, TypeError)):
        ThreeWayThreshold.from_json(data)


def test_thresholds_return_from_json():
    thresholds = CriteriaThresholds(
        detectable=frozenset({"NT", "NB"}),
        support=0.4,
        presence={View.NT: {"CRIT-NT": ThreeWayThreshold(unmet_below=0.2, met_from=0.5)}},
        expected={View.NT: (("NT",), ("F", "NA"))},
    )
    again = CriteriaThresholds.from_json(json.loads(json.dumps(thresholds.to_json())))
    assert again == thresholds


def test_manifest_without_expected_structures_is_that_of_before():
    data = CriteriaThresholds().to_json()
    assert "expected" not in data
    assert CriteriaThresholds.from_json(data).expected == {}


@pytest.mark.parametrize("groups", [[["XX"]], [["CB"]], [[]]])
def test_expected_structures_of_no_label_of_the_view_are_refused(groups):
    data = CriteriaThresholds().to_json() | {"expected": {"NT": groups}}
    with pytest.raises(ValueError, match="expected structures"):
        CriteriaThresholds.from_json(data)
