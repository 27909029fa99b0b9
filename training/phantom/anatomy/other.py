"""Pictures that are none of the four views: other tissue, other modes, pages and charts."""

from collections.abc import Callable

import cv2
import numpy as np

from detector.boxes import Box
from detector.frame import Pixels
from training.phantom.bmode import Machine, acquire
from training.phantom.machine_marks import burn_in, phrase, write
from training.phantom.scene import FLUID, TISSUE, Pose, Scene
from training.phantom.sector import Sector, region_of
from training.phantom.shapes import band, blob, ellipse, smooth

_CANVASES = ((640, 480), (800, 600), (700, 470), (1024, 768), (768, 576), (512, 512), (636, 436))

Paint = Callable[[Scene, np.random.Generator], None]


def draw(seed: int) -> tuple[Pixels, Box, float]:
    """Pixels, tissue region and millimetres per pixel of the seed's picture."""
    rng = np.random.default_rng([seed, 8])
    width, height = _CANVASES[int(rng.integers(len(_CANVASES)))]
    kind = rng.random()
    spacing = float(rng.uniform(0.08, 0.35))
    if kind < 0.08:
        pixels = _page(width, height, rng)
        return pixels, (0.0, 0.0, float(width), float(height)), spacing
    if kind < 0.17:
        pixels = _trace(width, height, rng)
        return pixels, (0.0, 0.0, float(width), float(height)), spacing
    sector = _linear(width, height, rng) if rng.random() < 0.3 else _sector(width, height, rng)
    pixels, region = _tissue(sector, rng, seed, empty=kind < 0.25)
    if kind > 0.8:
        _flow(pixels, region, rng)
    if rng.random() < 0.12:
        _strip(pixels, rng)
    if rng.random() < 0.25:
        tint = np.array([[0.88, 0.95, 1.0], [1.0, 0.93, 0.78]])[int(rng.integers(2))]
        pixels = (pixels * tint).astype(np.uint8)
    burn_in(pixels, region, rng)
    return pixels, region, spacing


def _sector(width: int, height: int, rng: np.random.Generator) -> Sector:
    top, curve = rng.uniform(-0.1, 0.1), rng.uniform(0.02, 0.9)
    bottom, half = rng.uniform(0.85, 1.15), rng.uniform(0.45, 0.8)
    apex = (width * rng.uniform(0.42, 0.58), (top - curve) * height)
    return Sector(width, height, apex, curve * height, (bottom - top + curve) * height, float(half))


def _linear(width: int, height: int, rng: np.random.Generator) -> Sector:
    """A linear array: a rectangle, as the limit of a very large radius."""
    radius = 25.0 * height
    top = rng.uniform(-0.05, 0.15)
    half_width = width * rng.uniform(0.25, 0.5)
    apex = (width * rng.uniform(0.45, 0.55), top * height - radius)
    depth = rng.uniform(0.6, 0.9) * height
    return Sector(width, height, apex, radius, radius + depth, float(half_width / radius))


def _tissue(sector: Sector, rng: np.random.Generator, seed: int, empty: bool) -> tuple[Pixels, Box]:
    pose = Pose((sector.width / 2, sector.height / 2), float(sector.height), rng.normal(0, 0.2))
    scene = Scene(sector, pose, seed)
    if empty:
        scene.amplitude *= rng.uniform(0.005, 0.05)
        _air(scene, rng)
    else:
        scene.amplitude *= rng.uniform(0.5, 1.2)
        for paint in rng.permutation(len(_PAINTS))[: int(rng.integers(1, 4))]:
            _PAINTS[int(paint)](scene, rng)
    for cells, strength in ((7, 0.35), (40, 0.25)):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        fine = cv2.resize(coarse, (sector.width, sector.height), interpolation=cv2.INTER_CUBIC)
        scene.amplitude *= np.exp(np.float32(strength) * fine)
    machine = Machine(
        gain_db=float(rng.uniform(-10, 10)),
        dynamic_range_db=float(rng.uniform(45, 75)),
        axial=float(rng.uniform(0.8, 2.0)),
        lateral=float(rng.uniform(0.7, 2.2)),
        tgc_slope_db=float(rng.uniform(-14, 10)),
        noise=float(rng.uniform(0.002, 0.02)),
        blur_px=float(rng.uniform(0, 1.5)),
        gamma=float(rng.uniform(0.8, 1.3)),
    )
    picture = acquire(scene, machine, rng)
    grey = np.clip(picture.grey, 0, 255).astype(np.uint8)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), region_of(picture.mask)


def _layers(scene: Scene, rng: np.random.Generator) -> None:
    y = -0.5
    while y < 0.5:
        y += float(rng.uniform(0.03, 0.16))
        knots = [(x, y + rng.normal(0, 0.012)) for x in np.linspace(-1.0, 1.0, 7)]
        edge = smooth(knots)
        scene.fill(np.vstack([edge, [(1.0, 1.2), (-1.0, 1.2)]]), TISSUE * rng.uniform(0.3, 1.8))
        scene.line(edge, rng.uniform(0.3, 2.5), 0.008)


