"""No object of an exam holds back the others: what cannot be told of is left out, with a reason."""

import errno
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from structlog.testing import capture_logs

from detector.errors import ErrorCode, QCError
from detector.frame import Frame
from qc_daemon.operations.exams import describe_exams, list_exams, table_row
from qc_daemon.operations.quarantine import list_quarantined, release_quarantined
from qc_daemon.operations.results import read_findings, stored_findings
from qc_daemon.records.listings import ExamFilter, Window
from qc_daemon.records.queue import jobs
from qc_daemon.records.received import exams
from qc_daemon.records.received.revisions import RevisionFacts, in_spool
from qc_daemon.records.results import reports
from qc_daemon.records.results.measurements import MeasuredValue
from qc_daemon.records.tables import JobKind, JobState
from qc_daemon.report import exam
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.omission import check_identity
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.source_file import MAX_HEADER_BYTES, read_header
from qc_daemon.report.sr.parse import parse_findings, parse_machine_reports
from tests.support.pdf import text
from tests.support.scored_exam import ScoredExam, black_frames

Make = Callable[..., Any]
BAD = "1.2.826.0.1.3680043.10.1.1.66"
GOOD = tuple(f"1.2.826.0.1.3680043.10.1.1.{n}" for n in (1, 2, 3))


@pytest.fixture
def scored_exam(tmp_path: Path) -> Iterator[ScoredExam]:
    scored = ScoredExam(tmp_path, ["sr", "overlay", "key-objects", "pdf"])
    yield scored
    scored.store.close()


def delete(path: Path) -> None:
    path.unlink()


