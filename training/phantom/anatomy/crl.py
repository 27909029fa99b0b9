"""The whole fetus in mid-sagittal section, for the crown-rump length.

Local unit: the crown-rump length, along x from rump (-0.5) to crown (+0.5); the face looks up.
"""

from collections.abc import Callable, Mapping

import numpy as np

from training.phantom.defects import Defect
from training.phantom.scene import BRAIN, FLUID, TISSUE, Scene
from training.phantom.sector import Points
from training.phantom.shapes import blob, ellipse, smooth, turned

Turn = Callable[[Points], Points]

MM_PER_UNIT = (45.0, 84.0)
_PIVOT = (0.17, 0.07)

_HEAD = smooth(
    [
        (0.17, 0.10),
        (0.24, 0.155),
        (0.36, 0.150),
        (0.46, 0.09),
        (0.50, -0.01),
        (0.47, -0.11),
        (0.40, -0.165),
        (0.325, -0.165),
        (0.285, -0.135),
        (0.272, -0.155),
        (0.252, -0.160),
        (0.248, -0.135),
        (0.232, -0.125),
        (0.225, -0.10),
        (0.205, -0.085),
        (0.205, -0.05),
        (0.17, -0.02),
    ],
    closed=True,
    steps=5,
)
_ROUND = ellipse((0.335, -0.005), (0.165, 0.155), n=len(_HEAD))
_TRUNK = smooth(
    [
        (0.22, 0.12),
        (0.12, 0.115),
        (0.0, 0.145),
        (-0.18, 0.155),
        (-0.34, 0.13),
        (-0.45, 0.06),
        (-0.495, -0.02),
        (-0.46, -0.08),
        (-0.36, -0.10),
        (-0.24, -0.115),
        (-0.08, -0.13),
        (0.04, -0.12),
        (0.12, -0.07),
        (0.20, -0.02),
    ],
    closed=True,
    steps=5,
)


def key_points(code: str) -> Points:
    """Outline of head and trunk; `crown` and `rump` give the ends that may be cut off."""
    if code == "crown":
        return _HEAD[_HEAD[:, 0] > 0.30]
    if code == "rump":
        return _TRUNK[_TRUNK[:, 0] < -0.30]
    return np.vstack([_HEAD, _TRUNK])


def draw(scene: Scene, levels: Mapping[Defect, float]) -> None:
    """Paint the fetus and mark its extent; `levels` holds each defect's extent in 0..1."""
    rng = scene.part("draw")
    coronal = levels.get(Defect.OFF_AXIS, 0.0) > 0.45
    nod = rng.uniform(-0.07, 0.07)
    if Defect.NECK_FLEXED in levels:
        nod -= np.deg2rad(30 + 14 * levels[Defect.NECK_FLEXED])
    if Defect.NECK_EXTENDED in levels:
        nod += np.deg2rad(30 + 16 * levels[Defect.NECK_EXTENDED])

    def head(shape: Points) -> Points:
        return turned(shape, nod, _PIVOT)

    _cavity(scene)
    trunk = _TRUNK * [1.0, rng.uniform(0.92, 1.08)]
    if coronal:
        trunk = np.stack([trunk[:, 0], (trunk[:, 1] - 0.01) * 1.02], axis=1)
    scene.fill(trunk, TISSUE * rng.uniform(0.7, 0.95))
    scene.line(trunk, 1.3, 0.010, closed=True)
    if coronal:
        _coronal_trunk(scene)
    else:
        _sagittal_trunk(scene)
    outline = _ROUND if coronal else _HEAD
    scene.fill(head(outline), TISSUE * 0.8)
    scene.line(head(outline), 1.2, 0.008, closed=True)
    _inside_head(scene, head, coronal)
    scene.mark("CRL", np.vstack([head(outline), trunk]))


def _cavity(scene: Scene) -> None:
    rng = scene.part("cavity")
    centre = (rng.uniform(-0.06, 0.06), rng.uniform(-0.14, -0.02))
    cavity = blob(rng, centre, (rng.uniform(0.68, 0.85), rng.uniform(0.32, 0.42)), 0.07)
    scene.fill(cavity, FLUID * rng.uniform(0.8, 2.0), 0.35)
    scene.line(cavity, rng.uniform(0.5, 1.3), 0.010, closed=True)
    if rng.random() < 0.4:
        placenta = blob(rng, (rng.uniform(-0.4, 0.4), centre[1] - 0.38), (0.4, 0.12), 0.1)
        scene.fill(placenta, TISSUE * 1.3)


