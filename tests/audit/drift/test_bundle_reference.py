"""A device's first pictures against those that calibrated its bundle."""

import re

import numpy as np
import pytest

from detector.anatomy import View
from model.image_features import STATISTICS
from model.image_reference import ImageReference, ViewReference
from qc_daemon.audit.audit import AuditRules, make_audit
from qc_daemon.audit.drift.bundle_reference import LEAST_EFFECT, MIN_PICTURES, References
from qc_daemon.audit.drift.drift import Drift, drifts
from qc_daemon.audit.drift.drift_windows import BUNDLE, OWN
from qc_daemon.audit.drift.image_drift import EMBEDDING
from qc_daemon.audit.measures import Frame
from qc_daemon.audit.rows import RowsBuilder
from tests.support.audit_findings import BUNDLE as KEY
from tests.support.audit_findings import audit_finding

FIRST, DIMENSIONS = 739_000, 8


def frame_of(days: int, level: float = 40.0, turn: float = 0.0) -> Frame:
    """An exam of four NT pictures a day on one device, of a mean grey level; `turn` moves their
    embeddings."""
    generator, builder = np.random.default_rng(1), RowsBuilder()
    for number in range(days * 4):
        statistics = dict.fromkeys(STATISTICS, 1.0)
        statistics |= {"mean": generator.normal(level, 5), "width": 800.0}
        embedding = generator.normal(0, 0.2, DIMENSIONS)
        embedding[0] += 1
        embedding[1] += turn
        builder.add(
            audit_finding(
                number,
                exam_id=number // 4,
                day=FIRST + number // 4,
                statistics=statistics,
                embedding=embedding,
            )
        )
    return Frame(builder.build(), ("NT",), FIRST + days - 1)


def references(pictures: int = 136, view: View = View.NT) -> References:
    """Of pictures with a mean grey level of 40 +- 5, none of which is larger than 640 pixels."""
    generator = np.random.default_rng(2)
    statistics = np.ones((pictures, len(STATISTICS)))
    statistics[:, STATISTICS.index("mean")] = generator.normal(40, 5, pictures)
    statistics[:, STATISTICS.index("width")] = generator.integers(600, 640, pictures)
    statistics[:, STATISTICS.index("spacing")] = np.nan
    embeddings = generator.normal(0, 0.2, (pictures, DIMENSIONS))
    embeddings[:, 0] += 1
    own = ViewReference(pictures, np.arange(pictures), statistics, embeddings.astype(np.float32))
    return {KEY.model_id: ImageReference("1" * 64, {view: own})}


def drift_of(frame: Frame, of: References) -> dict[str, Drift]:
    return {each.feature: each for each in drifts(frame, "device", 0.01, None, of)}


def alarms(frame: Frame, of: References) -> dict[str, str | None]:
    by_feature = drift_of(frame, of)
    return {name: each.compared_with for name, each in by_feature.items() if each.is_alarm}


def test_pictures_like_the_bundles_are_no_alarm() -> None:
    by_feature = drift_of(frame_of(120), references())
    assert not [each for each in by_feature.values() if each.is_alarm]
    mean = by_feature["image:mean"]
    assert (mean.compared_with, mean.reference_n) == (BUNDLE, 136)
    assert mean.before == pytest.approx(40, abs=1.5)
    assert by_feature[EMBEDDING].compared_with == BUNDLE
    # A machine's setting, and what the bundle does not know.
    assert by_feature["image:width"].compared_with is None
    assert by_feature["image:spacing"].compared_with is None


def test_pictures_unlike_the_bundles_are_named_though_nothing_has_changed() -> None:
    frame = frame_of(120, level=52, turn=1.0)
    assert alarms(frame, references()) == {"image:mean": BUNDLE, EMBEDDING: BUNDLE}
    assert alarms(frame, {}) == {}
    rules = AuditRules(FIRST, FIRST + 119, ("NT",))
    content = make_audit(frame.rows, rules, stored={}, references=references()).content
    alarmed = [each for each in content["drift"] if each["flag"]]
    words = [each["words"] for each in alarmed]
    assert any(re.search("mean grey level (39|40|41) → 5[123]", each) for each in words)
    assert all("unlike those that the bundle was calibrated on" in each for each in words)
    assert {each["since"] for each in alarmed} == {None}
    assert content["rules"]["drift"]["references"] == [
        {"model_id": KEY.model_id, "pictures": 136, "data_sha256": "1" * 64}
    ]


def test_what_is_less_than_a_deviation_away_is_no_alarm() -> None:
    """Machines differ: what chance rules out may yet mean nothing."""
    away = 0.7 * 5 * LEAST_EFFECT
    own = drift_of(frame_of(120, level=40 + away), references())["image:mean"]
    assert own.q is not None
    assert own.q < 0.001
    assert not own.is_alarm


def test_half_a_year_of_its_own_pictures_is_the_better_reference() -> None:
    by_feature = drift_of(frame_of(300, level=52, turn=1.0), references())
    assert by_feature["image:mean"].compared_with == by_feature[EMBEDDING].compared_with == OWN
    assert not [each for each in by_feature.values() if each.is_alarm]


OF_ANOTHER_BUNDLE = {"b" * 64: references()[KEY.model_id]}


@pytest.mark.parametrize(
    "of", [references(MIN_PICTURES - 1), references(view=View.CRL), OF_ANOTHER_BUNDLE]
)
def test_a_bundle_that_says_too_little_is_no_reference(of: References) -> None:
    """Few pictures, another view, or another bundle."""
    assert alarms(frame_of(120, level=90, turn=3), of) == {}


def test_embeddings_of_another_size_are_not_compared() -> None:
    known = references()[KEY.model_id].views[View.NT]
    cut = ViewReference(136, known.group, known.statistics, known.embeddings[:, :4])
    of = {KEY.model_id: ImageReference("1" * 64, {View.NT: cut})}
    assert alarms(frame_of(120, level=52, turn=1.0), of) == {"image:mean": BUNDLE}
