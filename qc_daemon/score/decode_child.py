"""The decoding child process; `decode.DecodeProcess` is the parent's end of its socket.

Imports neither torch nor any model, so that it starts fast and stays small. Writes no file,
prints nothing, and dies with its parent.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pydicom.config
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from detector.imaging.dicom_file import open_dicom_file
from detector.imaging.reader import ImageSummary, read_frames, summarise_image
from qc_daemon.deidentification.image_facts import ImageFacts, read_image_facts
from qc_daemon.dicom.acquisition import Acquisition, read_acquisition, read_acquisition_file
from qc_daemon.dicom.transfer_syntax import reencode
from qc_daemon.score.obgyn_report import read_measurements
from qc_daemon.spool.verification import open_verified

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int, megabytes: int, max_pixels: int) -> None:
    """Answer requests on the socket until its other end closes."""
    exit_with_parent(parent)
    limit_resources(megabytes)
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    with Connection(descriptor) as connection:
        send_message(connection, {"ready": True})
        while True:
            try:
                request = json.loads(connection.recv_bytes())
            except EOFError:
                return
            answer_request(connection, request, max_pixels)


def exit_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the parent ends (prctl(2)), and ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the parent has gone already")


def limit_resources(megabytes: int) -> None:
    """Limit memory to so many megabytes more than now, and forbid writing files and core dumps."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def answer_request(connection: Connection, request: dict[str, Any], max_pixels: int) -> None:
    """Send all replies to one request; the last is the summary, `done` or an error."""
    try:
        for message, pixels in build_replies(request, max_pixels):
            send_message(connection, message)
            if pixels is not None:
                connection.send_bytes(pixels)
    except QCError as error:
        send_message(connection, {"error": error.code.value, "message": error.message})
    except MemoryError:
        code = ErrorCode.DECODE_MEMORY
        send_message(connection, {"error": code.value, "message": "decoding needs too much memory"})
    except (BrokenPipeError, ConnectionResetError):
        sys.exit("the parent has hung up")
    except Exception as error:
        # This process has no output, so its parent gets the kind of error.
        reason = f"the decoder failed with {type(error).__name__}"
        send_message(connection, {"error": ErrorCode.DECODE_FAILED.value, "message": reason})


def build_replies(
    request: dict[str, Any], max_pixels: int
) -> Iterator[tuple[dict[str, Any], memoryview | None]]:
    """Messages, each with the raw bytes that follow it, if any.

    The last one comes only if the file still is what it was when its hash was compared.
    """
    file, sha256 = Path(request["path"]), request["sha256"]
    last: dict[str, Any] = {"done": True}
    with nullcontext(file) if sha256 is None else open_verified(file, sha256) as path:
        match request["do"]:
            case "summary":
                last = summarise(path, max_pixels)
            case "acquisition":
                last = {"acquisition": read_acquisition_file(path).to_json()}
            case "image facts":
                last = {"image_facts": _image_facts(path).to_json()}
            case "measurements":
                last = {"measurements": [asdict(each) for each in read_measurements(path)]}
            case "convert":
                for block in reencode(path, request["transfer_syntax"]):
                    yield {"bytes": len(block)}, memoryview(block)
            case _:
                for frame in read_frames(path, request["numbers"], max_pixels):
                    yield frame_message(frame), frame.pixels.data.cast("B")
    yield last, None


def _image_facts(path: Path) -> ImageFacts:
    with open_dicom_file(path) as source:
        return read_image_facts(source.dataset, str(source.transfer_syntax))


def summarise(path: Path, max_pixels: int) -> dict[str, Any]:
    """The message of a summary, with the facts of acquisition from the same reading."""
    acquisition = Acquisition()

    def read_elements(dataset: Dataset) -> None:
        nonlocal acquisition
        acquisition = read_acquisition(dataset)

    summary = summarise_image(path, max_pixels, read_elements)
    return summary_message(summary) | {"acquisition": acquisition.to_json()}


def summary_message(summary: ImageSummary) -> dict[str, Any]:
    facts = asdict(summary)
    del facts["bad_frames"]
    bad = [(each.number, each.code.value, each.message) for each in summary.bad_frames]
    return {"summary": facts, "bad_frames": bad}


def frame_message(frame: Frame) -> dict[str, Any]:
    return {
        "frame": frame.number,
        "shape": frame.pixels.shape[:2],
        "regions": [(region.index, region.bbox, region.spacing_mm) for region in frame.regions],
        "simulated": frame.simulated,
        "flags": [flag.value for flag in frame.flags],
    }


def send_message(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
