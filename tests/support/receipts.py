"""The receipt of an object as the receiver would write it."""

import hashlib
from pathlib import Path

from pydicom.dataset import Dataset

from qc_daemon.records.received.receipts import Receipt
from qc_daemon.report.equipment import to_bytes


def received(dataset: Dataset, spool: Path) -> tuple[Path, Receipt]:
    """The object as a file in the spool, and what is known of it."""
    payload = to_bytes(dataset)
    sha256 = hashlib.sha256(payload).hexdigest()
    path = spool / f"{sha256}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(payload)
    return path, Receipt(
        sop_instance_uid=dataset.SOPInstanceUID,
        sop_class_uid=dataset.SOPClassUID,
        study_instance_uid=dataset.StudyInstanceUID,
        series_instance_uid=dataset.SeriesInstanceUID,
        patient_id=dataset.PatientID,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        calling_ae="VOLUSON1",
        sha256=sha256,
        size=len(payload),
        path=path.name,
        association="assoc-1",
    )
