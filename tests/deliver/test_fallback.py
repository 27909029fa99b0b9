"""A destination that does not take a report as it is gets it in the next form that it takes."""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from detector.errors import ErrorCode
from qc_daemon.deliver.worker import Deliverer
from qc_daemon.records.commitment import scu
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations, renditions, reports
from qc_daemon.records.results.renditions import Rendition, SentReference
from qc_daemon.records.tables import JobKind, ObjectKind
from tests.deliver.conftest import Yard
from tests.support.commitment_peer import CommittingPacs
from tests.support.dicom_peers import US, part10, ultrasound

SR3D, SR, SC = Comprehensive3DSRStorage, ComprehensiveSRStorage, SecondaryCaptureImageStorage


@dataclass
class ChoosyPacs(CommittingPacs):
    """Negotiates its classes, but answers 0122 to objects of those in `unsupported`."""

    commits: bool = False
    unsupported: set[str] = field(default_factory=set)

    def _store(self, event: Any) -> int:
        if event.request.AffectedSOPClassUID in self.unsupported:
            return 0x0122
        return super()._store(event)


@pytest.fixture
def pacs() -> Iterator[ChoosyPacs]:
    made = ChoosyPacs()
    yield made
    made.stop()


@dataclass
class Desk:
    """An exam's reports on their way to the PACS; `asked` is what was to be rendered."""

    yard: Yard
    pacs: ChoosyPacs
    asked: list[tuple[str, Mapping[str, SentReference]]] = field(default_factory=list)
    revision: int = 0

    def publish(self, kind: ObjectKind = ObjectKind.SR, sop_class: str = SR3D) -> str:
        """The next report of the exam; its SOP Instance UID."""
        self.revision += 1
        uid = f"1.2.3.{self.revision}"
        made = ultrasound(sop_class=sop_class, SOPInstanceUID=uid)
        with self.yard.store.begin() as session:
            reports.keep(
                session,
                reports.ReportObject(kind, uid, sop_class, part10(made)),
                ["pacs"],
                self.yard.now,
                exam_id=1,
                report_revision=self.revision,
            )
        return uid

    def render(
        self, payload: bytes, sop_class: str, held: Mapping[str, SentReference]
    ) -> Rendition:
        self.asked.append((sop_class, held))
        uid = f"1.2.4.{len(held)}.{sop_class.rpartition('.')[2]}.{self.revision}"
        made = ultrasound(sop_class=sop_class, SOPInstanceUID=uid)
        return Rendition(SentReference(sop_class, uid, made.SeriesInstanceUID), part10(made))

    def deliver(self) -> None:
        """All that is due, by a process that remembers nothing."""
        deliverer = Deliverer(
            self.yard.store, self.yard.settings, "t", clock=self.yard.clock, render=self.render
        )
        while deliverer.run_once():
            pass
        deliverer.close()

    def refused(self) -> set[str]:
        with self.yard.store.read() as session:
            return set(destinations.refused(session, "pacs"))

    def states(self) -> list[tuple[str, str | None]]:
        return self.yard.states()[1:]

    def took(self, *sop_classes: str) -> None:
        """From now on the PACS takes these classes."""
        self.pacs.stop()
        self.pacs.sop_classes = (US, *sop_classes)
        self.pacs.start()


@pytest.fixture
def desk(yard: Yard, pacs: ChoosyPacs) -> Desk:
    yard.admit(ultrasound(), destination="share")
    yard.deliverer().run_once()
    return Desk(yard, pacs)


def test_as_it_is_where_it_is_taken(desk: Desk) -> None:
    desk.took(SR3D, SR, SC)
    uid = desk.publish()
    desk.deliver()
    assert desk.pacs.uids() == [uid]
    assert (desk.asked, desk.refused()) == ([], set())


def test_the_next_form_where_it_is_not_negotiated(desk: Desk) -> None:
    desk.took(SR, SC)
    desk.publish()
    desk.deliver()
    assert desk.states() == [("done", None)]
    assert desk.pacs.uids() == ["1.2.4.0.33.1"]
    assert desk.refused() == {SR3D}


