"""In which form an object goes to a destination: as it was made, or in one that it takes.

A report goes as Comprehensive 3D SR, else as Comprehensive SR, else as a Secondary Capture. What a
destination does not take is remembered, and tried again after a day.
"""

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from sqlalchemy.orm import Session

from qc_daemon.deliver.transport import Exam, Item
from qc_daemon.records.queue.jobs import Job
from qc_daemon.records.received import exams, revisions
from qc_daemon.records.received.revisions import Originals
from qc_daemon.records.results import destinations, renditions, reports
from qc_daemon.records.results.renditions import KeptRendition, Render
from qc_daemon.records.results.reports import Deliverable
from qc_daemon.records.store import Store
from qc_daemon.spool.verification import content_hash

# From what tells most to what every archive takes.
FORMS = (
    str(Comprehensive3DSRStorage),
    str(ComprehensiveSRStorage),
    str(SecondaryCaptureImageStorage),
)
REMEMBERED = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Form:
    """What may be sent; `rendition_id` if that is not the object as it was made."""

    item: Item
    rendition_id: int | None = None


class Forms:
    """The forms of objects; without `render` there is only the one they were made in.

    Destinations `by_exam` are told which exam an object is of.
    """

    def __init__(
        self,
        store: Store,
        originals: Originals,
        render: Render | None,
        clock: Callable[[], datetime],
        by_exam: Container[str] = (),
    ) -> None:
        self._store = store
        self._originals = originals
        self._render = render
        self._clock = clock
        self._by_exam = by_exam

    def of(self, job: Job) -> Iterator[Form]:
        """What the job may send, one after the other as each before it is refused.

        Raises QCError: NOT_AVAILABLE, REPORT_INVALID.
        """
        with self._store.read() as session:
            made = reports.deliverable(session, job)
            facts = job.revision_id and revisions.facts(session, job.revision_id)
            exam = _exam(session, job) if job.destination in self._by_exam else None
        if facts:
            yield Form(replace(_source(job, made, self._originals, facts), exam=exam))
        elif self._render is None or made.sop_class_uid not in FORMS[:-1]:
            yield Form(replace(_own(job, made), exam=exam))
        else:
            for form in self._reports(job, made, self._render):
                yield replace(form, item=replace(form.item, exam=exam))

    def refused(self, job: Job, form: Form) -> None:
        """The destination does not take the form's class."""
        with self._store.begin() as session:
            now = self._clock()
            destinations.refuse(session, job.destination, form.item.sop_class_uid, now)

    def taken(self, job: Job, form: Form) -> None:
        """The destination has taken the form, whatever it said before."""
        with self._store.read() as session:
            known = destinations.refused(session, job.destination)
        if form.item.sop_class_uid in known:
            with self._store.begin() as session:
                destinations.take(session, job.destination, form.item.sop_class_uid)

    def _reports(self, job: Job, made: Deliverable, render: Render) -> Iterator[Form]:
        known = FORMS[FORMS.index(made.sop_class_uid) :]
        with self._store.read() as session:
            refused = destinations.refused(session, job.destination)
            held = renditions.held(session, job)
            before = renditions.given(session, job)
        latest = self._clock() - REMEMBERED
        taken = [each for each in known if each not in refused or refused[each] <= latest]
        if before:
            # It has been given this one: another form beside it would be a second report.
            yield _rendition(before)
        assert made.payload is not None
        # If it took nothing yesterday, it is asked about everything again.
        for sop_class_uid in taken or known:
            if before and before.sop_class_uid == sop_class_uid:
                continue
            if sop_class_uid == made.sop_class_uid and not held:
                yield Form(_own(job, made))
                continue
            rendered = render(made.payload, sop_class_uid, held)
            if rendered.reference.sop_instance_uid == made.sop_instance_uid:
                yield Form(_own(job, made))
                continue
            assert job.object_id is not None
            with self._store.begin() as session:
                kept = renditions.keep(session, job.object_id, rendered, self._clock())
            yield _rendition(kept)


def _source(
    job: Job, made: Deliverable, originals: Originals, facts: revisions.RevisionFacts
) -> Item:
    # Another content under the same UID must not take the first one's place in a folder.
    again = f"-r{job.revision}" if job.revision > 1 else ""
    path = originals(facts)
    return Item(
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        transfer_syntax_uid=made.transfer_syntax_uid,
        name=made.sop_instance_uid + again,
        path=path,
        sha256=content_hash(path, facts.sha256),
        revision=job.revision,
    )


def _exam(session: Session, job: Job) -> Exam:
    study_instance_uid, first = exams.began(session, job.exam_id)
    return Exam(job.exam_id, study_instance_uid, first.date())


def _own(job: Job, made: Deliverable) -> Item:
    return Item(
        sop_class_uid=made.sop_class_uid,
        sop_instance_uid=made.sop_instance_uid,
        transfer_syntax_uid=made.transfer_syntax_uid,
        name=made.sop_instance_uid,
        payload=made.payload,
        kind=made.kind,
        revision=job.revision,
    )


def _rendition(kept: KeptRendition) -> Form:
    item = Item(
        sop_class_uid=kept.sop_class_uid,
        sop_instance_uid=kept.sop_instance_uid,
        transfer_syntax_uid=str(ExplicitVRLittleEndian),
        name=kept.sop_instance_uid,
        payload=kept.payload,
        kind="sr",
    )
    return Form(item, kept.id)
