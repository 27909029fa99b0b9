"""Stored values to RGB: grey values, palettes, colour spaces.

Source: PS3.3 C.7.6.3 (Image Pixel), C.7.9 (Palette Color Lookup Table), C.11 (Modality, VOI).
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.dicom_file import numbers, raw_bytes
from detector.imaging.display import Display

Stored = npt.NDArray[Any]
"""One frame as decoded: (rows, columns) or (rows, columns, 3), any integer or float type."""

_SPACES = ("RGB", "YBR_FULL", "YBR_PARTIAL")
_YBR_PARTIAL = 255 / 219, 255 / 224
"""Y spans 16..235 and the chroma 16..240 in YBR_PARTIAL (PS3.3 C.7.6.3.1.2)."""


def palette_renderer(dataset: Dataset, little_endian: bool) -> Callable[[Stored], Pixels]:
    """The function from a stored PALETTE COLOR frame to RGB, its tables computed once.

    Raises QCError DECODE_FAILED for tables that are none.
    """
    table, first = _palette(dataset, little_endian)
    last = len(table) - 1
    return lambda stored: table.take(np.clip(stored.astype(np.int32) - first, 0, last), axis=0)


def grey(stored: Stored, display: Display, bits: int, signed: bool, inverted: bool) -> Pixels:
    """RGB of a one-sample frame of `bits` stored bits, `inverted` for MONOCHROME1.

    Without window or table, 8 bits keep their nominal range, and a deeper frame is stretched from
    its least to its greatest value: vendors store 10 or 12 bits of content under any Bits Stored.
    A window or table that would make one grey of the whole frame is not this picture's.
    """
    if stored.ndim != 2:
        raise unsupported_colour()
    picture = _render(stored, display, bits, signed, with_voi=True)
    if display.voi is not None and picture.min() == picture.max() and stored.min() != stored.max():
        picture = _render(stored, display, bits, signed, with_voi=False)
    return np.repeat((255 - picture if inverted else picture)[..., None], 3, axis=-1)


def _render(
    stored: Stored, display: Display, bits: int, signed: bool, with_voi: bool
) -> npt.NDArray[np.uint8]:
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        return display.grey(_finite(stored), with_voi)
    low, high = int(stored.min()), int(stored.max())
    nominal = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if bits <= 8:
        # Values beyond the stated bits tell that more are used.
        if low < nominal[0] or high > nominal[1]:
            nominal = (-128, 127) if signed else (0, 255)
        low, high = min(low, nominal[0]), max(high, nominal[1])
    table = display.grey(np.arange(low, high + 1, dtype=np.int32), with_voi)
    picture: npt.NDArray[np.uint8] = table[stored.astype(np.int32) - low]
    return picture


def _finite(stored: Stored) -> Stored:
    """Float Pixel Data may hold infinities and what is no number; the extremes stand for them."""
    if stored.dtype.kind != "f":
        return stored
    finite = stored[np.isfinite(stored)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    return np.nan_to_num(stored, nan=low, posinf=high, neginf=low)


def used_bits(stored: Stored, bits_stored: int, high_bit: int, signed: bool) -> Stored:
    """The values without what lies outside Bits Stored (PS3.5 8.1.1), as far as that is true.

    Values at the top of their words, as High Bit says and their empty low bits bear out, are
    moved down. Signed values get their sign. Bits Stored that are fewer than the values use are
    not believed: bits cut off would wrap bright tissue to black.
    """
    width = stored.dtype.itemsize * 8
    if stored.dtype.kind not in "iu" or not 1 <= bits_stored < width:
        return stored
    shift = high_bit + 1 - bits_stored
    if 0 < shift <= width - bits_stored and not (stored & ((1 << shift) - 1)).any():
        return stored >> shift
    values = stored.view(f"u{stored.dtype.itemsize}")
    if signed and int(values.max(initial=0)) < 1 << bits_stored:
        up = width - bits_stored
        moved: Stored = (stored << up) >> up
        return moved
    return stored


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
        descriptor = numbers(dataset, f"{name}PaletteColorLookupTableDescriptor")
        if len(descriptor) != 3 or None in descriptor:
            raise _bad_palette()
        # 0 entries stands for 2^16, which 16 bits cannot say.
        entries, first, depth = (int(each or 0) for each in descriptor)
        entries = entries or 2**16
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
    data = raw_bytes(dataset, f"{name}PaletteColorLookupTableData")
    if data:
        # Eight-bit entries may be packed by two into words, or spread one a word.
        wide = len(data) >= 2 * entries
        if not wide and not little_endian:
            data = np.frombuffer(data[: len(data) // 2 * 2], np.uint16).byteswap().tobytes()
        values = np.frombuffer(data, f"{endian}u2" if wide else "u1", count=-1)
        if len(values) < entries:
            raise _bad_palette()
        return values[:entries].astype(np.uint16)
    segments = raw_bytes(dataset, f"Segmented{name}PaletteColorLookupTableData")
    if not segments:
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
