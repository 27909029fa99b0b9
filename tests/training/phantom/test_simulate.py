"""Phantoms: repeatable, with true boxes and criteria, and visible defects."""

import hashlib
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.anatomy import BY_CODE, View
from model.criteria.rules import RULES
from training.phantom import APPLICABLE, FAILS, VIEWS, Defect, Phantom, make, make_cine
from training.phantom import plan as planning
from training.phantom.bmode import Machine
from training.phantom.defects import compatible, truth
from training.phantom.sector import Sector
from training.phantom.simulate import render

NEEDED = {
    View.HEAD: {"CB", "CP1", "CP2", "CF"},
    View.NT: {"NT", "NB", "F", "NA", "TH", "PAL"},
    View.CRL: {"CRL"},
    View.ABDOMEN: {"S", "AS", "UC", "UI"},
}
CASES = [(view, defect) for view in VIEWS for defect in APPLICABLE[view]]


def digest(phantom: Phantom) -> str:
    return hashlib.sha256(phantom.pixels.tobytes() + repr(phantom.boxes).encode()).hexdigest()


def tissue(phantom: Phantom) -> np.ndarray:
    x0, y0, x1, y1 = (int(v) for v in phantom.region)
    return phantom.pixels[y0:y1, x0:x1].mean(2)


def twin(view: View, seed: int, machine: dict[str, float]) -> tuple[Phantom, Phantom]:
    """The same standard anatomy scanned well, and with other machine settings."""
    for attempt in range(20):
        phantom_plan = planning.plan(np.random.default_rng([seed, attempt]), seed, view, ())
        if phantom_plan is None:
            continue
        standard = render(phantom_plan)
        changed = render(
            replace(
                phantom_plan,
                machine=replace(phantom_plan.machine, **machine),
                defects=(Defect.BLURRED,),
            )
        )
        if standard is not None and changed is not None:
            return standard, changed
    raise AssertionError("no twin")


def check(phantom: Phantom) -> None:
    height, width = phantom.pixels.shape[:2]
    assert phantom.pixels.dtype == np.uint8
    assert phantom.pixels.shape == (height, width, 3)
    codes = [code for code, _ in phantom.boxes]
    assert len(set(codes)) == len(codes)
    for code, (x0, y0, x1, y1) in phantom.boxes:
        assert BY_CODE[code].view is phantom.view
        assert 0 <= x0 < x1 <= width
        assert 0 <= y0 < y1 <= height
    assert set(phantom.criteria) == {rule.code for rule in RULES[phantom.view]}
    x0, y0, x1, y1 = phantom.region
    assert 0 <= x0 < x1 <= width
    assert 0 <= y0 < y1 <= height
    assert phantom.spacing_mm > 0
    if phantom.view is not View.OTHER:
        assert phantom.standard == all(phantom.criteria.values()) == (not phantom.defects)
        assert tissue(phantom).std() > 4


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**62), st.sampled_from([None, *VIEWS, View.OTHER]))
def test_any_seed_gives_a_consistent_phantom(seed: int, view: View | None) -> None:
    phantom = make(seed, view)
    check(phantom)
    assert phantom.seed == seed
    assert view is None or phantom.view is view


