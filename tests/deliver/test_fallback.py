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
from qc_daemon.records.commitment import scu
from qc_daemon.records.queue import jobs
from qc_daemon.records.queue.retry import RetryPolicy
from qc_daemon.records.results import destinations, renditions, reports
from qc_daemon.records.results.renditions import Rendition, RenditionReference
from qc_daemon.records.tables import JobKind, ObjectKind
from tests.support.delivery import Delivery
from tests.support.dicom_objects import US, part10, ultrasound
from tests.support.job_runners import deliver_runner
from tests.support.pacs import CommittingPacs

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
    peer = ChoosyPacs()
    yield peer
    peer.stop()


@dataclass
class FallbackSetup:
    """An exam's reports on their way to the PACS; `asked` is what was to be rendered."""

    delivery: Delivery
    pacs: ChoosyPacs
    rendered: list[tuple[str, Mapping[str, RenditionReference]]] = field(default_factory=list)
    revision: int = 0

    def publish(self, kind: ObjectKind = ObjectKind.SR, sop_class: str = SR3D) -> str:
        """The next report of the exam; its SOP Instance UID."""
        self.revision += 1
        uid = f"1.2.3.{self.revision}"
        dataset = ultrasound(sop_class=sop_class, SOPInstanceUID=uid)
        with self.delivery.store.begin() as session:
            reports.store_object(
                session,
                reports.ReportObject(kind, uid, sop_class, part10(dataset)),
                ["pacs"],
                self.delivery.now,
                exam_id=1,
                report_revision=self.revision,
            )
        return uid

    def render(
        self, payload: bytes, sop_class: str, earlier: Mapping[str, RenditionReference]
    ) -> Rendition:
        self.rendered.append((sop_class, earlier))
        uid = f"1.2.4.{len(earlier)}.{sop_class.rpartition('.')[2]}.{self.revision}"
        dataset = ultrasound(sop_class=sop_class, SOPInstanceUID=uid)
        return Rendition(
            RenditionReference(sop_class, uid, dataset.SeriesInstanceUID), part10(dataset)
        )

    def deliver(self) -> None:
        """All that is due, by a process that remembers nothing."""
        deliverer = deliver_runner(
            self.delivery.store,
            self.delivery.settings,
            "t",
            clock=self.delivery.clock,
            render=self.render,
        )
        while deliverer.run_once():
            pass
        deliverer.close()

    def refused(self) -> set[str]:
        with self.delivery.store.read() as session:
            return set(destinations.refused_classes(session, "pacs"))

    def states(self) -> list[tuple[str, str | None]]:
        return self.delivery.states()[1:]

    def took(self, *sop_classes: str) -> None:
        """From now on the PACS takes these classes."""
        self.pacs.stop()
        self.pacs.sop_classes = (US, *sop_classes)
        self.pacs.start()


@pytest.fixture
def setup(delivery: Delivery, pacs: ChoosyPacs) -> FallbackSetup:
    delivery.admit(ultrasound(), destination="share")
    delivery.deliverer().run_once()
    return FallbackSetup(delivery, pacs)


def test_report_goes_in_its_own_class_where_accepted(setup: FallbackSetup) -> None:
    setup.took(SR3D, SR, SC)
    uid = setup.publish()
    setup.deliver()
    assert setup.pacs.uids() == [uid]
    assert (setup.rendered, setup.refused()) == ([], set())


def test_next_class_goes_where_the_first_is_not_negotiated(setup: FallbackSetup) -> None:
    setup.took(SR, SC)
    setup.publish()
    setup.deliver()
    assert setup.states() == [("done", None)]
    assert setup.pacs.uids() == ["1.2.4.0.33.1"]
    assert setup.refused() == {SR3D}


def test_secondary_capture_goes_where_no_sr_class_is_accepted(setup: FallbackSetup) -> None:
    setup.took(SC)
    setup.publish()
    setup.deliver()
    assert setup.pacs.uids() == ["1.2.4.0.7.1"]
    assert [sop_class for sop_class, _ in setup.rendered] == [SR, SC]
    assert setup.refused() == {SR3D, SR}


