"""Networks compiled by OpenVINO for this CPU, in full precision or, where asked, in bfloat16.

Conversion traces the PyTorch network, which takes seconds; its result is kept in a cache, by the
hash of the network's weights, and read again where its bytes are still what was written.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.errors import ErrorCode, QCError
from detector.no_network import openvino_module
from detector.yolo.yolo import YoloDetector
from model.out_of_memory import is_out_of_memory
from model.runtime.precision import BFLOAT16, DETECTOR, IMAGE_TOWER, SONONET
from model.spatialclip.network import SpatialClip

openvino: Any = openvino_module()

CONVERSION_VERSION = 2
"""Raise this when this module converts the same network otherwise: caches are then made anew."""
HINTS = {False: "f32", True: "bf16"}
"""OpenVINO's name of the precision, by whether it is bfloat16."""
_NETWORK, _HASHES = "network.xml", "hashes.json"
_FILES = (_NETWORK, "network.bin")
_LOG = logging.getLogger(__name__)


class CompiledNetwork(nn.Module):
    """Stands for a network of one input and one output; it has no parameters and no gradients."""

    def __init__(self, compile_network: Callable[[], Any]) -> None:
        """`compile_network` gives the network as OpenVINO runs it."""
        super().__init__()
        self._compile_network = compile_network
        self._executable: Any = compile_network()
        self._request: Any = self._executable.create_infer_request()

    def forward(self, pictures: Tensor) -> Tensor:
        """The network's output for (B, C, H, W) float32 on the CPU.

        Raises MemoryError where memory is not enough, RuntimeError where OpenVINO fails otherwise.
        """
        if self._request is None:
            self._executable = self._compile_network()
            self._request = self._executable.create_infer_request()
        values = pictures.contiguous().numpy()
        try:
            # Not `infer`: in OpenVINO 2026.4 it hides errors and leaves an earlier output.
            self._request.set_input_tensor(openvino.Tensor(values, shared_memory=True))
            self._request.start_async()
            self._request.wait()
            output = torch.from_numpy(self._request.get_output_tensor().data.copy())
            if len(output) != len(pictures):
                raise RuntimeError(f"{len(output)} outputs for {len(pictures)} pictures")
        except Exception as error:
            # A compiled network that failed once computes wrong values ever after.
            self._executable = self._request = None
            if is_out_of_memory(error):
                raise MemoryError(_first_line(error)) from error
            raise
        return output


