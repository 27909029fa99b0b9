"""Decoding the frames of an opened DICOM image, one at a time, to RGB.

pydicom yields the stored values; what their colours mean is settled here, once, so that nothing is
converted twice.
"""

from collections.abc import Collection, Iterator
from typing import Any

from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import as_pixel_options
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

from detector.codes import ErrorCode, QCError
from detector.codestream import jpeg2000_colour, jpeg_colour
from detector.encapsulation import Span, fragments
from detector.frame import Pixels
from detector.pixels import Stored, colour, renderer
from detector.source import Header, Source, integer, text
from detector.video import video_frames

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
"""The one decoder of each compressed syntax: another could give other pixels, and another hash."""

_YBR = ("YBR_FULL", "YBR_FULL_422")
_YBR_PARTIAL = ("YBR_PARTIAL_422",)

Numbered = tuple[int, Pixels]


def decoded(source: Source, header: Header, numbers: Collection[int]) -> Iterator[Numbered]:
    """Number and RGB of the asked frames, ascending.

    Raises QCError: UNSUPPORTED_SYNTAX, TRUNCATED, NO_FRAMES, DECODE_FAILED.
    """
    syntax = source.transfer_syntax
    if syntax in _NATIVE:
        frames = _native(source, header, numbers)
    elif syntax in _PLUGIN:
        frames = _compressed(source, header, numbers)
    elif syntax in MPEGTransferSyntaxes:
        frames = _video(source, header, numbers)
    else:
        name = str(syntax) if syntax.is_valid else "of an invalid UID"
        raise QCError(ErrorCode.UNSUPPORTED_SYNTAX, f"transfer syntax {name} is not supported")
    return _guarded(frames)


def _guarded(frames: Iterator[Numbered]) -> Iterator[Numbered]:
    """Whatever a codec or parser raises becomes a QCError; what the consumer raises does not."""
    done = 0
    while True:
        try:
            number, pixels = next(frames)
        except StopIteration:
            return
        except (QCError, MemoryError):
            raise
        except Exception as error:
            after = f" after frame {done}" if done else ""
            raise QCError(ErrorCode.DECODE_FAILED, f"the pixel data{after} are corrupt") from error
        yield number, pixels
        done = number


def _native(source: Source, header: Header, numbers: Collection[int]) -> Iterator[Numbered]:
    options = _options(source, header)
    if source.length is None:
        raise QCError(ErrorCode.DECODE_FAILED, "fragments under a native transfer syntax")
    available = min(source.length, source.stream.seek(0, 2) - source.offset)
    frame_bits = header.rows * header.columns * options["samples_per_pixel"]
    frame_bits *= options["bits_allocated"]
    if options["photometric_interpretation"] == "YBR_FULL_422":
        if available >= (frame_bits * header.frames) // 8:
            # As long as unsampled data: the chroma were not subsampled, whatever the header says.
            options["photometric_interpretation"] = "YBR_FULL"
        else:
            frame_bits = frame_bits * 2 // 3
    if available == 0:
        raise QCError(ErrorCode.NO_FRAMES, "the pixel data are empty")
    if available < (frame_bits * header.frames) // 8:
        raise QCError(ErrorCode.TRUNCATED, "the file has fewer pixel data than its header says")
    decoder = get_decoder(source.transfer_syntax)
    to_rgb = _Painter(source)
    for number in sorted(numbers):
        # The decoder reads from where the stream stands, and its options change as it goes.
        source.stream.seek(source.offset)
        stored, _ = decoder.as_array(source.stream, index=number - 1, raw=True, **options)
        yield number, to_rgb(stored)


