"""Report jobs: from stored findings to stored objects and deliver jobs, once."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from detector.anatomy import View
from detector.errors import ErrorCode, Flag, QCError
from detector.frame import Frame
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import exams
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.report.exam import ReportedFinding, best_per_view
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.biometry import MachineValue
from qc_daemon.report.sr.parse import parse_findings, parse_machine_reports
from qc_daemon.settings import ReportSettings
from tests.support.pdf import pages, text
from tests.support.scored_exam import ScoredExam, black_frames
from tests.support.waiting import eventually

Make = Callable[..., Any]
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.3.1"


@pytest.fixture
def scored_exam(tmp_path: Path) -> Iterator[ScoredExam]:
    dataset = ScoredExam(tmp_path, ["sr", "overlay"])
    yield dataset
    dataset.store.close()


def test_exam_becomes_a_summary_in_the_chosen_language(tmp_path: Path) -> None:
    scored_exam = ScoredExam(tmp_path, ["sr", "pdf"])
    scored_exam.settings.report = ReportSettings(language="de", views=["NT", "CRL"])
    scored_exam.receive_image()
    scored_exam.close()
    assert scored_exam.report()
    sr, pdf = scored_exam.sent()
    assert (sr.kind, pdf.kind) == ("sr", "pdf")
    assert pdf.payload is not None
    dataset = dcmread(BytesIO(pdf.payload))
    assert dataset.SOPInstanceUID == pdf.sop_instance_uid
    assert dataset.DocumentTitle == "Ultraschall-Bildqualität: Übersicht der Untersuchung"
    document = tmp_path / "summary.pdf"
    document.write_bytes(dataset.EncapsulatedDocument[: dataset.EncapsulatedDocumentLength])
    page_text = text(document)
    assert "Fehlt,nochaufzunehmen:Scheitel-Steiß-Länge." in page_text
    assert "BessereBildergewünscht:Nackentransparenz,median-sagittal." in page_text
    # Two views were asked for, one has a picture.
    assert sum(len(page.pictures) for page in pages(document)) == 1
    scored_exam.store.close()


def test_frames_are_decoded_once_for_overlays_and_summary(
    tmp_path: Path, us_header: Make, a_finding: Make
) -> None:
    scored_exam = ScoredExam(tmp_path, ["overlay", "pdf"])
    header = us_header(SOPClassUID=MULTI_FRAME, NumberOfFrames=9)
    source = SourceInstance.of(header, "")
    scored_exam.receive(header, *(a_finding(source, frame=n, probability=n / 10) for n in (2, 5)))
    scored_exam.close()
    decoded_numbers: list[list[int]] = []

    def frames(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        decoded_numbers.append(list(numbers))
        return black_frames(path, numbers)

    assert scored_exam.report(frames)
    assert decoded_numbers == [[5]]
    scored_exam.store.close()


def test_findings_are_reported_in_the_order_of_the_pictures(
    scored_exam: ScoredExam, us_header: Make
) -> None:
    """Not in that of their UIDs; what has no number comes last."""
    for uid, number in (("1.2.1", None), ("1.2.2", 10), ("1.2.3", 2)):
        header = us_header(SOPInstanceUID=uid, InstanceNumber=number)
        scored_exam.receive_image(header)
    scored_exam.close()
    assert scored_exam.report()
    sr = scored_exam.sent()[0]
    assert sr.payload is not None
    assert [each.sop_instance_uid for each in parse_findings(sr.payload)] == [
        "1.2.3",
        "1.2.2",
        "1.2.1",
    ]


def test_report_goes_out_before_its_pictures_and_once(scored_exam: ScoredExam) -> None:
    scored_exam.receive_image()
    scored_exam.close()

    def without_archive(_path: Path, _numbers: Sequence[int]) -> Iterator[Frame]:
        raise QCError(ErrorCode.SPOOL_MISSING, "the spool is away")

    assert scored_exam.report(without_archive)
    (first,) = scored_exam.sent()
    assert first.kind == "sr"
    scored_exam.now += timedelta(hours=2)
    assert scored_exam.report()
    assert [delivered.kind for delivered in scored_exam.sent()] == ["sr", "overlay"]
    assert scored_exam.sent()[0] == first
    assert "PredecessorDocumentsSequence" not in dcmread(BytesIO(first.payload or b""))


def test_nothing_due_is_no_work(scored_exam: ScoredExam) -> None:
    assert not scored_exam.report()


def test_exam_becomes_sr_and_overlay(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    header = us_header()
    finding = a_finding(SourceInstance.of(header, ""))
    scored_exam.receive(header, finding)
    scored_exam.close()
    assert scored_exam.report()
    assert not scored_exam.report()
    sr, overlay = scored_exam.sent()
    assert (sr.kind, overlay.kind) == ("sr", "overlay")
    assert sr.payload is not None
    assert overlay.payload is not None
    assert parse_findings(sr.payload) == [finding]
    assert dcmread(BytesIO(overlay.payload)).SOPInstanceUID == overlay.sop_instance_uid
    assert [job.state for job in scored_exam.jobs(JobKind.REPORT)] == [JobState.DONE]


def test_image_after_the_report_makes_a_new_revision(
    scored_exam: ScoredExam, us_header: Make
) -> None:
    scored_exam.receive_image()
    scored_exam.close()
    assert scored_exam.report()
    late = us_header(SOPInstanceUID="1.2.3.77")
    scored_exam.receive_image(late)
    scored_exam.close()
    assert scored_exam.report()
    old, new = (dcmread(BytesIO(s.payload or b"")) for s in scored_exam.sent() if s.kind == "sr")
    assert len(parse_findings(new)) == 2
    series = new.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == old.SeriesInstanceUID
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_the_machine_s_measurements_are_reported(scored_exam: ScoredExam, us_header: Make) -> None:
    scored_exam.receive_image()
    machine = us_header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33", SOPInstanceUID="1.2.3.88")
    scored_exam.measure(machine, MeasuredValue("A", "NT", 1.4, "mm"))
    scored_exam.close()
    assert scored_exam.report()
    payload = scored_exam.sent()[0].payload
    assert payload is not None
    (reported,) = parse_machine_reports(payload)
    assert reported.values == (MachineValue("A", "NT", 1.4, "mm"),)
    assert reported.reference.sop_instance_uid == "1.2.3.88"
    assert reported.reference.sop_class_uid == machine.SOPClassUID


def test_frames_are_not_decoded_where_no_one_wants_overlays(tmp_path: Path) -> None:
    scored_exam = ScoredExam(tmp_path, ["sr"])
    scored_exam.receive_image()
    scored_exam.close()

    def never(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        raise AssertionError("decoded")

    assert scored_exam.report(never)
    assert [s.kind for s in scored_exam.sent()] == ["sr"]


def test_lost_header_values_are_flagged(scored_exam: ScoredExam, us_header: Make) -> None:
    header = us_header(PatientSex="W")
    scored_exam.receive_image(header, flags=())
    scored_exam.close()
    assert scored_exam.report()
    (finding,) = parse_findings(scored_exam.sent()[0].payload or b"")
    assert finding.judgement.flags == (Flag.HEADER_NORMALISED,)


def test_missing_file_is_an_alarm_and_waits(scored_exam: ScoredExam) -> None:
    scored_exam.receive_image().unlink()
    scored_exam.close()
    assert scored_exam.report()
    (job,) = scored_exam.jobs(JobKind.REPORT)
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.SPOOL_MISSING)
    assert scored_exam.sent() == []


def test_decoder_failure_leaves_the_picture_out_with_its_reason(scored_exam: ScoredExam) -> None:
    scored_exam.receive_image()
    scored_exam.close()

    def broken(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        raise QCError(ErrorCode.DECODE_FAILED, "the decoder gave up")

    assert scored_exam.report(broken)
    (job,) = scored_exam.jobs(JobKind.REPORT)
    assert job.state is JobState.DONE
    with scored_exam.store.read() as session:
        (undrawn,) = exams.without_overlay(session, job.exam_id)
    assert (undrawn.code, undrawn.message) == (ErrorCode.DECODE_FAILED, "the decoder gave up")
    # The report needs no pixels.
    assert [each.kind for each in scored_exam.sent()] == ["sr"]


def test_unexpected_failure_concerns_its_job_only(scored_exam: ScoredExam) -> None:
    scored_exam.receive_image()
    scored_exam.close()

    def surprised(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        raise ZeroDivisionError("Müller")

    assert scored_exam.report(surprised)
    (job,) = scored_exam.jobs(JobKind.REPORT)
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.INTERNAL)
    assert "Müller" not in (job.error_message or "")


def test_lost_lease_publishes_nothing_more(scored_exam: ScoredExam) -> None:
    scored_exam.receive_image()
    scored_exam.close()

    def slow(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        with scored_exam.store.begin() as session:
            assert jobs.release_owner(session, "reporter", scored_exam.now) == 1
        return black_frames(path, numbers)

    assert scored_exam.report(slow)
    assert [each.kind for each in scored_exam.sent()] == ["sr"]
    assert scored_exam.report()
    assert [s.kind for s in scored_exam.sent()] == ["sr", "overlay"]


def test_a_report_longer_than_its_lease_stays_with_its_worker(scored_exam: ScoredExam) -> None:
    """Another worker asks for work all the while; the living one is not counted dead."""
    scored_exam.settings.jobs.lease_seconds = 0.3
    scored_exam.receive_image()
    scored_exam.close()

    def slow(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        for _ in range(4):
            scored_exam.now += timedelta(seconds=0.25)
            end = scored_exam.now + timedelta(seconds=0.3)
            eventually(lambda end=end: scored_exam.jobs(JobKind.REPORT)[0].lease_until == end)
            with scored_exam.store.begin() as session:
                assert jobs.claim(session, [JobKind.REPORT], "other", scored_exam.now, 0.3) is None
        return black_frames(path, numbers)

    assert scored_exam.report(slow)
    (job,) = scored_exam.jobs(JobKind.REPORT)
    assert (job.state, job.deaths) == (JobState.DONE, 0)
    assert [delivered.kind for delivered in scored_exam.sent()] == ["sr", "overlay"]


def test_back_off_counts_from_the_failure(scored_exam: ScoredExam) -> None:
    """Not from the claim: a failure after an hour would be due again at once."""
    scored_exam.receive_image()
    scored_exam.close()

    def late(_path: Path, _numbers: Sequence[int]) -> Iterator[Frame]:
        scored_exam.now += timedelta(hours=1)
        raise ZeroDivisionError

    assert scored_exam.report(late)
    (job,) = scored_exam.jobs(JobKind.REPORT)
    shortest = scored_exam.settings.jobs.backoff_seconds / 2
    assert job.not_before >= scored_exam.now + timedelta(seconds=shortest)


def test_cine_shows_the_best_frame_of_each_view(a_source: Make, a_finding: Make) -> None:
    source = a_source(SOPClassUID=MULTI_FRAME, NumberOfFrames=5)

    def finding_of(frame: int, view: View, probability: float | None) -> ReportedFinding:
        finding = a_finding(source, frame=frame, view=view, probability=probability)
        return ReportedFinding(finding, frame, source, Path("x"))

    cine = [
        finding_of(1, View.OTHER, None),
        finding_of(2, View.CRL, 0.9),
        finding_of(3, View.NT, 0.2),
        finding_of(4, View.NT, 0.7),
        finding_of(5, View.NT, 0.4),
    ]
    assert [each.finding.frame for each in best_per_view(cine)] == [2, 4]
    assert [each.finding.frame for each in best_per_view(cine[:1])] == [1]


def test_cine_overlays_decode_only_the_frames_they_show(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    header = us_header(SOPClassUID=MULTI_FRAME, NumberOfFrames=3)
    source = SourceInstance.of(header, "")
    cine_findings = [
        a_finding(source, frame=n, probability=p) for n, p in ((1, 0.1), (2, 0.8), (3, 0.3))
    ]
    scored_exam.receive(header, *cine_findings)
    scored_exam.close()
    decoded_numbers: list[list[int]] = []

    def decoder(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        decoded_numbers.append(list(numbers))
        return black_frames(path, numbers)

    assert scored_exam.report(decoder)
    assert decoded_numbers == [[2]]
    assert [s.kind for s in scored_exam.sent()] == ["sr", "overlay"]


def test_images_needing_attention_get_key_objects_beside_the_report(
    tmp_path: Path, us_header: Make
) -> None:
    scored_exam = ScoredExam(tmp_path, ["sr", "key-objects"])
    bad, good = us_header(), us_header(SOPInstanceUID="1.2.3.77")
    scored_exam.receive_image(bad)
    scored_exam.receive_image(good, quality="standard")
    scored_exam.close()
    assert scored_exam.report()
    sr, selection = scored_exam.sent()
    assert (sr.kind, selection.kind) == ("sr", "key-objects")
    dataset = dcmread(BytesIO(selection.payload or b""))
    assert dataset.SOPInstanceUID == selection.sop_instance_uid
    image = dataset.ContentSequence[-1].ReferencedSOPSequence[0]
    assert image.ReferencedSOPInstanceUID == bad.SOPInstanceUID
    late = us_header(SOPInstanceUID="1.2.3.78")
    scored_exam.receive_image(late)
    scored_exam.close()
    assert scored_exam.report()
    first, second = (
        dcmread(BytesIO(delivered.payload or b""))
        for delivered in scored_exam.sent()
        if delivered.kind == "key-objects"
    )
    assert (first.InstanceNumber, second.InstanceNumber) == (1, 2)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    scored_exam.store.close()


def test_a_cine_with_a_good_frame_needs_no_attention(
    tmp_path: Path, us_header: Make, a_finding: Make
) -> None:
    scored_exam = ScoredExam(tmp_path, ["key-objects"])
    header = us_header(SOPClassUID=MULTI_FRAME, NumberOfFrames=9)
    source = SourceInstance.of(header, "")
    poor = a_finding(source, frame=2, quality="non-standard", probability=0.1)
    good = a_finding(source, frame=5, quality="standard", probability=0.9)
    scored_exam.receive(header, poor, good)
    scored_exam.close()
    assert scored_exam.report()
    assert scored_exam.sent() == []
    scored_exam.store.close()


@pytest.mark.parametrize(
    ("objects", "quality"), [(["sr", "key-objects"], "standard"), (["sr"], "review")]
)
def test_no_key_objects_without_images_or_takers(
    tmp_path: Path, objects: list[str], quality: str
) -> None:
    scored_exam = ScoredExam(tmp_path, objects)
    scored_exam.receive_image(quality=quality)
    scored_exam.close()
    assert scored_exam.report()
    assert [delivered.kind for delivered in scored_exam.sent()] == ["sr"]
    scored_exam.store.close()
