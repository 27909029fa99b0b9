"""An exam that is stored and scored, without a network: a store and a spool, as the stages before
reporting leave them."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from detector.frame import Frame
from model.finding import Finding
from qc_daemon.job_runner import JobRunner
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received.exams import close_due, end_association, hold_open
from qc_daemon.records.received.receipts import Receipt, admit
from qc_daemon.records.received.revisions import Originals, record_pixels
from qc_daemon.records.results import measurements, reports
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.results.reports import Deliverable
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.worker import ReportHandler
from qc_daemon.settings import DestinationSettings, Settings, StoreSettings
from qc_daemon.settings.observe import AuditLogSettings
from tests.support.databases import migrate
from tests.support.receipts import receipt_of, write_file
from tests.support.report_objects import nuchal_finding, ultrasound_header

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def black_frames(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
    """What a decoder gives back, all black."""
    assert path.is_file()
    for number in numbers:
        yield Frame(number, np.zeros((120, 160, 3), np.uint8), ())


class ScoredExam:
    """A store with a spool; receives, scores and closes as the other stages do."""

    def __init__(self, folder: Path, objects: Sequence[str]) -> None:
        self.settings = Settings(
            store=StoreSettings(url=f"sqlite:///{folder / 'qc.db'}", spool=folder),
            audit_log=AuditLogSettings(folder=folder / "audit-log"),
            destination=[DestinationSettings(name="pacs", objects=list(objects))],  # type: ignore[arg-type]
        )
        migrate(self.settings.store.url)
        self.store = Store(self.settings.store.url)
        self.now = START

    def receive(self, header: Dataset, *findings: Finding, pixels: str = "") -> Path:
        """An object arrives and is scored; objects with the same `pixels` have the same."""
        path, job = self.arrive(header, findings[0].bundle.model_id)
        self.score(job, path, *findings, pixels=pixels)
        return path

    def receive_image(self, header: Dataset | None = None, **changes: Any) -> Path:
        """A still with one finding arrives; `changes` go to the finding, see `nuchal_finding`."""
        header = ultrasound_header() if header is None else header
        return self.receive(header, nuchal_finding(SourceInstance.of(header, ""), **changes))

    def score(self, job: Job, path: Path, *findings: Finding, pixels: str = "") -> None:
        """The object's score job is done."""
        with self.store.begin() as session:
            assert job.revision_id is not None
            pixel_hash = pixels or f"pixels of {path.stem}"
            if record_pixels(session, job.revision_id, pixel_hash, self.now) != "header":
                store_findings(session, job.revision_id, [f.to_json() for f in findings], self.now)
            assert jobs.finish(session, job, self.now)

    def measure(self, header: Dataset, *values: MeasuredValue) -> None:
        """A machine's report arrives and is read."""
        _, job = self.arrive(header)
        with self.store.begin() as session:
            assert job.revision_id is not None
            measurements.store(session, job.revision_id, values)
            assert jobs.finish(session, job, self.now)

    def arrive(self, header: Dataset, bundle_id: str | None = None) -> tuple[Path, Job]:
        """An object arrives, and its score job is claimed."""
        path, receipt = write_to_spool(header, self.settings.store.spool)
        with self.store.begin() as session:
            exam = admit(
                session,
                receipt,
                source_destinations=(),
                bundle_id=bundle_id,
                now=self.now,
            ).exam_id
            hold_open(session, "assoc-1", exam, self.now, self.now + timedelta(minutes=5))
            end_association(session, "assoc-1")
            job = jobs.claim(session, [JobKind.SCORE], "scorer", self.now, 300)
            assert job is not None
        return path, job

    def close(self) -> None:
        self.now += timedelta(minutes=5)
        with self.store.begin() as session:
            assert close_due(session, self.now, 60, 240)

    def close_again(self) -> None:
        """The exam is looked at again; it may be closed already."""
        self.now += timedelta(minutes=5)
        with self.store.begin() as session:
            close_due(session, self.now, 60, 240)

    def report(
        self, frames: Callable[..., Any] = black_frames, originals: Originals | None = None
    ) -> bool:
        handler = ReportHandler(self.settings, frames, originals)
        runner = JobRunner(
            self.store,
            [handler],
            "reporter",
            self.settings.jobs,
            role="work",
            clock=lambda: self.now,
        )
        return runner.run_once()

    def jobs(self, kind: JobKind) -> list[Job]:
        with self.store.read() as session:
            return jobs.listing(session, kinds=[kind])

    def sent(self) -> list[Deliverable]:
        """What the deliver jobs would send."""
        with self.store.read() as session:
            return [
                reports.deliverable(session, job)
                for job in jobs.listing(session, kinds=[JobKind.DELIVER])
            ]


def write_to_spool(dataset: Dataset, spool: Path) -> tuple[Path, Receipt]:
    """The object as a file in the spool, and what is known of it."""
    path = write_file(to_bytes(dataset), spool)
    return path, receipt_of(dataset, path, spool, calling_ae="VOLUSON1")
