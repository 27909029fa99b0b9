"""Curves and blobs that anatomy is drawn with; all arrays are (n, 2) in local units."""

from collections.abc import Sequence

import numpy as np

from training.phantom.sector import Points


def points(*pairs: tuple[float, float]) -> Points:
    """The pairs as an array."""
    return np.asarray(pairs, dtype=np.float64)


def smooth(
    knots: Points | Sequence[tuple[float, float]], closed: bool = False, steps: int = 8
) -> Points:
    """A Catmull-Rom curve through the knots."""
    p = np.asarray(knots, dtype=np.float64)
    if closed:
        before, after, following = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
        start = p
    else:
        q = np.vstack([2 * p[0] - p[1], p, 2 * p[-1] - p[-2]])
        before, start, after, following = q[:-3], q[1:-2], q[2:-1], q[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    a, b, c, d = before[:, None], start[:, None], after[:, None], following[:, None]
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    out = curve.reshape(-1, 2)
    return out if closed else np.vstack([out, p[-1:]])


def ellipse(
    centre: tuple[float, float], axes: tuple[float, float], turn: float = 0.0, n: int = 40
) -> Points:
    """An ellipse with the given semi-axes, turned by `turn` radians."""
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    x, y = axes[0] * np.cos(t), axes[1] * np.sin(t)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + x * c - y * s, centre[1] + x * s + y * c], axis=1)


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    axes: tuple[float, float],
    roughness: float = 0.06,
    turn: float = 0.0,
    n: int = 48,
) -> Points:
    """An ellipse whose radius wavers by about `roughness`."""
    base = ellipse((0.0, 0.0), axes, turn, n)
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    waver = np.zeros(n)
    for k in range(2, 7):
        waver += rng.normal(0, roughness / k) * np.cos(k * t + rng.uniform(0, 2 * np.pi))
    return np.asarray(base * (1 + waver[:, None] * 1.6) + np.asarray(centre))


def turned(p: Points, angle: float, pivot: tuple[float, float] = (0.0, 0.0)) -> Points:
    """The points turned clockwise in the picture by `angle` radians about the pivot."""
    c, s = np.cos(angle), np.sin(angle)
    q = p - np.asarray(pivot)
    x, y = q[:, 0] * c - q[:, 1] * s, q[:, 0] * s + q[:, 1] * c
    return np.asarray(np.stack([x, y], axis=1) + np.asarray(pivot))


def shifted(p: Points, down: float) -> Points:
    """The points moved down by `down`."""
    return np.asarray(p + np.array([0.0, down]))


def band(line: Points, thickness: float) -> Points:
    """A polygon of the given thickness around a line."""
    along = np.gradient(line, axis=0)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    half = across * thickness / 2
    return np.vstack([line + half, (line - half)[::-1]])
