"""The default bundle compiled by openvino says what it says by torch; the cache is as written."""

import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.errors import ErrorCode, QCError
from detector.frame import Frame, Pixels, Region
from detector.letterbox import crop
from model.bundle.bundle import Bundle
from model.judge import Judge, RegionPrediction
from model.runtime.openvino_cpu import HINTS, OpenVinoRuntime
from model.runtime.precision import SONONET, bfloat16_flag
from model.spatialclip.network import SpatialClip, small_config
from training.phantom import Phantom, make

LOGIT_TOLERANCE = 1e-3
BOX_TOLERANCE = 0.05
"""Pixels."""


class Small(nn.Module):
    """(B, 3, H, W) -> (B, 2, H, W), and a second output that nobody asks for."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layer = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        return self.layer(pictures).relu(), pictures.mean()


class Refusing(nn.Module):
    """No network that can be converted."""

    def forward(self, pictures: Tensor) -> Tensor:
        raise RuntimeError("no such operation\nin this network")


@pytest.fixture(scope="module")
def judges() -> tuple[Judge, Judge]:
    bundle = Bundle.open("default")
    return Judge.open(bundle, "cpu"), Judge.open(bundle, "cpu", runtime="openvino")


def region_of(phantom: Phantom) -> Pixels:
    return crop(Frame(1, phantom.pixels, ()), Region(0, phantom.region)).pixels


def assert_alike(
    expected: Sequence[RegionPrediction], compiled: Sequence[RegionPrediction]
) -> None:
    for a, b in zip(expected, compiled, strict=True):
        assert b.logit == pytest.approx(a.logit, abs=LOGIT_TOLERANCE)
        assert b.description == a.description
        assert [d.label for d in b.detections] == [d.label for d in a.detections]
        for first, second in zip(a.detections, b.detections, strict=True):
            assert second.bbox == pytest.approx(first.bbox, abs=BOX_TOLERANCE)
            assert second.confidence == pytest.approx(first.confidence, abs=1e-4)
        assert np.allclose(a.features, b.features, atol=1e-4)


def test_pictures_of_any_size_alone_and_together(judges: tuple[Judge, Judge]) -> None:
    eager, compiled = judges
    regions = [region_of(make(seed)) for seed in (1, 2, 3)]
    regions += [np.ascontiguousarray(regions[0][:, :150]), np.ascontiguousarray(regions[1][:90])]
    expected = eager.predict(regions)
    assert_alike(expected, compiled.predict(regions))
    for each, alone in zip(expected, regions, strict=True):
        assert_alike([each], compiled.predict([alone]))


def test_judgements_are_the_same(judges: tuple[Judge, Judge]) -> None:
    eager, compiled = judges
    for seed in range(20, 26):
        phantom = make(seed)
        frame = Frame(1, phantom.pixels, (Region(0, phantom.region),), simulated=True)
        (expected,), (judgement,) = eager.judge(frame), compiled.judge(frame)
        assert (judgement.view, judgement.quality) == (expected.view, expected.quality)
        assert judgement.flags == expected.flags
        assert [r.code for r in judgement.reasons] == [r.code for r in expected.reasons]
        assert [(c.code, c.met) for c in judgement.criteria] == [
            (c.code, c.met) for c in expected.criteria
        ]


def test_sononet_alone_in_bfloat16_changes_little(
    judges: tuple[Judge, Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    if bfloat16_flag() is None:
        monkeypatch.setitem(HINTS, True, HINTS[False])
    runtime = OpenVinoRuntime(bfloat16=[SONONET])
    assert not runtime.is_exact
    assert runtime.facts.endswith("float32, SonoNet bfloat16")
    fast = Judge.open(Bundle.open("default"), "cpu", runtime=runtime)
    assert fast.inexact_runtime == runtime.facts
    regions = [region_of(make(seed)) for seed in (1, 2)]
    for exact, other in zip(judges[0].predict(regions), fast.predict(regions), strict=True):
        assert other.logit == pytest.approx(exact.logit, abs=0.1)
        assert [d.label for d in other.detections] == [d.label for d in exact.detections]
        cosine = float(exact.features[0] @ other.features[0])
        assert cosine > 0.999


def test_a_tower_without_sononet_has_none_to_compile() -> None:
    config = small_config(64)
    plain = SpatialClip(replace(config, stem="")).eval()
    assert not plain.trimodal_clip.has_sononet
    compile_network = OpenVinoRuntime().compile
    with pytest.raises(ValueError, match="no SonoNet"):
        plain.trimodal_clip.compile_image_network(compile_network, compile_network)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_verdict_of_many_phantoms_differs(judges: tuple[Judge, Judge]) -> None:
    eager, compiled = judges
    for seed in range(9_100_000, 9_100_150):
        phantom = make(seed)
        frame = Frame(1, phantom.pixels, (Region(0, phantom.region),), simulated=True)
        (expected,), (judgement,) = eager.judge(frame), compiled.judge(frame)
        assert (judgement.view, judgement.quality) == (expected.view, expected.quality), seed
        assert judgement.probability == pytest.approx(expected.probability, abs=1e-3)


def test_a_network_without_a_stem_is_compiled_whole() -> None:
    config = small_config(64)
    vision = config.clip["vision_config"] | {"image_size": 64}
    plain = SpatialClip(
        replace(config, stem="", clip=config.clip | {"vision_config": vision})
    ).eval()
    pictures = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected = plain.trimodal_clip.encode_image(pictures)
        plain.trimodal_clip.compile_image_network(OpenVinoRuntime().compile)
        assert torch.allclose(plain.trimodal_clip.encode_image(pictures), expected, atol=1e-4)
    assert set(plain.state_dict()) == set(SpatialClip(plain.config).state_dict())


def test_where_gradients_are_wanted_torch_runs(judges: tuple[Judge, Judge]) -> None:
    network = judges[1].spatialclip.trimodal_clip
    pictures = torch.randn(1, 3, 288, 288, requires_grad=True)
    network.encode_image(pictures).sum().backward()
    assert pictures.grad is not None
    assert pictures.grad.abs().sum() > 0


def converted(cache: Path | None, network: nn.Module, pictures: Tensor) -> Tensor:
    with torch.inference_mode():
        compiled = OpenVinoRuntime(cache).compile(network, pictures, any_size=True)
        output: Tensor = compiled(pictures)
    return output


def test_the_first_output_of_any_size_counts(tmp_path: Path) -> None:
    network = Small().eval()
    with torch.inference_mode():
        compiled = OpenVinoRuntime().compile(network, torch.zeros(1, 3, 8, 8), any_size=True)
        for shape in ((1, 3, 8, 8), (5, 3, 17, 4)):
            pictures = torch.randn(shape)
            assert torch.allclose(compiled(pictures), network(pictures)[0], atol=1e-5)


def test_a_converted_network_is_read_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = torch.randn(2, 3, 8, 8)
    first = converted(tmp_path, Small(), pictures)
    assert len(list(tmp_path.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.setattr(OpenVinoRuntime, "_convert", lambda *_: pytest.fail("converted again"))
        assert torch.equal(converted(tmp_path, Small(), pictures), first)
    other = converted(tmp_path, Small(seed=1), pictures)
    assert not torch.allclose(other, first), "other weights are another network"
    assert len(list(tmp_path.iterdir())) == 2


def test_towers_that_differ_in_a_flag_alone_share_no_network(tmp_path: Path) -> None:
    config = small_config(64)
    vision = config.clip["vision_config"] | {"image_size": 64}
    config = replace(config, clip=config.clip | {"vision_config": vision})
    one_sided = SpatialClip(config).eval()
    mirrored = SpatialClip(replace(config, mirrored=True)).eval()
    mirrored.load_state_dict(one_sided.state_dict())
    assert_apart(one_sided, mirrored, tmp_path / "mirrored")

    plain = SpatialClip(replace(config, stem="")).eval()
    heads = config.clip | {"vision_config": vision | {"num_attention_heads": 6}}
    more_heads = SpatialClip(replace(config, stem="", clip=heads)).eval()
    more_heads.load_state_dict(plain.state_dict())
    assert_apart(plain, more_heads, tmp_path / "heads")


def assert_apart(first: SpatialClip, second: SpatialClip, cache: Path) -> None:
    """Each of two networks says by the same cache what it says by torch."""
    pictures = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        towers = [each.trimodal_clip for each in (first, second)]
        expected = [each.encode_image(pictures) for each in towers]
        assert not torch.allclose(*expected, atol=1e-4)
        for tower, feature in zip(towers, expected, strict=True):
            tower.compile_image_network(OpenVinoRuntime(cache).compile)
            assert torch.allclose(tower.encode_image(pictures), feature, atol=1e-4)


@pytest.mark.parametrize("damage", ["bits", "shorter", "no hashes", "no network", "another's"])
def test_a_cache_that_is_not_as_written_is_made_anew(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = torch.randn(2, 3, 8, 8)
    first = converted(tmp_path, Small(), pictures)
    (folder,) = tmp_path.iterdir()
    weights = folder / "network.bin"
    content = weights.read_bytes()
    if damage == "bits":
        weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "shorter":
        weights.write_bytes(content[:-4])
    elif damage == "no hashes":
        (folder / "hashes.json").write_text("[]")
    elif damage == "no network":
        (folder / "network.xml").unlink()
    else:
        (folder / "network.xml").write_text("<net/>")
    with caplog.at_level(logging.WARNING):
        assert torch.equal(converted(tmp_path, Small(), pictures), first)
    assert weights.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [folder.name]


def test_without_a_writable_cache_it_runs_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Root may write everywhere, so that a file stands where the folder should be; but not to what
    the kernel shows of itself."""
    (tmp_path / "cache").write_text("")
    pictures = torch.randn(1, 3, 8, 8)
    network = Small().eval()
    with caplog.at_level(logging.WARNING):
        for cache in (tmp_path / "cache" / "networks", Path("/sys/kernel/networks")):
            output = converted(cache, network, pictures)
            assert torch.allclose(output, network(pictures)[0], atol=1e-5)
    assert caplog.text.count("are not kept") == 2


