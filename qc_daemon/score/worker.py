"""Score jobs: decode in the child, judge, store findings and finish in one transaction."""

from pathlib import Path

from detector.errors import Flag, QCError
from detector.imaging.reader import ImageSummary
from model.device import device_failure
from model.finding import Finding
from model.site.use import SiteUse
from qc_daemon.job_runner import JobHandler
from qc_daemon.observe import counters, log
from qc_daemon.records.acquisition import acquisitions
from qc_daemon.records.queue.leases import Lease
from qc_daemon.records.received import revisions
from qc_daemon.records.received.revisions import Originals, RevisionFacts, in_spool
from qc_daemon.records.results import findings as stored_findings
from qc_daemon.records.results import measurements
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.store import Store
from qc_daemon.records.tables import JobKind
from qc_daemon.score.decode import DecodeProcess, choose_frames
from qc_daemon.score.findings import judge_frames
from qc_daemon.score.models import JudgeCache
from qc_daemon.score.obgyn_report import STRUCTURED_REPORTS
from qc_daemon.score.sites import site_use
from qc_daemon.settings import Settings
from qc_daemon.spool.verification import content_hash

_log = log.get(role="work")


class ScoreHandler(JobHandler):
    """Scores one object after another; models and `decoder` live as long as their process."""

    kind = JobKind.SCORE
    activity = "scoring"
    failed_event = "score failed"

    def __init__(
        self,
        store: Store,
        settings: Settings,
        decoder: DecodeProcess,
        originals: Originals | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.decoder = decoder
        self.originals = originals or in_spool(settings.store.spool)
        self.models = JudgeCache(store, settings.score)

    def failure_of(self, error: Exception) -> QCError:
        return device_failure(error) or super().failure_of(error)

    def run(self, lease: Lease) -> None:
        job = lease.job
        assert job.revision_id is not None
        with self.store.read() as session:
            facts = revisions.facts(session, job.revision_id)
        path = self.originals(facts)
        if facts.sop_class_uid in STRUCTURED_REPORTS:
            self._store_measurements(lease, facts, path)
            return
        summary, acquisition = self.decoder.summary_and_acquisition(
            path, content_hash(path, facts.sha256)
        )
        lease.check()
        with self.store.begin() as session:
            acquisitions.store(
                session, facts.revision_id, acquisition, facts.calling_ae, lease.clock()
            )
            content = revisions.record_pixels(
                session, facts.revision_id, summary.pixel_sha256, lease.clock()
            )
            if content == "header":
                lease.finish(session)
        if content == "header":
            _log.info("scored", job=job.id, findings=0, content=content)
            return
        site = site_use(
            self.store,
            self.settings.score,
            facts.revision_id,
            None if acquisition is None else acquisition.institution,
            self.models.judge(facts.bundle_id).bundle_id.model_id,
        )
        findings = self._judge(lease, facts, path, summary, content == "other", site)
        with self.store.begin() as session:
            stored_findings.store(
                session,
                facts.revision_id,
                [finding.to_json() for finding in findings],
                lease.clock(),
                [finding.judgement.features for finding in findings],
            )
            lease.finish(session)
        for finding in findings:
            judgement = finding.judgement
            counters.count_finding(judgement.view, judgement.quality, judgement.flags)
        _log.info("scored", job=job.id, findings=len(findings), content=content)

    def _store_measurements(self, lease: Lease, facts: RevisionFacts, path: Path) -> None:
        """Store the measurements of a machine's structured report, which has no pixels to score."""
        measured = self.decoder.measurements(path, content_hash(path, facts.sha256))
        values = [MeasuredValue(m.fetus, m.concept, m.value, m.unit) for m in measured]
        with self.store.begin() as session:
            measurements.store(session, facts.revision_id, values)
            lease.finish(session)
        _log.info("report read", job=lease.job.id, count=len(values))

    def _judge(
        self,
        lease: Lease,
        facts: RevisionFacts,
        path: Path,
        summary: ImageSummary,
        is_other_content: bool,
        site: SiteUse | None,
    ) -> list[Finding]:
        if summary.bad_frames:
            _log.warning(
                "frames not decoded",
                job=lease.job.id,
                count=len(summary.bad_frames),
                code=summary.bad_frames[0].code.value,
                reason=summary.bad_frames[0].message,
            )
        return judge_frames(
            self.decoder.frames(
                path,
                choose_frames(summary, self.settings.score.cine_frames),
                content_hash(path, facts.sha256),
            ),
            self.models.judge(facts.bundle_id),
            revision=facts.number,
            study_instance_uid=facts.study_instance_uid,
            series_instance_uid=facts.series_instance_uid,
            sop_instance_uid=facts.sop_instance_uid,
            flags=(Flag.SAME_UID_OTHER_CONTENT,) if is_other_content else (),
            bad_frames=summary.bad_frames,
            after_each=lease.check,
            clock=lease.clock,
            site=site,
        )