def test_same_seed_same_phantom_in_another_process() -> None:
    here = [digest(make(seed, view)) for seed in (3, 4) for view in (View.NT, View.OTHER)]
    script = (
        "import hashlib; from training.phantom import make; from detector.anatomy import View\n"
        "for s in (3, 4):\n"
        "    for v in (View.NT, View.OTHER):\n"
        "        p = make(s, v)\n"
        "        raw = p.pixels.tobytes() + repr(p.boxes).encode()\n"
        "        print(hashlib.sha256(raw).hexdigest())\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == here
    assert len(set(here)) == len(here)


def test_seeds_share_views_and_quality_evenly() -> None:
    phantoms = [make(seed) for seed in range(60)]
    assert {phantom.view for phantom in phantoms} == set(VIEWS)
    assert 15 <= sum(phantom.standard for phantom in phantoms) <= 45
    for view in VIEWS:
        assert sum(phantom.view is view for phantom in phantoms) >= 5


@pytest.mark.parametrize("view", VIEWS)
def test_standard_shows_every_needed_structure(view: View) -> None:
    for seed in range(6):
        phantom = make(seed, view, standard=True)
        check(phantom)
        assert phantom.standard
        assert {code for code, _ in phantom.boxes} >= NEEDED[view]


def test_head_plexuses_are_named_by_their_side() -> None:
    for seed in range(6):
        boxes = dict(make(seed, View.HEAD, True).boxes)
        assert boxes["CP1"][0] + boxes["CP1"][2] < boxes["CP2"][0] + boxes["CP2"][2]


def test_nt_places_follow_anatomy() -> None:
    for seed in range(6):
        boxes = dict(make(seed, View.NT, True).boxes)
        middle = {c: ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for c, b in boxes.items()}
        face = np.sign(middle["NA"][0] - middle["TH"][0])
        assert middle["NA"][1] < middle["TH"][1] < middle["NT"][1]
        assert (middle["PAL"][0] - middle["TH"][0]) * face > 0
        assert (middle["NB"][0] - middle["NA"][0]) * face < 0


def test_both_sides_occur() -> None:
    sides = set()
    for seed in range(12):
        boxes = dict(make(seed, View.NT, True).boxes)
        sides.add(bool(boxes["NA"][0] > boxes["TH"][0]))
    assert sides == {True, False}


@pytest.mark.parametrize(("view", "defect"), CASES)
def test_each_defect_fails_its_criteria(view: View, defect: Defect) -> None:
    for seed in range(2):
        phantom = make(500 + seed, view, defect=defect)
        check(phantom)
        assert not phantom.standard
        assert phantom.defects[0] is defect
        assert not all(phantom.criteria.values())
        for code in FAILS[view].get(defect, ()):
            assert phantom.criteria[code] is False


@pytest.mark.parametrize(
    ("view", "defect", "missing_codes"),
    [
        (View.NT, Defect.OFF_AXIS, {"NB", "NA", "F", "PAL"}),
        (View.HEAD, Defect.OFF_AXIS, {"CP1", "CP2"}),
        (View.HEAD, Defect.FALX_MISSING, {"CF"}),
        (View.ABDOMEN, Defect.STOMACH_MISSING, {"S"}),
        (View.ABDOMEN, Defect.CORD_MISSING, {"UC", "UI"}),
        (View.ABDOMEN, Defect.OFF_AXIS, {"S", "UC", "UI"}),
    ],
)
def test_missing_structures_have_no_box(
    view: View, defect: Defect, missing_codes: set[str]
) -> None:
    for seed in range(3):
        codes = {code for code, _ in make(700 + seed, view, defect=defect).boxes}
        assert not codes & missing_codes


def test_choroid_and_nt_structures_go_missing() -> None:
    for seed in range(4):
        head = make(seed, View.HEAD, defect=Defect.CHOROID_MISSING)
        assert {c for c, _ in head.boxes} & {"CP1", "CP2"} != {"CP1", "CP2"}
        nt = make(seed, View.NT, defect=Defect.STRUCTURE_MISSING)
        assert not {"NT", "NB", "PAL"} <= {c for c, _ in nt.boxes}


@pytest.mark.parametrize("view", VIEWS)
def test_gain_changes_brightness(view: View) -> None:
    well, dark = twin(view, 11, {"gain_db": -15.0})
    _, bright = twin(view, 11, {"gain_db": 17.0})
    assert tissue(dark).mean() < 0.65 * tissue(well).mean()
    assert tissue(bright).mean() > 1.5 * tissue(well).mean()


@pytest.mark.parametrize("view", VIEWS)
def test_blur_takes_sharpness(view: View) -> None:
    def sharpness(phantom: Phantom) -> float:
        # Inside the tissue only: the machine's lettering stays sharp.
        x0, y0, x1, y1 = phantom.region
        w, h = x1 - x0, y1 - y0
        inner = phantom.pixels[
            int(y0 + 0.3 * h) : int(y0 + 0.7 * h), int(x0 + 0.3 * w) : int(x0 + 0.7 * w)
        ]
        return float(np.abs(cv2.Laplacian(inner.mean(2), cv2.CV_64F)).mean())

    well, blurred = twin(view, 12, {"blur_px": 4.0})
    assert sharpness(blurred) < 0.5 * sharpness(well)


def test_too_small_is_smaller_than_any_standard() -> None:
    for view, code in ((View.HEAD, "CB"), (View.ABDOMEN, "AS"), (View.CRL, "CRL")):

        def share(phantom: Phantom, code: str = code) -> float:
            x0, _, x1, _ = dict(phantom.boxes)[code]
            return (x1 - x0) / phantom.pixels.shape[1]

        small = [share(make(s, view, defect=Defect.TOO_SMALL)) for s in range(4)]
        full = [share(make(s, view, True)) for s in range(8)]
        assert max(small) < min(full)


def test_shadow_darkens_a_band_of_the_anatomy() -> None:
    shadows = 0
    for seed in range(4):
        phantom = make(seed, View.CRL, defect=Defect.SHADOWED)
        if "CRL" not in dict(phantom.boxes):
            continue
        x0, y0, x1, y1 = (int(v) for v in dict(phantom.boxes)["CRL"])
        columns = phantom.pixels[y0:y1, x0:x1].mean((0, 2))
        smooth = np.convolve(columns, np.ones(15) / 15, "valid")
        shadows += bool(smooth.min() < 0.5 * np.median(smooth))
    assert shadows >= 3


def test_depth_broadens_speckle_away_from_the_focus() -> None:
    from training.phantom.bmode import acquire
    from training.phantom.scene import Pose, Scene

    sector = Sector(400, 400, (200.0, -9000.0), 9000.0, 9400.0, 200 / 9400)
    scene = Scene(sector, Pose((200.0, 200.0), 400.0), 0)
    machine = Machine(focus=0.0, lateral=1.5, bone_loss=0.0)
    grey = acquire(scene, machine, np.random.default_rng(0)).grey
    change = np.abs(np.diff(grey[:, 50:350], axis=1)).mean(1)
    assert change[20:60].mean() > 1.2 * change[320:380].mean()


def test_bone_shadows_and_fluid_enhances() -> None:
    from training.phantom.bmode import acquire
    from training.phantom.scene import Pose, Scene
    from training.phantom.shapes import ellipse, points

    sector = Sector(400, 400, (200.0, -9000.0), 9000.0, 9400.0, 200 / 9400)
    scene = Scene(sector, Pose((0.0, 0.0), 400.0), 0)
    scene.line(points((0.15, 0.3), (0.35, 0.3)), 3.0, 0.02, 60.0)
    scene.fill(ellipse((0.7, 0.35), (0.12, 0.15)), 0.005, 0.2)
    grey = acquire(scene, Machine(), np.random.default_rng(0)).grey
    below = grey[260:380]
    plain = below[:, 190:215].mean()
    assert below[:, 85:115].mean() < plain - 20
    assert below[:, 265:295].mean() > plain + 5


@pytest.mark.parametrize("view", VIEWS)
def test_cine_sweeps_through_the_standard_plane(view: View) -> None:
    sweep = make_cine(5, view, frames=9)
    assert len({frame.pixels.shape for frame in sweep}) == 1
    for frame in sweep:
        check(frame)
    assert sweep[4].standard
    assert not sweep[0].standard
    assert not sweep[-1].standard
    assert digest(sweep[3]) != digest(sweep[4])
    assert [digest(f) for f in make_cine(5, view, frames=9)] == [digest(f) for f in sweep]


def test_other_has_no_truth_but_its_region() -> None:
    phantom = make(1, View.OTHER)
    assert (phantom.standard, phantom.boxes, phantom.criteria) == (False, (), {})


def test_impossible_wishes_are_refused() -> None:
    with pytest.raises(ValueError, match="falx"):
        make(0, View.NT, defect=Defect.FALX_MISSING)
    with pytest.raises(ValueError, match="blurred"):
        make(0, View.NT, standard=True, defect=Defect.BLURRED)
    with pytest.raises(ValueError, match="frames"):
        make_cine(0, View.NT, frames=0)


def test_second_defect_never_contradicts_the_first() -> None:
    assert not compatible((Defect.GAIN_LOW,), Defect.GAIN_HIGH)
    assert not compatible((Defect.BLURRED,), Defect.BLURRED)
    assert compatible((Defect.TOO_SMALL,), Defect.BLURRED)
    for seed in range(40):
        for view in VIEWS:
            defects = planning.choose_defects(np.random.default_rng(seed), view)
            assert 1 <= len(defects) <= 2
            assert set(defects) <= set(APPLICABLE[view])


def test_truth_needs_the_structures_seen() -> None:
    everything = frozenset(NEEDED[View.HEAD])
    assert all(truth(View.HEAD, (), everything).values())
    assert truth(View.HEAD, (), everything - {"CF"})["CRIT-FALX"] is False
