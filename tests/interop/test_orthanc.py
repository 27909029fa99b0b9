"""From a real modality to a real PACS: nothing lost, and all that arrives can be read by others.

A phantom exam, 27 real ultrasound files of many makers and 10 real NT pictures go to the service
with dcmsend; originals, structured reports and overlays come out in Orthanc.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from detector.errors import ErrorCode, Flag
from qc_daemon.records.queue import jobs
from qc_daemon.records.tables import JobState
from qc_daemon.report.sr.parse import parse_findings
from tests.interop.conftest import A_WOMAN, WRAPPED, Outcome
from tests.support.dcmtk import SUCCESS

pytestmark = pytest.mark.timeout(1800)

ILLEGAL_ROOT = re.compile(r'Error - Illegal root for UID - "999\.999\.')
"""Some real files carry UIDs under 999, which no authority gave out; references must repeat them.
Nothing else of what sr-facts found impossible is needed: a frame of a single-frame object is told
by a measurement of ours instead of an illegal reference."""
FL_STEP = 6.1e-5
"""Half the spacing of FL numbers between 1024 and 2048 (2^-14), in pixels."""


def test_every_file_was_accepted(outcome: Outcome, files: list[Path]) -> None:
    assert Counter(sent.path for sent in outcome.sent) == Counter(files)
    assert [sent.path.name for sent in outcome.sent if sent.status != SUCCESS] == []


def test_every_object_ends_as_findings_or_as_a_recorded_reason(outcome: Outcome) -> None:
    reported = {each["sop_instance_uid"] for each in outcome.results}
    assert {sent.sop_instance_uid for sent in outcome.sent} == reported
    for each in outcome.results:
        if "error" in each:
            assert each["error"]["code"] in set(ErrorCode)
            assert each["error"]["message"]
    # All of these are sound pictures: a reason would be a decoder that this machine lacks.
    assert [each for each in outcome.results if "error" in each] == []


def test_every_job_is_done(outcome: Outcome) -> None:
    with outcome.deployment.store.read() as session:
        every = jobs.listing(session)
    assert [(job.kind, job.error_code) for job in every if job.state is not JobState.DONE] == []


def test_frames_of_a_cine_are_spread_and_numbered_once(outcome: Outcome) -> None:
    findings_per_place = Counter(
        (each["sop_instance_uid"], each["revision"], each["frame"], each["region"]["index"])
        for each in outcome.findings()
    )
    assert set(findings_per_place.values()) == {1}
    frames = defaultdict(set)
    for uid, revision, frame, _ in findings_per_place:
        frames[uid, revision].add(frame)
    cines = [each for each in outcome.headers.values() if "NumberOfFrames" in each]
    (cine,) = (each for each in cines if exam_of(each)[1].startswith("PHANTOM-"))
    assert frames[cine.SOPInstanceUID, 1] == {1, 3, 4, 6}


def test_a_second_content_under_one_uid_is_a_flagged_revision(outcome: Outcome) -> None:
    """One set of findings for each content under a UID; all but the first received are flagged."""
    contents: dict[str, set[str]] = defaultdict(set)
    for path, header in outcome.headers.items():
        contents[str(header.SOPInstanceUID)].add(pixel_hash(path))
    flagged: dict[str, dict[int, bool]] = defaultdict(dict)
    for each in outcome.findings():
        has_other_content = Flag.SAME_UID_OTHER_CONTENT in each["flags"]
        flagged[each["sop_instance_uid"]][each["revision"]] = has_other_content
    assert {uid: len(each) for uid, each in flagged.items()} == {
        uid: len(hashes) for uid, hashes in contents.items()
    }
    assert any(len(hashes) > 1 for hashes in contents.values())
    for revisions in flagged.values():
        numbers = sorted(revisions)
        assert [revisions[number] for number in numbers] == [False] + [True] * (len(numbers) - 1)


def test_originals_arrive_unchanged(outcome: Outcome) -> None:
    """As they were received: every element's value; and with the pixels of the file.

    Of contents that share a UID Orthanc keeps the first, and says success to all.
    """
    stored = outcome.deployment.pacs.instances()
    files = {str(header.SOPInstanceUID): path for path, header in reversed(outcome.headers.items())}
    received = outcome.deployment.first_received()
    assert set(files) == set(received)
    for uid, path in received.items():
        arrived = outcome.deployment.pacs.received(stored[uid])
        assert encoded(arrived.content) == encoded(path.read_bytes()), files[uid].name
        original, received_dataset = dcmread(files[uid]), arrived.dataset
        assert received_dataset.PixelData == original.PixelData or np.array_equal(
            received_dataset.pixel_array, original.pixel_array
        )


def test_only_originals_reports_and_overlays_arrive(outcome: Outcome) -> None:
    ours = {str(each.dataset.SOPInstanceUID) for each in (*outcome.reports, *outcome.overlays)}
    sent = {sent.sop_instance_uid for sent in outcome.sent}
    assert set(outcome.deployment.pacs.instances()) == sent | ours


def test_a_report_of_each_exam_arrives(outcome: Outcome) -> None:
    exams = {exam_of(header) for header in outcome.headers.values()}
    assert Counter(exam_of(report.dataset) for report in outcome.reports) == dict.fromkeys(exams, 1)
    wrapped = [exam for exam in exams if exam[1].startswith("WRAP-")]
    assert len(wrapped) == WRAPPED // A_WOMAN


def test_overlays_of_each_object_arrive(outcome: Outcome) -> None:
    drawn_frames = {
        (str(source.ReferencedSOPInstanceUID), int(source.get("ReferencedFrameNumber", 1)))
        for overlay in outcome.overlays
        for source in overlay.dataset.SourceImageSequence
    }
    assert {uid for uid, _ in drawn_frames} == {sent.sop_instance_uid for sent in outcome.sent}
    for overlay in outcome.overlays:
        rows, columns = overlay.dataset.Rows, overlay.dataset.Columns
        assert overlay.dataset.pixel_array.shape == (rows, columns, 3)


def test_dsrdump_and_dciodvfy_accept_the_reports(
    outcome: Outcome,
    tmp_path: Path,
    dsrdump: Callable[[Path], str],
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    unexpected = {}
    for number, report in enumerate(outcome.reports):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(report.content)
        dump = dsrdump(path)
        assert "Comprehensive 3D SR Document" in dump
        groups = len(list(findings_and_boxes(report.dataset)))
        assert dump.count("Measurement Group") == groups
        illegal = "999.999." in exam_of(report.dataset)[0]
        errors = [line for line in dciodvfy(path) if not (illegal and ILLEGAL_ROOT.match(line))]
        if errors:
            unexpected[exam_of(report.dataset)] = errors
    assert unexpected == {}


def test_wrapped_pictures_are_valid(
    outcome: Outcome, dciodvfy: Callable[[Path], list[str]]
) -> None:
    """What stands for a scanner here is beyond reproach: one of them for all."""
    path = next(p for p, h in outcome.headers.items() if exam_of(h)[1].startswith("WRAP-"))
    assert dciodvfy(path) == []


def test_reports_give_the_findings_back(outcome: Outcome) -> None:
    """What the PACS holds says what the database says.

    Boxes are equal within 6.1e-5 px for coordinates below 2048 (FL); probabilities, gates, values
    and region edges are bit-exact (FD), and all else is equal. Only the flag header-normalised may
    come on top: the header is normalised when it is told, after the finding was stored.
    """
    stored = {key_of(each): each for each in outcome.findings()}
    reported: set[tuple[Any, ...]] = set()
    for report in outcome.reports:
        for finding in parse_findings(report.content):
            reported_finding = finding.to_json()
            assert key_of(reported_finding) not in reported
            reported.add(key_of(reported_finding))
            expect_same(reported_finding, stored[key_of(reported_finding)])
    # Every object is told, with all frames of one of its contents.
    by_revision: dict[str, dict[int, set[tuple[Any, ...]]]] = defaultdict(lambda: defaultdict(set))
    for key in stored:
        by_revision[key[0]][key[1]].add(key)
    for uid, revisions in by_revision.items():
        assert {key for key in reported if key[0] == uid} in revisions.values()


def test_no_address_outside_was_tried(outcome: Outcome) -> None:
    """The service ran under the socket guard, each of its processes."""
    processes = outcome.deployment.guard.processes()
    for role in ("receive", "work", "deliver", "schedule"):
        assert any(f"qc_daemon.service.roles {role}" in line for line in processes)
    assert any("decode_child" in line for line in processes)
    assert outcome.deployment.guard.outside() == []


def exam_of(dataset: Dataset) -> tuple[str, str]:
    return str(dataset.StudyInstanceUID), str(dataset.get("PatientID") or "")


def pixel_hash(path: Path) -> str:
    """Of the stored values, whatever encoding they come in."""
    pixels = dcmread(path).pixel_array
    return hashlib.sha256(f"{pixels.shape}".encode() + pixels.tobytes()).hexdigest()


def encoded(content: bytes) -> dict[int, Any]:
    """Values by tag as they are encoded; without group lengths, which DCMTK drops."""
    dataset = dcmread(BytesIO(content))
    # Iterating over a Dataset itself would convert its elements.
    tags = [tag for tag in dataset.keys() if tag.element != 0]  # noqa: SIM118
    return {int(tag): dataset.get_item(tag).value for tag in tags}


def findings_and_boxes(report: Dataset) -> Iterator[Dataset]:
    for item in report.ContentSequence:
        for group in item.get("ContentSequence", []):
            if "ContentTemplateSequence" in group:
                yield group


def key_of(finding: dict[str, Any]) -> tuple[Any, ...]:
    region = finding["region"]["index"]
    return finding["sop_instance_uid"], finding["revision"], finding["frame"], region


def expect_same(reported: dict[str, Any], stored: dict[str, Any]) -> None:
    boxes = np.reshape([each["bbox"] for each in reported["detections"]], (-1, 4))
    expected = np.reshape([each["bbox"] for each in stored["detections"]], (-1, 4))
    np.testing.assert_allclose(boxes, expected, rtol=0, atol=FL_STEP)
    aligned = [
        {**each, "bbox": original["bbox"]}
        for each, original in zip(reported["detections"], stored["detections"], strict=True)
    ]
    flags = [flag for flag in reported["flags"] if flag != Flag.HEADER_NORMALISED]
    # What `results` says of the record beside the finding itself.
    of_record = {"exam_id", "calling_ae", "received", "superseded", "rejected", "best_frame"}
    of_record |= {"acquisition", "finding_id", "review"}
    finding = {key: value for key, value in stored.items() if key not in of_record}
    assert {**reported, "detections": aligned, "flags": flags} == finding
