"""Score jobs: claim one, decode in the child, judge, store findings and finish in one go."""

import random
import threading
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from detector.errors import ErrorCode, Flag, QCError
from detector.imaging.reader import Summary
from model.device import device_failure
from model.finding import Finding
from qc_daemon.records.clock import Clock, utc_now
from qc_daemon.records.failures import failure_of
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.leases import Lease, LeaseLostError
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.received import revisions
from qc_daemon.records.received.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.results import findings as stored_findings
from qc_daemon.records.results import measurements
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.score.decode import DecodeProcess, chosen_frames
from qc_daemon.score.findings import findings_of
from qc_daemon.score.models import Models
from qc_daemon.score.obgyn_report import STRUCTURED_REPORTS
from qc_daemon.settings import Settings
from qc_daemon.spool.verification import content_hash

log = structlog.get_logger(__name__)


class ScoreWorker:
    """Scores one job at a time; models and the decoding child live as long as it does."""

    def __init__(
        self,
        store: Store,
        settings: Settings,
        owner: str,
        originals: Originals | None = None,
        clock: Clock = utc_now,
        stop: threading.Event | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.owner = owner
        self.clock = clock
        self.stop = stop or threading.Event()
        self.originals = originals or in_spool(settings.store.spool)
        self.policy = RetryPolicy.of(settings.jobs)
        self.models = Models(store, settings.score.device, settings.score.augment)
        self.decoder = DecodeProcess(
            megabytes=settings.score.decode_megabytes,
            seconds=settings.score.decode_seconds,
            max_pixels=settings.score.max_pixels,
        )

    def close(self) -> None:
        self.decoder.close()

    def run_one(self) -> bool:
        """Do one due score job; False if there is none.

        Raises QCError: STORAGE, and DEVICE_UNAVAILABLE after which the process has to end.
        """
        with self.store.begin() as session:
            job = jobs.claim(
                session,
                [JobKind.SCORE],
                self.owner,
                self.clock(),
                self.settings.jobs.lease_seconds,
                self.settings.jobs.max_deaths,
            )
        if job is None:
            return False
        with Lease(self.store, job, self.settings.jobs.lease_seconds, self.clock) as lease:
            try:
                self._score(lease)
            except LeaseLostError:
                log.warning("lease lost", job=job.id, kind=job.kind.value)
            except Exception as error:
                # Whatever a model or decoder threw concerns this job only; the queue must go on.
                failure = device_failure(error) or failure_of(error, "scoring")
                self._fail(lease, failure)
                if failure.code is ErrorCode.DEVICE_UNAVAILABLE:
                    raise failure from error
        return True

    def _score(self, lease: Lease) -> None:
        job = lease.job
        assert job.revision_id is not None
        with self.store.read() as session:
            facts = revisions.facts(session, job.revision_id)
        path = self.originals(facts)
        if facts.sop_class_uid in STRUCTURED_REPORTS:
            self._read(lease, facts, path)
            return
        summary = self.decoder.summary(path, content_hash(path, facts.sha256))
        lease.check()
        with self.store.begin() as session:
            content = revisions.pixels_known(
                session, facts.revision_id, summary.pixel_sha256, self.clock()
            )
            if content == "header":
                lease.finish(session)
        if content == "header":
            log.info("scored", job=job.id, findings=0, content=content)
            return
        findings = self._judged(lease, facts, path, summary, content == "other")
        with self.store.begin() as session:
            stored_findings.store(
                session, facts.revision_id, [f.to_json() for f in findings], self.clock()
            )
            lease.finish(session)
        log.info("scored", job=job.id, findings=len(findings), content=content)

    def _read(self, lease: Lease, facts: RevisionFacts, path: Path) -> None:
        """A report has no pixels to score, but the machine's measurements."""
        values_read = self.decoder.measurements(path, content_hash(path, facts.sha256))
        values = [MeasuredValue(m.fetus, m.concept, m.value, m.unit) for m in values_read]
        with self.store.begin() as session:
            measurements.store(session, facts.revision_id, values)
            lease.finish(session)
        log.info("report read", job=lease.job.id, count=len(values))

    def _judged(
        self, lease: Lease, facts: RevisionFacts, path: Path, summary: Summary, other: bool
    ) -> list[Finding]:
        if summary.bad_frames:
            log.warning(
                "frames not decoded",
                job=lease.job.id,
                count=len(summary.bad_frames),
                code=summary.bad_frames[0].code.value,
                reason=summary.bad_frames[0].message,
            )
        return findings_of(
            self.decoder.frames(
                path,
                chosen_frames(summary, self.settings.score.cine_frames),
                content_hash(path, facts.sha256),
            ),
            self.models.judge(facts.bundle_id),
            revision=facts.number,
            study_instance_uid=facts.study_instance_uid,
            series_instance_uid=facts.series_instance_uid,
            sop_instance_uid=facts.sop_instance_uid,
            flags=(Flag.SAME_UID_OTHER_CONTENT,) if other else (),
            bad_frames=summary.bad_frames,
            after_each=lease.check,
        )

    def _fail(self, lease: Lease, error: QCError) -> None:
        def write(session: Session) -> JobState | None:
            now = self.clock()
            return jobs.fail(session, lease.job, error, now, self.policy, random.Random())

        state = lease.settle(write, self.stop)
        log.warning(
            "score failed",
            job=lease.job.id,
            code=error.code.value,
            reason=error.message,
            state=state,
        )
