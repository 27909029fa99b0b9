"""The SOP class an object is sent as: its own, or one that the destination accepts.

A report goes as Comprehensive 3D SR, else as Comprehensive SR, else as a Secondary Capture. What a
destination refuses is recorded, and tried again after a day.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from sqlalchemy.orm import Session

from qc_daemon.deliver.transport import Exam, OutgoingObject
from qc_daemon.records.clock import Clock
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received import exams, revisions
from qc_daemon.records.received.revisions import Originals
from qc_daemon.records.results import destinations, renditions, reports
from qc_daemon.records.results.renditions import Render, StoredRendition
from qc_daemon.records.results.reports import Deliverable
from qc_daemon.records.store import Store
from qc_daemon.spool.verification import content_hash

# Most detailed first; the last is one that every archive accepts.
REPORT_CLASSES = (
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(SecondaryCaptureImageStorage),
)
# A refused SOP class is not tried for so long.
REFUSAL_MEMORY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object to try; `rendition_id` unless it is the object in its own SOP class."""

    outgoing: OutgoingObject
    rendition_id: int | None = None


class SopClassFallback:
    """The candidates to send for an object; without `render` only the object itself.

    Objects for destinations in `by_exam` carry their exam.
    """

    def __init__(
        self,
        store: Store,
        originals: Originals,
        render: Render | None,
        clock: Clock,
        by_exam: Container[str] = (),
    ) -> None:
        self._store = store
        self._originals = originals
        self._render = render
        self._clock = clock
        self._by_exam = by_exam

    def candidates(self, job: Job) -> Iterator[Candidate]:
        """Yield what the job may send, the next one if the destination refuses the one before.

        Raises QCError: NOT_AVAILABLE, REPORT_INVALID.
        """
        with self._store.read() as session:
            deliverable = reports.deliverable(session, job)
            facts = job.revision_id and revisions.facts(session, job.revision_id)
            exam = _exam(session, job) if job.destination in self._by_exam else None
        if facts:
            yield Candidate(replace(_source(job, deliverable, self._originals, facts), exam=exam))
        elif self._render is None or deliverable.sop_class_uid not in REPORT_CLASSES[:-1]:
            yield Candidate(replace(_own(job, deliverable), exam=exam))
        else:
            for candidate in self._reports(job, deliverable, self._render):
                yield replace(candidate, outgoing=replace(candidate.outgoing, exam=exam))

    def record_refusal(self, job: Job, candidate: Candidate) -> None:
        """Remember that the destination refuses the candidate's SOP class."""
        with self._store.begin() as session:
            now = self._clock()
            destinations.record_refusal(
                session, job.destination, candidate.outgoing.sop_class_uid, now
            )

    def record_success(self, job: Job, candidate: Candidate) -> None:
        """Forget an earlier refusal of the candidate's SOP class."""
        with self._store.read() as session:
            refused = destinations.refused_classes(session, job.destination)
        if candidate.outgoing.sop_class_uid in refused:
            with self._store.begin() as session:
                destinations.record_acceptance(
                    session, job.destination, candidate.outgoing.sop_class_uid
                )

    def _reports(self, job: Job, deliverable: Deliverable, render: Render) -> Iterator[Candidate]:
        classes = REPORT_CLASSES[REPORT_CLASSES.index(deliverable.sop_class_uid) :]
        with self._store.read() as session:
            refused = destinations.refused_classes(session, job.destination)
            earlier = renditions.earlier_renditions(session, job)
            previous = renditions.rendition_of(session, job)
        latest = self._clock() - REFUSAL_MEMORY
        accepted = [each for each in classes if each not in refused or refused[each] <= latest]
        if previous:
            # The destination has this one: another SOP class beside it would be a second report.
            yield _rendition(previous)
        assert deliverable.payload is not None
        # One that refused every class yesterday is sent each of them again.
        for sop_class_uid in accepted or classes:
            if previous and previous.sop_class_uid == sop_class_uid:
                continue
            if sop_class_uid == deliverable.sop_class_uid and not earlier:
                yield Candidate(_own(job, deliverable))
                continue
            rendered = render(deliverable.payload, sop_class_uid, earlier)
            if rendered.reference.sop_instance_uid == deliverable.sop_instance_uid:
                yield Candidate(_own(job, deliverable))
                continue
            assert job.object_id is not None
            with self._store.begin() as session:
                rendition = renditions.store_rendition(
                    session, job.object_id, rendered, self._clock()
                )
            yield _rendition(rendition)


def _source(
    job: Job, deliverable: Deliverable, originals: Originals, facts: revisions.RevisionFacts
) -> OutgoingObject:
    # Another content under the same UID must not take the first one's place in a folder.
    suffix = f"-r{job.revision}" if job.revision > 1 else ""
    path = originals(facts)
    return OutgoingObject(
        sop_class_uid=deliverable.sop_class_uid,
        sop_instance_uid=deliverable.sop_instance_uid,
        transfer_syntax_uid=deliverable.transfer_syntax_uid,
        name=deliverable.sop_instance_uid + suffix,
        path=path,
        sha256=content_hash(path, facts.sha256),
        revision=job.revision,
    )


def _exam(session: Session, job: Job) -> Exam:
    study_instance_uid, begin = exams.exam_start(session, job.exam_id)
    return Exam(job.exam_id, study_instance_uid, begin.date())


def _own(job: Job, deliverable: Deliverable) -> OutgoingObject:
    return OutgoingObject(
        sop_class_uid=deliverable.sop_class_uid,
        sop_instance_uid=deliverable.sop_instance_uid,
        transfer_syntax_uid=deliverable.transfer_syntax_uid,
        name=deliverable.sop_instance_uid,
        payload=deliverable.payload,
        kind=deliverable.kind,
        revision=job.revision,
    )


def _rendition(rendition: StoredRendition) -> Candidate:
    outgoing = OutgoingObject(
        sop_class_uid=rendition.sop_class_uid,
        sop_instance_uid=rendition.sop_instance_uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        name=rendition.sop_instance_uid,
        payload=rendition.payload,
        kind="sr",
    )
    return Candidate(outgoing, rendition.id)
