"""Devices by name: what is none is refused, what is absent is told in one line."""

import sys

import pytest
import torch

from detector.console import UsageError
from detector.errors import ErrorCode, FailureClass, QCError
from model.device import choose_device, is_device_name


@pytest.mark.parametrize("name", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_names_of_devices(name: str) -> None:
    assert is_device_name(name)


@pytest.mark.parametrize("name", ["gpu", "", "CPU", "cuda:", "cuda:x", "cuda:-1", "meta", "cpu "])
def test_other_names_are_wrong_usage(name: str) -> None:
    assert not is_device_name(name)
    with pytest.raises(UsageError, match="give auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_the_cpu_is_always_there() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_without_a_cuda_device_there_is_one_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QCError, match=rf"^{name}: .*score\.device") as caught:
        choose_device(name)
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    # It costs no job an attempt.
    assert caught.value.failure_class is FailureClass.ALARM


def test_a_device_number_that_does_not_exist_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(QCError, match="cuda:2: this machine has 2 CUDA devices, numbered from 0"):
        choose_device("cuda:2")


def test_a_device_that_fails_at_its_first_use_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_shape: int, **_options: object) -> torch.Tensor:
        raise RuntimeError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "zeros", broken)
    with pytest.raises(QCError, match="cannot be used: CUDA error: out of memory; check"):
        choose_device("cuda")


def test_a_host_without_the_models_libraries_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(QCError, match="not installed here: leave scoring") as caught:
        choose_device("auto")
    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
