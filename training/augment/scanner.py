"""Gives the same anatomy another scanner's style, at random.

Grey curve, gain by depth, local contrast, sharpness, resolution, speckle, compression, and
burned-in annotations. A model that learns from one hospital must not learn its machines' style.
"""

import math
from typing import Any

import cv2
import numpy as np

from detector.frame import Pixels
from training.augment.burned_in import add_annotations


def restyle(pixels: Pixels, generator: np.random.Generator) -> Pixels:
    """A copy of an RGB picture (H, W, 3) uint8 as another machine might show it."""
    # First, while a letterbox still has the grey that tells it from the picture.
    toned: Any = cv2.LUT(add_annotations(pixels, generator), _grey_curve(generator))
    if generator.random() < 0.2:
        toned = _enhance_local_contrast(toned, generator.uniform(1.0, 3.0))
    if generator.random() < 0.3:
        toned = _change_gain_by_depth(toned, generator)
    if generator.random() < 0.3:
        toned = _lower_resolution(toned, generator.uniform(0.5, 0.9))
    elif generator.random() < 0.25:
        toned = cv2.GaussianBlur(toned, (0, 0), generator.uniform(0.4, 1.2))
    elif generator.random() < 0.2:
        toned = _sharpen(toned, generator.uniform(0.3, 1.0))
    if generator.random() < 0.3:
        toned = _add_speckle(toned, generator)
    if generator.random() < 0.5:
        toned = _compress(toned, int(generator.integers(35, 96)))
    return np.asarray(toned, np.uint8)


def _grey_curve(generator: np.random.Generator) -> Any:
    gamma = math.exp(generator.normal(0, 0.3))
    gain = math.exp(generator.normal(0, 0.15))
    floor = max(0.0, generator.normal(0, 10))
    curve = 255 * gain * (np.arange(256) / 255) ** gamma + floor
    return np.clip(curve, 0, 255).astype(np.uint8)


def _enhance_local_contrast(pixels: Pixels, limit: float) -> Any:
    lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(limit, (8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def _change_gain_by_depth(pixels: Pixels, generator: np.random.Generator) -> Any:
    """Time gain compensation set otherwise: a smooth factor over the rows."""
    knots = np.exp(generator.normal(0, 0.25, 4))
    rows = np.interp(np.linspace(0, 3, len(pixels)), np.arange(4), knots)
    return np.clip(pixels * rows[:, None, None].astype(np.float32), 0, 255).astype(np.uint8)


def _lower_resolution(pixels: Pixels, factor: float) -> Any:
    height, width = pixels.shape[:2]
    small = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def _sharpen(pixels: Pixels, amount: float) -> Any:
    """Edge enhancement, as scanners offer it."""
    return cv2.addWeighted(pixels, 1 + amount, cv2.GaussianBlur(pixels, (0, 0), 2.0), -amount, 0)


def _add_speckle(pixels: Pixels, generator: np.random.Generator) -> Any:
    """Multiplicative noise, a little correlated, stronger where it is bright."""
    height, width = pixels.shape[:2]
    noise = generator.standard_normal((height, width), np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), generator.uniform(0.3, 1.2))
    noise *= generator.uniform(0.03, 0.15) / max(1e-6, float(noise.std()))
    return np.clip(pixels * (1 + noise[..., None]), 0, 255).astype(np.uint8)


def _compress(pixels: Pixels, quality: int) -> Any:
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)
