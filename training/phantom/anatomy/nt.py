"""The nuchal translucency view: head and upper chest in mid-sagittal section, fetus supine.

Local unit: the typical width of a magnified picture. Origin: centre of the thalami; x towards the
face, y down. Places and sizes follow the means of the annotations of the Fetus Framework data set
(doi 10.17632/n2rbrb9t4f.1).
"""

from collections.abc import Callable, Mapping

import numpy as np

from training.phantom.defects import Defect
from training.phantom.scene import BRAIN, FLUID, TISSUE, Scene
from training.phantom.sector import Points
from training.phantom.shapes import band, blob, ellipse, points, shifted, smooth, turned

Turn = Callable[[Points], Points]
"""Puts a shape of the head where the neck has turned it."""

MM_PER_UNIT = (40.0, 50.0)
PIVOT = (0.09, 0.225)
"""Where the head turns on the neck."""

_VAULT = points(
    (0.148, -0.168),
    (0.128, -0.205),
    (0.085, -0.242),
    (0.02, -0.265),
    (-0.06, -0.262),
    (-0.15, -0.225),
    (-0.22, -0.155),
    (-0.262, -0.06),
    (-0.268, 0.04),
    (-0.245, 0.12),
    (-0.19, 0.19),
    (-0.11, 0.228),
    (-0.03, 0.236),
)
"""From nasion over the crown to the occiput."""

_FACE = points(
    (0.148, -0.168),
    (0.158, -0.152),
    (0.178, -0.157),
    (0.198, -0.163),
    (0.218, -0.168),
    (0.234, -0.158),
    (0.233, -0.138),
    (0.240, -0.122),
    (0.258, -0.112),
    (0.256, -0.098),
    (0.266, -0.086),
    (0.263, -0.070),
    (0.280, -0.045),
    (0.282, -0.015),
    (0.262, 0.02),
    (0.225, 0.075),
)
"""From nasion over nasal tip, lips and chin to the throat."""

_FLAT = points(
    (0.148, -0.168),
    (0.156, -0.156),
    (0.166, -0.148),
    (0.178, -0.143),
    (0.190, -0.138),
    (0.200, -0.133),
    (0.209, -0.126),
    (0.217, -0.117),
    (0.224, -0.107),
    (0.230, -0.096),
    (0.235, -0.084),
    (0.239, -0.070),
    (0.242, -0.045),
    (0.240, -0.015),
    (0.232, 0.02),
    (0.215, 0.075),
)
"""The same stretch beside the midline: cheek without nose and lips."""