def other_object(path: Path) -> None:
    """The file of another object lies in its place."""
    changed = dcmread(path)
    changed.SOPInstanceUID = "1.2.3.4.5"
    changed.save_as(path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def too_large(path: Path) -> None:
    """More items than a header may have, before the patient's name."""
    content = path.read_bytes()
    offset = content.index(b"\x10\x00\x10\x00PN")
    sequence = b"\x08\x00\x10\x11SQ\0\0\xff\xff\xff\xff"
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * (MAX_HEADER_BYTES // 8)
    end = b"\xfe\xff\xdd\xe0\0\0\0\0"
    path.write_bytes(content[:offset] + sequence + items + end + content[offset:])


Damage = Callable[[Path], None]


@pytest.mark.parametrize(
    ("header", "finding", "damage", "code"),
    [
        ({"SeriesInstanceUID": ""}, {}, None, ErrorCode.REPORT_INVALID),
        ({}, {}, delete, ErrorCode.SPOOL_MISSING),
        ({}, {}, other_object, ErrorCode.SPOOL_DAMAGED),
        ({}, {}, empty, ErrorCode.SPOOL_DAMAGED),
        ({}, {"view_probability": 1.5}, None, ErrorCode.REPORT_INVALID),
        ({}, {"frame": 0}, None, ErrorCode.REPORT_INVALID),
    ],
)
def test_one_bad_object_is_omitted_and_the_others_reported(
    scored_exam: ScoredExam,
    us_header: Make,
    a_finding: Make,
    header: dict[str, Any],
    finding: dict[str, Any],
    damage: Damage | None,
    code: ErrorCode,
) -> None:
    bad = us_header(SOPInstanceUID=BAD, **header)
    # It comes first, in the middle and last among the good ones.
    for number, uid in enumerate((GOOD[0], BAD, *GOOD[1:])):
        if uid == BAD:
            source = SourceInstance.of(us_header(SOPInstanceUID=BAD), "")
            path = scored_exam.receive(bad, a_finding(source, **finding))
            if damage is not None:
                damage(path)
        else:
            good = us_header(SOPInstanceUID=uid, InstanceNumber=number)
            scored_exam.receive_image(good)
    scored_exam.close()
    with capture_logs() as log:
        assert scored_exam.report()
    assert [(j.state, j.error_message) for j in scored_exam.jobs(JobKind.REPORT)] == [
        (JobState.DONE, None)
    ]
    kinds = [each.kind for each in scored_exam.sent()]
    assert (kinds.count("sr"), kinds.count("overlay"), kinds.count("pdf")) == (1, 3, 1)
    assert "key-objects" in kinds
    sr = next(each.payload for each in scored_exam.sent() if each.kind == "sr")
    assert [each.sop_instance_uid for each in parse_findings(sr or b"")] == list(GOOD)
    (row,) = list_quarantined(scored_exam.settings)
    assert row["sop_instance_uid"] == BAD
    assert row["code"] == code
    (event,) = [each for each in log if each["event"] == "left out of the report"]
    assert (event["code"], event["sop_instance"], event["exam"]) == (row["code"], BAD, 1)
    study = us_header().StudyInstanceUID
    (line,) = [
        each for each in describe_exams(scored_exam.settings, study) if "not reported" in each
    ]
    assert BAD in line
    assert row["code"] in line
    refused = [e for e in stored_findings(scored_exam.settings, study, None) if "quarantine" in e]
    assert [each["quarantine"]["code"] for each in refused] == [row["code"]]
    pdf = next(each.payload for each in scored_exam.sent() if each.kind == "pdf")
    document = scored_exam.settings.store.spool / "summary.pdf"
    document.write_bytes(dcmread(BytesIO(pdf or b"")).EncapsulatedDocument)
    assert "1objectofthisexamisnotinthisreport" in text(document)


def test_a_file_altered_after_it_was_received_is_omitted(
    scored_exam: ScoredExam, us_header: Make
) -> None:
    """By another patient's name, which no identifier of the object shows."""
    find = in_spool(scored_exam.settings.store.spool)
    for uid in (BAD, *GOOD):
        header = us_header(SOPInstanceUID=uid)
        scored_exam.receive_image(header)
    scored_exam.close()

    def find_then_alter(facts: RevisionFacts) -> Path:
        path = find(facts)
        if facts.sop_instance_uid == BAD:
            changed = dcmread(path)
            changed.PatientName = "SOMEONE^ELSE"
            changed.save_as(path)
        return path

    assert scored_exam.report(originals=find_then_alter)
    (row,) = list_quarantined(scored_exam.settings)
    assert (row["sop_instance_uid"], row["code"]) == (BAD, ErrorCode.SPOOL_DAMAGED)
    assert all(b"SOMEONE^ELSE" not in (each.payload or b"") for each in scored_exam.sent())


def test_released_and_sound_again_it_amends_the_report(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    for uid in GOOD:
        header = us_header(SOPInstanceUID=uid)
        path = scored_exam.receive_image(header)
    content = path.read_bytes()
    path.unlink()
    scored_exam.close()
    assert scored_exam.report()
    path.write_bytes(content)
    (row,) = list_quarantined(scored_exam.settings)
    assert release_quarantined(scored_exam.settings, [row["id"]]).count == 1
    with scored_exam.store.begin() as session:
        scored_exam.now += timedelta(days=900_000)
        job = jobs.claim(session, [JobKind.SCORE], "scorer", scored_exam.now, 300)
        assert job is not None
    scored_exam.score(job, path, a_finding(SourceInstance.of(header, "")))
    scored_exam.close()
    assert scored_exam.report()
    first, second = (parse_findings(s.payload or b"") for s in scored_exam.sent() if s.kind == "sr")
    assert (len(first), len(second)) == (2, 3)


def test_earlier_content_stands_in_for_a_bad_one(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    """The same pixels come again under a header without Series Instance UID."""
    good = us_header()
    finding = a_finding(SourceInstance.of(good, ""))
    scored_exam.receive(good, finding, pixels="the same")
    scored_exam.receive(us_header(SeriesInstanceUID=""), finding, pixels="the same")
    scored_exam.close()
    assert scored_exam.report()
    sr = next(each.payload for each in scored_exam.sent() if each.kind == "sr")
    assert [each.sop_instance_uid for each in parse_findings(sr or b"")] == [good.SOPInstanceUID]
    assert [row["code"] for row in list_quarantined(scored_exam.settings)] == [
        ErrorCode.REPORT_INVALID
    ]


def test_an_exam_without_sound_objects_ends_the_job(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    header = us_header(SeriesInstanceUID="")
    scored_exam.receive(header, a_finding(SourceInstance.of(us_header(), "")))
    scored_exam.close()
    assert scored_exam.report()
    assert [job.state for job in scored_exam.jobs(JobKind.REPORT)] == [JobState.DONE]
    assert scored_exam.sent() == []
    lines = describe_exams(scored_exam.settings, header.StudyInstanceUID)
    assert lines[0].endswith("; 1 of 1 in quarantine")
    assert "report-invalid" in lines[-1]


def test_an_object_without_study_uid_is_one_row_that_says_why_there_is_no_report(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    header = us_header(StudyInstanceUID="")
    scored_exam.receive(header, a_finding(SourceInstance.of(us_header(), "")))
    scored_exam.close()
    scored_exam.report()
    (exam_row,) = list_exams(scored_exam.settings, ExamFilter()).rows
    assert (exam_row["status"], exam_row["report"], exam_row["quarantined"]) == (
        "in quarantine",
        0,
        1,
    )
    assert table_row(exam_row)["outcome"] == "1 of 1 in quarantine"
    for form in ("row", "finding"):
        (row,) = read_findings(
            scored_exam.settings,
            ExamFilter(),
            Window(),
            form,
            all_frames=True,
            all_revisions=True,
        )
        if form == "row":
            assert (row["verdict"], row["error_code"]) == ("non-standard", "report-invalid")
            message = row["error_message"]
        else:
            assert row["quality"]["label"] == "non-standard"
            message = row["quarantine"]["message"]
        assert message.startswith("a report needs the Study Instance UID (0020,000D)")
        assert message.endswith("correct that at the machine and send it again")
    (stored,) = stored_findings(scored_exam.settings, None, None)
    assert stored["quarantine"]["code"] == "report-invalid"
    # Sent again with one, it is scored and reported.
    header = us_header()
    scored_exam.receive(header, a_finding(SourceInstance.of(header, "")))
    scored_exam.close()
    scored_exam.report()
    assert [row["status"] for row in list_exams(scored_exam.settings, ExamFilter()).rows] == [
        "reported",
        "in quarantine",
    ]


def test_a_bad_measurement_is_omitted(scored_exam: ScoredExam, us_header: Make) -> None:
    scored_exam.receive_image()
    report = "1.2.840.10008.5.1.4.1.1.88.33"
    for uid, unit, series in (("1.2.8", "mm", "1.2.3"), ("1.2.9", "furlong", "1.2.3")):
        machine = us_header(SOPClassUID=report, SOPInstanceUID=uid, SeriesInstanceUID=series)
        scored_exam.measure(machine, MeasuredValue("A", "NT", 1.4, unit))
    scored_exam.close()
    assert scored_exam.report()
    sr = next(each.payload for each in scored_exam.sent() if each.kind == "sr")
    assert [m.reference.sop_instance_uid for m in parse_machine_reports(sr or b"")] == ["1.2.8"]
    assert [row["sop_instance_uid"] for row in list_quarantined(scored_exam.settings)] == ["1.2.9"]


@pytest.mark.parametrize(
    "error", [QCError(ErrorCode.DECODE_FAILED, "the decoder gave up"), ValueError("Müller")]
)
def test_a_picture_that_cannot_be_drawn_does_not_delay_the_others(
    scored_exam: ScoredExam, us_header: Make, error: Exception
) -> None:
    for uid in GOOD:
        header = us_header(SOPInstanceUID=uid)
        path = scored_exam.receive_image(header)
    scored_exam.close()

    def frames(source_path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        if source_path == path:
            raise error
        return black_frames(source_path, numbers)

    for _ in range(4):
        scored_exam.report(frames)
        scored_exam.now += timedelta(hours=2)
    kinds = [each.kind for each in scored_exam.sent()]
    assert (kinds.count("sr"), kinds.count("overlay"), kinds.count("pdf")) == (1, 2, 1)
    assert [job.state for job in scored_exam.jobs(JobKind.REPORT)] == [JobState.DONE]
    assert list_quarantined(scored_exam.settings) == []
    (line,) = [
        each
        for each in describe_exams(scored_exam.settings, header.StudyInstanceUID)
        if "without overlay" in each
    ]
    assert GOOD[-1] in line
    assert "Müller" not in line


def test_the_job_waits_some_tries_for_an_unreachable_archive(
    scored_exam: ScoredExam, us_header: Make
) -> None:
    for uid in GOOD:
        header = us_header(SOPInstanceUID=uid)
        path = scored_exam.receive_image(header)
    scored_exam.close()
    spool = scored_exam.settings.store.spool

    def originals(facts: Any) -> Path:
        stored_path: Path = spool / facts.path
        if stored_path == path:
            raise QCError(ErrorCode.DELIVERY_UNREACHABLE, "the archive is away")
        return stored_path

    assert scored_exam.report(originals=originals)
    (job,) = scored_exam.jobs(JobKind.REPORT)
    assert (job.state, job.error_code) == (JobState.READY, ErrorCode.DELIVERY_UNREACHABLE)
    assert scored_exam.sent() == []
    for _ in range(3):
        scored_exam.now += timedelta(hours=2)
        assert scored_exam.report(originals=originals)
    sr = next(each.payload for each in scored_exam.sent() if each.kind == "sr")
    assert len(parse_findings(sr or b"")) == 2


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID"])
def test_header_of_another_object_is_refused(
    scored_exam: ScoredExam, us_header: Make, keyword: str
) -> None:
    """As a destination may give back that files objects under new identifiers."""
    header = us_header()
    scored_exam.receive_image(header)
    with scored_exam.store.read() as session:
        (scored,) = exams.exam_content(session, 1).findings
    check_identity(SourceInstance.of(header, ""), scored.revision)
    with pytest.raises(QCError, match="header names another"):
        check_identity(SourceInstance.of(us_header(**{keyword: "1.2.3.4"}), ""), scored.revision)


def test_header_longer_than_any_is_not_parsed(tmp_path: Path, us_header: Make) -> None:
    path = tmp_path / "large.dcm"
    path.write_bytes(to_bytes(us_header()))
    too_large(path)
    with pytest.raises(QCError) as refused:
        read_header(path)
    assert refused.value.code is ErrorCode.UNREADABLE


def deflated(header: Dataset, path: Path, *, zeros: int) -> Path:
    """The header with a pixel value of zeros, deflated (PS3.5 A.5)."""
    header.PixelData = b""
    header["PixelData"].VR = "OW"
    whole = BytesIO()
    header.save_as(whole, implicit_vr=False, little_endian=True)
    head = whole.getvalue()[:-4] + zeros.to_bytes(4, "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = deflate.compress(head)
    for _ in range(zeros >> 20):
        body += deflate.compress(bytes(1 << 20))
    syntax = b"1.2.840.10008.1.2.1.99"
    meta = b"\x02\x00\x10\x00UI" + len(syntax).to_bytes(2, "little") + syntax
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(meta).to_bytes(4, "little")
    path.write_bytes(bytes(128) + b"DICM" + length + meta + body + deflate.flush())
    return path


def test_bomb_is_not_inflated_to_read_its_header(tmp_path: Path, us_header: Make) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = deflated(us_header(), tmp_path / "bomb.dcm", zeros=512 << 20)
    assert SourceInstance.of(read_header(path), "").sop_instance_uid == us_header().SOPInstanceUID
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10


def test_overlays_are_published_in_batches_while_others_are_drawn(
    scored_exam: ScoredExam, us_header: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of a large exam would not fit into memory together."""
    monkeypatch.setattr(exam, "_BATCH_BYTES", 1)
    for uid in GOOD:
        header = us_header(SOPInstanceUID=uid)
        scored_exam.receive_image(header)
    scored_exam.close()
    stored: list[int] = []

    def frames(path: Path, numbers: Sequence[int]) -> Iterator[Frame]:
        stored.append(sum(each.kind == "overlay" for each in scored_exam.sent()))
        return black_frames(path, numbers)

    assert scored_exam.report(frames)
    assert stored == [0, 1, 2]
    assert sum(each.kind == "overlay" for each in scored_exam.sent()) == 3


def test_full_disk_loses_nothing_and_blames_no_object(
    scored_exam: ScoredExam, us_header: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for uid in GOOD:
        header = us_header(SOPInstanceUID=uid)
        scored_exam.receive_image(header)
    scored_exam.close()
    publish = reports.publish
    for kind in ("sr", "overlay", "pdf"):

        def full(session: Any, job: Any, objects: Any, *rest: Any, kind: str = kind) -> Any:
            if objects[0].kind == kind:
                raise OSError(errno.ENOSPC, "No space left on device")
            return publish(session, job, objects, *rest)

        monkeypatch.setattr(reports, "publish", full)
        assert scored_exam.report()
        (job,) = scored_exam.jobs(JobKind.REPORT)
        assert (job.state, job.error_code) == (JobState.READY, ErrorCode.STORAGE)
        scored_exam.now += timedelta(hours=2)
    monkeypatch.setattr(reports, "publish", publish)
    assert scored_exam.report()
    kinds = [each.kind for each in scored_exam.sent()]
    assert (kinds.count("sr"), kinds.count("overlay"), kinds.count("pdf")) == (1, 3, 1)
    assert list_quarantined(scored_exam.settings) == []
    assert not [
        x for x in describe_exams(scored_exam.settings, header.StudyInstanceUID) if "without" in x
    ]
