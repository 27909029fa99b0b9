"""Bundles to try beside the shipped one: its files, with a manifest of their own."""

import json
import os
from pathlib import Path
from typing import Any

from model.bundle.bundle import MANIFEST, locate


def other_bundle(folder: Path, *, bias: float = 0.0, version: str = "other") -> Path:
    """The shipped bundle with another version, and the log odds of every view moved by `bias`."""
    source = locate("default")
    for path in sorted(source.rglob("*")):
        target = folder / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        elif path.name != MANIFEST:
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(path, target)
    manifest: dict[str, Any] = json.loads((source / MANIFEST).read_text())
    manifest["version"] = version
    calibration = manifest["calibration"]
    for each in (calibration, *calibration["views"].values()):
        each["bias"] += bias
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        # Another file system.
        target.write_bytes(source.read_bytes())