def test_a_page_where_no_report_is_taken(desk: Desk) -> None:
    desk.took(SC)
    desk.publish()
    desk.deliver()
    assert desk.pacs.uids() == ["1.2.4.0.7.1"]
    assert [sop_class for sop_class, _ in desk.asked] == [SR, SC]
    assert desk.refused() == {SR3D, SR}


def test_the_next_form_where_the_status_says_so(desk: Desk) -> None:
    desk.took(SR3D, SR, SC)
    desk.pacs.unsupported = {SR3D, SR}
    desk.publish()
    desk.deliver()
    assert desk.pacs.uids() == ["1.2.4.0.7.1"]
    assert desk.refused() == {SR3D, SR}


def test_what_was_learnt_outlives_the_process(desk: Desk) -> None:
    desk.took(SR)
    desk.publish()
    desk.deliver()
    before = len(desk.pacs.proposed)
    desk.publish()
    desk.deliver()
    assert desk.states() == [("done", None)] * 2
    assert len(desk.pacs.proposed) == before + 1
    assert SR3D not in desk.pacs.proposed[-1]


def test_it_is_asked_again_after_a_day(desk: Desk) -> None:
    desk.took(SR)
    desk.publish()
    desk.deliver()
    desk.took(SR3D, SR)
    desk.yard.now += timedelta(hours=23)
    desk.publish()
    desk.deliver()
    desk.yard.now += timedelta(hours=1)
    desk.publish()
    desk.deliver()
    # The last as Comprehensive 3D SR again, and told of what was given in the others' place.
    assert desk.pacs.uids() == ["1.2.4.0.33.1", "1.2.4.1.33.2", "1.2.4.2.34.3"]
    assert desk.refused() == set()


def test_an_amendment_is_told_what_the_destination_was_given(desk: Desk) -> None:
    desk.took(SR)
    first = desk.publish()
    desk.deliver()
    desk.publish()
    desk.deliver()
    given = SentReference(SR, "1.2.4.0.33.1", "1.2.3.4.5.1")
    assert desk.asked == [(SR, {}), (SR, {first: given})]


def test_nothing_is_taken_until_that_is_mended(desk: Desk) -> None:
    desk.took()
    uid = desk.publish()
    desk.deliver()
    assert desk.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED)]
    assert desk.refused() == {SR3D, SR, SC}
    desk.took(SR3D)
    with desk.yard.store.begin() as session:
        (job,) = jobs.listing(session, states=[jobs.JobState.QUARANTINED])
        jobs.retry(session, [job.id], desk.yard.now)
    desk.deliver()
    assert desk.states() == [("done", None)]
    assert desk.pacs.uids() == [uid]
    assert desk.refused() == {SR, SC}


def test_what_was_given_is_given_again(desk: Desk) -> None:
    desk.took(SR)
    desk.publish()
    desk.deliver()
    desk.took(SR3D, SR)
    with desk.yard.store.begin() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.DELIVER])[1:]
        row = session.get_one(jobs.JobRow, job.id)
        jobs.make_ready(session, row, desk.yard.now)
    desk.yard.now += timedelta(days=3)
    desk.deliver()
    assert desk.pacs.uids() == ["1.2.4.0.33.1"] * 2
    assert len(desk.asked) == 1


def test_other_objects_have_one_form(desk: Desk) -> None:
    desk.took(SR)
    desk.publish(ObjectKind.OVERLAY, SC)
    desk.deliver()
    assert desk.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED)]
    assert (desk.asked, desk.refused()) == ([], {SC})


def test_commitment_is_asked_for_what_was_given(desk: Desk) -> None:
    desk.pacs.commits = True
    desk.took(SR)
    desk.publish()
    desk.deliver()
    assert desk.states() == [("sent", None)]
    with desk.yard.store.begin() as session:
        asked = renditions.rendition_of(session, jobs.listing(session, kinds=[JobKind.DELIVER])[1])
        ask = scu.create_request(
            session,
            "pacs",
            "1.2.5",
            desk.yard.now + timedelta(minutes=1),
            timedelta(minutes=1),
            RetryPolicy(),
            random.Random(1),
        )
    assert asked is not None
    assert ask is not None
    assert [each.sop_instance_uid for each in ask.references] == [asked.sop_instance_uid]
    assert [each.sop_class_uid for each in ask.references] == [SR]
