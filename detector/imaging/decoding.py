"""Decodes the frames of an opened DICOM image, one at a time, to RGB.

pydicom decodes the stored values; their colour space is resolved here, once, so that nothing is
converted twice. The header's samples, bits and colours are checked against the codestream or the
length of the data, which are more reliable.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    MPEGTransferSyntaxes,
    RLELossless,
)

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Pixels
from detector.imaging.codestream import (
    RGB,
    YBR_FULL,
    Codestream,
    Colour,
    header_space,
    jpeg2000_colour,
    read_jpeg,
    read_jpeg2000,
    read_rle,
    resolve_colour,
)
from detector.imaging.colour import (
    Stored,
    colour,
    grey,
    palette_renderer,
    unsupported_colour,
    used_bits,
)
from detector.imaging.colour_check import coloured_share, roughness
from detector.imaging.dicom_file import DicomFile, Header, integer, raw_bytes, text
from detector.imaging.display import Displays
from detector.imaging.encapsulation import (
    Span,
    basic_offset_table,
    extended_offset_table,
    fragments,
    frame_fragments,
)
from detector.imaging.video import video_frames

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
_JPEG = (
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)
_JPEG_2000 = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
_PLUGIN = dict.fromkeys((*_JPEG, *_JPEG_2000, RLELossless), "pylibjpeg")
"""The plugin that decodes each compressed syntax; another one could give another pixel hash."""

_MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_YBR_PARTIAL = "YBR_PARTIAL"
_SUBSAMPLED = ("YBR_FULL_422", "YBR_PARTIAL_422")
_ALLOCATED = (1, 8, 16, 32, 64)

_MOSTLY = 0.5
"""A picture that is coloured over more than this part probably has a wrong colour space."""
_MARGIN = 0.2
"""Another colour space is preferred if its coloured part is smaller by more than this."""
_FEW_COLOURED, _PLANE_GAIN = 0.05, 0.3
"""Another sample order is tried if more than the first part is coloured, and preferred if it leaves
less than the second part of that."""

Numbered = tuple[int, Pixels]
Failed = Callable[[int, QCError], None]
"""Called with number and error of a frame that cannot be decoded while others can."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """The samples of a stored frame: number, photometric interpretation, bits, sign, order."""

    samples: int
    photometric: str | None
    allocated: int
    bits: int
    high_bit: int
    signed: bool
    planar: int


@dataclass(frozen=True, slots=True)
class _Reading:
    """Colour space and sample order of a picture; `is_doubtful` where they contradict the header's
    labels."""

    space: str
    planar: int
    is_doubtful: bool = False


def decoding(source: DicomFile, header: Header) -> "Decoding":
    """The decoder of an opened image. Raises QCError: UNSUPPORTED_SYNTAX, TRUNCATED, NO_FRAMES,
    DECODE_FAILED."""
    syntax = source.transfer_syntax
    try:
        if syntax in _NATIVE:
            return _Native(source, header)
        if syntax in _PLUGIN:
            return _Compressed(source, header)
        if syntax in MPEGTransferSyntaxes:
            return _Video(source, header)
    except (QCError, MemoryError):
        raise
    except Exception as error:
        raise QCError(ErrorCode.DECODE_FAILED, "the pixel data are corrupt") from error
    name = str(syntax) if syntax.is_valid else "of an invalid UID"
    raise QCError(ErrorCode.UNSUPPORTED_SYNTAX, f"transfer syntax {name} is not supported")


class Decoding:
    """The frames of one image, by number from 1."""

    def __init__(self, source: DicomFile, header: Header) -> None:
        self.source = source
        self.header = header

    @property
    def flags(self) -> tuple[Flag, ...]:
        """Doubts on how the pixels were read; complete after `first`."""
        return ()

    def first(self) -> Numbered:
        """The first frame that can be decoded. Raises QCError as `frames` when none can."""
        return next(self.frames({1}))

    def frames(self, numbers: Collection[int], failed: Failed | None = None) -> Iterator[Numbered]:
        """Number and RGB of the frames, ascending. A frame that cannot be decoded is passed to
        `failed`; without that function it raises a QCError."""
        raise NotImplementedError


class _Video(Decoding):
    def frames(self, numbers: Collection[int], failed: Failed | None = None) -> Iterator[Numbered]:
        """Frames up to the end of the stream: a video's header often miscounts them."""
        header, source = self.header, self.source
        last = max(numbers)
        count = 0
        try:
            for count, pixels in enumerate(video_frames(source.stream, _spans(source)), 1):
                if pixels.shape[:2] != (header.rows, header.columns):
                    raise QCError(ErrorCode.DECODE_FAILED, "the video is not of the header's size")
                if count in numbers:
                    yield count, pixels
                if count == last:
                    return
        except (QCError, MemoryError):
            raise
        except Exception as error:
            raise _corrupt(count) from error
        if count == 0 or len(numbers) < header.frames:
            raise QCError(ErrorCode.TRUNCATED, f"the video has {count} frames")


