"""Checks a safetensors file without loading it into a network."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

_CHUNK = 1 << 22
# Bytes of a number as an unsigned integer, and its exponent bits: where all are set it is infinite
# or no number (IEEE 754; F8_E4M3 knows no infinity, and all bits but the sign say "no number").
_FLOATS: dict[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}


def find_problem(path: Path) -> str | None:
    """One line on the first fault of the file; None if every tensor lies where the header says and
    every number is finite. Raises OSError on a file that cannot be read."""
    try:
        # The library compares shapes, offsets and the length of the file.
        with safe_open(path, framework="numpy"):
            pass
        header, start = _header(path)
        for name, tensor in header.items():
            if name != "__metadata__" and not _is_finite(path, tensor, start):
                return f"{name} has values that are infinite or no numbers"
    except (SafetensorError, ValueError, KeyError, TypeError, struct.error) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"it is no sound safetensors file ({line})"
    return None


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """The header, and where the tensors' bytes begin."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return dict(json.loads(file.read(length))), 8 + length


def _is_finite(path: Path, tensor: dict[str, Any], start: int) -> bool:
    if tensor["dtype"] not in _FLOATS:
        return True
    begin, end = tensor["data_offsets"]
    if begin == end:
        return True
    kind, exponent = _FLOATS[tensor["dtype"]]
    count = (end - begin) // np.dtype(kind).itemsize
    numbers: Any = np.memmap(path, dtype=kind, mode="r", offset=start + begin, shape=(count,))
    mask = numbers.dtype.type(exponent)
    return not any(
        bool(((numbers[at : at + _CHUNK] & mask) == mask).any()) for at in range(0, count, _CHUNK)
    )
