"""Phantom pictures with known truth: plan, draw, scan, mark, judge."""

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from detector.anatomy import LABELS, View
from detector.boxes import Box
from detector.frame import Pixels
from training.phantom.anatomy import other
from training.phantom.bmode import BModeImage, acquire
from training.phantom.defects import APPLICABLE, Defect, truth
from training.phantom.machine_marks import burn_in
from training.phantom.plan import ANATOMY, Plan, choose_defects, plan
from training.phantom.scene import Pose, Scene
from training.phantom.sector import Floats, Points, region_of

VIEWS = (View.HEAD, View.NT, View.CRL, View.ABDOMEN)
_ORDER = {label.code: label.index for label in LABELS}
_EXTENTS = frozenset({"CB", "AS", "CRL", "F"})
_MIN_CONTRAST = 16.0
"""Grey levels between dark and bright within a box; less is lost in speckle."""
_MIN_TRANSMISSION = 0.3
_TRIES = 60


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    """A picture, RGB (rows, columns, 3), and everything that is true of it.

    `boxes` are (label code, box) of the visible structures; `criteria` covers each code of
    `RULES[view]`; `region` is the tissue's bounding box; `spacing_mm` is per pixel, both ways.
    """

    pixels: Pixels
    view: View
    standard: bool
    defects: tuple[Defect, ...]
    boxes: tuple[tuple[str, Box], ...]
    criteria: dict[str, bool]
    seed: int
    spacing_mm: float
    region: Box


def make(
    seed: int,
    view: View | None = None,
    standard: bool | None = None,
    defect: Defect | None = None,
) -> Phantom:
    """The phantom of a seed; what is not given is drawn from it (four views, half standard).

    Raises:
        ValueError: a defect that the view cannot have, or one asked of a standard picture.
    """
    rng = np.random.default_rng([seed, 1])
    random_view = VIEWS[int(rng.integers(len(VIEWS)))]
    coin = bool(rng.random() < 0.5)
    if view is None:
        if defect is not None:
            candidates = [option for option in VIEWS if defect in APPLICABLE[option]]
            random_view = candidates[seed % len(candidates)]
        view = random_view
    if defect is not None and (standard or defect not in APPLICABLE[view]):
        raise ValueError(f"{defect.value!r} does not fit a {_kind(view, standard)} picture")
    if view is View.OTHER:
        pixels, region, spacing = other.draw(seed)
        return Phantom(pixels, view, False, (), (), {}, seed, spacing, region)
    if standard is None:
        standard = coin and defect is None
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, 2, attempt])
        defects = () if standard else choose_defects(rng, view, defect)
        phantom_plan = plan(rng, seed, view, defects)
        if phantom_plan is None:
            continue
        phantom = render(phantom_plan)
        if phantom is not None:
            return phantom
    raise RuntimeError(f"no {_kind(view, standard)} phantom came of seed {seed}")


def make_cine(
    seed: int, view: View, frames: int = 24, defect: Defect = Defect.OFF_AXIS
) -> list[Phantom]:
    """A sweep through the standard plane: off it at both ends, on it in the middle.

    One anatomy, machine and canvas; the pose drifts by a few pixels, and `defect` (off-axis
    plane, or any other of the view that grows by degrees) leaves and returns. Each frame has
    its own truth.

    Raises:
        ValueError: fewer than one frame, or a defect that the view cannot have.
    """
    if frames < 1 or defect not in APPLICABLE[view]:
        raise ValueError(f"no cine of {frames} frames with {defect.value!r} in view {view}")
    for attempt in range(_TRIES):
        rng = np.random.default_rng([seed, 3, attempt])
        base = plan(rng, seed, view, ())
        if base is None:
            continue
        drift = rng.normal(0, 0.012, 2) * base.sector.width
        nod = float(rng.normal(0, 0.03))
        sweep: list[Phantom] = []
        for number in range(frames):
            where = 2 * number / max(frames - 1, 1) - 1
            phantom = render(_moved(base, where, drift, nod, defect), frame=number)
            if phantom is None:
                break
            sweep.append(phantom)
        if len(sweep) == frames:
            return sweep
    raise RuntimeError(f"no cine of view {view} came of seed {seed}")


def _moved(
    base: Plan, where: float, drift: npt.NDArray[np.float64], nod: float, defect: Defect
) -> Plan:
    """The plan at `where` in -1..1 of the sweep."""
    reach = float(np.clip((abs(where) - 0.35) / 0.3, 0, 1))
    level = reach * reach * (3 - 2 * reach)
    # No frame lies between in and out of plane: its truth would not be visible.
    level = min(level, 0.15) if level < 0.4 else max(level, 0.75)
    defects = (defect,) if level > 0.5 else ()
    levels = dict(base.levels)
    if defects or defect is Defect.OFF_AXIS:
        levels[defect] = level
    x, y = np.asarray(base.pose.origin) + drift * where
    pose = Pose((float(x), float(y)), base.pose.scale, base.pose.turn + nod * where, base.pose.side)
    return replace(base, pose=pose, levels=levels, defects=defects)


