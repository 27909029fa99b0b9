"""The folder of a data set that a command writes: begun anew, or what is there replaced."""

import json
from pathlib import Path
from typing import Any

from detector.console import UsageError

SAMPLES, TRUTH = "samples.json", "truth.json"
_FILE_KEYS = {SAMPLES: "image_path", TRUTH: "path"}


def begin_dataset(out: Path, listing: str = SAMPLES, *, force: bool = False) -> None:
    """Make the folder and mark it as begun.

    The listing comes last: a folder with the mark and without it was interrupted, and is begun
    again. Raises UsageError where files lie there already; with `force` those that its listings
    name are removed.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder")
    mark = out / Path(listing).with_suffix(".partial")
    if not mark.exists() and _has_dataset(out):
        if not force:
            raise UsageError(
                f"{out} holds pictures already: name another folder with --out, or replace them"
                " (--force)"
            )
        for name in (SAMPLES, TRUTH):
            _remove_listed(out, name)
    out.mkdir(parents=True, exist_ok=True)
    mark.touch()


def write_listing(out: Path, listing: str, items: Any) -> Path:
    """Write the listing at once, in place of the mark; returns its path."""
    path = out / listing
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(items, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _has_dataset(out: Path) -> bool:
    listed = any((out / name).exists() for name in (SAMPLES, TRUTH))
    return listed or any((out / "images").glob("*")) or any(out.glob("exam-*"))


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