def key_points(code: str) -> Points:
    """Points that must lie in the picture (`all`), or those of the part that may be cut off."""
    if code == "face":
        return np.vstack([_VAULT[:3], _FACE])
    nape = smooth([(-0.03, 0.26), (0.10, 0.27), (0.30, 0.265)])
    if code == "nape":
        return nape
    return np.vstack([_VAULT[:8], _FACE, nape[: len(nape) * 3 // 4]])


def draw(scene: Scene, levels: Mapping[Defect, float]) -> None:
    """Paint the fetus and mark its structures; `levels` holds each defect's extent in 0..1."""
    rng = scene.part("draw")
    off = levels.get(Defect.OFF_AXIS, 0.0)
    missing = _missing(rng, levels.get(Defect.STRUCTURE_MISSING, 0.0))
    nod = rng.uniform(-0.07, 0.07)
    if Defect.NECK_FLEXED in levels:
        nod += np.deg2rad(23 + 12 * levels[Defect.NECK_FLEXED])
    if Defect.NECK_EXTENDED in levels:
        nod -= np.deg2rad(24 + 14 * levels[Defect.NECK_EXTENDED])
    size = rng.uniform(0.93, 1.07)

    def head(shape: Points) -> Points:
        return turned(shape * size, nod, PIVOT)

    _uterus(scene)
    back = _body(scene, nod)
    _nuchal(scene, back, off, nod, "NT" in missing)
    _skull(scene, head)
    _brain(scene, head, off, missing)
    _face(scene, head, off, missing)


def _missing(rng: np.random.Generator, level: float) -> frozenset[str]:
    choice = rng.integers(0, 3)
    faint = [code for code in ("NS", "IT", "CM", "MB") if rng.random() < 0.07]
    groups = (("NT",), ("NB", "NS"), ("PAL", "TH", "MB"))
    return frozenset(faint) | (frozenset(groups[choice]) if level > 0 else frozenset())


def _uterus(scene: Scene) -> None:
    rng = scene.part("uterus")
    floor = rng.uniform(0.35, 0.46)
    cavity = blob(rng, (0.18, floor - 0.48), (rng.uniform(0.62, 0.95), 0.48), 0.05)
    scene.fill(cavity, FLUID * rng.uniform(0.8, 2.2), 0.35)
    scene.line(cavity, rng.uniform(0.5, 1.2), 0.007, closed=True)
    if rng.random() < 0.4:
        near = smooth([(-0.8, -0.36), (-0.2, -0.42), (0.3, -0.40), (0.9, -0.34)])
        wall = shifted(np.vstack([near, [(0.9, -0.9), (-0.8, -0.9)]]), rng.uniform(-0.05, 0.0))
        scene.fill(wall, TISSUE * rng.uniform(0.7, 1.3))
        scene.line(near, 0.6, 0.006)
    if rng.random() < 0.35:
        limb = (rng.uniform(0.33, 0.6), rng.uniform(-0.33, -0.2))
        scene.fill(blob(rng, limb, (0.05, 0.022), 0.1, rng.uniform(-1, 1)), TISSUE * 1.4)


def _body(scene: Scene, nod: float) -> Points:
    """Trunk and neck; returns the line of the back's deep surface, from the occiput on."""
    rng = scene.part("body")
    rise = rng.uniform(-0.03, 0.05) - nod * 0.05
    front = smooth(
        [
            (0.20, 0.04),
            (0.26, 0.085 + rise / 2),
            (0.31, 0.075 + rise),
            (0.40, 0.02 + rise),
            (0.52, -0.03 + rise),
            (0.70, -0.05 + rise),
            (1.0, -0.02 + rise),
        ]
    )
    bend = 0.02 * max(nod, -0.3) * 4
    back = smooth(
        [
            (-0.06, 0.240 - bend),
            (0.02, 0.246 - bend / 2),
            (0.12, 0.247),
            (0.25, 0.243),
            (0.40, 0.232 - bend / 2),
            (0.60, 0.205 - bend),
            (1.0, 0.13 - bend),
        ]
    )
    trunk = np.vstack([front, back[::-1], [(-0.05, 0.1)]])
    scene.fill(trunk, TISSUE * rng.uniform(0.65, 0.9))
    scene.line(front, 1.3, 0.008)
    spine = back[len(back) // 3 :] - [0, rng.uniform(0.05, 0.08)]
    for i in range(0, len(spine) - 2, 3):
        scene.line(spine[i : i + 2], 0.8, 0.012, 6.0)
    heart = blob(rng, (rng.uniform(0.5, 0.6), 0.10), (0.05, 0.045), 0.08)
    scene.fill(heart, TISSUE * 0.2, 0.6)
    return back


def _nuchal(scene: Scene, back: Points, off: float, nod: float, merged: bool) -> None:
    """The fluid under the nuchal skin; off the midline it fades, merged skin hides it."""
    rng = scene.part("nuchal")
    thick = rng.uniform(0.022, 0.040)
    length = rng.uniform(0.30, 0.46)
    start = rng.uniform(-0.05, 0.02)
    rise = np.clip((back[:, 0] - start) / 0.09, 0, 1)
    fall = np.clip((start + length - back[:, 0]) / 0.16, 0, 1)
    swell = np.sin(rise * np.pi / 2) * (0.25 + 0.75 * np.sin(fall * np.pi / 2))
    kink = 0.012 * np.exp(-(((back[:, 0] - 0.09) / 0.05) ** 2)) if nod < -0.2 else 0.0
    skin = back + np.stack([np.zeros(len(back)), 0.010 + thick * swell - kink], axis=1)
    is_measured = (back[:, 0] >= start) & (back[:, 0] <= start + length)
    soft = np.vstack([back, skin[::-1]])
    if merged:
        scene.fill(soft, TISSUE * 0.8)
        scene.line(skin, 0.7, 0.007)
        return
    # Beside the midline the fluid is usually lost, but not always.
    fade = min(1.0, off * rng.uniform(0.35, 1.3))
    dark = FLUID + (TISSUE * 0.55 - FLUID) * fade
    scene.fill(soft, dark, 0.5)
    scene.fill(np.vstack([skin, shifted(skin, 0.010)[::-1]]), TISSUE)
    bright = 1 - 0.75 * fade
    scene.line(back, 2.2 * bright + 0.2, 0.009)
    scene.line(shifted(skin, 0.003), 2.4 * bright + 0.2, 0.009)
    if rng.random() < 0.5:
        scene.fill(np.vstack([shifted(skin, 0.012), shifted(skin, 0.03)[::-1]]), FLUID * 2, 0.5)
    if fade < 0.4:
        scene.mark(
            "NT",
            np.vstack(
                [shifted(back[is_measured], -0.006), shifted(skin[is_measured][::-1], 0.008)]
            ),
        )


def _skull(scene: Scene, head: Turn) -> None:
    rng = scene.part("skull")
    vault = smooth(_VAULT, steps=6)
    scalp = np.vstack([vault, head_base()])
    scene.fill(head(scalp), TISSUE * 0.75)
    inner = vault * 0.95 + np.array([0.0, 0.003])
    scene.fill(head(np.vstack([inner, head_base()])), BRAIN * rng.uniform(0.9, 1.5))
    bone = vault * 0.965
    scene.line(head(bone), rng.uniform(1.3, 2.6), 0.011, 12.0)


def head_base() -> Points:
    """From the occiput along the skull base back to the nasion."""
    return smooth([(0.03, 0.225), (0.12, 0.20), (0.20, 0.07), (0.20, -0.05), (0.150, -0.160)])


def _brain(scene: Scene, head: Turn, off: float, missing: frozenset[str]) -> None:
    rng = scene.part("brain")

    def near(x: float, y: float, spread: float = 0.009) -> tuple[float, float]:
        return (x + rng.normal(0, spread), y + rng.normal(0, spread))

    # Thalami and midbrain are wide: some still show where nose and palate are missing.
    midline = max(0.0, 1 - 2 * off * rng.uniform(0.25, 1.0))
    ventricle = blob(rng, near(-0.07, -0.15), (0.12 + 0.04 * off, 0.06 + 0.02 * off), 0.1, -0.3)
    scene.fill(head(ventricle), FLUID * 3)
    plexus = blob(rng, near(-0.11, -0.12), (0.06 + 0.05 * off, 0.028 + 0.02 * off), 0.12, -0.5)
    scene.fill(head(plexus), TISSUE * (0.9 + 0.8 * off))
    scene.fill(head(blob(rng, (0.10, 0.10), (0.09, 0.10), 0.1)), TISSUE * 0.7)

    def dark(code: str, shape: Points, rim: float) -> None:
        if midline == 0 or code in missing:
            return
        depth = FLUID * 2.2 + (BRAIN - FLUID * 2.2) * (1 - midline)
        scene.line(head(shape), rim * midline, 0.016, closed=True, isotropic=0.6)
        scene.fill(head(shape), depth, 0.6)
        if midline > 0.6:
            scene.mark(code, head(shape))

    scale = rng.uniform(0.9, 1.12)
    dark("TH", blob(rng, near(0, 0, 0.006), (0.066 * scale, 0.051 * scale), 0.05), 0.32)
    dark("MB", blob(rng, near(-0.032, 0.117, 0.006), (0.049, 0.062 * scale), 0.05, 0.2), 0.32)
    slit = smooth([near(-0.012, 0.143, 0.003), (0.035, 0.158), near(0.082, 0.166, 0.003)])
    dark("IT", band(slit, rng.uniform(0.022, 0.030)), 0.55)
    cistern = smooth([near(-0.022, 0.190, 0.003), (0.045, 0.202), near(0.118, 0.206, 0.003)])
    dark("CM", band(cistern, rng.uniform(0.020, 0.028)), 0.4)
    occiput = smooth([(-0.07, 0.222), (0.0, 0.228), (0.06, 0.228)])
    scene.line(head(occiput), 1.8 * midline + 0.5, 0.012, 8.0)


def _face(scene: Scene, head: Turn, off: float, missing: frozenset[str]) -> None:
    rng = scene.part("face")
    profile = smooth(_FACE + (_FLAT - _FACE) * min(1.0, 1.4 * off), steps=5)
    scene.fill(head(np.vstack([profile, [(0.10, 0.10), (0.12, -0.10)]])), TISSUE * 0.8)
    scene.line(head(profile), 0.8, 0.006)
    midline = max(0.0, 1 - 2 * off)
    if midline > 0.3:
        forehead = smooth(_VAULT[:4])
        outline = band(np.vstack([forehead[::-1], profile[: int(len(profile) * 0.88)]]), 0.012)
        scene.mark("F", head(outline))

    _palate(scene, head, midline, "PAL" in missing)
    if off > 0.25:
        _orbit(scene, head, off)
    if midline == 0:
        return
    shift = rng.normal(0, 0.004, 2)
    bone = smooth([(0.150, -0.134), (0.173, -0.137), (0.198, -0.140)]) + shift
    if "NB" not in missing:
        scene.line(head(bone), 3.6 * midline, 0.013, 6.0, isotropic=0.45)
        if midline > 0.3:
            scene.mark("NB", head(band(bone, 0.017)))
    skin = smooth([(0.160, -0.155), (0.178, -0.158), (0.197, -0.163)])
    strength = 0.6 if "NS" in missing else 2.4
    scene.line(head(skin), strength * midline, 0.008, isotropic=0.45)
    if midline > 0.3 and "NS" not in missing:
        scene.mark("NS", head(band(skin, 0.013)))
    tip = smooth([(0.196, -0.164), (0.215, -0.170), (0.234, -0.160)])
    scene.line(head(tip), 2.4 * midline, 0.009, isotropic=0.5)
    if midline > 0.3:
        scene.mark("NA", head(band(tip, 0.011)))


def _palate(scene: Scene, head: Turn, midline: float, missing: bool) -> None:
    rng = scene.part("palate")
    jaw = blob(rng, (0.245, -0.012), (0.026, 0.014), 0.1, 0.4)
    scene.fill(head(jaw), TISSUE * 3.0, 5.0)
    if missing or midline == 0:
        return
    maxilla = points(
        (0.130, -0.008), (0.165, -0.060), (0.235, -0.090), (0.262, -0.078), (0.225, -0.040)
    )
    wedge = smooth(maxilla + rng.normal(0, 0.004, maxilla.shape), closed=True, steps=5)
    scene.fill(head(wedge), TISSUE * (1 + 1.3 * midline), 2.0)
    ridge = smooth([(0.135, -0.012), (0.19, -0.052), (0.250, -0.082)])
    scene.line(head(ridge), 3.4 * midline, 0.018, 5.0, isotropic=0.6)
    if midline > 0.3:
        scene.mark("PAL", head(wedge))


def _orbit(scene: Scene, head: Turn, off: float) -> None:
    """Beside the midline the eye socket and the cheek bone take the place of nose and palate."""
    rng = scene.part("orbit")
    socket = ellipse((0.165, -0.105), (0.038, 0.034), rng.uniform(-0.4, 0.4))
    scene.line(head(socket), 1.9 * off, 0.016, 3.0, closed=True, isotropic=0.6)
    scene.fill(head(ellipse((0.165, -0.105), (0.031, 0.027))), FLUID * 2 + 0.25 * (1 - off), 0.8)
    cheek = smooth([(0.150, -0.055), (0.185, -0.050), (0.220, -0.065)])
    scene.line(head(cheek), 2.6 * off, 0.020, 8.0, isotropic=0.6)