def render(plan: Plan, frame: int = 0) -> Phantom | None:
    """Draw and scan a plan; None where the picture does not show what the plan says."""
    scene = Scene(plan.sector, plan.pose, plan.anatomy_seed)
    ANATOMY[plan.view].draw(scene, plan.levels)
    _texture(scene, plan.anatomy_seed)
    if not _complete(scene, plan):
        return None
    noise = np.random.default_rng([plan.anatomy_seed, 4, frame])
    picture = acquire(scene, plan.machine, noise)
    boxes = _visible_boxes(scene.structures, picture)
    criteria = truth(plan.view, plan.defects, frozenset(code for code, _ in boxes))
    standard = not plan.defects
    if standard and not all(criteria.values()):
        return None

    region = region_of(picture.mask)
    pixels = _colour(picture.grey, np.random.default_rng([plan.anatomy_seed, 5]))
    burn_in(pixels, region, np.random.default_rng([plan.anatomy_seed, 6]))
    return Phantom(
        pixels=pixels,
        view=plan.view,
        standard=standard,
        defects=plan.defects,
        boxes=boxes,
        criteria=criteria,
        seed=plan.seed,
        spacing_mm=plan.spacing_mm,
        region=region,
    )


def _texture(scene: Scene, seed: int) -> None:
    """Uneven echogenicity at two sizes; anechoic fluid hardly shows it."""
    rng = np.random.default_rng([seed, 7])
    height, width = scene.amplitude.shape
    for cells, strength in ((9, 0.16), (38, 0.20)):
        coarse = rng.standard_normal((max(2, cells * height // width), cells)).astype(np.float32)
        fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        scene.amplitude *= np.exp(np.float32(strength) * fine)


def _complete(scene: Scene, plan: Plan) -> bool:
    """Whether every structure lies in the picture (unless cut off on purpose)."""
    if Defect.CUT_OFF in plan.defects:
        return True
    return all(
        plan.sector.inside(polygon).mean() >= (0.6 if code in {"NT", "UC"} else 0.97)
        for code, polygon in scene.structures.items()
    )


def _visible_boxes(
    structures: dict[str, Points], picture: BModeImage
) -> tuple[tuple[str, Box], ...]:
    """Boxes tight around the visible part of each structure, in the vocabulary's order."""
    clear = picture.mask & (picture.transmission > _MIN_TRANSMISSION)
    visible = clear.astype(np.uint8)
    smoothed = cv2.GaussianBlur(picture.grey, (0, 0), 1.6)
    boxes = [
        (code, box)
        for code, polygon in structures.items()
        if (box := _visible_box(code, polygon, visible, smoothed)) is not None
    ]
    return tuple(sorted(boxes, key=lambda item: _ORDER[item[0]]))


def _visible_box(
    code: str, polygon: Points, visible: npt.NDArray[np.uint8], smoothed: Floats
) -> Box | None:
    """The box in pixels of the polygon's visible part; None where that is too small, or too much
    like what is around it."""
    height, width = visible.shape
    low = np.floor(polygon.min(0)).astype(int)
    size = np.ceil(polygon.max(0)).astype(int) - low + 1
    whole = np.zeros((size[1], size[0]), np.uint8)
    cv2.fillPoly(whole, [np.round(polygon - 0.5 - low).astype(np.int32)], 1)
    x0, y0 = max(low[0], 0), max(low[1], 0)
    x1, y1 = min(low[0] + size[0], width), min(low[1] + size[1], height)
    if x1 <= x0 or y1 <= y0:
        return None
    part = whole[y0 - low[1] : y1 - low[1], x0 - low[0] : x1 - low[0]] & visible[y0:y1, x0:x1]
    if part.sum() < (0.4 if code in _EXTENTS else 0.6) * whole.sum():
        return None
    x, y, w, h = cv2.boundingRect(part)
    margin = 3
    around = smoothed[
        max(y0 + y - margin, 0) : y0 + y + h + margin, max(x0 + x - margin, 0) : x0 + x + w + margin
    ]
    dark, bright = np.percentile(around[:: 1 + h // 80, :: 1 + w // 80], (8, 94))
    if w < 3 or h < 3 or bright - dark < _MIN_CONTRAST:
        return None
    return (float(x0 + x), float(y0 + y), float(x0 + x + w), float(y0 + y + h))


def _colour(grey: Floats, rng: np.random.Generator) -> Pixels:
    """Grey levels to RGB: neutral, or a slight tint as scanners offer."""
    tint = np.ones(3)
    choice = rng.random()
    if choice < 0.2:
        tint = np.array([0.90, 0.96, 1.0])
    elif choice < 0.3:
        tint = np.array([1.0, 0.94, 0.82])
    ramp = np.arange(256)[:, None] * (tint + (1 - tint) * (np.arange(256)[:, None] / 255) ** 3)
    table = np.clip(np.round(ramp), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(table[np.clip(grey, 0, 255).astype(np.uint8)])


def _kind(view: View, standard: bool | None) -> str:
    return f"standard {view}" if standard else str(view)
