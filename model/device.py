"""The torch device that the networks run on, by its name in settings and on command lines."""

import re
from typing import TYPE_CHECKING

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.out_of_memory import is_out_of_memory

if TYPE_CHECKING:
    import torch

# Settings check the name, in processes that must stay small: torch is imported where it is used.
_NAME = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
NAMES = "auto, cpu, cuda or cuda:N"


def is_device_name(name: str) -> bool:
    """Whether it is a device's name at all; the device itself may be absent."""
    return _NAME.fullmatch(name) is not None


def choose_device(name: str) -> "torch.device":
    """The device of this name; `auto` is the first CUDA device, or the CPU without one.

    Raises UsageError for a name that is none, QCError DEVICE_UNAVAILABLE for a device that this
    machine does not have or that cannot be used.
    """
    if not is_device_name(name):
        raise UsageError(f"there is no device {name[:40]}; give {NAMES}")
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise QCError(
            ErrorCode.DEVICE_UNAVAILABLE,
            "the models' libraries are not installed here: leave scoring (role work) to another"
            " host, or install again without --no-models",
        ) from None

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda":
        _check_cuda(device)
    return device


def device_failure(error: Exception) -> QCError | None:
    """DEVICE_UNAVAILABLE if the device, not what it was given, is to blame, INTERNAL for a picture
    that the host's memory is not enough for; else None.

    A process whose device failed has to end: CUDA serves it no more (CUDA Runtime API, error
    handling, "sticky" errors). A picture may be too large for the host for ever, so that its
    attempts are counted.
    """
    import torch

    if is_out_of_memory(error) and not isinstance(error, torch.OutOfMemoryError):
        return QCError(
            ErrorCode.INTERNAL,
            f"memory is not enough to judge a picture ({_first_line(error)}); give the host"
            " more, or fewer processes of the role work",
        )
    if not isinstance(error, torch.AcceleratorError | torch.OutOfMemoryError):
        return None
    return _unavailable(f"the device failed: {_first_line(error)}")


def _check_cuda(device: "torch.device") -> None:
    import torch

    if not torch.cuda.is_available():
        raise _unavailable(f"{device}: this machine has no CUDA device that torch can use")
    count = torch.cuda.device_count()
    if device.index is not None and device.index >= count:
        raise _unavailable(f"{device}: this machine has {count} CUDA devices, numbered from 0")
    try:
        torch.zeros(1, device=device)
    except RuntimeError as error:
        raise _unavailable(f"{device} cannot be used: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["unknown error"])[0]


def _unavailable(problem: str) -> QCError:
    return QCError(
        ErrorCode.DEVICE_UNAVAILABLE,
        f"{problem}; check its driver, or set the device (score.device, --device) to auto or cpu",
    )