def _blobs(scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(2, 9))):
        at = (float(rng.uniform(-0.6, 0.6)), float(rng.uniform(-0.4, 0.45)))
        axes = (float(rng.uniform(0.04, 0.22)), float(rng.uniform(0.03, 0.16)))
        shape = blob(rng, at, axes, 0.12, rng.uniform(-1.5, 1.5))
        scene.fill(shape, TISSUE * float(np.exp(rng.normal(0, 0.7))))
        if rng.random() < 0.5:
            scene.line(shape, rng.uniform(0.4, 2.0), 0.008, closed=True)


def _cysts(scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 6))):
        at = (float(rng.uniform(-0.5, 0.5)), float(rng.uniform(-0.35, 0.4)))
        size = float(rng.uniform(0.03, 0.24))
        shape = blob(rng, at, (size, size * rng.uniform(0.6, 1.0)), 0.05, rng.uniform(-1.5, 1.5))
        scene.line(shape, rng.uniform(0.5, 1.5), 0.010, closed=True)
        scene.fill(shape, FLUID * rng.uniform(0.5, 3), 0.3)


def _vessels(scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 4))):
        y = float(rng.uniform(-0.35, 0.35))
        slope = float(rng.normal(0, 0.2))
        knots = [(x, y + slope * x + rng.normal(0, 0.02)) for x in np.linspace(-0.9, 0.9, 6)]
        path = smooth(knots)
        thick = float(rng.uniform(0.03, 0.14))
        tube = band(path, thick)
        scene.fill(tube, FLUID * rng.uniform(0.5, 3), 0.4)
        scene.line(tube, rng.uniform(0.8, 2.5), 0.008, closed=True)


def _chambers(scene: Scene, rng: np.random.Generator) -> None:
    turn = float(rng.uniform(-0.6, 0.6))
    scene.fill(blob(rng, (0.0, 0.0), (0.38, 0.44), 0.06, turn), TISSUE * rng.uniform(0.6, 1.3))
    for x, y, w, h in (
        (-0.13, -0.13, 0.10, 0.19),
        (0.13, -0.13, 0.11, 0.20),
        (-0.13, 0.20, 0.11, 0.11),
        (0.13, 0.20, 0.12, 0.11),
    ):
        if rng.random() < 0.85:
            at = (x + rng.normal(0, 0.02), y + rng.normal(0, 0.02))
            shape = blob(rng, at, (w * rng.uniform(0.7, 1.1), h), 0.08)
            scene.fill(shape, FLUID * rng.uniform(0.5, 2), 0.5)
            scene.line(shape, rng.uniform(0.5, 1.5), 0.010, closed=True)
    for x in (-0.13, 0.13):
        scene.line(smooth([(x - 0.09, 0.07), (x, 0.04), (x + 0.09, 0.07)]), 2.0, 0.008)


def _bones(scene: Scene, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(1, 5))):
        x, y = float(rng.uniform(-0.5, 0.4)), float(rng.uniform(-0.35, 0.3))
        length, slope = float(rng.uniform(0.08, 0.4)), float(rng.normal(0, 0.15))
        bow = float(rng.normal(0, 0.03))
        line = smooth([(x, y), (x + length / 2, y + bow), (x + length, y + slope * length)])
        scene.line(line, rng.uniform(2, 5), 0.016, rng.uniform(8, 45))


def _organ(scene: Scene, rng: np.random.Generator) -> None:
    """A kidney-like organ: dark cortex about a bright sinus."""
    at = (float(rng.uniform(-0.2, 0.2)), float(rng.uniform(-0.1, 0.15)))
    turn = float(rng.uniform(-0.6, 0.6))
    outer = blob(rng, at, (0.38, 0.19), 0.05, turn)
    scene.fill(outer, TISSUE * 0.5)
    scene.line(outer, 1.5, 0.008, closed=True)
    scene.fill(blob(rng, at, (0.24, 0.08), 0.12, turn), TISSUE * 1.8)


_PAINTS: tuple[Paint, ...] = (_layers, _blobs, _cysts, _vessels, _chambers, _bones, _organ)


def _air(scene: Scene, rng: np.random.Generator) -> None:
    """A probe in air: reverberation lines under the face, nothing below."""
    step = float(rng.uniform(0.02, 0.07))
    for i in range(int(rng.integers(2, 8))):
        y = -0.48 + i * step
        scene.line(smooth([(-1.0, y), (0.0, y + 0.01), (1.0, y)]), 3.0 * 0.6**i, 0.008)


