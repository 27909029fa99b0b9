"""The weights that a detector's training begins with: of a run of ours, or of another network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from detector.console import UsageError
from detector.no_network import ultralytics_tasks
from detector.yolo.yolo import WEIGHTS
from training.data.samples import file_hash
from training.train import runs

LEAST_SHARE = 0.5
"""Of the network's weights that another network's file must have, or it is none of its kind."""

OTHER_PICTURES = {
    "b1a44b67a5bf1d4380a176d2355e5f582c214d586f62fa0c5cc460a5524f65cf": "YOLO11n of COCO",
}
"""SHA-256 of public weights that have learnt from no ultrasound picture of ours."""


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to begin with: a run's folder, a safetensors file, or an ultralytics checkpoint.

    A checkpoint is a pickle: it is opened only where `is_trusted`, and by an unpickler that admits
    ultralytics' own classes only.
    """

    path: Path
    is_trusted: bool = False

    @property
    def is_run(self) -> bool:
        """Whether it is a run's folder, whose weights have our labels."""
        return self.path.is_dir()

    def pictures(self) -> set[str] | None:
        """SHA-256 of the pictures that the weights learnt from; None where nobody tells."""
        if self.is_run:
            return runs.learnt_pictures(self.path)
        return set() if file_hash(self.path) in OTHER_PICTURES else None

    def data(self) -> list[dict[str, Any]] | None:
        """Counts of our pictures that the weights learnt from (`runs.data_of`); None where nobody
        tells."""
        if self.is_run:
            return runs.data_of(self.path)
        return [] if file_hash(self.path) in OTHER_PICTURES else None

    @property
    def weights(self) -> Path:
        """The file of the weights."""
        return self.path / WEIGHTS if self.is_run else self.path


def load_start(network: nn.Module, start: Start) -> None:
    """Load the weights into an untrained detector.

    A run's must fit whole. Of another network's file all are taken whose name and shape are the
    same: its classes are others, so that the branch that tells them begins anew. Raises UsageError.
    """
    if start.is_run:
        _load_run(network, start.path)
        return
    weights = _read_file(start)
    own = network.state_dict()
    fitting = {
        name: tensor.to(own[name])
        for name, tensor in weights.items()
        if name in own and tensor.shape == own[name].shape
    }
    share = sum(own[name].numel() for name in fitting) / sum(t.numel() for t in own.values())
    if share < LEAST_SHARE:
        raise UsageError(
            f"--start {start.path.name} has {share:.0%} of this detector's weights:"
            " it is of another --scale, or no YOLO11"
        )
    if not all(bool(t.isfinite().all()) for t in fitting.values() if t.is_floating_point()):
        raise UsageError(f"--start {start.path.name} has weights that are no finite numbers")
    network.load_state_dict({**own, **fitting})


def _load_run(network: nn.Module, folder: Path) -> None:
    runs.check_weights(folder, "detector")
    try:
        weights = load_file(folder / WEIGHTS)
        own = network.state_dict()
        network.load_state_dict({name: t.to(own[name]) for name, t in weights.items()})
    except (OSError, KeyError, RuntimeError) as error:
        raise UsageError(
            f"--start {folder} holds no detector of this --scale ({type(error).__name__})"
        ) from None


def _read_file(start: Start) -> dict[str, Tensor]:
    path = start.path
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise UsageError(f"--start {path.name} is no safetensors file: {error}") from None
    if path.suffix not in (".pt", ".pth"):
        raise UsageError(
            f"--start {path.name}: give a run's folder, a .safetensors file or a .pt checkpoint"
        )
    if not start.is_trusted:
        raise UsageError(
            f"--start {path.name} is a pickle, which can run code: give --trust if you know who"
            " made it, or a .safetensors file"
        )
    try:
        network: nn.Module = ultralytics_tasks().load_checkpoint(path)[0]
    except Exception as error:  # A foreign pickle can fail in any way.
        raise UsageError(
            f"--start {path.name} is no ultralytics checkpoint ({type(error).__name__})"
        ) from None
    return {name: tensor.float() for name, tensor in network.state_dict().items()}