class OpenVinoRuntime:
    """OpenVINO on the CPU. In float32 sums are in another order than PyTorch's, nothing else."""

    def __init__(self, cache: Path | None = None, bfloat16: Collection[str] = ()) -> None:
        """Without `cache` every process converts anew. `bfloat16`: which of NETWORKS are computed
        in it, their inputs and outputs staying float32."""
        self._cache = cache
        self._bfloat16 = frozenset(bfloat16)
        self._core = openvino.Core()

    @property
    def facts(self) -> str:
        names = ", ".join(sorted(self._bfloat16))
        precision = f"float32, {names} {BFLOAT16}" if names else "float32"
        return f"openvino {openvino.__version__}, {precision}"

    @property
    def is_exact(self) -> bool:
        return not self._bfloat16

    def compile_networks(self, detector: YoloDetector, spatialclip: SpatialClip) -> None:
        """As `Runtime` says."""
        of_detector, of_tower = (part in self._bfloat16 for part in (DETECTOR, IMAGE_TOWER))
        detector.compile_network(partial(self.compile, any_size=True, bfloat16=of_detector))
        of_sononet = partial(self.compile, bfloat16=True) if SONONET in self._bfloat16 else None
        spatialclip.trimodal_clip.compile_image_network(
            partial(self.compile, bfloat16=of_tower), of_sononet
        )

    def compile(
        self, network: nn.Module, example: Tensor, *, any_size: bool = False, bfloat16: bool = False
    ) -> nn.Module:
        """What gives the network's output for pictures like `example` (B, C, H, W) float32, of any
        batch size, and with `any_size` of any height and width that the network takes.

        Raises QCError DEVICE_UNAVAILABLE where OpenVINO cannot convert or compile it.
        """
        sides = [-1, -1] if any_size else list(example.shape[2:])
        shape = [-1, example.shape[1], *sides]
        try:
            ir_model = self._read(network, shape)
            if ir_model is None:
                ir_model = self._convert(network, example, shape)
        except (RuntimeError, OSError) as error:
            # OpenVINO's own errors are RuntimeErrors; what cannot be cached, an OSError.
            raise _cannot_compile(error) from error
        try:
            return CompiledNetwork(partial(self._compile_model, ir_model, bfloat16))
        except MemoryError as error:
            raise _cannot_compile(error) from error

    def _compile_model(self, ir_model: Any, bfloat16: bool) -> Any:
        """Raises MemoryError where memory is not enough, QCError where it cannot otherwise."""
        try:
            return self._core.compile_model(
                ir_model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": HINTS[bfloat16],
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                },
            )
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                # As of a picture: a smaller batch may do.
                raise MemoryError(_first_line(error)) from error
            raise _cannot_compile(error) from error

    def _convert(self, network: nn.Module, example: Tensor, shape: list[int]) -> Any:
        with torch.inference_mode(), warnings.catch_warnings():
            # A trace holds for its example only, says torch; the tests try other pictures.
            warnings.simplefilter("ignore")
            ir_model = openvino.convert_model(_FirstOutput(network).eval(), example_input=example)
        ir_model.reshape(shape)
        if self._cache is not None:
            self._write(self._cache / _key(network, shape), ir_model)
        return ir_model

    def _read(self, network: nn.Module, shape: list[int]) -> Any | None:
        """The converted network from the cache; None if it is absent or not as it was written."""
        if self._cache is None:
            return None
        folder = self._cache / _key(network, shape)
        try:
            hashes = json.loads((folder / _HASHES).read_text(encoding="utf-8"))
            if not isinstance(hashes, Mapping) or any(
                hashes.get(name) != _hash_file(folder / name) for name in _FILES
            ):
                raise ValueError("its files differ from what was written")
            return self._core.read_model(folder / _NETWORK)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RuntimeError) as error:
            _LOG.warning("a compiled network is made anew: %s", _first_line(error))
            return None

    def _write(self, target: Path, ir_model: Any) -> None:
        """Put the converted network into the cache, whole or not at all."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
        except OSError as error:
            _LOG.warning("compiled networks are not kept: %s", _first_line(error))
            return
        try:
            openvino.save_model(ir_model, draft / _NETWORK, compress_to_fp16=False)
            hashes = {name: _hash_file(draft / name) for name in _FILES}
            (draft / _HASHES).write_text(json.dumps(hashes), encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            draft.replace(target)
        except (OSError, RuntimeError) as error:
            # Another process may have written the same network; else it is made anew next time.
            _LOG.warning("a compiled network is not kept: %s", _first_line(error))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


class _FirstOutput(nn.Module):
    """A network whose output may be a tuple, of which the first part counts."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        output = self.network(pictures)
        first: Tensor = output[0] if isinstance(output, (tuple, list)) else output
        return first


def _key(network: nn.Module, shape: list[int]) -> str:
    """What decides the converted network: its layers, its weights, and who converts it. Whatever
    else its `forward` depends on, its `extra_repr` has to say."""
    facts = (CONVERSION_VERSION, openvino.__version__, torch.__version__, shape)
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(repr(network).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _cannot_compile(error: Exception) -> QCError:
    return QCError(
        ErrorCode.DEVICE_UNAVAILABLE,
        f"openvino cannot compile a network here ({_first_line(error)}); set the runtime"
        " (score.runtime, --runtime) to torch",
    )


def _first_line(error: Exception) -> str:
    """What is wrong, without the places in OpenVINO's sources that come before it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    problems = [
        line for line in lines if not line.startswith(("Exception from ", "Caught exc", "Check '"))
    ]
    return (problems or lines)[0].strip()[:200]