def test_what_cannot_be_converted_is_one_clear_line() -> None:
    with pytest.raises(QCError, match="openvino cannot compile a network here") as caught:
        OpenVinoRuntime().compile(Refusing(), torch.zeros(1, 3, 8, 8))
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert "score.runtime" in str(caught.value)
    assert "\n" not in str(caught.value)


class OutOfMemory:
    """OpenVINO's core on a machine whose memory is not enough."""

    def compile_model(self, *_: object) -> None:
        raise RuntimeError("Exception from src/x.cpp:1:\nstd::bad_alloc")


def test_a_lack_of_memory_in_a_second_compilation_is_a_memory_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So that smaller batches are tried; at the first compilation no batch is to blame."""
    runtime = OpenVinoRuntime()
    monkeypatch.setattr(runtime, "_core", OutOfMemory())
    with pytest.raises(MemoryError, match="bad_alloc"):
        runtime._compile_model(None, False)
    with pytest.raises(QCError, match="bad_alloc") as caught:
        runtime.compile(Small().eval(), torch.zeros(1, 3, 8, 8))
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


def test_openvino_reports_nothing_to_its_maker(tmp_path: Path) -> None:
    """Its telemetry is not installed; were it, it would not be imported."""
    (tmp_path / "openvino_telemetry.py").write_text("raise SystemExit('imported')\n")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from detector.no_network import openvino_module\n"
        "openvino_module().convert_model\n"
        "from openvino.tools.ovc import convert_model\n"
        "print('quiet')"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert outcome.stdout.strip() == "quiet", outcome.stderr
