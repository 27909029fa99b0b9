"""A store with one exam and its deliver jobs."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydicom import Dataset
from sqlalchemy import select

from detector.errors import ErrorCode, QCError
from qc_daemon.job_runner import JobRunner
from qc_daemon.records.received import receipts
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobRow
from qc_daemon.retain import Originals
from qc_daemon.score.convert import Converter
from qc_daemon.settings import Settings
from tests.support.dicom_objects import part10
from tests.support.job_runners import deliver_runner
from tests.support.receipts import receipt_of, write_file

MONDAY = datetime(2026, 11, 2, 8, tzinfo=UTC)


@dataclass
class Delivery:
    """Settings, store and spool of a deliverer."""

    settings: Settings
    store: Store
    spool: Path
    now: datetime = field(default=MONDAY)

    def admit(self, dataset: Dataset, destination: str = "pacs") -> Path:
        """The object as if received, with its deliver job; its file."""
        path = write_file(part10(dataset), self.spool)
        receipt = receipt_of(dataset, path, self.spool)
        with self.store.begin() as session:
            receipts.admit(
                session, receipt, source_destinations=[destination], bundle_id=None, now=self.now
            )
        return path

    def clock(self) -> datetime:
        return self.now

    def deliverer(self) -> JobRunner:
        """With originals and conversion as in the service."""

        def no_pixels(_path: Path) -> str:
            raise QCError(ErrorCode.UNREADABLE, "not decoded here")

        return deliver_runner(
            self.store,
            self.settings,
            "test",
            clock=self.clock,
            originals=Originals(self.store, self.settings, no_pixels, self.clock),
            convert=Converter(self.settings.score),
        )

    def states(self) -> list[tuple[str, str | None]]:
        """State and error code of each deliver job."""
        with self.store.read() as session:
            rows = session.scalars(
                select(JobRow).where(JobRow.kind == "deliver").order_by(JobRow.id)
            )
            return [(row.state, row.error_code) for row in rows]