class _Stills(Decoding):
    """Frames that are decoded each on its own."""

    def __init__(self, source: DicomFile, header: Header) -> None:
        super().__init__(source, header)
        self._stated = _stated_layout(source)
        self._displays = Displays(source.dataset, source.little_endian)
        self._palette: Callable[[Stored], Pixels] | None = None
        self._reading: _Reading | None = None
        self._is_signed: bool | None = None
        self._first: Numbered | None = None
        self.has_excess = False

    @property
    def flags(self) -> tuple[Flag, ...]:
        flags = []
        if self._reading is not None and self._reading.is_doubtful:
            flags.append(Flag.COLOUR_DOUBTFUL)
        if self.has_excess:
            flags.append(Flag.MORE_FRAMES_THAN_STATED)
        return tuple(flags)

    def first(self) -> Numbered:
        """The first frame; its colour space and sample order are used for all frames, so that a
        frame does not depend on the others that are decoded with it."""
        if self._first is None:
            errors: list[QCError] = []
            every = range(1, self.header.frames + 1)
            self._first = next(self._decode(every, lambda _, error: errors.append(error)), None)
            if self._first is None:
                raise errors[0]
        return self._first

    def frames(self, numbers: Collection[int], failed: Failed | None = None) -> Iterator[Numbered]:
        self.first()
        return self._decode(sorted(numbers), failed)

    def _decode(self, numbers: Collection[int], failed: Failed | None) -> Iterator[Numbered]:
        last_number = 0
        for number in numbers:
            if self._first is not None and number == self._first[0]:
                pixels = self._first[1].copy()
            else:
                try:
                    pixels = self._rgb(number)
                except MemoryError:
                    raise
                except Exception as error:
                    # Codecs and parsers raise whatever malformed bytes break.
                    failure = (
                        error if isinstance(error, QCError) else self._failure(number, last_number)
                    )
                    if failed is None:
                        raise failure from error
                    failed(number, failure)
                    continue
            last_number = number
            yield number, pixels

    def _failure(self, number: int, last_number: int) -> QCError:
        if self.header.frames == 1:
            return _corrupt(last_number)
        return QCError(ErrorCode.DECODE_FAILED, f"frame {number} cannot be decoded")

    def _rgb(self, number: int) -> Pixels:
        layout, stated = self._layout(number)
        if layout.samples >= 3:
            return self._read_coloured(number, layout, stated)
        stored = self._read_stored(number, layout)
        if layout.photometric == _PALETTE:
            if self._palette is None:
                self._palette = palette_renderer(self.source.dataset, self.source.little_endian)
            return self._palette(stored)
        signed = self._has_signed_values(stored, layout)
        stored = stored if signed == layout.signed else stored.view(np.uint8)
        stored = used_bits(stored, layout.bits, layout.high_bit, signed)
        inverted = layout.photometric == "MONOCHROME1"
        display = self._displays.of_frame(number)
        return grey(stored, display, layout.bits, signed, inverted)

    def _has_signed_values(self, stored: Stored, layout: _Layout) -> bool:
        """Whether values are signed. Eight-bit values labelled signed are so only if that gives the
        smoother picture: read wrongly, bright tissue wraps to black."""
        if not layout.signed or stored.dtype != np.int8:
            return layout.signed
        if self._is_signed is None:
            as_signed, as_unsigned = (
                np.abs(np.diff(each.astype(np.int16), axis=0)).mean()
                for each in (stored, stored.view(np.uint8))
            )
            self._is_signed = bool(as_signed <= as_unsigned)
        return self._is_signed

    def _read_coloured(self, number: int, layout: _Layout, stated: Colour) -> Pixels:
        planar = layout.planar if self._reading is None else self._reading.planar
        stored = self._read_stored(number, replace(layout, planar=planar))
        if self._reading is None:
            self._reading = self._choose_reading(number, stored, layout, stated)
            if self._reading.planar != planar:
                stored = self._read_stored(number, replace(layout, planar=self._reading.planar))
        return colour(stored, self._reading.space, _used_depth(stored, layout.bits))

    def _choose_reading(
        self, number: int, stored: Stored, layout: _Layout, stated: Colour
    ) -> _Reading:
        """The reading of a colour picture. Where labels contradict each other, or a picture would
        be coloured nearly everywhere, both readings of the frame are compared: ultrasound is
        mostly grey, and a false reading is not."""

        def render(stored: Stored, space: str) -> Pixels:
            return colour(stored, space, _used_depth(stored, layout.bits))

        reading = _Reading(stated.space, layout.planar, stated.is_contradicted)
        picture = render(stored, reading.space)
        share = coloured_share(picture)
        if stated.is_contradicted or share > _MOSTLY:
            alternative = RGB if stated.space != RGB else YBR_FULL
            candidate = render(stored, alternative)
            unlike = coloured_share(candidate)
            if unlike < share - _MARGIN and (stated.is_contradicted or unlike < _MARGIN):
                reading = _Reading(alternative, layout.planar, is_doubtful=True)
                picture, share = candidate, unlike
        if self._has_planes and share > _FEW_COLOURED:
            turned = self._read_stored(number, replace(layout, planar=1 - layout.planar))
            candidate = render(turned, reading.space)
            # Planes read as pixels are three small pictures: more coloured, and rougher.
            is_greyer = coloured_share(candidate) < _PLANE_GAIN * share
            if is_greyer and roughness(candidate) < roughness(picture):
                reading = _Reading(reading.space, 1 - layout.planar, is_doubtful=True)
        return reading

    _has_planes = False

    def _layout(self, number: int) -> tuple[_Layout, Colour]:
        """How the samples of a frame lie, and the colour space of three."""
        raise NotImplementedError

    def _read_stored(self, number: int, layout: _Layout) -> Stored:
        """The stored values, (rows, columns) or (rows, columns, samples)."""
        raise NotImplementedError

    def _array(self, stream: Any, index: int, layout: _Layout, **options: Any) -> Stored:
        facts: dict[str, Any] = {
            "rows": self.header.rows,
            "columns": self.header.columns,
            "samples_per_pixel": layout.samples,
            "bits_allocated": layout.allocated,
            "bits_stored": layout.bits,
            "pixel_representation": int(layout.signed),
            "planar_configuration": layout.planar,
            "pixel_keyword": self.source.pixels.keyword,
            "pixel_vr": self.source.pixels.vr,
        }
        # Not validated there: all of them were settled here, and more than three samples can be.
        stored, _ = get_decoder(self.source.transfer_syntax).as_array(
            stream, index=index, raw=True, validate=False, **facts, **options
        )
        return stored


