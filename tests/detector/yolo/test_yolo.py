"""The YOLO detector: folders, boxes, and silence on the network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file, save_file

from detector.errors import ErrorCode, QCError
from detector.no_network import ultralytics_tasks
from detector.yolo.flip import mirror_detections
from detector.yolo.yolo import (
    ARCHITECTURE,
    DESCRIPTION,
    FILES,
    WEIGHTS,
    YoloDetector,
    build_network,
    convert_checkpoint,
    save_detector,
)

LABELS = ("NT", "NB", "CRL")
SIZE = 64


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("yolo11n.yaml", len(LABELS))


@pytest.fixture
def folder(network, tmp_path):
    save_detector(tmp_path / "detector", network, LABELS, SIZE)
    return tmp_path / "detector"


class Answer(torch.nn.Module):
    """Stands for a network: gives the prediction it was made with, (4 + classes, anchors)."""

    def __init__(self, rows, end2end=False):
        super().__init__()
        self.rows = torch.nn.Parameter(torch.tensor(rows), requires_grad=False)
        self.end2end = end2end

    def forward(self, pixels):
        rows = self.rows if self.end2end else self.rows.T
        return rows.expand(len(pixels), -1, -1), {}


def picture(width, height):
    return np.zeros((height, width, 3), np.uint8)


def test_best_box_of_each_label_in_the_pictures_own_pixels():
    # Square of 64 for a picture of 128 x 64: scale 1/2, 16 rows of padding above and below.
    answer = Answer(
        [  # centre x, y, width, height, then the scores of NT, NB, CRL
            [32.0, 32.0, 16.0, 8.0, 0.6, 0.1, 0.0],
            [16.0, 24.0, 8.0, 8.0, 0.8, 0.0, 0.01],
            [63.0, 32.0, 16.0, 8.0, 0.0, 0.5, 0.0],
        ]
    )
    (detections,) = YoloDetector(answer, LABELS, SIZE).detect([picture(128, 64)])
    assert [d.label for d in detections] == ["NT", "NB"]
    assert detections[0].bbox == pytest.approx((24, 8, 40, 24))
    assert detections[0].confidence == pytest.approx(0.8)
    assert detections[1].bbox == pytest.approx((110, 24, 128, 40))  # clipped to the picture


def test_the_network_does_not_see_the_padding_and_boxes_stay_where_they_are():
    # Square of 128 for a picture of 128 x 32: rows 48 to 80, so the network sees rows 32 to 96.
    answer = Answer([[32.0, 32.0, 16.0, 8.0, 0.9, 0.0, 0.0]])
    input_shapes = []
    answer.register_forward_pre_hook(lambda _, inputs: input_shapes.append(tuple(inputs[0].shape)))
    detections = YoloDetector(answer, LABELS, 128).detect([picture(128, 32), picture(32, 128)])
    assert sorted(input_shapes) == [(1, 3, 64, 128), (1, 3, 128, 64)]
    assert detections[0][0].bbox == pytest.approx((24, 12, 40, 20))
    assert detections[1][0].bbox == pytest.approx((8, 28, 24, 36))


def test_head_without_suppression():
    answer = Answer(
        [  # corners, score, class
            [8.0, 20.0, 24.0, 28.0, 0.7, 1.0],
            [0.0, 16.0, 10.0, 30.0, 0.9, 1.0],
            [0.0, 16.0, 20.0, 30.0, 0.4, 2.0],
        ],
        end2end=True,
    )
    (detections,) = YoloDetector(answer, LABELS, SIZE).detect([picture(128, 64)])
    assert [(d.label, round(d.confidence, 3)) for d in detections] == [("NB", 0.9), ("CRL", 0.4)]
    assert detections[0].bbox == pytest.approx((0, 0, 20, 28))


def test_box_in_the_padding_is_no_detection():
    answer = Answer([[32.0, 5.0, 8.0, 4.0, 0.9, 0.0, 0.0]])
    assert YoloDetector(answer, LABELS, SIZE).detect([picture(128, 64)]) == [()]


def test_a_detector_that_mirrors_finds_the_same_in_a_picture_and_its_mirror_image(network):
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    detector = YoloDetector(network, LABELS, SIZE, confidence=0.0, mirrored=True)
    (detections,) = detector.detect([pixels])
    (flipped,) = detector.detect([np.ascontiguousarray(pixels[:, ::-1])])
    assert [(d.label, d.confidence) for d in detections] == [
        (d.label, d.confidence) for d in flipped
    ]
    for here, there in zip(detections, mirror_detections(flipped, 90), strict=True):
        assert here.bbox == pytest.approx(there.bbox, abs=1e-3)


def test_a_folder_says_whether_its_detector_mirrors(network, tmp_path):
    for mirrors in (False, True):
        save_detector(tmp_path, network, LABELS, SIZE, mirrored=mirrors)
        assert YoloDetector.load(tmp_path).mirrored is mirrors


def test_folder_gives_the_same_detector(network, folder):
    detector = YoloDetector.load(folder)
    images = [
        np.random.default_rng(i).integers(0, 256, (40 + 30 * i, 90, 3), dtype=np.uint8)
        for i in range(3)
    ]
    detections = detector.detect(images, confidence=0.0)
    plain = YoloDetector(network.eval(), LABELS, SIZE).detect(images, confidence=0.0)
    assert [[d.label for d in sorted(f, key=lambda d: d.label)] for f in detections] == [
        sorted(LABELS)
    ] * 3
    for a, b in zip(detections, plain, strict=True):
        scores = {d.label: d.confidence for d in a}
        assert scores == pytest.approx({d.label: d.confidence for d in b}, rel=0.05)
    (single,) = detector.detect([images[1]], confidence=0.0)
    assert {d.label: d.confidence for d in single} == pytest.approx(
        {d.label: d.confidence for d in detections[1]}, rel=1e-3
    )


def test_no_pictures(folder):
    assert YoloDetector.load(folder).detect([]) == []


def test_more_pictures_than_a_batch():
    answer = Answer([[32.0, 32.0, 16.0, 8.0, 0.6, 0.1, 0.0]])
    detections = YoloDetector(answer, LABELS, SIZE).detect([picture(64, 64 + i) for i in range(20)])
    assert len(detections) == 20
    assert all(f[0].label == "NT" for f in detections)


def test_written_folder(folder):
    assert {p.name for p in folder.iterdir()} == set(FILES)
    weights = load_file(folder / WEIGHTS)
    assert all(not t.is_floating_point() or t.dtype == torch.float16 for t in weights.values())
    assert "yaml_file" not in yaml.safe_load((folder / ARCHITECTURE).read_text())


@pytest.mark.parametrize("name", FILES)
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(QCError, match=name) as caught:
        YoloDetector.load(folder)
    assert caught.value.code is ErrorCode.BUNDLE_INCOMPLETE


def _lose_a_weight(folder):
    weights = load_file(folder / WEIGHTS)
    weights.pop(next(name for name in weights if name.endswith("conv.weight")))
    save_file(weights, folder / WEIGHTS)


def _describe(folder, **changes):
    path = folder / DESCRIPTION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _run_code(folder):
    path = folder / ARCHITECTURE
    content = yaml.safe_load(path.read_text())
    marker = folder / "executed"
    content["activation"] = f"open({str(marker)!r}, 'w') and torch.nn.ReLU()"
    path.write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    "spoil",
    [
        _lose_a_weight,
        _run_code,
        lambda f: _describe(f, labels=["NT", "NB"]),
        lambda f: _describe(f, labels=["NT", "NB", "no such label"]),
        lambda f: _describe(f, labels=["NT", "NB", "NB"]),
        lambda f: _describe(f, size=65),
        lambda f: (f / DESCRIPTION).write_text("{}"),
        lambda f: (f / DESCRIPTION).write_text("no json"),
        lambda f: (f / ARCHITECTURE).write_text("nc: [1"),
        lambda f: (f / ARCHITECTURE).write_text("nc: 3"),
        lambda f: (f / ARCHITECTURE).write_text("- 1"),
        lambda f: (f / WEIGHTS).write_bytes(b"rubbish"),
    ],
)
def test_wrong_folder(folder, spoil):
    spoil(folder)
    with pytest.raises(QCError) as caught:
        YoloDetector.load(folder)
    assert caught.value.code is ErrorCode.BUNDLE_MISMATCH
    assert "\n" not in caught.value.message
    assert not (folder / "executed").exists()


def test_labels_that_cannot_be(network, tmp_path):
    with pytest.raises(ValueError):
        save_detector(tmp_path, network, ("NT", "NB", "XX"), SIZE)
    with pytest.raises(ValueError):
        save_detector(tmp_path, network, LABELS, 100)


def _checkpoint(path, network, names):
    network.names = dict(enumerate(names))
    network.args = {"imgsz": SIZE}
    torch.save({"model": network, "train_args": {"imgsz": SIZE}}, path)


def test_converted_checkpoint(network, tmp_path):
    _checkpoint(tmp_path / "best.pt", network, ["NT", "nasal bone", "whole fetus"])
    convert_checkpoint(tmp_path / "best.pt", tmp_path / "out", {"whole fetus": "CRL"})
    assert YoloDetector.load(tmp_path / "out").labels == LABELS
    own, again = network.state_dict(), load_file(tmp_path / "out" / WEIGHTS)
    assert own.keys() == again.keys()
    assert all(torch.allclose(own[k].float(), again[k].float(), atol=1e-2) for k in own)


def test_checkpoint_with_a_class_nobody_knows(network, tmp_path):
    _checkpoint(tmp_path / "best.pt", network, ["NT", "NB", "whole fetus"])
    with pytest.raises(QCError, match="whole fetus"):
        convert_checkpoint(tmp_path / "best.pt", tmp_path / "out")


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


def test_foreign_pickle_is_not_run(tmp_path):
    torch.save({"model": Bomb(tmp_path / "boom")}, tmp_path / "evil.pt")
    with pytest.raises(QCError, match="no ultralytics checkpoint"):
        convert_checkpoint(tmp_path / "evil.pt", tmp_path / "out")
    assert not (tmp_path / "boom").exists()


GUARDED = """
import json, socket, sys
tried = []
def refuse(what):
    def call(*arguments, **named):
        tried.append([what, repr(arguments[-1] if what == "connect" else arguments[0])])
        raise OSError("refused by the test")
    return call
