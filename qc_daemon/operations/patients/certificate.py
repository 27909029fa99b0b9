"""The certificate of an erasure: what was removed, and what others and we still have.

What is stored and hashed names no patient; the file that is handed out has the Patient ID and the
studies' UIDs beside it, for whoever asks the archive.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

FORMAT = 1


def digest(certificate: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate as canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(certificate, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def document(
    certificate: Mapping[str, Any], sha256: str, patient_id: str, studies: Sequence[str]
) -> dict[str, Any]:
    """What is handed out as JSON."""
    return {
        "patient_id": patient_id,
        "study_instance_uids": list(studies),
        "certificate": dict(certificate),
        "sha256": sha256,
    }


def lines(
    certificate: Mapping[str, Any],
    sha256: str | None,
    patient_id: str | None = None,
    studies: Sequence[str] = (),
) -> list[str]:
    """It as text, a line each; before the erasure (`sha256` None) as what would be removed."""
    is_done = sha256 is not None
    head = ["Certificate of erasure" if is_done else "What would be erased"]
    if patient_id is not None:
        head.append(f"Patient ID: {patient_id}")
    head += [f"Study Instance UID: {study}" for study in studies]
    if is_done:
        head += [
            f"erased at {certificate['erased_at']} by {certificate['erased_by']},"
            f" qc-daemon {certificate['version']}"
        ]
    removed = [f"  {name}: {value}" for name, value in certificate["removed"].items() if value]
    remainder = [f"  {each['where']}: {each['what']}" for each in certificate["kept"]]
    return [
        *head,
        "Removed:" if is_done else "To be removed:",
        *(removed or ["  nothing"]),
        "Not removed, and not ours to remove or kept for a reason:",
        *remainder,
        *([f"SHA-256 of the certificate: {sha256}"] if is_done else []),
    ]