def _compressed(source: Source, header: Header, numbers: Collection[int]) -> Iterator[Numbered]:
    spans = _spans(source)
    if len(spans) < header.frames:
        raise QCError(ErrorCode.TRUNCATED, "the file has fewer frames than its header says")
    options = _options(source, header)
    # Codecs give interleaved samples whatever the header says; the RLE plugin sets its own order.
    options["planar_configuration"] = 0
    to_rgb = _Painter(source, _first_bytes(source, spans[0]))
    wanted = sorted(numbers)
    everything = len(wanted) == header.frames
    source.stream.seek(source.offset)
    frames = get_decoder(source.transfer_syntax).iter_array(
        source.stream,
        indices=None if everything else [number - 1 for number in wanted],
        raw=True,
        decoding_plugin=_PLUGIN[source.transfer_syntax],
        **options,
    )
    count = 0
    for number, (stored, _) in zip(wanted, frames, strict=False):
        yield number, to_rgb(stored)
        count += 1
    if count < len(wanted):
        raise QCError(ErrorCode.TRUNCATED, "the file has fewer frames than its header says")


def _video(source: Source, header: Header, numbers: Collection[int]) -> Iterator[Numbered]:
    """The frame count of a video's header is often off by some: the stream's end is believed."""
    last = max(numbers)
    found = 0
    for found, pixels in enumerate(video_frames(source.stream, _spans(source)), 1):
        if pixels.shape[:2] != (header.rows, header.columns):
            raise QCError(ErrorCode.DECODE_FAILED, "the video is not of the header's size")
        if found in numbers:
            yield found, pixels
        if found == last:
            return
    if found == 0 or len(numbers) < header.frames:
        raise QCError(ErrorCode.TRUNCATED, f"the video has {found} frames")


def _spans(source: Source) -> tuple[Span, ...]:
    if source.length is not None:
        raise QCError(
            ErrorCode.DECODE_FAILED, "native pixel data under a compressed transfer syntax"
        )
    spans = fragments(source.stream, source.offset)
    if not spans:
        raise QCError(ErrorCode.NO_FRAMES, "the pixel data are empty")
    return spans


def _first_bytes(source: Source, span: Span) -> bytes:
    """The start of a codestream; the marker segments lie before any coefficient."""
    source.stream.seek(span[0])
    return source.stream.read(min(span[1], 2**16))


def _options(source: Source, header: Header) -> dict[str, Any]:
    """What the decoder must know, with the defaults of an incomplete header filled in."""
    options = as_pixel_options(source.dataset, number_of_frames=header.frames)
    options.setdefault("samples_per_pixel", 1)
    options.setdefault("bits_allocated", 8)
    options.setdefault("bits_stored", options["bits_allocated"])
    options.setdefault("pixel_representation", 0)
    options.setdefault("planar_configuration", 0)
    options["pixel_keyword"] = source.keyword
    options["pixel_vr"] = source.vr
    photometric = text(source.dataset, "PhotometricInterpretation")
    # The decoder knows no partial range; the layout of its samples is that of the full one.
    options["photometric_interpretation"] = (
        "YBR_FULL_422" if photometric in _YBR_PARTIAL else photometric
    )
    return options


class _Painter:
    """Stored frames to RGB, by the header and, where there is one, the codestream."""

    def __init__(self, source: Source, codestream: bytes | None = None) -> None:
        dataset = source.dataset
        self._bits = integer(dataset, "BitsStored") or 8
        self._space = _space(source, codestream)
        self._render = None
        if integer(dataset, "SamplesPerPixel") != 3:
            self._render = renderer(dataset, source.little_endian)

    def __call__(self, stored: Stored) -> Pixels:
        return self._render(stored) if self._render else colour(stored, self._space, self._bits)


def _space(source: Source, codestream: bytes | None) -> str:
    photometric = text(source.dataset, "PhotometricInterpretation") or ""
    if photometric in _YBR_PARTIAL:
        return "YBR_PARTIAL"
    if codestream is not None and source.transfer_syntax in _JPEG:
        return jpeg_colour(codestream, photometric)
    if codestream is not None and source.transfer_syntax in _JPEG_2000:
        return jpeg2000_colour(codestream, photometric)
    return "YBR_FULL" if photometric in _YBR else photometric