socket.socket.connect = refuse("connect")
socket.socket.connect_ex = refuse("connect")
socket.getaddrinfo = refuse("getaddrinfo")
socket.gethostbyname = refuse("gethostbyname")
from pathlib import Path
import numpy as np
from detector.yolo.yolo import YoloDetector, build_network, convert_checkpoint, save_detector
import torch
network = build_network("yolo11n.yaml", 1)
save_detector(Path(sys.argv[1]), network, ["NT"], 64)
detector = YoloDetector.load(Path(sys.argv[1]))
detector.detect([np.zeros((50, 60, 3), np.uint8)])
network.names, network.args = {0: "NT"}, {"imgsz": 64}
torch.save({"model": network}, sys.argv[1] + ".pt")
convert_checkpoint(Path(sys.argv[1] + ".pt"), Path(sys.argv[1] + "-converted"))
from ultralytics.utils.events import events
from huggingface_hub.constants import HF_HUB_OFFLINE
import os
print(json.dumps({"tried": tried, "events": events.enabled, "hub_offline": HF_HUB_OFFLINE,
                  "threads": os.environ.get("OMP_NUM_THREADS")}))
"""


def test_nothing_is_called_and_nothing_written_at_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("YOLO_", "HF_", "ULTRALYTICS_", "OMP_", "XDG_", "PYTEST_", "MPL"))
    }
    root = Path(__file__).parents[3]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", GUARDED, str(tmp_path / "detector")],
        env={**environment, "HOME": str(home), "PYTHONPATH": str(root), "TMPDIR": str(temporary)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    report = json.loads(result.stdout.splitlines()[-1])
    assert report == {"tried": [], "events": False, "hub_offline": True, "threads": None}
    assert list(home.rglob("*")) == []
    assert list(temporary.rglob("*")) == []


def test_models_are_built_without_eval():
    assert ultralytics_tasks()._SafeLoad.restricted()


def test_an_unreadable_picture_is_said_to_be_one(tmp_path: Path) -> None:
    """Ultralytics would install a package to read it."""
    ultralytics_tasks()
    path = tmp_path / "picture.png"
    path.write_bytes(b"no picture")
    with pytest.raises(UnidentifiedImageError):
        Image.open(path)