def _sagittal_trunk(scene: Scene) -> None:
    rng = scene.part("sagittal_trunk")
    for x, y in zip(np.linspace(0.12, -0.40, 17), np.linspace(0.085, 0.075, 17), strict=True):
        bow = 0.03 * np.sin((0.12 - x) / 0.52 * np.pi)
        scene.fill(ellipse((x, y + bow), (0.010, 0.009), n=10), TISSUE * 4.0, 6.0)
    scene.fill(blob(rng, (0.06, -0.04), (0.045, 0.04), 0.08), TISSUE * 0.15, 0.6)
    if rng.random() < 0.6:
        scene.fill(blob(rng, (-0.10, -0.03), (0.035, 0.022), 0.08), FLUID * 2, 0.5)
    if rng.random() < 0.6:
        scene.fill(blob(rng, (-0.33, -0.035), (0.03, 0.02), 0.08), FLUID * 2, 0.5)
    for x in (-0.05, -0.38):
        if rng.random() < 0.7:
            reach = (x + rng.uniform(-0.04, 0.04), rng.uniform(-0.22, -0.17))
            limb = blob(rng, reach, (0.09, 0.028), 0.08, rng.uniform(-0.9, 0.9))
            scene.fill(limb, TISSUE)
            scene.line(ellipse(reach, (0.05, 0.004), n=12), 2.0, 0.010, 4.0)


def _coronal_trunk(scene: Scene) -> None:
    """Seen from the front: paired ribs, arms and legs, no spine line."""
    rng = scene.part("coronal_trunk")
    for side in (-1.0, 1.0):
        for x in np.linspace(0.12, -0.10, 6):
            rib = smooth([(x, side * 0.035), (x - 0.015, side * 0.08), (x - 0.045, side * 0.115)])
            scene.line(rib, 2.2, 0.012, 5.0, isotropic=0.7)
        arm = smooth([(0.13, side * 0.12), (0.02, side * 0.20), (-0.10, side * 0.18)])
        leg = smooth([(-0.40, side * 0.07), (-0.46, side * 0.16), (-0.36, side * 0.23)])
        for limb in (arm, leg):
            limb = limb + rng.normal(0, 0.008, 2)
            for p in limb[::2]:
                scene.fill(ellipse((p[0], p[1]), (0.036, 0.032), n=16), TISSUE)
            scene.line(limb, 2.4, 0.014, 5.0, isotropic=0.6)
    scene.fill(blob(rng, (0.04, 0.0), (0.05, 0.04), 0.08), TISSUE * 0.2, 0.6)


def _inside_head(scene: Scene, head: Turn, coronal: bool) -> None:
    rng = scene.part("inside_head")
    brain = ellipse((0.352, -0.01), (0.125, 0.128))
    scene.fill(head(brain), BRAIN * rng.uniform(0.9, 1.4))
    if coronal:
        scene.line(head(brain), 2.6, 0.014, 8.0, closed=True)
        scene.line(head(smooth([(0.27, -0.005), (0.47, -0.005)])), 2.0, 0.012, isotropic=0.6)
        for side in (-1.0, 1.0):
            scene.fill(head(blob(rng, (0.38, side * 0.06), (0.06, 0.03), 0.1)), TISSUE * 1.2)
            socket = ellipse((0.235, side * 0.062), (0.030, 0.030), n=20)
            scene.line(head(socket), 2.0, 0.014, 4.0, closed=True, isotropic=0.6)
            scene.fill(head(ellipse((0.235, side * 0.062), (0.024, 0.024), n=20)), FLUID * 2)
        return
    vault = smooth([(0.285, -0.125), (0.335, -0.155), (0.41, -0.15), (0.475, -0.08), (0.488, 0.0)])
    rear = smooth([(0.488, 0.0), (0.455, 0.08), (0.36, 0.135), (0.26, 0.14), (0.21, 0.115)])
    scene.fill(head(blob(rng, (0.40, -0.06), (0.055, 0.035), 0.1)), FLUID * 3)
    scene.fill(head(blob(rng, (0.335, 0.0), (0.034, 0.028), 0.06)), FLUID * 3)
    scene.fill(head(blob(rng, (0.325, 0.062), (0.028, 0.022), 0.06)), FLUID * 3)
    scene.line(head(vault), 2.2, 0.012, 9.0)
    scene.line(head(rear), 1.8, 0.011, 6.0)
    scene.line(head(smooth([(0.215, -0.075), (0.245, -0.085), (0.275, -0.06)])), 3.0, 0.02, 5.0)
    scene.line(head(smooth([(0.258, -0.135), (0.285, -0.115)])), 3.0, 0.010, isotropic=0.6)
