"""Receipts, as the receiver makes them of an object that it has stored."""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from qc_daemon.records.received.receipts import Receipt

RECEIPT = Receipt(
    sop_instance_uid="1.2.3.4",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.6.1",
    study_instance_uid="1.2.3",
    series_instance_uid="1.2.3.1",
    patient_id="P1",
    transfer_syntax_uid=ExplicitVRLittleEndian,
    calling_ae="VOLUSON1",
    sha256="a" * 64,
    size=1000,
    path="2026/03/04/a.dcm",
    association="assoc-1",
)


def numbered_receipt(number: int, **changes: Any) -> Receipt:
    """`RECEIPT` with a UID, a hash and a file of its own."""
    own = {
        "sop_instance_uid": f"1.2.3.4.{number}",
        "sha256": f"{number:064x}",
        "path": f"{number}.dcm",
    }
    return replace(RECEIPT, **own | changes)


def write_file(content: bytes, spool: Path) -> Path:
    """The content as a file of the spool, named by its hash."""
    spool.mkdir(parents=True, exist_ok=True)
    path = spool / f"{hashlib.sha256(content).hexdigest()}.dcm"
    path.write_bytes(content)
    return path


def receipt_of(dataset: Dataset, path: Path, spool: Path, **changes: Any) -> Receipt:
    """Of an object whose file, named by its hash, lies in the spool."""
    meta = getattr(dataset, "file_meta", None)
    facts = {
        "sop_instance_uid": str(dataset.SOPInstanceUID),
        "sop_class_uid": str(dataset.SOPClassUID),
        "study_instance_uid": str(dataset.StudyInstanceUID),
        "series_instance_uid": str(dataset.SeriesInstanceUID),
        "patient_id": str(dataset.get("PatientID") or ""),
        "patient_name": str(dataset.get("PatientName") or ""),
        "transfer_syntax_uid": str(meta.TransferSyntaxUID if meta else ExplicitVRLittleEndian),
        "calling_ae": "MODALITY",
        "sha256": path.stem,
        "size": path.stat().st_size,
        "path": path.relative_to(spool).as_posix(),
    }
    return replace(RECEIPT, **facts | changes)
