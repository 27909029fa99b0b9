"""Reports in other forms: the same content, references that the destination can follow, a page
that can be read."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from detector.anatomy import View
from detector.errors import ErrorCode, QCError
from model.finding import NON_STANDARD, REVIEW, STANDARD, Criterion, Finding
from qc_daemon.records.results.renditions import RenditionReference
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.renditions import best_findings, draw_page, render_report
from qc_daemon.report.source import InstanceReference, SourceInstance
from qc_daemon.report.sr.biometry import MachineReport, MachineValue
from qc_daemon.report.sr.document import build_sr
from qc_daemon.report.sr.parse import parse_findings

CREATED = datetime(2026, 1, 2, 10, tzinfo=UTC)
BEFORE = "2.25.41"
INSTEAD = RenditionReference(ComprehensiveSRStorage, "2.25.42", "2.25.43")


@pytest.fixture
def payload(
    a_source: Callable[..., SourceInstance], a_finding: Callable[..., Finding]
) -> Callable[..., bytes]:
    """An SR as stored; `amends` names the report before it."""

    def make(amends: str | None = None, frames: int = 2) -> bytes:
        source = a_source(NumberOfFrames=9, SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1")
        before = [
            InstanceReference(source.study_instance_uid, "2.25.9", Comprehensive3DSRStorage, "x")
        ]
        report = build_sr(
            [source],
            [a_finding(source, frame=frame) for frame in range(1, frames + 1)],
            revision=2 if amends else 1,
            created=CREATED,
            previous=[replace(each, sop_instance_uid=amends) for each in before] if amends else (),
        )
        return to_bytes(report)

    return make


def read_report(content: bytes) -> Dataset:
    return dcmread(BytesIO(content))


def test_the_same_content_as_comprehensive_sr(
    payload: Callable[..., bytes],
    tmp_path: Path,
    dciodvfy: Callable[[Path], list[str]],
    dsrdump: Callable[[Path], str],
) -> None:
    rendition = render_report(payload(), ComprehensiveSRStorage, {})
    before, after = read_report(payload()), read_report(rendition.payload)
    assert rendition.reference == RenditionReference(
        ComprehensiveSRStorage, after.SOPInstanceUID, before.SeriesInstanceUID
    )
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert parse_findings(after) == parse_findings(before)
    for dataset in (before, after):
        del dataset.SOPClassUID, dataset.SOPInstanceUID
    assert after == before
    path = tmp_path / "made.dcm"
    path.write_bytes(rendition.payload)
    assert dciodvfy(path) == []
    assert "Comprehensive SR Document" in dsrdump(path)


@pytest.mark.parametrize("sop_class", [ComprehensiveSRStorage, SecondaryCaptureImageStorage])
def test_the_same_bytes_make_the_same(payload: Callable[..., bytes], sop_class: str) -> None:
    assert render_report(payload(), sop_class, {}) == render_report(payload(), sop_class, {})


def test_an_amended_one_names_what_the_destination_holds(payload: Callable[..., bytes]) -> None:
    plain = render_report(payload(amends=BEFORE), ComprehensiveSRStorage, {})
    rendition = render_report(payload(amends=BEFORE), ComprehensiveSRStorage, {BEFORE: INSTEAD})
    ((named, series),) = predecessors(read_report(rendition.payload))
    assert named == (INSTEAD.sop_class_uid, INSTEAD.sop_instance_uid)
    assert series == INSTEAD.series_instance_uid
    # Other bytes, and so another UID.
    assert plain.reference.sop_instance_uid != rendition.reference.sop_instance_uid
    ((named, _),) = predecessors(read_report(plain.payload))
    assert named == (Comprehensive3DSRStorage, BEFORE)


def test_a_report_sent_unchanged_names_the_earlier_rendition_too(
    payload: Callable[..., bytes],
) -> None:
    rendition = render_report(payload(amends=BEFORE), Comprehensive3DSRStorage, {BEFORE: INSTEAD})
    before, after = read_report(payload(amends=BEFORE)), read_report(rendition.payload)
    assert after.SOPClassUID == Comprehensive3DSRStorage
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert predecessors(after)[0][0][1] == INSTEAD.sop_instance_uid
    # Nothing to be said otherwise: it stays what it is.
    same = render_report(payload(amends=BEFORE), Comprehensive3DSRStorage, {"2.25.7": INSTEAD})
    assert same.reference.sop_instance_uid == before.SOPInstanceUID


def test_what_is_three_dimensional_fits_nowhere_else(payload: Callable[..., bytes]) -> None:
    report = read_report(payload())
    item = Dataset()
    item.ValueType = "SCOORD3D"
    report.ContentSequence[-1].ContentSequence.append(item)
    with pytest.raises(QCError) as caught:
        render_report(to_bytes(report), ComprehensiveSRStorage, {})
    assert caught.value.code is ErrorCode.REPORT_INVALID


def test_a_page_for_those_who_take_no_report(
    payload: Callable[..., bytes], tmp_path: Path, dciodvfy: Callable[[Path], list[str]]
) -> None:
    rendition = render_report(payload(), SecondaryCaptureImageStorage, {})
    report, page = read_report(payload()), read_report(rendition.payload)
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber"):
        assert page[keyword] == report[keyword]
    assert page.SOPClassUID == SecondaryCaptureImageStorage
    assert (
        page.SeriesInstanceUID
        == rendition.reference.series_instance_uid
        != report.SeriesInstanceUID
    )
    assert (page.ContentDate, page.ContentTime) == (report.ContentDate, report.ContentTime)
    (source,) = page.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == parse_findings(report)[0].sop_instance_uid
    path = tmp_path / "page.dcm"
    path.write_bytes(rendition.payload)
    assert dciodvfy(path) == []


def test_a_machines_report_is_no_source_image(
    a_source: Callable[..., SourceInstance], a_finding: Callable[..., Finding]
) -> None:
    source = a_source()
    machine = InstanceReference(
        source.study_instance_uid, "2.25.9", ComprehensiveSRStorage, "2.25.10"
    )
    report = build_sr(
        [source],
        [a_finding(source)],
        revision=1,
        created=CREATED,
        measured=[MachineReport(machine, (MachineValue(None, "CRL", 60.0, "mm"),))],
    )
    page = read_report(render_report(to_bytes(report), SecondaryCaptureImageStorage, {}).payload)
    uids = [item.ReferencedSOPInstanceUID for item in page.SourceImageSequence]
    assert uids == [source.sop_instance_uid]


def test_the_best_of_each_view_of_each_image(
    a_source: Callable[..., SourceInstance], a_finding: Callable[..., Finding]
) -> None:
    source = a_source()
    findings = [
        a_finding(source, frame=1, probability=0.2),
        a_finding(source, frame=2, probability=0.9),
        a_finding(source, frame=3, view=View.OTHER, quality=REVIEW, probability=None, criteria=()),
        replace(a_finding(source, frame=1), sop_instance_uid="1.2.3"),
    ]
    uids = best_findings(findings)
    assert [(each.finding.frame, each.frames) for each in uids] == [(2, 2), (3, 1), (1, 1)]
    assert uids[2].finding.sop_instance_uid == "1.2.3"


@pytest.mark.parametrize("count", [1, 4, 30, 150])
def test_nothing_is_cut_off_or_runs_into_its_neighbour(
    count: int, a_source: Callable[..., SourceInstance], a_finding: Callable[..., Finding]
) -> None:
    source = a_source()
    many = tuple(Criterion(code, False, 0.1, "1", ()) for code in ("CRIT-GAIN", "CRIT-BLUR") * 2)
    findings = [
        replace(
            a_finding(
                source, quality=(STANDARD, NON_STANDARD, REVIEW)[n % 3], criteria=many[: n % 5]
            ),
            sop_instance_uid=f"1.2.826.0.1.3680043.10.1.{10**6 + n}",
        )
        for n in range(count)
    ]
    page = draw_page(findings, revision=2)
    assert page.shape[0] <= 1.5 * page.shape[1] + 300
    lit = page.any(axis=2)
    # The margins and the gaps between columns stay black.
    assert not lit[:20].any()
    assert not lit[-10:].any()
    below = lit[200:]
    for x in range(0, page.shape[1], 850):
        assert not below[:, x : x + 28].any()
    # Every verdict's tag is there whole, in its colour.
    tags = sum(
        int(np.all(page == colour, axis=2).sum() > 0)
        for colour in ((0, 114, 178), (213, 94, 0), (240, 228, 66))
    )
    assert tags == min(count, 3)


def predecessors(report: Dataset) -> list[tuple[tuple[str, str], str]]:
    """Class and instance of each report that this one amends, and its series."""
    return [
        ((item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID), series.SeriesInstanceUID)
        for study in report.PredecessorDocumentsSequence
        for series in study.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    ]