class _Native(_Stills):
    def __init__(self, source: DicomFile, header: Header) -> None:
        super().__init__(source, header)
        if source.pixels.length is None:
            raise QCError(ErrorCode.DECODE_FAILED, "fragments under a native transfer syntax")
        size = source.stream.seek(0, 2)
        available = min(source.pixels.length, size - source.pixels.offset)
        if available <= 0:
            raise QCError(ErrorCode.NO_FRAMES, "the pixel data are empty")
        layout = self._stated
        pixel_bits = header.rows * header.columns * layout.allocated

        def whole(samples: float, frames: int = header.frames) -> int:
            return int(pixel_bits * samples * frames) // 8

        label_space = header_space(layout.photometric)
        self._subsampled = layout.photometric in _SUBSAMPLED and available < whole(3)
        self._colour = resolve_colour(None, layout.photometric, RGB)
        if layout.samples == 3 and not self._subsampled:
            if layout.photometric in _SUBSAMPLED:
                # As long as unsampled data: the chroma were not subsampled, or are none.
                self._colour = Colour(YBR_FULL, is_contradicted=True)
            if layout.photometric in _MONOCHROME:
                self._colour = Colour(RGB, is_contradicted=True)
            if available in _padded_lengths(whole(1)) and available < whole(3):
                # Just long enough for one sample: a grey picture called a coloured one.
                layout = replace(layout, samples=1)
        elif layout.samples == 1 and label_space is not None:
            coloured = whole(2) if self._subsampled else whole(3)
            if available in _padded_lengths(coloured):
                layout = replace(layout, samples=3)
        if layout.samples == 3 and self._subsampled and available in _padded_lengths(whole(1)):
            layout = replace(layout, samples=1)
        if layout.samples == 1:
            self._subsampled = False
            layout = replace(layout, photometric=_one_sample(layout.photometric))
        elif layout.photometric == "YBR_PARTIAL_422":
            self._colour = replace(self._colour, space=_YBR_PARTIAL)
        elif label_space is None and layout.photometric not in _MONOCHROME:
            raise unsupported_colour()
        self._native = layout
        samples = 2 if self._subsampled else layout.samples
        if available < whole(samples):
            raise QCError(ErrorCode.TRUNCATED, "the file has fewer pixel data than its header says")
        self.has_excess = available >= whole(samples, header.frames + 1)
        self._has_planes = not self._subsampled

    def _layout(self, number: int) -> tuple[_Layout, Colour]:
        return self._native, self._colour

    def _read_stored(self, number: int, layout: _Layout) -> Stored:
        # The decoder reads from where the stream stands.
        self.source.stream.seek(self.source.pixels.offset)
        photometric = "YBR_FULL_422" if self._subsampled else _neutral(layout.samples)
        return self._array(
            self.source.stream,
            number - 1,
            layout,
            number_of_frames=self.header.frames,
            photometric_interpretation=photometric,
            correct_unused_bits=False,
        )


