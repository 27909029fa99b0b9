"""Real ultrasound of other organs, as pictures out of distribution: a tuning and a judging half."""

import hashlib
from collections import defaultdict
from pathlib import Path

import pydicom


def halves(folder: Path) -> tuple[list[Path], list[Path]]:
    """(tuning, judging) files: a vendor's files stay together, and so do files that share a SOP
    Instance UID. Whole groups go to the half with fewer files, in an order fixed by a hash."""
    groups: dict[str, list[Path]] = defaultdict(list)
    of_uid: dict[str, str] = {}
    for path in sorted(folder.glob("*.dcm")):
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        vendor = "".join(str(header.get("Manufacturer", "")).upper().split())[:8]
        group = of_uid.setdefault(str(header.get("SOPInstanceUID", path.name)), vendor)
        groups[group].append(path)
    tuning: list[Path] = []
    judging: list[Path] = []
    for name in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        (tuning if len(tuning) <= len(judging) else judging).extend(groups[name])
    return tuning, judging
