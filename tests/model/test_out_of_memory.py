"""Where memory is not enough for a batch, smaller ones give the same, and nothing stale."""

import subprocess
import sys
from collections.abc import Sequence

import pytest
import torch

from detector.errors import FailureClass
from model.device import device_failure
from model.out_of_memory import in_batches, is_out_of_memory


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("Check 'ptr' failed\nFailed to allocate 5 bytes of memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_a_lack_of_memory_is_known(error: Exception, is_memory: bool) -> None:
    assert is_out_of_memory(error) is is_memory
    assert (device_failure(error) is not None) is is_memory


def test_a_picture_too_large_for_the_host_uses_up_its_attempts() -> None:
    of_host, of_gpu = device_failure(MemoryError()), device_failure(torch.OutOfMemoryError("CUDA"))
    assert of_host is not None
    assert of_host.failure_class is FailureClass.RETRY
    assert "memory is not enough to judge a picture" in of_host.message
    assert of_gpu is not None
    assert of_gpu.failure_class is FailureClass.ALARM


def test_batches_become_smaller_until_they_fit() -> None:
    sizes = []

    def run(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 3:
            raise MemoryError
        return [item + 1 for item in items]

    assert in_batches(run, range(10)) == list(range(1, 11))
    assert sizes == [10, 5, 2, 3, 5, 2, 3]


def test_what_does_not_fit_alone_or_fails_otherwise_is_raised() -> None:
    def run(items: Sequence[int]) -> list[int]:
        raise MemoryError if 3 in items else ValueError("three is not there")

    with pytest.raises(MemoryError):
        in_batches(run, [3])
    with pytest.raises(ValueError, match="not there"):
        in_batches(run, [1, 2])


_PROGRAM = """
import resource
import numpy as np, torch
torch.set_num_threads(1)
from model.bundle.bundle import Bundle
from model.judge import Judge
judge = Judge.open(Bundle.open("default"), "cpu", runtime="openvino")
random = np.random.default_rng(0)
regions = [random.integers(0, 255, (480, 640, 3), np.uint8) for _ in range(12)]
alone = [judge.predict([each])[0].logit for each in regions[:3]]
size = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (size + int(100 * 2**20), -1))
try:
    logits = [each.logit for each in judge.predict(regions)]
    print("memory", np.allclose(logits[:3], alone, atol=1e-4))
except Exception as error:
    print("memory", type(error).__name__ in ("MemoryError", "QCError"))
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
logits = [judge.predict([each])[0].logit for each in regions[:3]]
print("after", np.allclose(logits, alone, atol=1e-4))
"""


def test_a_compiled_network_says_nothing_stale_when_memory_lacks() -> None:
    """An address space that is too small for a batch, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=250
    )
    assert done.stdout.splitlines() == ["memory True", "after True"], done.stderr[-2000:]
    assert "memory is not enough for 12 pictures at once" in done.stderr