class _Compressed(_Stills):
    def __init__(self, source: DicomFile, header: Header) -> None:
        super().__init__(source, header)
        spans = _spans(source)
        self._spans = frame_fragments(
            source.stream,
            spans,
            header.frames,
            (
                basic_offset_table(source.stream, source.pixels.offset),
                extended_offset_table(raw_bytes(source.dataset, "ExtendedOffsetTable")),
            ),
        )
        self.has_excess = len(self._spans) > header.frames

    def _layout(self, number: int) -> tuple[_Layout, Colour]:
        codestream = self._codestream(number)
        stated = self._stated
        codestream_header = self._parse_codestream(codestream)
        if codestream_header is None:
            raise self._failure(number, 0)
        size = self.header.rows, self.header.columns
        # Refused before it is decoded: a codestream can claim to be of any size.
        if (codestream_header.rows, codestream_header.columns) != size:
            raise QCError(
                ErrorCode.DECODE_FAILED,
                f"frame {number} is not of the size that the header says",
            )
        # Four components are colour and transparency; of JPEG they are inks (CMYK).
        most = 3 if self.source.transfer_syntax in _JPEG else 4
        if (
            not 1 <= codestream_header.components <= most
            or not 1 <= codestream_header.precision <= 32
        ):
            raise QCError(
                ErrorCode.DECODE_FAILED,
                f"frame {number} has {codestream_header.components} components"
                f" of {codestream_header.precision} bits",
            )
        precision = codestream_header.precision
        layout = replace(
            stated,
            samples=codestream_header.components,
            allocated=8 if precision <= 8 else 16 if precision <= 16 else 32,
            bits=precision,
            planar=0,
        )
        if self.source.transfer_syntax == RLELossless:
            # RLE states no precision; the words of the header's samples may have unused bits.
            layout = replace(layout, bits=min(stated.bits, codestream_header.precision))
        elif layout.allocated != stated.allocated or stated.bits != codestream_header.precision:
            layout = replace(layout, high_bit=codestream_header.precision - 1)
        if layout.samples < 3:
            return replace(layout, photometric=_one_sample(stated.photometric)), Colour(RGB)
        return layout, self._space(codestream, codestream_header)

    def _parse_codestream(self, codestream: bytes) -> Codestream | None:
        syntax = self.source.transfer_syntax
        if syntax in _JPEG:
            return read_jpeg(codestream)
        if syntax in _JPEG_2000:
            return read_jpeg2000(codestream)
        return read_rle(codestream, self.header.rows, self.header.columns, self._stated.allocated)

    def _space(self, codestream: bytes, codestream_header: Codestream) -> Colour:
        photometric = self._stated.photometric
        syntax = self.source.transfer_syntax
        if syntax in _JPEG_2000:
            return jpeg2000_colour(codestream, photometric)
        if syntax == RLELossless:
            colours = resolve_colour(None, photometric, RGB)
            # RLE subsamples nothing (PS3.5 8.2.2), and grey is no label of three samples.
            doubtful = photometric in _SUBSAMPLED or header_space(photometric) is None
            return replace(colours, is_contradicted=doubtful)
        if photometric == "YBR_PARTIAL_422":
            return Colour(_YBR_PARTIAL)
        return resolve_colour(codestream_header.space, photometric, YBR_FULL)

    def _codestream(self, number: int) -> bytes:
        parts = []
        for offset, length in self._spans[number - 1]:
            self.source.stream.seek(offset)
            parts.append(self.source.stream.read(length))
        return b"".join(parts)

    def _read_stored(self, number: int, layout: _Layout) -> Stored:
        stored = self._array(
            encapsulate([self._codestream(number)], has_bot=False),
            0,
            layout,
            number_of_frames=1,
            photometric_interpretation=_neutral(layout.samples),
            decoding_plugin=_PLUGIN[self.source.transfer_syntax],
            correct_unused_bits=False,
        )
        # Transparency is no colour, and no second picture.
        if layout.samples == 2:
            return stored[..., 0]
        return stored[..., :3] if layout.samples == 4 else stored


