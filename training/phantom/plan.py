"""What a phantom will show: chosen from chance before anything is drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from detector.anatomy import View
from training.phantom.anatomy import abdomen, crl, head, nt
from training.phantom.bmode import Machine, Shadow
from training.phantom.defects import APPLICABLE, Defect, compatible
from training.phantom.scene import Pose
from training.phantom.sector import Points, Sector

ANATOMY: dict[View, ModuleType] = {
    View.NT: nt,
    View.HEAD: head,
    View.CRL: crl,
    View.ABDOMEN: abdomen,
}
_CANVASES = ((640, 450), (677, 463), (697, 480), (728, 470), (640, 480), (720, 540), (800, 600))
_CUTS = {
    View.NT: ("face", "nape"),
    View.CRL: ("crown", "rump"),
    View.HEAD: ("outline",),
    View.ABDOMEN: ("outline",),
}
_SCALES: dict[View, tuple[tuple[float, float], tuple[float, float]]] = {
    View.NT: ((0.86, 1.15), (0.34, 0.50)),
    View.CRL: ((0.62, 0.82), (0.24, 0.38)),
    View.HEAD: ((0.60, 0.84), (0.24, 0.38)),
    View.ABDOMEN: ((0.46, 0.62), (0.18, 0.28)),
}
"""Pixels per local unit as a share of the canvas (width for NT and CRL, else height): standard
range, and too small. The gap between them is the margin."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything `render` needs; `levels` holds the extent of each deviation, 0..1."""

    view: View
    seed: int
    anatomy_seed: int
    defects: tuple[Defect, ...]
    levels: Mapping[Defect, float]
    sector: Sector
    pose: Pose
    machine: Machine
    spacing_mm: float


def choose_defects(
    rng: np.random.Generator, view: View, first: Defect | None = None
) -> tuple[Defect, ...]:
    """One defect (the given one or any), sometimes a second that can be told beside it."""
    options = APPLICABLE[view]
    defects: tuple[Defect, ...] = (
        first if first is not None else options[int(rng.integers(len(options)))],
    )
    further = [defect for defect in options if compatible(defects, defect)]
    if further and rng.random() < 0.2:
        defects = (*defects, further[int(rng.integers(len(further)))])
    return defects


def plan(
    rng: np.random.Generator, seed: int, view: View, defects: tuple[Defect, ...]
) -> Plan | None:
    """Choose geometry, pose and machine; None where the anatomy did not fit the sector."""
    levels = {defect: float(rng.uniform(0, 1)) for defect in defects}
    if Defect.OFF_AXIS in levels:
        levels[Defect.OFF_AXIS] = float(rng.uniform(0.75, 1.0))
    elif view is View.NT:
        levels[Defect.OFF_AXIS] = float(rng.uniform(0, 0.12))
    anatomy = ANATOMY[view]
    key = anatomy.key_points("all")
    for attempt in range(48):
        if attempt % 8 == 0:
            sector = sample_sector(rng)
        pose = _pose(rng, view, sector, levels)
        if sector.inside(pose.to_canvas(key)).all():
            break
    else:
        return None
    if Defect.CUT_OFF in levels:
        pose = _cut_off(rng, view, sector, pose, levels[Defect.CUT_OFF])
    low, high = anatomy.MM_PER_UNIT
    return Plan(
        view=view,
        seed=seed,
        anatomy_seed=int(rng.integers(2**31)),
        defects=defects,
        levels=levels,
        sector=sector,
        pose=pose,
        machine=sample_machine(rng, sector, pose.to_canvas(key), levels),
        spacing_mm=float(rng.uniform(low, high)) / pose.scale,
    )


def sample_sector(rng: np.random.Generator) -> Sector:
    """A field of view: whole in the canvas, cut by its sides, or filling it."""
    width, height = _CANVASES[int(rng.integers(len(_CANVASES)))]
    width += int(rng.integers(-12, 13))
    height += int(rng.integers(-8, 9))
    kind = rng.random()
    if kind < 0.3:
        top, curve = rng.uniform(0.01, 0.06), rng.uniform(0.35, 0.8)
        bottom, half = rng.uniform(0.94, 0.99), rng.uniform(0.52, 0.68)
    elif kind < 0.7:
        top, curve = rng.uniform(-0.06, 0.03), rng.uniform(0.5, 1.3)
        bottom, half = rng.uniform(0.98, 1.15), rng.uniform(0.48, 0.64)
    else:
        top, curve = rng.uniform(-0.4, -0.2), rng.uniform(1.0, 1.8)
        bottom, half = 1.4, 0.9
    apex = (width * (0.5 + rng.normal(0, 0.015)), (top - curve) * height)
    return Sector(width, height, apex, curve * height, (bottom - top + curve) * height, float(half))


