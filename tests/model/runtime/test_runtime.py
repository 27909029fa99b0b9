"""Which runtime a name stands for, and where its converted networks are kept."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from detector.console import UsageError
from detector.errors import ErrorCode, QCError
from model.runtime import runtime as runtimes
from model.runtime.openvino_cpu import OpenVinoRuntime
from model.runtime.runtime import TorchRuntime, cache_folder, choose_runtime

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("name", "device", "kind"),
    [
        ("auto", CPU, OpenVinoRuntime),
        ("openvino", CPU, OpenVinoRuntime),
        ("torch", CPU, TorchRuntime),
        ("auto", GPU, TorchRuntime),
        ("torch", GPU, TorchRuntime),
    ],
)
def test_auto_compiles_for_the_cpu(name: str, device: torch.device, kind: type) -> None:
    chosen = choose_runtime(name, device)
    assert type(chosen) is kind
    assert "float32" in chosen.facts


def test_without_openvino_auto_is_torch_and_its_name_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        runtimes, "find_spec", lambda name: None if name == "openvino" else find(name)
    )
    assert type(choose_runtime("auto", CPU)) is TorchRuntime
    with pytest.raises(QCError, match="is not installed") as caught:
        choose_runtime("openvino", CPU)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


@pytest.mark.parametrize("bound", ["SSE41", "avx"])
def test_without_avx2_auto_is_torch_and_openvino_an_error(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its CPU kernels are bounded, it could not run the detector."""
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", bound)
    assert type(choose_runtime("auto", CPU)) is TorchRuntime
    with pytest.raises(QCError, match="needs a CPU with AVX2") as caught:
        choose_runtime("openvino", CPU)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


def test_openvino_is_refused_on_a_gpu() -> None:
    with pytest.raises(QCError, match="runs on CPUs, and the device is cuda:0") as caught:
        choose_runtime("openvino", GPU)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


@pytest.mark.parametrize("name", ["", "onnx", "OPENVINO", "x" * 1000])
def test_no_runtimes_name_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="give auto, torch, openvino"):
        choose_runtime(name, CPU)


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/qc-daemon"}, "/var/cache/qc-daemon/networks"),
        ({"CACHE_DIRECTORY": "/a:/b", "XDG_CACHE_HOME": "/x"}, "/a/networks"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/qc-daemon/networks"),
        ({"HOME": "/home/qc"}, "/home/qc/.cache/qc-daemon/networks"),
    ],
)
def test_the_cache_is_the_services_else_the_users(
    environment: dict[str, Any], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(folder)
