"""The anatomy detector: an ultralytics YOLO stored as yaml and safetensors, never as a pickle."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from detector.anatomy import BY_CODE, BY_FETUS_FRAMEWORK
from detector.boxes import Detection, area, clip, filter_by_confidence
from detector.errors import ErrorCode, QCError
from detector.frame import Pixels
from detector.letterbox import Letterbox
from detector.no_network import ultralytics_tasks
from detector.yolo.flip import merge_detections, mirror_detections

ARCHITECTURE, WEIGHTS, DESCRIPTION = "architecture.yaml", "weights.safetensors", "detector.json"
FILES = (ARCHITECTURE, WEIGHTS, DESCRIPTION)
FILL = 128  # The grey level (0..255) around a letterboxed picture, as in training.
MAX_DETECTIONS = 32  # A picture has at most so many detections.
MIN_CONFIDENCE = 0.05  # A detector without a floor of its own reports nothing less confident.
STRIDE = 32  # The coarsest feature map has one cell for so many pixels of the square's side.
_BATCH = 16  # The network runs on at most so many pictures at once, which bounds its memory.


class YoloDetector:
    """Detects each label at most once.

    A fetus has one structure of each label of the vocabulary, so the best box of a label is taken
    and no suppression of overlaps (NMS) is needed.
    """

    def __init__(
        self,
        network: nn.Module,
        labels: Sequence[str],
        size: int,
        confidence: float = MIN_CONFIDENCE,
        mirrored: bool = False,
    ) -> None:
        """`labels` are vocabulary codes in class order; `size` is the square side in pixels.

        `mirrored`: the network runs on the mirror image too, in twice the time, and the detections
        of both are merged.
        """
        self.network = network.eval()
        self.device = next(network.parameters()).device
        self.has_final_boxes = bool(getattr(network, "end2end", False))
        self.labels = tuple(labels)
        self.size = size
        self.confidence = confidence
        self.mirrored = mirrored

    @classmethod
    def load(cls, folder: Path, device: str | torch.device = "cpu") -> Self:
        """From architecture.yaml, weights.safetensors and detector.json; strict.

        Raises QCError: bundle-incomplete on a missing file, bundle-mismatch on a wrong one.
        """
        for name in FILES:
            if not (folder / name).is_file():
                raise QCError(ErrorCode.BUNDLE_INCOMPLETE, f"detector: {name} is missing")
        try:
            description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            labels = tuple(map(str, description["labels"]))
            size, confidence = int(description["size"]), float(description["confidence"])
            mirrored = bool(description.get("mirrored", False))
            architecture = yaml.safe_load((folder / ARCHITECTURE).read_text(encoding="utf-8"))
            weights = load_file(folder / WEIGHTS)
            _check_labels(labels, size)
            network = build_network(architecture, len(labels))
            network.load_state_dict({name: _to_float(t) for name, t in weights.items()})
        except (
            *(ValueError, TypeError, KeyError, AttributeError, RuntimeError),
            *(yaml.YAMLError, SafetensorError),
        ) as error:
            raise QCError(ErrorCode.BUNDLE_MISMATCH, f"detector: {_line(error)}") from error
        network.eval()
        network.fuse(verbose=False)  # type: ignore[operator]
        network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return cls(network, labels, size, confidence, mirrored)

    def compile_network(
        self, compile_for_pictures: Callable[[nn.Module, Tensor], nn.Module]
    ) -> None:
        """Let the network be run by what `compile_for_pictures` makes of it and an example.

        It must take pictures of any size that is a multiple of STRIDE, in any number.
        """
        head = self.network.model[-1]  # type: ignore[index]
        # Else its anchors are kept from picture to picture, and a trace has those of the example.
        head.dynamic = True  # type: ignore[union-attr]
        example = torch.zeros(1, 3, self.size, self.size, device=self.device)
        self.network = compile_for_pictures(self.network, example)

    @torch.inference_mode()
    def detect(
        self, images: Sequence[Pixels], confidence: float | None = None
    ) -> list[tuple[Detection, ...]]:
        """The detections of each RGB picture, (H, W, 3) uint8 of any size, best first, at most 32.

        Boxes are in pixels of that picture. `confidence` replaces the bundle's own floor.
        """
        floor = self.confidence if confidence is None else confidence
        detections = self._detect_batched(images)
        if self.mirrored:
            flipped = [np.ascontiguousarray(image[:, ::-1]) for image in images]
            detections = [
                merge_detections(first, mirror_detections(second, image.shape[1]))
                for image, first, second in zip(
                    images, detections, self._detect_batched(flipped), strict=True
                )
            ]
        return [filter_by_confidence(floor, each)[:MAX_DETECTIONS] for each in detections]

    def _detect_batched(self, images: Sequence[Pixels]) -> list[tuple[Detection, ...]]:
        """The best box of each label in each picture, of any confidence, best first."""
        detections: list[tuple[Detection, ...]] = []
        for start in range(0, len(images), _BATCH):
            chunk = images[start : start + _BATCH]
            fits = [Letterbox.fit(i.shape[1], i.shape[0], self.size) for i in chunk]
            rows: list[tuple[Detection, ...]] = [()] * len(chunk)
            # Each picture's window depends on itself alone, so that its batch cannot change it.
            for window in sorted({_window(fit) for fit in fits}):
                same_window = [row for row, fit in enumerate(fits) if _window(fit) == window]
                batch = np.stack([fits[row].apply(chunk[row], fill=FILL) for row in same_window])
                best, scores = self._best(batch, window)
                for row, box, score in zip(same_window, best, scores, strict=True):
                    rows[row] = self._detections(chunk[row], fits[row], box, score)
            detections.extend(rows)
        return detections

    def _best(self, batch: Pixels, window: tuple[int, int, int, int]) -> tuple[Any, Any]:
        """The best box of each label, as corners (B, classes, 4) in pixels of the square, and its
        score (B, classes).

        `batch` is (B, S, S, 3); the network sees its part `window` (left, top, right, bottom).
        """
        left, top, right, bottom = window
        inner = np.ascontiguousarray(batch[:, top:bottom, left:right])
        pixels = torch.from_numpy(inner).to(self.device).permute(0, 3, 1, 2).float().div_(255)
        output = self.network(pixels.contiguous(memory_format=torch.channels_last))
        output = output[0] if isinstance(output, (tuple, list)) else output
        best, scores = (
            _best_of_final(output, len(self.labels))
            if self.has_final_boxes
            else _best_of_anchors(output)
        )
        offset = np.array([left, top, left, top], float)
        return best.double().cpu().numpy() + offset, scores.double().cpu().numpy()

    def _detections(
        self, image: Pixels, letterbox: Letterbox, boxes: Any, scores: Any
    ) -> tuple[Detection, ...]:
        height, width = image.shape[:2]
        detections = [
            Detection(
                label,
                clip(letterbox.to_image((box[0], box[1], box[2], box[3])), width, height),
                min(1.0, score),
            )
            for label, box, score in zip(self.labels, boxes.tolist(), scores.tolist(), strict=True)
        ]
        detections.sort(key=lambda d: (-d.confidence, d.label))
        return tuple(d for d in detections if area(d.bbox) > 0)


def build_network(architecture: str | Mapping[str, Any], classes: int) -> Any:
    """An untrained ultralytics DetectionModel with that many classes.

    `architecture` is a name that ultralytics ships ("yolo11n.yaml") or the content of such a file.
    """
    tasks = ultralytics_tasks()
    content = (
        tasks.yaml_model_load(architecture) if isinstance(architecture, str) else dict(architecture)
    )
    return tasks.DetectionModel(content, ch=3, nc=classes, verbose=False)


def save_detector(
    folder: Path,
    network: nn.Module,
    labels: Sequence[str],
    size: int,
    confidence: float = MIN_CONFIDENCE,
    mirrored: bool = False,
) -> None:
    """Write the three files that `YoloDetector.load` reads; weights as float16.

    `network` is an unfused DetectionModel. Raises ValueError on labels or a size it cannot have.
    """
    _check_labels(tuple(labels), size)
    folder.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = dict(network.yaml)  # type: ignore[arg-type]
    content.pop("yaml_file", None)
    (folder / ARCHITECTURE).write_text(
        yaml.safe_dump(content, sort_keys=False, default_flow_style=None), encoding="utf-8"
    )
    save_file({k: _to_half(v) for k, v in network.state_dict().items()}, folder / WEIGHTS)
    description = {"labels": list(labels), "size": size, "confidence": confidence}
    if mirrored:
        description["mirrored"] = True
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def convert_checkpoint(
    checkpoint: Path, folder: Path, labels: Mapping[str, str] | None = None
) -> None:
    """Write an ultralytics .pt of any YOLO detector as a folder that `YoloDetector.load` reads.

    Class names must be vocabulary codes, names of the Fetus Framework set, or keys of `labels`.
    The unpickler admits ultralytics' own classes only. Raises QCError (bundle-mismatch).
    """
    tasks = ultralytics_tasks()
    try:
        network, _ = tasks.load_checkpoint(checkpoint)
    except Exception as error:  # a foreign pickle can fail in any way
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH,
            f"{checkpoint.name} is no ultralytics checkpoint: {_line(error)}",
        ) from error
    if not isinstance(network, tasks.DetectionModel) or network.is_fused():
        raise QCError(
            ErrorCode.BUNDLE_MISMATCH, f"{checkpoint.name} is no unfused YOLO detection model"
        )
    names = network.names
    codes = [_code(str(names[index]), labels or {}) for index in range(len(names))]
    try:
        save_detector(folder, network, codes, int(network.args["imgsz"]))
    except ValueError as error:
        raise QCError(ErrorCode.BUNDLE_MISMATCH, f"{checkpoint.name}: {error}") from error


def _window(fit: Letterbox) -> tuple[int, int, int, int]:
    """The part (left, top, right, bottom) of the square that holds the picture, in whole strides;
    the grey padding beyond it would only cost time."""
    right, bottom = fit.size - fit.pad_x, fit.size - fit.pad_y
    return (
        *(fit.pad_x // STRIDE * STRIDE, fit.pad_y // STRIDE * STRIDE),
        *(-(-right // STRIDE) * STRIDE, -(-bottom // STRIDE) * STRIDE),
    )


def _best_of_anchors(output: Tensor) -> tuple[Tensor, Tensor]:
    """The best box and score of each class from an anchor head's output.

    (B, 4 + classes, anchors), boxes as centre, width, height -> (B, classes, 4), (B, classes).
    """
    scores, anchor = output[:, 4:].max(-1)
    boxes = output[:, :4].transpose(1, 2)
    best = boxes.gather(1, anchor.unsqueeze(-1).expand(-1, -1, 4))
    centre, half = best[..., :2], best[..., 2:] / 2
    return torch.cat((centre - half, centre + half), dim=-1), scores


def _best_of_final(output: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The best box and score of each class from the output of a head that needs no NMS (YOLO26).

    (B, boxes, 6), each corners, score, class -> (B, classes, 4), (B, classes).
    """
    own = output[..., 5:6].round() == torch.arange(classes, device=output.device)
    scores, row = torch.where(own, output[..., 4:5], 0.0).max(1)
    return output[..., :4].gather(1, row.unsqueeze(-1).expand(-1, -1, 4)), scores


def _check_labels(labels: tuple[str, ...], size: int) -> None:
    unknown = [label for label in labels if label not in BY_CODE]
    if unknown or not labels or len(set(labels)) != len(labels):
        raise ValueError(f"labels {list(labels)} must be distinct codes of the vocabulary")
    if size < STRIDE or size % STRIDE:
        raise ValueError(f"size {size} is no multiple of 32, the coarsest stride")


def _code(name: str, labels: Mapping[str, str]) -> str:
    if name in labels:
        return labels[name]
    if name in BY_CODE:
        return name
    if name in BY_FETUS_FRAMEWORK:
        return BY_FETUS_FRAMEWORK[name].code
    raise QCError(
        ErrorCode.BUNDLE_MISMATCH,
        f"class {name!r} is not in the vocabulary: give the label it stands for",
    )


def _to_half(tensor: Tensor) -> Tensor:
    """Float16 where that loses no value to infinity; integers stay."""
    tensor = tensor.detach().cpu().contiguous()
    half = tensor.half() if tensor.is_floating_point() else tensor
    return half if bool(half.isfinite().all()) else tensor


def _to_float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(": ") if lines else type(error).__name__
