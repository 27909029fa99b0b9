"""The prior of HEAD: few first-trimester heads beside many later ones that look alike."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.spatialclip.network import VIEWS
from training.crossval.head_prior import (
    HIGHEST_ODDS,
    head_log_odds,
    likeliest_views,
    view_offset,
    with_head_log_odds,
)

HEAD, OTHER = VIEWS.index("HEAD"), VIEWS.index("OTHER")


def row(view: str, head: float, source: str = "hc18_heads") -> dict[str, Any]:
    """A picture of which P(HEAD) is `head`, and P(OTHER) the rest."""
    views = [0.0] * len(VIEWS)
    views[HEAD], views[OTHER] = head, 1 - head
    return {"source": source, "view": view, "views": views}


def test_both_ages_are_named_wrongly_equally_often() -> None:
    first = [row("HEAD", p) for p in (0.9, 0.6, 0.3, 0.25, 0.05)]
    later = [row("OTHER", p) for p in (0.22, 0.01, 0.01, 0.02, 0.01)]
    log_odds = head_log_odds([*first, *later])
    # Between odds of 1/4 and 0.22 to 0.78 one of five is wrong on either side.
    assert math.log(0.78 / 0.22) < log_odds < math.log(0.95 / 0.05)
    views = likeliest_views(with_head_log_odds([r["views"] for r in [*first, *later]], log_odds))
    assert views == ["HEAD"] * 4 + ["OTHER"] + ["HEAD"] + ["OTHER"] * 4


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("HEAD", 0.2)],
        [row("OTHER", 0.2)],
        [row("HEAD", 0.2), row("OTHER", 0.1, "fetal_planes/brain")],
    ],
)
def test_without_heads_of_both_ages_nothing_is_changed(rows: list[dict[str, Any]]) -> None:
    assert head_log_odds(rows) == 0.0


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
    st.lists(st.floats(0, 1), min_size=1, max_size=12),
)
def test_the_correction_is_bounded_and_names_no_fewer_first_trimester_heads(
    first: list[float], later: list[float]
) -> None:
    rows = [row("HEAD", p) for p in first] + [row("OTHER", p) for p in later]
    log_odds = head_log_odds(rows)
    assert 0 <= log_odds <= math.log(HIGHEST_ODDS)
    views = np.array([r["views"] for r in rows])
    corrected = with_head_log_odds(views, log_odds)
    assert np.allclose(corrected.sum(1), 1)
    assert (corrected[:, HEAD] >= views[:, HEAD] - 1e-9).all()


def test_the_offset_is_of_head_alone() -> None:
    offset = view_offset(1.5)
    assert offset[HEAD] == 1.5
    assert sum(offset) == 1.5
