"""From tissue to a grey picture: speckle, resolution, attenuation, shadow, log compression.

The scene is sampled along the beams. Scatterers are complex Gaussian noise weighed by
echogenicity; blurring them with the pulse gives fully developed (Rayleigh) speckle whose lateral
size grows away from the focus. Interfaces add a coherent echo. What a beam has crossed weakens what
lies beyond it, and time gain compensation restores the average loss, so that bone shadows and fluid
enhances.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy.special import expit

from training.phantom.scene import Scene
from training.phantom.sector import Floats, mask_of

_BEAMS = 256
_FLOOR_DB = -32.0
"""Echo level that is black at 0 dB gain: tissue then is about a third of full scale."""


@dataclass(frozen=True, slots=True)
class Shadow:
    """Beams around `angle` (radians) that lose their echo beyond `start` pixels from the apex."""

    angle: float
    half_width: float
    start: float
    transmission: float


@dataclass(frozen=True, slots=True)
class Machine:
    """Settings of the simulated scanner. Speckle sizes are standard deviations in samples."""

    gain_db: float = 0.0
    dynamic_range_db: float = 60.0
    axial: float = 1.1
    lateral: float = 1.1
    focus: float = 0.5
    tgc_slope_db: float = 0.0
    noise: float = 0.006
    bone_loss: float = 1.0
    blur_px: float = 0.0
    motion_px: float = 0.0
    gamma: float = 1.0
    shadows: tuple[Shadow, ...] = ()


@dataclass(frozen=True, slots=True)
class BModeImage:
    """Grey levels 0..255 and the share of echo that shadows let through; shape (height, width)."""

    grey: Floats
    transmission: Floats
    mask: npt.NDArray[np.bool_]


def acquire(scene: Scene, machine: Machine, rng: np.random.Generator) -> BModeImage:
    """Scan the scene."""
    sector = scene.sector
    radius, angle = sector.polar()
    mask = mask_of(sector, radius, angle)
    near, far = float(radius[mask].min()), float(radius[mask].max())
    edge = float(np.abs(angle[mask]).max())
    samples = int(np.clip((far - near) * 0.95, 128, 640))

    r = np.linspace(near, far, samples, dtype=np.float32)[:, None]
    theta = np.linspace(-edge, edge, _BEAMS, dtype=np.float32)[None, :]
    map_x = (sector.apex[0] + r * np.sin(theta) - 0.5).astype(np.float32)
    map_y = (sector.apex[1] + r * np.cos(theta) - 0.5).astype(np.float32)

    def along_beams(layer: Floats, border: int, value: float = 0.0) -> Floats:
        return np.asarray(
            cv2.remap(layer, map_x, map_y, cv2.INTER_LINEAR, borderMode=border, borderValue=value)
        )

    amplitude = along_beams(scene.amplitude, cv2.BORDER_REPLICATE)
    reflector = along_beams(scene.reflector, cv2.BORDER_REPLICATE)
    attenuation = along_beams(scene.attenuation, cv2.BORDER_CONSTANT, 1.0)

    depth = np.linspace(0, 1, samples, dtype=np.float32)[:, None]
    crossed = np.cumsum(attenuation - 1.0, axis=0, dtype=np.float32)
    crossed = np.roll(crossed, 3, axis=0)
    crossed[:3] = 0
    loss_db = np.clip(0.028 * machine.bone_loss * crossed, -5.0, 30.0)
    shadow = _shadow(machine.shadows, r, theta)
    level = shadow * 10 ** ((machine.tgc_slope_db * (depth - 0.5) - loss_db) / 20)
    level = level.astype(np.float32)

    scatter = rng.standard_normal((2, samples, _BEAMS), dtype=np.float32) * np.float32(0.7071)
    echo = np.zeros((samples, _BEAMS), np.float32)
    defocus = np.clip(np.abs(depth - machine.focus) * 1.6, 0, 1)
    coherent = cv2.GaussianBlur(
        reflector * level, (0, 0), sigmaX=machine.lateral * 0.8, sigmaY=machine.axial * 0.8
    )
    power = np.zeros_like(echo)
    for i in (0, 1):
        field = scatter[i] * amplitude * level
        sharp = _pulse(field, machine.lateral, machine.axial)
        wide = _pulse(field, machine.lateral * 2.0, machine.axial * 1.15)
        part = sharp + (wide - sharp) * defocus
        if i == 0:
            part = part + coherent
        noise = scatter[1 - i] * np.float32(machine.noise) * (0.6 + depth)
        power += (part + noise) ** 2
    decibel = 10 * np.log10(power + 1e-9)

    grey = (decibel - (_FLOOR_DB - machine.gain_db)) / machine.dynamic_range_db
    beams = np.clip(grey, 0, 1).astype(np.float32)

    back_x = ((angle + edge) / (2 * edge) * (_BEAMS - 1)).astype(np.float32)
    back_y = ((radius - near) / (far - near) * (samples - 1)).astype(np.float32)
    picture = cv2.remap(beams, back_x, back_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    passed = cv2.remap(shadow, back_x, back_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    picture = _blur(picture, machine)
    picture = np.power(picture, np.float32(machine.gamma)) * np.float32(255)
    picture[~mask] = 0
    return BModeImage(np.asarray(picture, np.float32), np.asarray(passed), mask)


def _pulse(field: Floats, lateral: float, axial: float) -> Floats:
    """Blur scatterers with the pulse, keeping their mean power."""
    blurred = cv2.GaussianBlur(field, (0, 0), sigmaX=lateral, sigmaY=axial)
    return np.asarray(blurred * np.float32(np.sqrt(4 * np.pi * lateral * axial)))


def _shadow(shadows: tuple[Shadow, ...], r: Floats, theta: Floats) -> Floats:
    passed = np.ones((len(r), theta.shape[1]), np.float32)
    for shadow in shadows:
        soft = max(shadow.half_width * 0.12, 0.004)
        across = expit((shadow.half_width - np.abs(theta - shadow.angle)) / soft)
        beyond = expit((r - shadow.start) / 4)
        passed *= 1 - (1 - shadow.transmission) * across * beyond
    return passed


def _blur(picture: Floats, machine: Machine) -> Floats:
    if machine.motion_px > 0:
        size = max(3, round(machine.motion_px))
        kernel = np.full((1, size), 1 / size, np.float32)
        picture = cv2.filter2D(picture, -1, kernel)
    if machine.blur_px > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), machine.blur_px)
    return np.asarray(picture)
