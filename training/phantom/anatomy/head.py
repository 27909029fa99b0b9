"""The axial head at the level of the choroid plexuses ("butterfly").

Local unit: the occipito-frontal diameter, along y; origin: centre of the skull. The falx stands at
most 60 degrees from upright, so that left and right plexus of the picture are always distinct.
"""

from collections.abc import Mapping

import numpy as np

from training.phantom.defects import Defect
from training.phantom.scene import BRAIN, FLUID, TISSUE, Scene
from training.phantom.sector import Points
from training.phantom.shapes import band, blob, ellipse, smooth

MM_PER_UNIT = (21.0, 33.0)


def key_points(code: str) -> Points:
    """The skull outline, slightly enlarged; the same whatever may be cut off."""
    return ellipse((0.0, 0.0), (0.43, 0.5) if code == "all" else (0.40, 0.49))


def draw(scene: Scene, levels: Mapping[Defect, float]) -> None:
    """Paint the head and mark its structures; `levels` holds each defect's extent in 0..1."""
    rng = scene.part("draw")
    off = levels.get(Defect.OFF_AXIS, 0.0)
    tilt = levels.get(Defect.ASYMMETRIC, 0.0)
    lean = (0.12 + 0.07 * tilt) * (1 if rng.random() < 0.5 else -1) if tilt > 0 else 0.0
    half = rng.uniform(0.375, 0.425)
    outline = blob(rng, (0.0, 0.0), (half, 0.49), 0.010, n=72)
    _surroundings(scene)

    scene.fill(outline * 1.035, TISSUE * 0.8)
    scene.fill(outline * 0.96, BRAIN * rng.uniform(0.8, 1.4))
    scene.fill(outline * 0.86, FLUID * rng.uniform(2.0, 4.0) * (1 + 5 * off), 0.6)
    _plexuses(scene, levels, lean, half, off)
    if off > 0.45:
        _skull_base(scene, half, off)
    _falx(scene, levels, lean, off)
    scene.line(outline, rng.uniform(2.4, 4.2), 0.026, 9.0, closed=True, isotropic=0.30)
    scene.mark("CB", outline * 1.02)


def _surroundings(scene: Scene) -> None:
    rng = scene.part("surroundings")
    cavity = blob(rng, (rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.1)), (1.1, 0.8), 0.10)
    scene.fill(cavity, FLUID * rng.uniform(0.8, 2.0), 0.4)
    scene.line(cavity, 0.8, 0.014, closed=True)
    if rng.random() < 0.6:
        side = rng.choice([-1.0, 1.0])
        at = (side * rng.uniform(0.62, 0.8), rng.uniform(-0.4, 0.5))
        scene.fill(blob(rng, at, (0.15, 0.09), 0.1, rng.uniform(-1.5, 1.5)), TISSUE * 1.1)


def _falx(scene: Scene, levels: Mapping[Defect, float], lean: float, off: float) -> None:
    if Defect.FALX_MISSING in levels:
        return
    rng = scene.part("falx")
    ends = 0.44 + rng.uniform(-0.01, 0.01)
    slope = rng.normal(0, 0.008)
    line = smooth([(lean - slope, -ends), (lean * 1.25, 0.0), (lean + slope, ends)], steps=16)
    if off > 0.45:
        line = line[: round(len(line) * (0.38 - 0.15 * off))]
    scene.line(line, rng.uniform(1.6, 3.0), 0.016, 2.0, isotropic=0.62)
    if off <= 0.45:
        scene.mark("CF", band(line, 0.03))


def _plexuses(
    scene: Scene, levels: Mapping[Defect, float], lean: float, half: float, off: float
) -> None:
    """Two bright wings filling the ventricles; codes go by the side of the picture."""
    if off > 0.45:
        return
    rng = scene.part("plexuses")
    missing_level = levels.get(Defect.CHOROID_MISSING)
    both_missing = missing_level is not None and rng.random() < 0.35
    absent = rng.integers(0, 2)
    bright = TISSUE * rng.uniform(1.0, 1.7)
    wings: list[Points] = []
    for wing, side in enumerate((-1.0, 1.0)):
        room = half - side * lean
        shape = smooth(
            [
                (0.14 * room, -0.16),
                (0.32 * room, -0.12),
                (0.60 * room, 0.05),
                (0.70 * room, 0.22),
                (0.52 * room, 0.31),
                (0.34 * room, 0.20),
                (0.18 * room, 0.0),
            ],
            closed=True,
            steps=5,
        )
        shape = (shape + rng.normal(0, 0.008, 2)) * [1.0, rng.uniform(0.92, 1.08)]
        shape = shape * [side, 1.0] + [lean, 0.0]
        if missing_level is not None and (both_missing or wing == absent):
            continue
        scene.fill(shape, bright * rng.uniform(0.9, 1.1) * (1 - off))
        wings.append(shape)
    middle = scene.pose.to_canvas(np.array([[lean, 0.08]]))[0, 0]
    for shape in wings:
        is_left = scene.pose.to_canvas(shape)[:, 0].mean() < middle
        scene.mark("CP1" if is_left else "CP2", shape)


def _skull_base(scene: Scene, half: float, off: float) -> None:
    """A plane through the base: orbits in front, bright sphenoid and petrous ridges in an X."""
    rng = scene.part("skull_base")
    for side in (-1.0, 1.0):
        socket = (side * 0.47 * half, -0.27)
        scene.line(ellipse(socket, (0.115, 0.10)), 2.0, 0.022, 4.0, closed=True, isotropic=0.6)
        scene.fill(ellipse(socket, (0.095, 0.08)), FLUID * 2, 0.7)
        ridge = smooth([(0.03 * side, 0.03), (side * 0.4 * half, 0.10), (side * 0.8 * half, 0.20)])
        scene.line(ridge, 2.2 * off, 0.030, 6.0, isotropic=0.6)
        wing = smooth(
            [(0.03 * side, -0.03), (side * 0.45 * half, -0.10), (side * 0.85 * half, -0.12)]
        )
        scene.line(wing, 2.0 * off, 0.026, 5.0, isotropic=0.6)
    scene.fill(blob(rng, (0.0, 0.30), (0.16, 0.08), 0.05), BRAIN * 0.6)
