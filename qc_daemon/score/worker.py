"""Score jobs: claim one, decode in the child, judge, store findings and finish in one go."""

import random
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy.orm import Session

from detector.codes import ErrorCode, Flag, QCError
from model.finding import Finding
from qc_daemon.records import findings as stored_findings
from qc_daemon.records import jobs, measurements, revisions
from qc_daemon.records.jobs import Job, RetryPolicy
from qc_daemon.records.measurements import MeasuredValue
from qc_daemon.records.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.score.decode import DecodeProcess, spread
from qc_daemon.score.findings import findings_of
from qc_daemon.score.models import Models
from qc_daemon.score.obgyn import STRUCTURED_REPORTS
from qc_daemon.settings import Settings

log = structlog.get_logger(__name__)


class LeaseLostError(Exception):
    """Another worker has the job; what was done here is dropped."""


class ScoreWorker:
    """Scores one job at a time; models and the decoding child live as long as it does."""

    def __init__(
        self, store: Store, settings: Settings, owner: str, originals: Originals | None = None
    ) -> None:
        self.store = store
        self.settings = settings
        self.owner = owner
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
        """Do one due score job; False if there is none."""
        with self.store.begin() as session:
            job = jobs.claim(
                session,
                [JobKind.SCORE],
                self.owner,
                datetime.now(UTC),
                self.settings.jobs.lease_seconds,
                self.settings.jobs.max_deaths,
            )
        if job is None:
            return False
        try:
            self._score(job)
        except LeaseLostError:
            log.warning("lease lost", job=job.id, kind=job.kind.value)
        except QCError as error:
            self._fail(job, error)
        except Exception as error:
            # Whatever a model or decoder threw concerns this job only; the queue must go on.
            self._fail(job, QCError(ErrorCode.INTERNAL, f"{type(error).__name__} while scoring"))
        return True

    def _score(self, job: Job) -> None:
        assert job.revision_id is not None
        with self.store.read() as session:
            facts = revisions.facts(session, job.revision_id)
        path = self.originals(facts)
        if facts.sop_class_uid in STRUCTURED_REPORTS:
            self._read(job, facts, path)
            return
        summary = self.decoder.summary(path)
        with self.store.begin() as session:
            content = revisions.pixels_known(
                session, facts.revision_id, summary.pixel_sha256, datetime.now(UTC)
            )
            if content == "header":
                self._finish(session, job)
        if content == "header":
            log.info("scored", job=job.id, findings=0, content=content)
            return
        found = self._judged(job, facts, path, summary.frames, content == "other")
        with self.store.begin() as session:
            stored_findings.store(
                session, facts.revision_id, [f.to_json() for f in found], datetime.now(UTC)
            )
            self._finish(session, job)
        log.info("scored", job=job.id, findings=len(found), content=content)

    def _read(self, job: Job, facts: RevisionFacts, path: Path) -> None:
        """A report has no pixels to score, but the machine's measurements."""
        found = self.decoder.measurements(path)
        values = [MeasuredValue(m.fetus, m.concept, m.value, m.unit) for m in found]
        with self.store.begin() as session:
            measurements.store(session, facts.revision_id, values)
            self._finish(session, job)
        log.info("report read", job=job.id, count=len(values))

    def _judged(
        self, job: Job, facts: RevisionFacts, path: Path, frames: int, other: bool
    ) -> list[Finding]:
        return findings_of(
            self.decoder.frames(path, spread(frames, self.settings.score.cine_frames)),
            self.models.judge(facts.bundle_id),
            revision=facts.number,
            study_instance_uid=facts.study_instance_uid,
            series_instance_uid=facts.series_instance_uid,
            sop_instance_uid=facts.sop_instance_uid,
            flags=(Flag.SAME_UID_OTHER_CONTENT,) if other else (),
            after_each=lambda: self._renew(job),
        )

    def _renew(self, job: Job) -> None:
        with self.store.begin() as session:
            if not jobs.renew(session, job, datetime.now(UTC), self.settings.jobs.lease_seconds):
                raise LeaseLostError

    def _finish(self, session: Session, job: Job) -> None:
        if not jobs.finish(session, job, datetime.now(UTC)):
            raise LeaseLostError

    def _fail(self, job: Job, error: QCError) -> None:
        with self.store.begin() as session:
            state = jobs.fail(session, job, error, datetime.now(UTC), self.policy, random.Random())
        log.warning(
            "score failed", job=job.id, code=error.code.value, reason=error.message, state=state
        )
