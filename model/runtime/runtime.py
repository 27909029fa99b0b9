"""Chooses how the networks run, by a name in settings and on command lines.

`torch` runs them as they are and is the reference; `openvino` compiles them for this CPU. `auto`
takes `openvino` where it is installed and the networks run on a CPU with AVX2, else `torch`. In
precision `fast` openvino computes what the bundle's manifest allows in bfloat16.
"""

import os
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.runtime.precision import (
    BFLOAT16,
    EXACT,
    FAST,
    OPENVINO,
    bfloat16_flag,
    check_precision,
    fast_networks,
    has_avx2,
    unavailable,
)

if TYPE_CHECKING:
    import torch

    from detector.yolo.yolo import YoloDetector
    from model.spatialclip.network import SpatialClip

AUTO, TORCH = "auto", "torch"
NAMES = (AUTO, TORCH, OPENVINO)


class Runtime(Protocol):
    """Runs the networks that cost most of a picture's time."""

    @property
    def facts(self) -> str:
        """Its name, version and precision, as people read them."""

    @property
    def is_exact(self) -> bool:
        """Whether all of its networks run in float32."""

    def compile_networks(self, detector: "YoloDetector", spatialclip: "SpatialClip") -> None:
        """Have the detector and SpatialCLIP's image tower run by it from now on.

        Raises QCError DEVICE_UNAVAILABLE where it cannot.
        """


class TorchRuntime:
    """The reference: networks run as they are, on whatever device they are on."""

    @property
    def facts(self) -> str:
        return f"torch {version('torch')}, float32"

    @property
    def is_exact(self) -> bool:
        return True

    def compile_networks(self, detector: "YoloDetector", spatialclip: "SpatialClip") -> None:
        """Nothing is changed."""


def cache_folder() -> Path:
    """Where compiled networks are kept: the cache folder of a service of systemd
    (systemd.exec(5)), else the user's (XDG Base Directory Specification)."""
    of_service = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if of_service:
        return Path(of_service) / "networks"
    of_user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(of_user).expanduser() / "qc-daemon" / "networks"


def choose_runtime(
    name: str,
    device: "torch.device",
    cache: Path | None = None,
    precision: str = EXACT,
    manifest: Mapping[str, Any] | None = None,
) -> Runtime:
    """The runtime of this name for networks on the device; converted ones are kept in `cache`, if
    one is given. Precision `fast` is as `manifest`, the bundle's, allows.

    Raises UsageError for a name that is none, QCError DEVICE_UNAVAILABLE for a runtime that is not
    installed or does not run on that device, and for a precision that is not allowed there.
    """
    if name not in NAMES:
        raise UsageError(f"there is no runtime {name[:40]}; give {', '.join(NAMES)}")
    check_precision(precision)
    is_installed = find_spec("openvino") is not None
    can_run = device.type == "cpu" and is_installed and has_avx2()
    if name == TORCH or (name == AUTO and not can_run):
        if precision == FAST:
            raise unavailable(
                f"precision fast is {BFLOAT16} by openvino on a CPU; here torch runs on {device}"
            )
        return TorchRuntime()
    if device.type != "cpu":
        raise _unavailable(f"openvino runs on CPUs, and the device is {device}")
    if not is_installed:
        raise _unavailable("openvino is not installed: pip install 'qc-daemon[openvino]'")
    if not can_run:
        raise _unavailable("openvino needs a CPU with AVX2")
    from model.runtime.openvino_cpu import OpenVinoRuntime

    bfloat16 = fast_networks(manifest or {}, bfloat16_flag()) if precision == FAST else ()
    return OpenVinoRuntime(cache, bfloat16)


def _unavailable(problem: str) -> QCError:
    return QCError(
        ErrorCode.DEVICE_UNAVAILABLE,
        f"{problem}; or set the runtime (score.runtime, --runtime) to auto or torch",
    )
