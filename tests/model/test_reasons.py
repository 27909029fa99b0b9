"""Reasons never contradict the verdict, stand in order of importance, and name something."""

from hypothesis import given
from hypothesis import strategies as st

from detector.anatomy import LABELS, View
from detector.boxes import Detection
from model.criteria.checks import CHECKS, CriteriaThresholds, Failure
from model.criteria.faults import CELLS, HIGH, LOW, REGION_FAULTS, STRUCTURE_FIXES
from model.criteria.rules import MODEL_RULES, TECHNICAL_CODES
from model.finding import NON_STANDARD, QUALITY_LABELS, REVIEW, STANDARD, Criterion
from model.reasons import (
    DELETION_MARGIN,
    Deletions,
    list_reasons,
    weightiest,
    withhold_uncertain,
)

BOX = (10.0, 10.0, 40.0, 30.0)
THRESHOLDS = CriteriaThresholds()
views = st.sampled_from([view for view in View if view is not View.OTHER])
detections = st.lists(
    st.sampled_from([label.code for label in LABELS if label.view]), unique=True
).map(lambda codes: [Detection(code, BOX, 0.9) for code in codes])
rises = st.floats(-5, 5)
deletions = st.builds(
    Deletions,
    st.dictionaries(st.sampled_from(sorted(STRUCTURE_FIXES)), rises),
    st.dictionaries(st.sampled_from(CELLS), rises),
)


@st.composite
def failures(draw: st.DrawFn, view: View) -> list[Failure]:
    codes = [rule.code for rule in MODEL_RULES[view]]
    chosen = draw(st.lists(st.sampled_from(codes), unique=True))
    directions = st.sampled_from([None, LOW, HIGH])
    return [
        Failure(code, draw(directions), draw(st.booleans())) for code in codes if code in chosen
    ]


@given(st.data(), views, st.sampled_from(QUALITY_LABELS), detections, deletions)
def test_reasons_fit_the_verdict(
    data: st.DataObject,
    view: View,
    quality: str,
    detected: list[Detection],
    deleted: Deletions,
) -> None:
    unmet = data.draw(failures(view))
    reasons = list_reasons(view, quality, unmet, detected, THRESHOLDS)
    if quality == STANDARD:
        assert reasons == ()
    if quality == NON_STANDARD:
        reasons = reasons or (weightiest(deleted),)
        assert reasons
    for reason in reasons:
        statement, _, fix = reason.words.partition(": ")
        assert statement
        assert fix
        assert "{" not in reason.words


@given(st.data(), views, detections)
def test_anatomy_comes_before_technique_and_criteria_before_structures(
    data: st.DataObject, view: View, detected: list[Detection]
) -> None:
    unmet = data.draw(failures(view))
    reasons = list_reasons(view, NON_STANDARD, unmet, detected, THRESHOLDS)
    order = [
        2 if reason.kind == "structure" else int(reason.code in TECHNICAL_CODES)
        for reason in reasons
    ]
    assert order == sorted(order)
    rules = [rule.code for rule in MODEL_RULES[view]]
    for group in (0, 1):
        codes = [r.code for r, place in zip(reasons, order, strict=True) if place == group]
        assert codes == sorted(codes, key=rules.index)
    assert {r.code for r in reasons if r.kind == "criterion"} == {f.code for f in unmet}
    assert not {r.code for r in reasons if r.kind == "structure"} & {d.label for d in detected}
    of_review = list_reasons(view, REVIEW, unmet, detected, THRESHOLDS)
    assert of_review == tuple(r for r in reasons if r.kind == "criterion")


def test_a_structure_that_a_criterion_names_is_not_repeated() -> None:
    detected = [Detection(code, BOX, 0.9) for code in ("NT", "F", "PAL", "MB")]
    (bone,) = list_reasons(View.NT, NON_STANDARD, [], detected, THRESHOLDS)
    assert (bone.kind, bone.code) == ("structure", "NB")
    assert bone.words == "nasal bone not visible: insonate the nose at 45 degrees"
    unmet = [Failure("CRIT-NASAL", None, is_certain=True)]
    (reason,) = list_reasons(View.NT, NON_STANDARD, unmet, detected, THRESHOLDS)
    assert (reason.kind, reason.words) == ("criterion", bone.words)


def test_a_bundle_says_which_structures_standard_pictures_show() -> None:
    thresholds = CriteriaThresholds(expected={View.NT: (("CM",), ("NB", "NA"))})
    detected = [Detection("NA", BOX, 0.9)]
    (reason,) = list_reasons(View.NT, NON_STANDARD, [], detected, thresholds)
    assert reason.words == "cisterna magna not visible: find the mid-sagittal plane"


def test_structures_that_the_detector_does_not_know_are_not_missed() -> None:
    thresholds = CriteriaThresholds(detectable=frozenset({"CB", "CF"}))
    reasons = list_reasons(View.HEAD, NON_STANDARD, [], [], thresholds)
    assert [reason.code for reason in reasons] == ["CB", "CF"]


@given(deletions)
def test_what_raises_the_logit_most_is_named(deleted: Deletions) -> None:
    reason = weightiest(deleted)
    rises = {**deleted.structures, **deleted.cells}
    most = max(rises.values(), default=0.0)
    if most <= DELETION_MARGIN:
        assert (reason.kind, reason.code) == ("region", "whole")
    else:
        assert rises[reason.code] == most
        assert reason.kind == ("structure" if reason.code in deleted.structures else "region")


def test_the_words_of_deletion() -> None:
    assert weightiest(Deletions({"NT": 1.0}, {"upper-left": 0.5})).words == (
        "nuchal translucency looks unlike that of standard views: show the nuchal skin"
    )
    assert weightiest(Deletions({"NT": 0.2}, {"upper-left": 0.5})).words == (
        "the upper left part of the picture weighs most against a standard view: "
        "check plane and sharpness there"
    )
    assert weightiest(Deletions({}, {})).words == (
        "the picture as a whole is unlike standard views: "
        "compare it with a standard picture of this view"
    )


@given(st.data(), views)
def test_on_a_standard_view_only_what_is_certain_stays_unmet(
    data: st.DataObject, view: View
) -> None:
    unmet = {failure.code: failure for failure in data.draw(failures(view))}
    criteria = [
        Criterion(code, False if code in unmet else data.draw(st.sampled_from([True, None])))
        for code in CHECKS[view]
    ]
    criteria_of_standard = withhold_uncertain(criteria, list(unmet.values()))
    for before, after in zip(criteria, criteria_of_standard, strict=True):
        is_doubtful = before.met is False and not unmet[before.code].is_certain
        assert after.met is (None if is_doubtful else before.met)


def test_every_label_of_a_view_has_a_fix_and_every_cell_words() -> None:
    assert set(STRUCTURE_FIXES) == {label.code for label in LABELS if label.view}
    assert len(CELLS) == 9
    assert set(REGION_FAULTS) == {*CELLS, "whole"}
