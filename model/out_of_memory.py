"""Goes on with smaller batches where memory is not enough for one."""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_LOG = logging.getLogger(__name__)
# What PyTorch's allocator for CPUs, oneDNN and OpenVINO say in a RuntimeError.
_WORDS = ("can't alloc", "cannot alloc", "out of memory", "failed to allocate", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a lack of memory is to blame, of the host or of a GPU."""
    if isinstance(error, MemoryError):
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(each in words for each in _WORDS)


def in_batches(run: Callable[[Sequence[T]], list[R]], items: Sequence[T]) -> list[R]:
    """What `run` gives for the items, all at once or, where memory is not enough, half by half.

    Raises what `run` raises, of a lack of memory only where it is not enough for one.
    """
    try:
        return run(items)
    except Exception as error:
        if len(items) < 2 or not is_out_of_memory(error):
            raise
    # Out of the handler, whose traceback keeps the batch's tensors.
    _LOG.warning("memory is not enough for %d pictures at once: half of them", len(items))
    middle = len(items) // 2
    return in_batches(run, items[:middle]) + in_batches(run, items[middle:])
