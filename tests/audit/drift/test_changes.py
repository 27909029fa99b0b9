"""Changes of the models, in score that all devices and people share."""

import numpy as np
import pytest

from qc_daemon.audit.drift.changes import model_changes
from tests.audit.drift.test_bundle_reference import frame_of


@pytest.mark.filterwarnings("error")
def test_scores_that_are_all_the_same_have_not_changed() -> None:
    frame = frame_of(120)
    assert np.ptp(frame.rows.log_odds) == 0
    assert model_changes(frame) == []
