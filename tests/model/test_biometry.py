import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.boxes import Detection
from model.biometry import LIMIT_MM, head_circumference_mm, is_beyond_first_trimester


def ellipse_box(a: float, b: float, angle: float) -> tuple[float, float, float, float]:
    """The bounding box of an ellipse with these half axes, turned by an angle in radians."""
    half_width = math.hypot(a * math.cos(angle), b * math.sin(angle))
    half_height = math.hypot(a * math.sin(angle), b * math.cos(angle))
    return (100 - half_width, 100 - half_height, 100 + half_width, 100 + half_height)


def perimeter(a: float, b: float) -> float:
    """The ellipse's perimeter as the sum of a fine polygon's sides."""
    steps = 2000
    points = [
        (a * math.cos(2 * math.pi * k / steps), b * math.sin(2 * math.pi * k / steps))
        for k in range(steps + 1)
    ]
    return sum(math.dist(p, q) for p, q in pairwise(points))


@given(st.floats(20, 90), st.floats(0.7, 1), st.floats(0, math.pi))
def test_the_circumference_is_that_of_the_ellipse_however_it_is_turned(a, ratio, angle):
    measured = head_circumference_mm(ellipse_box(a, a * ratio, angle), (0.5, 0.5))
    assert measured == pytest.approx(0.5 * perimeter(a, a * ratio), rel=0.01)


def test_each_axis_has_its_own_spacing():
    assert head_circumference_mm((0, 0, 100, 50), (0.1, 0.2)) == pytest.approx(10 * math.pi)


def make_skull(side: float, confidence: float = 0.9, label: str = "CB") -> Detection:
    return Detection(label, (0.0, 0.0, side, side), confidence)


@pytest.mark.parametrize(
    ("detections", "spacing", "is_beyond"),
    [
        ([make_skull(1.01 * LIMIT_MM / math.pi)], (1.0, 1.0), True),
        ([make_skull(0.99 * LIMIT_MM / math.pi)], (1.0, 1.0), False),
        ([make_skull(1000)], None, False),
        ([make_skull(1000, confidence=0.4)], (1.0, 1.0), False),
        ([make_skull(1000, label="AS")], (1.0, 1.0), False),
        ([make_skull(1000, confidence=0.6), make_skull(10)], (1.0, 1.0), False),
        ([], (1.0, 1.0), False),
    ],
)
def test_only_a_sure_skull_on_a_known_scale_is_beyond(detections, spacing, is_beyond):
    assert is_beyond_first_trimester(detections, spacing) is is_beyond
