"""Decoding in a child process that can be killed.

Codecs are C code fed with bytes from the network: they may crash, hang or ask for all memory. The
child takes that with it, and the worker with its loaded models lives on. Between the two goes
JSON and raw pixels, never a pickle.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame, Pixels, Region
from detector.imaging.reader import MAX_PIXELS, BadFrame, ImageSummary
from qc_daemon.deidentification.image_facts import ImageFacts
from qc_daemon.dicom.acquisition import Acquisition
from qc_daemon.score.obgyn_report import FetalMeasurement
from qc_daemon.settings import ScoreSettings

_START_SECONDS = 60.0  # A child that is not ready after this time is killed.
_EXIT_SECONDS = 2.0  # A child that closed its socket has this time to exit before it is killed.
_MAX_MESSAGE = 1_000_000  # A message has at most so many bytes; pixels are received by their size.
_ENVIRONMENT = (
    *("PATH", "LD_LIBRARY_PATH", "TMPDIR", "TZ"),
    *("LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "PYTHONUTF8"),
)
"""The child gets only these environment variables: paths of programs and libraries, time zone and
text encoding, nothing of the service or its user."""


class DecodeProcess:
    """A decoder in its own process, started at the first call and again after each loss.

    `megabytes` is the memory that the child may use beyond its own start, `seconds` the time that
    one call may wait for it in all (the caller's own time between two frames does not count),
    `max_pixels` the most rows x columns of a frame. For use by one thread, one call at a time: the
    child dies with the thread that started it.
    """

    def __init__(
        self, *, megabytes: int = 4096, seconds: float = 120.0, max_pixels: int = MAX_PIXELS
    ) -> None:
        self._megabytes = megabytes
        self._seconds = seconds
        self._max_pixels = max_pixels
        self._child: _Child | None = None
        self._busy = False

    @classmethod
    def of(cls, settings: ScoreSettings) -> Self:
        """A decoder with the limits of the settings."""
        return cls(
            megabytes=settings.decode_megabytes,
            seconds=settings.decode_seconds,
            max_pixels=settings.max_pixels,
        )

    def __enter__(self) -> Self:
        self._ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None while there is none."""
        return self._child.process.pid if self._child else None

    def close(self) -> None:
        """End the child; the next call would start another."""
        if self._child:
            self._child.kill()
        self._child = None
        self._busy = False

    def summary(self, path: Path, sha256: str | None = None) -> ImageSummary:
        """Header, frame count and pixel hash. Decodes every frame, keeps none.

        With `sha256` a file of other bytes is not read. Raises QCError as
        `reader.summarise_image` and `verification.open_verified`, or DECODE_TIMEOUT, DECODE_MEMORY,
        DECODE_FAILED.
        """
        return _summary(self._reply("summary", path, sha256))

    def summary_and_acquisition(
        self, path: Path, sha256: str | None = None
    ) -> tuple[ImageSummary, Acquisition]:
        """The summary, and what the header says of who made the image, where, when and with what.

        Raises QCError as `summary`.
        """
        reply = self._reply("summary", path, sha256)
        return _summary(reply), Acquisition.from_json(reply["acquisition"])

    def acquisition(self, path: Path, sha256: str | None = None) -> Acquisition:
        """What the header says of who made the image, where, when and with what; decodes nothing.

        Raises QCError as `dicom_file.open_dicom_file` and `verification.open_verified`, or
        DECODE_TIMEOUT, DECODE_MEMORY, DECODE_FAILED.
        """
        return Acquisition.from_json(self._reply("acquisition", path, sha256)["acquisition"])

    def image_facts(self, path: Path, sha256: str | None = None) -> ImageFacts:
        """What of the header may stay in an image for teaching; decodes nothing.

        Raises QCError as `acquisition`.
        """
        return ImageFacts.from_json(self._reply("image facts", path, sha256)["image_facts"])

    def pixel_sha256(self, path: Path) -> str:
        """The hash of the file's decoded pixels. Raises QCError as `summary`."""
        return self.summary(path).pixel_sha256

    def measurements(self, path: Path, sha256: str | None = None) -> list[FetalMeasurement]:
        """The measurements of a machine's structured report; at least one.

        With `sha256` a file of other bytes is not read. Raises QCError as
        `obgyn_report.read_measurements` and `verification.open_verified`, or DECODE_TIMEOUT,
        DECODE_MEMORY, DECODE_FAILED.
        """
        reply = self._reply("measurements", path, sha256)
        return [FetalMeasurement(**each) for each in reply["measurements"]]

    def frames(
        self, path: Path, numbers: Sequence[int] | None = None, sha256: str | None = None
    ) -> Iterator[Frame]:
        """The frames of these numbers (None: all), ascending, one in memory at a time.

        With `sha256` a file of other bytes is not read. Raises QCError as
        `reader.read_frames` and `verification.open_verified`, or DECODE_TIMEOUT, DECODE_MEMORY,
        DECODE_FAILED. Leaving early costs a restart of the child.
        """
        ascending = None if numbers is None else sorted(set(numbers))
        with _Call(self, _request("frames", path, sha256) | {"numbers": ascending}) as call:
            while "done" not in (reply := call.reply()):
                yield _frame(reply, call.pixels(reply["shape"], self._max_pixels))
            call.mark_finished()

    def convert(
        self, path: Path, transfer_syntax: str, sha256: str | None = None
    ) -> Iterator[bytes]:
        """The object as a PS3.10 file in another transfer syntax, in blocks.

        With `sha256` a file of other bytes is not read. Raises QCError as
        `transfer_syntax.reencode` and `verification.open_verified`, or DECODE_TIMEOUT,
        DECODE_MEMORY, DECODE_FAILED.
        """
        request = _request("convert", path, sha256) | {"transfer_syntax": transfer_syntax}
        with _Call(self, request) as call:
            while "done" not in call.reply():
                yield call.block()
            call.mark_finished()

    def _reply(self, action: str, path: Path, sha256: str | None) -> dict[str, Any]:
        """The only reply to a request."""
        with _Call(self, _request(action, path, sha256)) as call:
            reply = call.reply()
            call.mark_finished()
            return reply

    def _ready(self) -> "_Child":
        """The child, started if there is none or it died while idle."""
        if self._busy:
            raise RuntimeError("the decoder is still busy with another call")
        if self._child and self._child.process.poll() is not None:
            self.close()
        if self._child is None:
            self._child = _Child(self._megabytes, self._max_pixels)
        return self._child


def spread_frames(count: int, number_of_frames: int) -> tuple[int, ...]:
    """Frame numbers, from 1, in the middles of `number_of_frames` equal parts of a cine of `count`
    frames; all of them for 0 or a number not below `count`."""
    if number_of_frames <= 0 or number_of_frames >= count:
        return tuple(range(1, count + 1))
    return tuple(
        (2 * part + 1) * count // (2 * number_of_frames) + 1 for part in range(number_of_frames)
    )


def choose_frames(summary: ImageSummary, number_of_frames: int) -> tuple[int, ...]:
    """Frame numbers as `spread_frames` chooses them, of those that can be decoded."""
    readable = summary.readable_frames
    return tuple(readable[number - 1] for number in spread_frames(len(readable), number_of_frames))


class _Child:
    """The process and our end of the socket to it."""

    def __init__(self, megabytes: int, max_pixels: int) -> None:
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self.process = _start_child(theirs, ours, megabytes, max_pixels)
        except OSError as error:
            # Out of memory, processes or file handles: ours, and not the object's.
            reason = (error.strerror or "error").lower()
            raise QCError(
                ErrorCode.INTERNAL, f"the decoder process cannot be started: {reason}"
            ) from error
        self.connection = Connection(ours.detach())
        try:
            started = self.connection.poll(_START_SECONDS) and self.connection.recv_bytes()
        except (EOFError, OSError):
            started = False
        if not started:
            self.kill()
            raise QCError(ErrorCode.INTERNAL, "the decoder process does not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()

    def exit_status(self) -> int:
        """The exit status of a child that closed its socket; negative: the signal that ended it."""
        try:
            return self.process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def _start_child(
    theirs: socket.socket, ours: socket.socket, megabytes: int, max_pixels: int
) -> subprocess.Popen[bytes]:
    """Start the child with its end of the socket; our end is closed if that fails."""
    command = [sys.executable, "-P", "-m", "qc_daemon.score.decode_child"]
    arguments = (theirs.fileno(), os.getpid(), megabytes, max_pixels)
    try:
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=_environment(),
        )
    except OSError:
        ours.close()
        raise


class _Call:
    """One request and its replies. If it ends early, the child is killed with its pending replies,
    so that the next call starts with a new one."""

    def __init__(self, owner: DecodeProcess, request: dict[str, Any]) -> None:
        self._owner = owner
        self._request = request
        self._remaining_seconds = owner._seconds

    def __enter__(self) -> Self:
        self._child = self._owner._ready()
        self._owner._busy = True
        try:
            self._child.connection.send_bytes(json.dumps(self._request).encode())
        except OSError:
            raise self._child_error() from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._owner._busy:
            self._owner.close()

    def reply(self) -> dict[str, Any]:
        """The next message. Raises QCError: the child's error, or that the child died."""
        message: dict[str, Any] = json.loads(self._receive())
        if "error" in message:
            error = QCError(ErrorCode(message["error"]), message["message"])
            # A child that ran out of memory is replaced: its heap may be in pieces.
            if error.code is not ErrorCode.DECODE_MEMORY:
                self.mark_finished()
            raise error
        return message

    def pixels(self, shape: Sequence[int], max_pixels: int) -> Pixels:
        """The raw frame that follows a frame message."""
        rows, columns = map(int, shape)
        if rows * columns > max_pixels:
            raise QCError(ErrorCode.DECODE_FAILED, "the decoder process sent a wrong frame")
        pixels = np.empty((rows, columns, 3), np.uint8)
        self._wait()
        try:
            self._child.connection.recv_bytes_into(pixels.data.cast("B"))
        except (EOFError, OSError):
            raise self._child_error() from None
        return pixels

    def block(self) -> bytes:
        """The bytes that follow a message of a conversion."""
        return self._receive()

    def mark_finished(self) -> None:
        """Note that the last reply has come, so that the child may get the next request."""
        self._owner._busy = False

    def _receive(self) -> bytes:
        self._wait()
        try:
            return self._child.connection.recv_bytes(_MAX_MESSAGE)
        except (EOFError, OSError):
            raise self._child_error() from None

    def _wait(self) -> None:
        before = time.monotonic()
        try:
            ready = self._child.connection.poll(max(0.0, self._remaining_seconds))
        except OSError:
            raise self._child_error() from None
        self._remaining_seconds -= time.monotonic() - before
        if not ready:
            raise QCError(
                ErrorCode.DECODE_TIMEOUT, f"decoding took more than {self._owner._seconds:g} s"
            )

    def _child_error(self) -> QCError:
        status = self._child.exit_status()
        self._owner.close()
        name = signal.Signals(-status).name if status < 0 else f"exit {status}"
        return QCError(ErrorCode.DECODE_FAILED, f"the decoder process died ({name})")


def _request(action: str, path: Path, sha256: str | None) -> dict[str, Any]:
    return {"do": action, "path": str(path.absolute()), "sha256": sha256}


def _summary(reply: dict[str, Any]) -> ImageSummary:
    bad = tuple(
        BadFrame(number, ErrorCode(code), message) for number, code, message in reply["bad_frames"]
    )
    return ImageSummary(**reply["summary"], bad_frames=bad)


def _environment() -> dict[str, str]:
    """The environment of the child: only what it needs, since the rest may hold passwords."""
    variables = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return variables | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _frame(reply: dict[str, Any], pixels: Pixels) -> Frame:
    regions = tuple(
        Region(index, tuple(bbox), tuple(spacing) if spacing else None)
        for index, bbox, spacing in reply["regions"]
    )
    flags = tuple(map(Flag, reply["flags"]))
    return Frame(reply["frame"], pixels, regions, reply["simulated"], flags)
