"""The other stages, as far as the database sees them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from qc_daemon.records.queue.jobs import Job, claim, finish, listing
from qc_daemon.records.received.exams import close_due, end_association, hold_open
from qc_daemon.records.received.receipts import Admission, admit
from qc_daemon.records.received.revisions import record_pixels
from qc_daemon.records.results.findings import store as store_findings
from qc_daemon.records.results.reports import ReportObject, publish
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from tests.support.receipts import RECEIPT

START = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)


class Records:
    """The other stages, as far as the records see them; `now` moves only when told."""

    receipt = RECEIPT

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = START
        self._serial = itertools.count(1)

    def wait(self, seconds: float) -> datetime:
        self.now += timedelta(seconds=seconds)
        return self.now

    def receive(self, *destinations: str, **changes: Any) -> Admission:
        """Admit one object over its own association, which ends at once."""
        receipt = replace(RECEIPT, **changes)
        with self.store.begin() as session:
            admission = admit(
                session,
                receipt,
                source_destinations=destinations,
                bundle_id="model-1",
                now=self.now,
            )
            token = receipt.association
            hold_open(session, token, admission.exam_id, self.now, self.now + timedelta(minutes=5))
            end_association(session, token)
        return admission

    def image(self, **changes: Any) -> Admission:
        """Admit an object with a new UID and new bytes."""
        number = next(self._serial)
        return self.receive(
            **{"sop_instance_uid": f"1.2.3.4.{number}", "sha256": f"{number:064x}"} | changes
        )

    def claim(self, *kinds: JobKind, owner: str = "worker-1") -> Job | None:
        with self.store.begin() as session:
            return claim(session, kinds or tuple(JobKind), owner, self.now, 300)

    def score_all(self, pixels: str | None = None, count: int = 1) -> list[str]:
        """Do every score job that is due; what each turned out to be."""
        answers: list[str] = []
        while (job := self.claim(JobKind.SCORE)) is not None:
            assert job.revision_id is not None
            with self.store.begin() as session:
                content = record_pixels(
                    session, job.revision_id, pixels or f"pixels-{job.subject}", self.now
                )
                if content != "header":
                    findings = [
                        self.finding(frame=n, revision=job.revision) for n in range(1, count + 1)
                    ]
                    store_findings(session, job.revision_id, findings, self.now)
                assert finish(session, job, self.now)
            answers.append(content)
        return answers

    @staticmethod
    def finding(
        frame: int = 1, region: int = 0, model_id: str = "model-1", **changes: Any
    ) -> dict[str, Any]:
        """A finding's JSON object; floats that need all their digits."""
        return {
            "source": None,
            "study_instance_uid": "1.2.3",
            "series_instance_uid": "1.2.3.1",
            "sop_instance_uid": "1.2.3.4",
            "revision": 1,
            "frame": frame,
            "region": {"index": region, "bbox": [0.1, 0.2, 640.0, 480.3]},
            "bundle": {"name": "default", "version": "0", "model_id": model_id},
            "view": {"code": "NT", "probability": 1 / 3},
            "quality": {"label": "standard", "probability": 0.1 + 0.2, "raw_probability": 0.95},
            "gates": {"image": 0.3, "text": 0.2, "spatial": 0.5},
            "detections": [],
            "description": "echogenic line – nasal bone",
            "criteria": [],
            "flags": [],
            "created": "2026-03-04T05:06:07.890Z",
        } | changes

    def close_due(self, quiet: float = 60, max_open: float = 240) -> list[int]:
        with self.store.begin() as session:
            return close_due(session, self.now, quiet, max_open)

    def publish(self, *objects: ReportObject, **destinations: Sequence[str]) -> list[int]:
        """Do the next report job with these objects."""
        job = self.claim(JobKind.REPORT)
        assert job is not None
        with self.store.begin() as session:
            ids = publish(session, job, objects, destinations, self.now)
            assert finish(session, job, self.now)
        return ids

    def jobs(self, *kinds: JobKind) -> list[Job]:
        with self.store.read() as session:
            return listing(session, kinds=kinds or None)
