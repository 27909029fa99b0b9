"""DCMTK's storescp as a PACS that negotiates only some classes of reports."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComprehensiveSRStorage,
    SecondaryCaptureImageStorage,
)

from qc_daemon.records.received import receipts
from qc_daemon.records.results import destinations, reports
from qc_daemon.records.results.reports import ReportObject
from qc_daemon.records.store import Store
from qc_daemon.records.tables import ObjectKind
from qc_daemon.report.equipment import to_bytes
from qc_daemon.report.objects.renditions import render_report
from qc_daemon.report.sr.parse import parse_findings
from qc_daemon.settings import Settings
from tests.interop.test_delivery_orthanc import MONDAY, report_of
from tests.support.databases import migrate
from tests.support.dicom_objects import ultrasound
from tests.support.environment import require
from tests.support.job_runners import deliver_runner
from tests.support.peers import association
from tests.support.ports import reserve_port
from tests.support.receipts import RECEIPT
from tests.support.waiting import eventually

PROFILE = """
[[TransferSyntaxes]]
[Plain]
TransferSyntax1 = LittleEndianExplicit
TransferSyntax2 = LittleEndianImplicit
[[PresentationContexts]]
[Some]
PresentationContext1 = VerificationSOPClass\\Plain
PresentationContext2 = {sop_class}\\Plain
[[Profiles]]
[Default]
PresentationContexts = Some
"""
"""Negotiates one SOP class and no other."""


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[Callable[[str], tuple[int, Path]]]:
    """Starts one that takes a class; its port, and the folder where it puts what it takes."""
    program = shutil.which("storescp")
    require(program is not None, "storescp (DCMTK)")
    assert program is not None
    started: list[subprocess.Popen[bytes]] = []

    def start(sop_class: str) -> tuple[int, Path]:
        folder, profile, port = tmp_path / "taken", tmp_path / "profile.cfg", reserve_port()
        folder.mkdir()
        profile.write_text(PROFILE.format(sop_class=sop_class))
        started.append(
            subprocess.Popen(
                [program, "-xf", profile, "Default", "-od", folder, str(port)],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        eventually(lambda: _is_listening(port))
        return port, folder

    yield start
    for process in started:
        process.terminate()
        process.wait(timeout=60)


def _is_listening(port: int) -> bool:
    with association(port, [("1.2.840.10008.1.1", "1.2.840.10008.1.2")]) as verification:
        return bool(verification.is_established)


def deliver(folder: Path, port: int) -> tuple[list[Dataset], set[str]]:
    """An SR and the one that amends it; what the destination is known to refuse afterwards."""
    settings = Settings(
        store={"url": f"sqlite:///{folder / 'qc.db'}", "spool": folder},
        destination=[{"name": "pacs", "host": "127.0.0.1", "port": port}],
    )
    migrate(settings.store.url)
    store = Store(settings.store.url)
    image = ultrasound(study="1.2.826.0.1.3680043.10.1.77")
    first = report_of(image, 1)
    reports_sent = [first, report_of(image, 2, amends=first)]
    receipt = replace(RECEIPT, sop_instance_uid=str(image.SOPInstanceUID))
    with store.begin() as session:
        exam = receipts.admit(
            session, receipt, source_destinations=[], bundle_id=None, now=MONDAY
        ).exam_id
        for revision, report in enumerate(reports_sent, 1):
            reports.store_object(
                session,
                ReportObject(
                    ObjectKind.SR,
                    str(report.SOPInstanceUID),
                    str(report.SOPClassUID),
                    to_bytes(report),
                ),
                ["pacs"],
                MONDAY,
                exam_id=exam,
                report_revision=revision,
            )
    deliverer = deliver_runner(store, settings, "test", clock=lambda: MONDAY, render=render_report)
    while deliverer.run_once():
        pass
    deliverer.close()
    with store.read() as session:
        refused = set(destinations.refused_classes(session, "pacs"))
    store.close()
    return reports_sent, refused


def stored_reports(folder: Path) -> list[Dataset]:
    datasets = [dcmread(path) for path in folder.iterdir()]
    return sorted(datasets, key=lambda each: int(each.InstanceNumber))


def test_comprehensive_sr(
    tmp_path: Path,
    storescp: Callable[[str], tuple[int, Path]],
    dsrdump: Callable[[Path], str],
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    port, folder = storescp(ComprehensiveSRStorage)
    reports_sent, refused = deliver(tmp_path, port)
    assert refused == {Comprehensive3DSRStorage}
    first, amended = stored_reports(folder)
    assert [parse_findings(each) for each in (first, amended)] == [
        parse_findings(each) for each in reports_sent
    ]
    ((study,),) = [amended.PredecessorDocumentsSequence]
    (before,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert before.ReferencedSOPClassUID == first.SOPClassUID == ComprehensiveSRStorage
    assert before.ReferencedSOPInstanceUID == first.SOPInstanceUID
    for path in folder.iterdir():
        assert "Comprehensive SR Document" in dsrdump(path)
        assert dciodvfy(path) == []


def test_a_page(
    tmp_path: Path,
    storescp: Callable[[str], tuple[int, Path]],
    dciodvfy: Callable[[Path], list[str]],
) -> None:
    port, folder = storescp(SecondaryCaptureImageStorage)
    _, refused = deliver(tmp_path, port)
    assert refused == {Comprehensive3DSRStorage, ComprehensiveSRStorage}
    first, amended = stored_reports(folder)
    assert first.SeriesInstanceUID == amended.SeriesInstanceUID
    # The later one says that it replaces the other.
    assert first.PixelData != amended.PixelData
    for path in folder.iterdir():
        assert dciodvfy(path) == []
