"""Stored values to RGB: palettes, colour spaces, modality and VOI transforms.

Source: PS3.3 C.7.6.3 (Image Pixel), C.7.9 (Palette Color Lookup Table), C.11 (Modality, VOI).
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut, apply_voi

from detector.codes import ErrorCode, QCError
from detector.frame import Pixels
from detector.source import integer, number, text

Stored = npt.NDArray[Any]
"""One frame as decoded: (rows, columns) or (rows, columns, 3), any integer or float type."""
Render = Callable[[Stored], Pixels]

_SPACES = ("RGB", "YBR_FULL", "YBR_PARTIAL")
_YBR_PARTIAL = 255 / 219, 255 / 224
"""Y spans 16..235 and the chroma 16..240 in YBR_PARTIAL (PS3.3 C.7.6.3.1.2)."""


def renderer(dataset: Dataset, little_endian: bool) -> Render:
    """The function from a stored one-sample frame to RGB, its tables computed once.

    Raises QCError DECODE_FAILED for a photometric interpretation that has none.
    """
    photometric = text(dataset, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        table, first = _palette(dataset, little_endian)
        last = len(table) - 1
        return lambda stored: table.take(np.clip(stored.astype(np.int32) - first, 0, last), axis=0)
    if photometric in ("MONOCHROME1", "MONOCHROME2"):
        return _monochrome(dataset, inverted=photometric == "MONOCHROME1")
    raise unsupported_colour()


def colour(stored: Stored, space: str, bits_stored: int) -> Pixels:
    """RGB of a three-sample frame in `space`: RGB, YBR_FULL or YBR_PARTIAL."""
    if stored.ndim != 3 or stored.shape[2] != 3 or space not in _SPACES:
        raise unsupported_colour()
    deep = stored.dtype.itemsize > 1 and bits_stored > 8
    eight = (stored >> (bits_stored - 8) if deep else stored).astype(np.uint8)
    if space == "RGB":
        return np.ascontiguousarray(eight)
    return _from_ybr(eight, partial=space == "YBR_PARTIAL")


def unsupported_colour() -> QCError:
    return QCError(ErrorCode.DECODE_FAILED, "the photometric interpretation is not supported")


def _from_ybr(ybr: Pixels, partial: bool) -> Pixels:
    """ITU-R BT.601 as in PS3.3 C.7.6.3.1.2, rounded to the nearest."""
    y, cb, cr = (ybr[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    if partial:
        y = (y - 16) * _YBR_PARTIAL[0]
        cb *= _YBR_PARTIAL[1]
        cr *= _YBR_PARTIAL[1]
    rgb = np.stack((y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb), axis=-1)
    rounded: Pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return rounded


def _palette(dataset: Dataset, little_endian: bool) -> tuple[Pixels, int]:
    """RGB of each table entry, shape (entries, 3), and the stored value of the first entry."""
    channels = []
    first = 0
    for name in ("Red", "Green", "Blue"):
        descriptor = dataset.get(f"{name}PaletteColorLookupTableDescriptor")
        if not isinstance(descriptor, (MultiValue, list)) or len(descriptor) != 3:
            raise _bad_palette()
        # 0 entries stands for 2^16, which 16 bits cannot say.
        entries, first, depth = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
        channels.append(_channel(dataset, name, entries, depth, little_endian))
    if len({len(channel) for channel in channels}) != 1:
        raise _bad_palette()
    table: npt.NDArray[np.uint16] = np.stack(channels, axis=-1)
    # Entries called 16-bit sometimes hold 8-bit values; only a table that uses the high byte does.
    if table.max(initial=0) > 255:
        table = (table >> 8).astype(np.uint16)
    return table.astype(np.uint8), first


def _channel(
    dataset: Dataset, name: str, entries: int, depth: int, little_endian: bool
) -> npt.NDArray[np.uint16]:
    endian = "<" if little_endian else ">"
    data = dataset.get(f"{name}PaletteColorLookupTableData")
    if data and isinstance(data, bytes):
        # Eight-bit entries may be packed by two into words, or spread one a word.
        wide = len(data) >= 2 * entries
        if not wide and not little_endian:
            data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
        values = np.frombuffer(data, f"{endian}u2" if wide else "u1", count=-1)
        if len(values) < entries:
            raise _bad_palette()
        return values[:entries].astype(np.uint16)
    segments = dataset.get(f"Segmented{name}PaletteColorLookupTableData")
    if not isinstance(segments, bytes):
        raise _bad_palette()
    width = "B" if depth == 8 else "H"
    size = len(segments) // (1 if depth == 8 else 2)
    words = struct.unpack_from(f"{endian}{size}{width}", segments)
    return np.asarray(_expand(words, entries, wide=depth != 8)[:entries], np.uint16)


def _expand(words: Sequence[int], entries: int, wide: bool) -> list[int]:
    """Values of a segmented table: discrete, linear and indirect segments (PS3.3 C.7.9.2)."""
    values: list[int] = []
    starts: list[int] = []
    at = 0
    while at + 2 < len(words) and len(values) < entries:
        starts.append(at)
        at = _expand_segment(words, at, values, starts, wide)
    if len(values) < entries:
        raise _bad_palette()
    return values


def _expand_segment(
    words: Sequence[int], at: int, values: list[int], starts: list[int], wide: bool
) -> int:
    """Append the segment at `at`; returns where the next begins."""
    kind, length = words[at], words[at + 1]
    if kind == 0:
        values.extend(words[at + 2 : at + 2 + length])
        return at + 2 + length
    if kind == 1 and values:
        before, last = values[-1], words[at + 2]
        values.extend(round(before + (last - before) * i / length) for i in range(1, length + 1))
        return at + 3
    if kind == 2:
        # The offset is in bytes: two words of the table's width, least significant first.
        step = 65536 if wide else 256
        parts = words[at + 2 : at + 4] if wide else words[at + 2 : at + 6]
        offset = sum(part * step**i for i, part in enumerate(parts)) // (2 if wide else 1)
        if offset not in starts:
            raise _bad_palette()
        source = offset
        for _ in range(length):
            if words[source] == 2:
                raise _bad_palette()
            source = _expand_segment(words, source, values, starts, wide)
        return at + 2 + len(parts)
    raise _bad_palette()


def _bad_palette() -> QCError:
    return QCError(ErrorCode.DECODE_FAILED, "the palette color lookup table is invalid")


def _monochrome(dataset: Dataset, inverted: bool) -> Render:
    """Modality LUT, then VOI LUT or window.

    Without either, 8 bits keep their nominal range, and a deeper frame is stretched from its
    least to its greatest value: vendors store 10 or 12 bits of content under any Bits Stored.
    """
    bits = integer(dataset, "BitsStored") or integer(dataset, "BitsAllocated") or 8
    nominal = (0, 2**bits - 1)
    if integer(dataset, "PixelRepresentation") == 1:
        nominal = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def render(stored: Stored) -> Pixels:
        if stored.ndim != 2:
            raise unsupported_colour()
        if stored.dtype.kind in "iu" and stored.dtype.itemsize <= 2:
            low, high = nominal if bits <= 8 else (int(stored.min()), int(stored.max()))
            table = _display(np.arange(low, high + 1, dtype=np.int32), dataset)
            grey = table[np.clip(stored.astype(np.int32), low, high) - low]
        else:
            grey = _display(stored, dataset)
        return np.repeat((255 - grey if inverted else grey)[..., None], 3, axis=-1)

    return render


def _display(stored: Stored, dataset: Dataset) -> npt.NDArray[np.uint8]:
    """Stored values to 0..255 (PS3.3 C.11.1, C.11.2), of the same shape."""
    values = apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        depth = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        unit = apply_voi(values, dataset) / (2**depth - 1)
    else:
        unit = _windowed(values.astype(np.float64), dataset)
    grey: npt.NDArray[np.uint8] = np.rint(np.clip(unit, 0, 1) * 255).astype(np.uint8)
    return grey


def _windowed(values: npt.NDArray[np.float64], dataset: Dataset) -> npt.NDArray[np.float64]:
    """0..1 by the first window (PS3.3 C.11.2.1.2, C.11.2.1.3), else from least to greatest."""
    centre, width = (number(dataset, name) for name in ("WindowCenter", "WindowWidth"))
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    if centre is None or width is None or width < 1 or (width == 1 and function == "LINEAR"):
        low, high = float(values.min()), float(values.max())
        return (values - low) / (high - low) if high > low else np.zeros_like(values)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - centre) / width))
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    return (values - centre) / width + 0.5
