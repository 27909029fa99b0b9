"""A spool and a database with received objects in them."""

import hashlib
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from pydicom import Dataset

from qc_daemon.dicom.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from qc_daemon.receive import Spool
from qc_daemon.records.received import receipts, revisions
from qc_daemon.records.received.revisions import RevisionFacts
from qc_daemon.records.store import Store
from qc_daemon.settings import Settings
from tests.support.dicom_objects import part10, ultrasound
from tests.support.receipts import receipt_of

MONDAY = datetime(2026, 11, 2, 8, tzinfo=UTC)


@dataclass
class Storage:
    """Settings, store and spool, and what was received."""

    settings: Settings
    store: Store
    spool: Spool

    def file(self, dataset: Dataset | None = None, hours_old: float = 24) -> Path:
        """A received file, durable, of which no row is there yet."""
        dataset = dataset or ultrasound()
        # The meta group that our receiver writes.
        dataset.file_meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        dataset.file_meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
        content = part10(dataset)
        path = self.spool.path(hashlib.sha256(content).hexdigest())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        moment = (datetime.now(UTC) - timedelta(hours=hours_old)).timestamp()
        os.utime(path, (moment, moment))
        return path

    def receive(self, dataset: Dataset | None = None, path: Path | None = None) -> RevisionFacts:
        """File and row."""
        dataset = dataset or ultrasound()
        path = path or self.file(dataset)
        receipt = receipt_of(dataset, path, self.spool.root)
        with self.store.begin() as session:
            admission = receipts.admit(
                session, receipt, source_destinations=["pacs"], bundle_id=None, now=MONDAY
            )
        return self.facts(admission.revision_id)

    def facts(self, revision_id: int) -> RevisionFacts:
        with self.store.read() as session:
            return revisions.facts(session, revision_id)