def _pose(
    rng: np.random.Generator, view: View, sector: Sector, levels: Mapping[Defect, float]
) -> Pose:
    small = Defect.TOO_SMALL in levels
    side = 1 if rng.random() < 0.5 else -1
    base = sector.width if view in (View.NT, View.CRL) else sector.height
    scale = base * rng.uniform(*_SCALES[view][1 if small else 0])
    spread = 2.2 if small else 1.0
    at = np.array([0.5, 0.5])
    if view is View.NT:
        at = np.array([0.5 - 0.11 * side * (0.4 if small else 1.0), 0.46])
        turn = np.deg2rad(np.clip(rng.normal(0, 4), -9, 9))
        jitter = np.array([0.05, 0.04])
    elif view is View.CRL:
        lean = rng.uniform(-11, 11)
        if Defect.NOT_HORIZONTAL in levels:
            lean = (32 + 26 * levels[Defect.NOT_HORIZONTAL]) * (1 if rng.random() < 0.5 else -1)
        turn = np.deg2rad(lean)
        at[1] = 0.54
        jitter = np.array([0.04, 0.06])
    elif view is View.HEAD:
        turn = np.deg2rad(rng.uniform(-60, 60) + (180 if rng.random() < 0.5 else 0))
        jitter = np.array([0.06, 0.04])
    else:
        turn = rng.uniform(-np.pi, np.pi)
        jitter = np.array([0.07, 0.06])
    at = at + np.clip(rng.normal(0, 1, 2), -2, 2) * jitter * spread
    origin = (float(at[0] * sector.width), float(at[1] * sector.height))
    return Pose(origin, float(scale), float(turn), side)


def _cut_off(
    rng: np.random.Generator, view: View, sector: Sector, pose: Pose, level: float
) -> Pose:
    """Shift the pose until the chosen part has left the picture far enough to be missed."""
    anatomy = ANATOMY[view]
    part = _CUTS[view][int(rng.integers(len(_CUTS[view])))]
    target = anatomy.key_points(part)
    whole = pose.to_canvas(anatomy.key_points("all"))
    if part == "outline":
        angle = rng.uniform(0, 2 * np.pi)
        way = np.array([np.cos(angle), np.sin(angle)])
        share = 0.26 + 0.16 * level
    else:
        way = pose.to_canvas(target).mean(0) - whole.mean(0)
        way = way / np.linalg.norm(way)
        share = 0.75 + 0.25 * level
    low, high = 0.0, float(sector.width + sector.height)
    for _ in range(24):
        middle = (low + high) / 2
        hidden = 1 - sector.inside(pose.to_canvas(target) + way * middle).mean()
        low, high = (middle, high) if hidden < share else (low, middle)
    x, y = np.asarray(pose.origin) + way * high
    return Pose((float(x), float(y)), pose.scale, pose.turn, pose.side)


def sample_machine(
    rng: np.random.Generator, sector: Sector, anatomy: Points, levels: Mapping[Defect, float]
) -> Machine:
    """Scanner settings in the good range, but for the defects in `levels`."""
    gain = rng.uniform(-3.5, 3.5)
    if Defect.GAIN_LOW in levels:
        gain = -(14 + 7 * levels[Defect.GAIN_LOW])
    if Defect.GAIN_HIGH in levels:
        gain = 16 + 8 * levels[Defect.GAIN_HIGH]
    blur, motion = rng.uniform(0.4, 1.3), 0.0
    if Defect.BLURRED in levels:
        strength = sector.width / 640
        blur = (4.0 + 3.0 * levels[Defect.BLURRED]) * strength
        if rng.random() < 0.4:
            motion, blur = (20 + 14 * levels[Defect.BLURRED]) * strength, 2.2 * strength
    return Machine(
        gain_db=float(gain),
        dynamic_range_db=float(rng.uniform(54, 66)),
        axial=float(rng.uniform(1.0, 2.1)),
        lateral=float(rng.uniform(0.9, 1.9)),
        focus=float(rng.uniform(0.3, 0.7)),
        tgc_slope_db=float(rng.uniform(-6, 6)),
        noise=float(rng.uniform(0.003, 0.009)),
        bone_loss=float(rng.uniform(0.5, 1.1)),
        blur_px=float(blur),
        motion_px=float(motion),
        gamma=float(rng.uniform(0.88, 1.15)),
        shadows=_shadows(rng, sector, anatomy, levels),
    )


def _shadows(
    rng: np.random.Generator, sector: Sector, anatomy: Points, levels: Mapping[Defect, float]
) -> tuple[Shadow, ...]:
    """A broad shadow over the anatomy as a defect; else at most one beside it."""
    offset = anatomy - np.asarray(sector.apex)
    angles = np.arctan2(offset[:, 0], offset[:, 1])
    low, high = float(angles.min()), float(angles.max())
    span = high - low
    if Defect.SHADOWED in levels:
        half = span * (0.15 + 0.10 * levels[Defect.SHADOWED])
        centre = low + span * rng.uniform(0.28, 0.72)
        start = (
            float(np.hypot(offset[:, 0], offset[:, 1]).min())
            - rng.uniform(0.02, 0.3) * sector.height
        )
        return (Shadow(float(centre), float(half), start, float(rng.uniform(0.012, 0.04))),)
    edge = high + 0.14 if rng.random() < 0.5 else low - 0.14
    if rng.random() < 0.25 and abs(edge) < sector.half_angle:
        return (Shadow(float(edge), 0.05, sector.near, float(rng.uniform(0.1, 0.4))),)
    return ()
