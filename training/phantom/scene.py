"""The tissue a beam meets: echogenicity, reflectors, attenuation, and where structures are."""

import zlib
from dataclasses import dataclass, field

import cv2
import numpy as np

from training.phantom.sector import Floats, Points, Sector
from training.phantom.shapes import turned

_SUBPIXEL = 4

FLUID = 0.009
TISSUE = 0.30
BRAIN = 0.125
"""Echo amplitudes, relative: fluid is anechoic, brain darker than other soft tissue."""


@dataclass(frozen=True, slots=True)
class Pose:
    """Where local units lie on the canvas: pixels per unit, turn in radians, side +1 or -1."""

    origin: tuple[float, float]
    scale: float
    turn: float = 0.0
    side: int = 1

    def to_canvas(self, local: Points) -> Points:
        """Local units to pixels: mirrored by `side`, turned, scaled, shifted."""
        mirrored = local * np.array([self.side, 1.0])
        transformed: Points = turned(mirrored, self.turn * self.side) * self.scale
        return np.asarray(transformed + np.asarray(self.origin))


@dataclass(slots=True)
class Scene:
    """A canvas of tissue. Shapes come in local units of the pose; later ones cover earlier ones."""

    sector: Sector
    pose: Pose
    seed: int
    amplitude: Floats = field(init=False)
    reflector: Floats = field(init=False)
    attenuation: Floats = field(init=False)
    structures: dict[str, Points] = field(default_factory=dict)
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = self.part("interfaces")
        shape = (self.sector.height, self.sector.width)
        self.amplitude = np.full(shape, TISSUE, np.float32)
        self.reflector = np.zeros(shape, np.float32)
        self.attenuation = np.ones(shape, np.float32)

    def part(self, name: str) -> np.random.Generator:
        """Chance for one part of the anatomy: a change in one leaves the others as they are."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def fill(self, shape: Points, amplitude: float, attenuation: float = 1.0) -> None:
        """Fill a polygon with tissue; reflectors under it are wiped."""
        polygon = [_fixed(self.pose.to_canvas(shape))]
        cv2.fillPoly(self.amplitude, polygon, float(amplitude), 8, _SUBPIXEL)
        cv2.fillPoly(self.reflector, polygon, 0.0, 8, _SUBPIXEL)
        cv2.fillPoly(self.attenuation, polygon, float(attenuation), 8, _SUBPIXEL)

    def line(
        self,
        curve: Points,
        strength: float,
        thickness: float = 0.008,
        attenuation: float = 1.0,
        closed: bool = False,
        isotropic: float = 0.25,
    ) -> None:
        """A reflecting interface: bright where the beam meets it squarely, weak along it."""
        p = self.pose.to_canvas(np.vstack([curve, curve[:1]]) if closed else curve)
        width = max(1, round(thickness * self.pose.scale))
        along = np.diff(p, axis=0)
        beam = (p[1:] + p[:-1]) / 2 - np.asarray(self.sector.apex)
        norm = np.linalg.norm(along, axis=1) * np.linalg.norm(beam, axis=1) + 1e-9
        square = np.abs(along[:, 0] * beam[:, 1] - along[:, 1] * beam[:, 0]) / norm
        knots = max(2, len(p) // 6)
        uneven = np.interp(
            np.linspace(0, 1, len(along)),
            np.linspace(0, 1, knots),
            np.exp(self.rng.normal(0, 0.22, knots)),
        )
        echo = strength * (isotropic + (1 - isotropic) * square**3) * uneven
        fixed = _fixed(p)
        for i in range(len(along)):
            a, b = fixed[i].tolist(), fixed[i + 1].tolist()
            cv2.line(self.reflector, a, b, float(echo[i]), width, 8, _SUBPIXEL)
            if attenuation != 1.0:
                cv2.line(self.attenuation, a, b, float(attenuation), width, 8, _SUBPIXEL)

    def mark(self, code: str, shape: Points) -> None:
        """State that the polygon is the structure `code`."""
        self.structures[code] = self.pose.to_canvas(shape)


def _fixed(p: Points) -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    return np.round((p - 0.5) * (1 << _SUBPIXEL)).astype(np.int32)