def _corrupt(last_number: int) -> QCError:
    after = f" after frame {last_number}" if last_number else ""
    return QCError(ErrorCode.DECODE_FAILED, f"the pixel data{after} are corrupt")


def _spans(source: DicomFile) -> tuple[Span, ...]:
    if source.pixels.length is not None:
        raise QCError(
            ErrorCode.DECODE_FAILED, "native pixel data under a compressed transfer syntax"
        )
    spans = fragments(source.stream, source.pixels.offset)
    if not spans:
        raise QCError(ErrorCode.NO_FRAMES, "the pixel data are empty")
    return spans


def _stated_layout(source: DicomFile) -> _Layout:
    """The header's layout, with defaults for missing or impossible values."""
    dataset = source.dataset
    photometric = text(dataset, "PhotometricInterpretation")
    photometric = photometric.upper() if photometric else None
    samples = integer(dataset, "SamplesPerPixel")
    if samples not in (1, 3):
        samples = 3 if header_space(photometric) else 1
    allocated = integer(dataset, "BitsAllocated")
    if source.pixels.keyword != "PixelData":
        allocated = 32 if source.pixels.keyword == "FloatPixelData" else 64
    elif allocated not in _ALLOCATED:
        allocated = 16 if (integer(dataset, "BitsStored") or 8) > 8 else 8
    bits = integer(dataset, "BitsStored")
    if bits is None or not 1 <= bits <= allocated:
        bits = allocated
    high_bit = integer(dataset, "HighBit")
    return _Layout(
        samples=samples,
        photometric=photometric,
        allocated=allocated,
        bits=bits,
        high_bit=bits - 1 if high_bit is None else high_bit,
        signed=integer(dataset, "PixelRepresentation") == 1,
        planar=int(integer(dataset, "PlanarConfiguration") == 1),
    )


def _one_sample(photometric: str | None) -> str:
    """The photometric interpretation of a single sample, which cannot be a colour space."""
    if photometric == _PALETTE or photometric in _MONOCHROME:
        return photometric
    if photometric is None or header_space(photometric):
        return "MONOCHROME2"
    raise unsupported_colour()


def _neutral(samples: int) -> str:
    """A photometric interpretation for which the decoder converts no colours."""
    return "RGB" if samples >= 3 else "MONOCHROME2"


def _used_depth(stored: Stored, bits: int) -> int:
    """The bits of a colour sample; a stated depth that the values exceed is ignored."""
    if stored.dtype.itemsize == 1:
        return 8
    most = int(stored.max(initial=0))
    return 8 if most < 256 else max(bits, most.bit_length())


def _padded_lengths(length: int) -> tuple[int, int]:
    """A length, and with the byte that makes it even."""
    return length, length + length % 2
