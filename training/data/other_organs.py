"""Real ultrasound of other organs, out of distribution: a half for tuning, a half for judging."""

import hashlib
from collections import defaultdict
from pathlib import Path

import pydicom

from detector.console import UsageError


def split_by_vendor(folder: Path) -> tuple[list[Path], list[Path]]:
    """(tuning, judging) files: a vendor's files stay together, and so do files that share a SOP
    Instance UID. Whole groups go to the half with fewer files, in an order fixed by a hash.

    Raises UsageError on a folder without files, and on one that is no DICOM at all."""
    groups: dict[str, list[Path]] = defaultdict(list)
    group_of_uid: dict[str, str] = {}
    paths = sorted(path for path in folder.glob("*.dcm") if path.is_file())
    if not paths:
        raise UsageError(f"--dicom {folder} holds no .dcm file")
    for path in paths:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        except Exception as error:
            # A broken file can fail in any way.
            raise UsageError(
                f"--dicom: {path.name} cannot be read as DICOM ({type(error).__name__}):"
                " take it out"
            ) from None
        vendor = "".join(str(header.get("Manufacturer", "")).upper().split())[:8]
        group = group_of_uid.setdefault(str(header.get("SOPInstanceUID", path.name)), vendor)
        groups[group].append(path)
    tuning: list[Path] = []
    judging: list[Path] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        (tuning if len(tuning) <= len(judging) else judging).extend(groups[name])
    return tuning, judging
