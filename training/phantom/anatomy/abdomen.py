"""The axial abdomen at the stomach and the cord's insertion.

Local unit: the abdominal diameter; origin: its centre. The cord leaves at the top (y = -0.5), the
spine lies at the bottom, the stomach to the right of the drawing (the pose mirrors it).
"""

from collections.abc import Mapping

import numpy as np

from training.phantom.defects import Defect
from training.phantom.scene import FLUID, TISSUE, Scene
from training.phantom.sector import Points
from training.phantom.shapes import band, blob, ellipse, smooth

MM_PER_UNIT = (14.0, 24.0)


def key_points(code: str) -> Points:
    """The abdominal outline; with `all` also the first stretch of the cord."""
    outline = ellipse((0.0, 0.0), (0.5, 0.5))
    return np.vstack([outline, [(0.0, -0.78), (0.22, -0.74)]]) if code == "all" else outline


def draw(scene: Scene, levels: Mapping[Defect, float]) -> None:
    """Paint the abdomen and mark its structures; `levels` holds each defect's extent in 0..1."""
    rng = scene.part("draw")
    off = levels.get(Defect.OFF_AXIS, 0.0)
    chest = off > 0.45
    stretch = 1.0 + (0.42 + 0.25 * levels[Defect.OBLIQUE] if Defect.OBLIQUE in levels else 0.0)
    outline = blob(rng, (0.0, 0.0), (0.49, 0.49 * rng.uniform(0.96, 1.04)), 0.012, n=64)
    outline = outline * [stretch, 1.0 / stretch**0.35]
    top = float(outline[:, 1].min())
    _surroundings(scene)
    scene.fill(outline, TISSUE * rng.uniform(0.75, 1.05))
    if chest:
        _thorax(scene)
    else:
        _vessels(scene, stretch)
        if Defect.STOMACH_MISSING not in levels:
            _stomach(scene, stretch)
    _bones(scene, outline, oblique=Defect.OBLIQUE in levels)
    scene.line(outline, rng.uniform(1.6, 2.6), 0.020, 3.0, closed=True, isotropic=0.35)
    scene.mark("AS", outline * 1.02)
    if not chest and Defect.CORD_MISSING not in levels:
        _cord(scene, top)


def _surroundings(scene: Scene) -> None:
    rng = scene.part("surroundings")
    cavity = blob(rng, (rng.uniform(-0.2, 0.2), rng.uniform(-0.35, -0.15)), (1.15, 0.85), 0.08)
    scene.fill(cavity, FLUID * rng.uniform(0.8, 2.0), 0.4)
    scene.line(cavity, 0.8, 0.016, closed=True)
    if rng.random() < 0.5:
        side = rng.choice([-1.0, 1.0])
        limb = (side * rng.uniform(0.72, 0.9), rng.uniform(-0.1, 0.4))
        scene.fill(blob(rng, limb, (0.16, 0.08), 0.08, rng.uniform(0.6, 2.2)), TISSUE)


def _stomach(scene: Scene, stretch: float) -> None:
    rng = scene.part("stomach")
    centre = (rng.uniform(0.20, 0.26) * stretch, rng.uniform(-0.04, 0.08))
    axes = (rng.uniform(0.085, 0.125) * stretch**0.6, rng.uniform(0.065, 0.095))
    bubble = blob(rng, centre, axes, 0.05, rng.uniform(-0.6, 0.6))
    scene.line(bubble, 0.7, 0.014, closed=True)
    scene.fill(bubble, FLUID, 0.3)
    scene.mark("S", bubble)


def _vessels(scene: Scene, stretch: float) -> None:
    """Umbilical vein's intrahepatic curve, aorta and cava; the gut's brighter texture."""
    rng = scene.part("vessels")
    scene.fill(blob(rng, (-0.16 * stretch, 0.02), (0.22, 0.27), 0.06), TISSUE * 0.65)
    vein = smooth([(-0.01, -0.30), (-0.03, -0.18), (-0.10, -0.10)])
    scene.fill(band(vein, 0.035), FLUID * 3, 0.6)
    for x in (-0.055, 0.055):
        scene.fill(ellipse((x, 0.22), (0.026, 0.026), n=16), FLUID * 3, 0.6)


def _thorax(scene: Scene) -> None:
    """Too high: lungs beside a four-chamber heart."""
    rng = scene.part("thorax")
    for side in (-1.0, 1.0):
        scene.fill(blob(rng, (side * 0.24, 0.10), (0.17, 0.27), 0.05), TISSUE * 1.5)
    turn = rng.uniform(0.5, 0.9)
    scene.fill(blob(rng, (0.06, -0.08), (0.24, 0.19), 0.04, turn), TISSUE * 0.9)
    c, s = np.cos(turn), np.sin(turn)
    for u, v in ((0.09, 0.075), (0.09, -0.075), (-0.09, 0.065), (-0.09, -0.065)):
        at = (0.06 + u * c - v * s, -0.08 + u * s + v * c)
        scene.fill(blob(rng, at, (0.075, 0.052), 0.06, turn), FLUID * 1.5, 0.5)


def _bones(scene: Scene, outline: Points, oblique: bool) -> None:
    """The vertebra's three ossification centres, and ribs: several in an oblique plane."""
    rng = scene.part("bones")
    base = float(outline[:, 1].max()) - 0.14
    for x, y in ((0.0, base - 0.045), (-0.065, base + 0.035), (0.065, base + 0.035)):
        scene.fill(ellipse((x, y), (0.026, 0.020), n=14), TISSUE * 5.0, 26.0)
    inner = outline * 0.84
    spots = range(2, 62, 5) if oblique else (4, 28)
    for start in spots:
        if oblique and rng.random() < 0.3:
            continue
        length = 3 if oblique else 8
        scene.line(inner[start : start + length], 2.6, 0.022, 5.0, isotropic=0.7)


def _cord(scene: Scene, top: float) -> None:
    """The cord from the wall out into the fluid: two bright walls about a dark lumen."""
    rng = scene.part("cord")
    x = rng.uniform(-0.04, 0.04)
    way = rng.choice([-1.0, 1.0])
    path = smooth(
        [
            (x, top + 0.05),
            (x + way * 0.015, top - 0.09),
            (x + way * 0.085, top - 0.18),
            (x + way * 0.20, top - 0.215 + rng.uniform(-0.02, 0.02)),
            (x + way * 0.33, top - 0.17 + rng.uniform(-0.04, 0.06)),
        ],
        steps=6,
    )
    thick = rng.uniform(0.085, 0.11)
    scene.fill(band(path, thick), TISSUE * 0.9)
    for share in (-0.25, 0.25):
        shifted = band(path, thick * 2 * abs(share))
        n = len(path)
        lumen = shifted[:n] if share > 0 else shifted[n:]
        scene.fill(band(lumen, thick * 0.22), FLUID * 2, 0.7)
    walls = band(path, thick)
    scene.line(walls[: len(path)], 1.4, 0.012, isotropic=0.6)
    scene.line(walls[len(path) :], 1.4, 0.012, isotropic=0.6)
    scene.mark("UC", band(path[4:], thick))
    scene.mark("UI", ellipse((x, top - 0.005), (0.095, 0.075), n=24))
