"""Begins the folder of a data set that a command writes, and writes its listing last."""

import json
from pathlib import Path
from typing import Any

from detector.console import UsageError

SAMPLES, TRUTH = "samples.json", "truth.json"
_FILE_KEYS = {SAMPLES: "image_path", TRUTH: "path"}


def begin_dataset(out: Path, listing: str = SAMPLES, *, force: bool = False) -> None:
    """Make the folder and a `.partial` file, which says that writing has begun.

    The listing is written last: a folder with the `.partial` file and no listing was interrupted,
    and is begun again. Raises UsageError if the folder has files already; with `force` those that
    its listings name are removed.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    partial = out / Path(listing).with_suffix(".partial")
    if not partial.exists() and _has_dataset(out):
        if not force:
            raise UsageError(
                f"{out} holds pictures already: name another folder with --out, or replace them"
                " (--force)"
            )
        for name in (SAMPLES, TRUTH):
            _remove_listed(out, name)
    out.mkdir(parents=True, exist_ok=True)
    partial.touch()


def write_listing(out: Path, listing: str, items: Any) -> Path:
    """Write the listing in place of the `.partial` file; returns its path."""
    path = out / listing
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _has_dataset(out: Path) -> bool:
    has_listing = any((out / name).exists() for name in (SAMPLES, TRUTH))
    return has_listing or any((out / "images").glob("*")) or any(out.glob("exam-*"))


def _remove_listed(out: Path, listing: str) -> None:
    """Remove a listing and the files it names inside the folder; other files stay."""
    path = out / listing
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
        names = [str(item[_FILE_KEYS[listing]]) for item in items]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path} cannot be read: remove {out} yourself") from None
    inside = out.resolve()
    for name in names:
        file = out / name
        if file.resolve().is_relative_to(inside):
            file.unlink(missing_ok=True)
    path.unlink()
