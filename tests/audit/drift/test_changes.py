"""Changes of the models, in scores of all devices and people."""

import numpy as np
import pytest
from scipy.special import expit

from qc_daemon.audit.drift.changes import model_changes
from qc_daemon.audit.measures import Frame
from qc_daemon.audit.rows import RowsBuilder
from tests.audit.drift.test_bundle_reference import FIRST, frame_of
from tests.support.audit_findings import audit_finding


@pytest.mark.filterwarnings("error")
def test_scores_that_are_all_the_same_have_not_changed() -> None:
    frame = frame_of(120)
    assert np.ptp(frame.rows.log_odds) == 0
    assert model_changes(frame) == []


@pytest.mark.filterwarnings("error")
def test_a_change_is_dated_where_a_lab_was_closed_afterwards() -> None:
    """Two devices; scores fall by one on the 57th day, and the lab is closed from the 100th on."""
    generator, builder = np.random.default_rng(3), RowsBuilder()
    days = np.repeat([*range(100), *range(130, 160)], 4)
    for number, day in enumerate(days.tolist()):
        log_odds = generator.normal(2.0 if day < 57 else 1.0, 0.1)
        finding = audit_finding(
            number,
            exam_id=number // 2,
            device=f"d{number % 2}",
            day=FIRST + day,
            raw_probability=float(expit(log_odds)),
            statistics={},
            embedding=[1.0],
        )
        builder.add(finding)
    [change] = model_changes(Frame(builder.build(), ("NT",), FIRST + 159))
    assert change.day == FIRST + 57
    assert change.shift == pytest.approx(-1.0, abs=0.1)