def _flow(pixels: Pixels, region: Box, rng: np.random.Generator) -> None:
    """A colour Doppler box with flow in red and blue."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = region
    w, h = (x1 - x0) * rng.uniform(0.25, 0.6), (y1 - y0) * rng.uniform(0.25, 0.6)
    left = int(x0 + rng.uniform(0.1, 0.4) * (x1 - x0))
    top = int(y0 + rng.uniform(0.15, 0.4) * (y1 - y0))
    right, bottom = min(int(left + w), width), min(int(top + h), height)
    shape = (bottom - top, right - left)
    coarse = rng.standard_normal((6, 7)).astype(np.float32)
    speed = cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    there = np.abs(speed) > rng.uniform(0.5, 1.1)
    bright = np.clip(90 + 90 * np.abs(speed), 0, 255)
    away_colour = np.clip(60 * (np.abs(speed) - 1), 0, 255)
    zero = np.zeros(shape)
    towards = np.stack([bright, away_colour, zero], 2)
    receding = np.stack([zero, away_colour, bright], 2)
    colour = np.where(speed[..., None] > 0, towards, receding).astype(np.uint8)
    box = pixels[top:bottom, left:right]
    box[there] = colour[there]
    cv2.rectangle(pixels, (left, top), (right - 1, bottom - 1), (230, 230, 120), 1)
    ramp = np.linspace(-1, 1, 80)
    bar = np.stack([np.clip(-ramp, 0, 1), 0 * ramp, np.clip(ramp, 0, 1)], 1) * 255
    at = int(rng.integers(2, 12))
    pixels[20:100, at : at + 10] = bar[:, None].astype(np.uint8)


def _strip(pixels: Pixels, rng: np.random.Generator) -> None:
    """A waveform strip across the lower part, as in duplex and M-mode pictures."""
    height, width = pixels.shape[:2]
    top = int(height * rng.uniform(0.55, 0.75))
    pixels[top:] = _waveform(width, height - top, rng)


def _trace(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """A spectral Doppler or chart page without tissue."""
    if rng.random() < 0.6:
        pixels = np.zeros((height, width, 3), np.uint8)
        top = int(height * rng.uniform(0.05, 0.4))
        pixels[top:] = _waveform(width, height - top, rng)
        burn_in(pixels, (0.0, 0.0, float(width), float(height)), rng)
        return pixels
    pixels = np.full((height, width, 3), int(rng.choice([0, 20, 235, 255])), np.uint8)
    ink = (30, 30, 30) if pixels[0, 0, 0] > 128 else (210, 210, 210)
    x0, y0, x1, y1 = int(width * 0.1), int(height * 0.1), int(width * 0.92), int(height * 0.88)
    cv2.rectangle(pixels, (x0, y0), (x1, y1), ink, 1)
    for share in np.linspace(0, 1, int(rng.integers(4, 10))):
        y = int(y0 + share * (y1 - y0))
        cv2.line(pixels, (x0, y), (x1, y), ink, 1)
        write(pixels, f"{share * 100:.0f}", (8, y + 4), ink, rng, 0.35)
    for _ in range(int(rng.integers(2, 5))):
        t = np.linspace(0, 1, 60)
        bend = rng.uniform(0.4, 2.0)
        xs, ys = x0 + t * (x1 - x0), y1 - (0.1 + rng.uniform(0.2, 0.8) * t**bend) * (y1 - y0)
        line = np.stack([xs, ys], 1).astype(np.int32)
        cv2.polylines(pixels, [line], False, ink, 1, cv2.LINE_AA)
    return pixels


def _waveform(width: int, height: int, rng: np.random.Generator) -> Pixels:
    t = np.linspace(0, rng.uniform(3, 9), width)
    envelope = np.exp(-3 * (t % 1)) * np.minimum((t % 1) * 14, 1)
    peak = (0.15 + 0.7 * envelope) * height * rng.uniform(0.5, 0.9)
    level = np.arange(height)[::-1, None] - height * rng.uniform(0.05, 0.3)
    inside = (level > 0) & (level < peak[None, :])
    speckle = rng.gamma(1.5, 40, (height, width)) * (0.4 + 0.6 * level / (peak[None, :] + 1))
    grey = np.where(inside, speckle, rng.gamma(1.0, 5, (height, width)))
    pixels = np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, 2)
    base = int(np.clip(height - (np.argmin(np.abs(level[::-1, 0]))), 0, height - 1))
    pixels[base] = 180
    return np.ascontiguousarray(pixels)


def _page(width: int, height: int, rng: np.random.Generator) -> Pixels:
    """A report or patient page: lines of text and a few rules, or nothing at all."""
    ground = int(rng.choice([0, 0, 15, 60, 240, 255]))
    pixels = np.full((height, width, 3), ground, np.uint8)
    if rng.random() < 0.25:
        noise = rng.normal(0, rng.uniform(0, 25), pixels.shape)
        return np.clip(pixels + noise, 0, 255).astype(np.uint8)
    shade = 30 if ground > 128 else 215
    for y in range(30, height - 10, int(rng.integers(16, 34))):
        x = int(rng.integers(10, 60))
        while x < width * 0.85 and rng.random() < 0.85:
            write(pixels, phrase(rng), (x, y), (shade, shade, shade), rng)
            x += int(rng.integers(70, 180))
        if rng.random() < 0.1:
            cv2.line(pixels, (10, y + 6), (width - 10, y + 6), (shade, shade, shade), 1)
    if rng.random() < 0.3:
        frame = ellipse((width * 0.8, height * 0.25), (width * 0.1, height * 0.12))
        cv2.polylines(pixels, [frame.astype(np.int32)], True, (shade, shade, shade), 2)
    return pixels
