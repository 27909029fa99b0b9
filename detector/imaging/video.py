"""Frames of an MPEG-2, MPEG-4 AVC or HEVC stream (PS3.5 8.2.5 to 8.2.8), one at a time."""

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, BinaryIO

import av
import numpy as np
from av.error import FFmpegError

from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.imaging.encapsulation import Span

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


def video_frames(stream: BinaryIO, fragments: Sequence[Span]) -> Iterator[Pixels]:
    """RGB frames in display order. Raises QCError DECODE_FAILED."""
    try:
        with av.open(Fragments(stream, fragments), mode="r") as container:
            if not container.streams.video:
                raise QCError(ErrorCode.DECODE_FAILED, "the stream holds no video")
            video = container.streams.video[0]
            # One thread decodes the same on every machine and keeps few frames in memory.
            video.codec_context.thread_count = 1
            for frame in container.decode(video):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except FFmpegError as error:
        raise QCError(ErrorCode.DECODE_FAILED, "the video stream cannot be decoded") from error


class Fragments(io.RawIOBase):
    """The fragments of one encapsulated stream as one readable, seekable file."""

    def __init__(self, stream: BinaryIO, fragments: Sequence[Span]) -> None:
        super().__init__()
        self._stream = stream
        self._fragments = tuple(fragments)
        self._size = sum(length for _, length in self._fragments)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        skip = self._at
        for offset, length in self._fragments:
            if skip < length:
                self._stream.seek(offset + skip)
                data = self._stream.read(min(len(view), length - skip))
                view[: len(data)] = data
                self._at += len(data)
                return len(data)
            skip -= length
        return 0