def test_next_class_goes_where_the_status_refuses_the_class(setup: FallbackSetup) -> None:
    setup.took(SR3D, SR, SC)
    setup.pacs.unsupported = {SR3D, SR}
    setup.publish()
    setup.deliver()
    assert setup.pacs.uids() == ["1.2.4.0.7.1"]
    assert setup.refused() == {SR3D, SR}


def test_refused_classes_outlive_the_process(setup: FallbackSetup) -> None:
    setup.took(SR)
    setup.publish()
    setup.deliver()
    before = len(setup.pacs.proposed)
    setup.publish()
    setup.deliver()
    assert setup.states() == [("done", None)] * 2
    assert len(setup.pacs.proposed) == before + 1
    assert SR3D not in setup.pacs.proposed[-1]


def test_refused_class_is_tried_again_after_a_day(setup: FallbackSetup) -> None:
    setup.took(SR)
    setup.publish()
    setup.deliver()
    setup.took(SR3D, SR)
    setup.delivery.now += timedelta(hours=23)
    setup.publish()
    setup.deliver()
    setup.delivery.now += timedelta(hours=1)
    setup.publish()
    setup.deliver()
    # The last as Comprehensive 3D SR again, and told of what was given in the others' place.
    assert setup.pacs.uids() == ["1.2.4.0.33.1", "1.2.4.1.33.2", "1.2.4.2.34.3"]
    assert setup.refused() == set()


def test_a_later_report_refers_to_the_rendition_at_the_destination(setup: FallbackSetup) -> None:
    setup.took(SR)
    first = setup.publish()
    setup.deliver()
    setup.publish()
    setup.deliver()
    reference = RenditionReference(SR, "1.2.4.0.33.1", "1.2.3.4.5.1")
    assert setup.rendered == [(SR, {}), (SR, {first: reference})]


def test_retry_tries_every_refused_class_again(
    setup: FallbackSetup,
) -> None:
    setup.took()
    uid = setup.publish()
    setup.deliver()
    assert setup.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED)]
    assert setup.refused() == {SR3D, SR, SC}
    setup.took(SR3D)
    with setup.delivery.store.begin() as session:
        (job,) = jobs.listing(session, states=[jobs.JobState.QUARANTINED])
        jobs.retry(session, [job.id], setup.delivery.now)
    setup.deliver()
    assert setup.states() == [("done", None)]
    assert setup.pacs.uids() == [uid]
    assert setup.refused() == {SR, SC}


def test_resend_sends_the_same_rendition(setup: FallbackSetup) -> None:
    setup.took(SR)
    setup.publish()
    setup.deliver()
    setup.took(SR3D, SR)
    with setup.delivery.store.begin() as session:
        (job,) = jobs.listing(session, kinds=[JobKind.DELIVER])[1:]
        row = session.get_one(jobs.JobRow, job.id)
        jobs.make_ready(session, row, setup.delivery.now)
    setup.delivery.now += timedelta(days=3)
    setup.deliver()
    assert setup.pacs.uids() == ["1.2.4.0.33.1"] * 2
    assert len(setup.rendered) == 1


def test_other_objects_have_one_candidate(setup: FallbackSetup) -> None:
    setup.took(SR)
    setup.publish(ObjectKind.OVERLAY, SC)
    setup.deliver()
    assert setup.states() == [("quarantined", ErrorCode.DELIVERY_REFUSED)]
    assert (setup.rendered, setup.refused()) == ([], {SC})


def test_commitment_is_requested_for_the_rendition_sent(setup: FallbackSetup) -> None:
    setup.pacs.commits = True
    setup.took(SR)
    setup.publish()
    setup.deliver()
    assert setup.states() == [("sent", None)]
    with setup.delivery.store.begin() as session:
        rendition = renditions.rendition_of(
            session, jobs.listing(session, kinds=[JobKind.DELIVER])[1]
        )
        request = scu.create_request(
            session,
            "pacs",
            "1.2.5",
            setup.delivery.now + timedelta(minutes=1),
            timedelta(minutes=1),
            RetryPolicy(),
            random.Random(1),
        )
    assert rendition is not None
    assert request is not None
    assert [each.sop_instance_uid for each in request.references] == [rendition.sop_instance_uid]
    assert [each.sop_class_uid for each in request.references] == [SR]
