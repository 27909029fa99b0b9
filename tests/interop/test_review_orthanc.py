"""An override by command arrives in a real Orthanc as an amended report with both verdicts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qc_daemon.cli.app import app
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import OutgoingObject
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.settings import DestinationSettings
from tests.support.orthanc import Orthanc
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.scored_exam import ScoredExam


@pytest.fixture
def pacs(tmp_path: Path, orthanc_program: str) -> Iterator[Orthanc]:
    started = Orthanc(orthanc_program, tmp_path / "orthanc").start()
    yield started
    started.kill()


def deliver(exam: ScoredExam, pacs: Orthanc) -> None:
    """Send what the deliver jobs would send."""
    transport = StoreSCU(
        DestinationSettings(name="pacs", ae_title="ORTHANC", port=pacs.dicom_port), "QCDAEMON"
    )
    for each in exam.sent():
        transport.send(
            OutgoingObject(
                each.sop_class_uid,
                each.sop_instance_uid,
                each.transfer_syntax_uid,
                each.sop_instance_uid,
                payload=each.payload,
            )
        )
    transport.close()


def test_an_override_by_command_arrives_as_an_amended_report(
    tmp_path: Path, pacs: Orthanc, dciodvfy: object, dsrdump: object
) -> None:
    exam = ScoredExam(tmp_path / "site", ["sr"])
    config = tmp_path / "qc.toml"
    config.write_text(
        f'[store]\nurl = "{exam.settings.store.url}"\nspool = "{exam.settings.store.spool}"\n'
        "[review]\nshare = 0.0\nrisk_share = 0.0\n"
    )
    header = ultrasound_header()
    exam.receive(header, nuchal_finding(SourceInstance.of(header, "")))
    exam.close()
    assert exam.report()
    result = CliRunner().invoke(
        app,
        [
            *("review", "override", "1", "--verdict", "standard", "--criterion", "GAIN=met"),
            *("--reason", "measurable", "--reader", "Lee^Ann", "--config", str(config)),
        ],
    )
    assert result.exit_code == 0, result.exception
    assert "an amended report is queued" in result.stdout
    assert exam.report()
    deliver(exam, pacs)
    first, amended = (each.sop_instance_uid for each in exam.sent())
    arrived = pacs.instances()
    assert set(arrived) == {first, amended}
    report = pacs.received(arrived[amended])
    path = tmp_path / "amended.dcm"
    path.write_bytes(report.content)
    assert dciodvfy(path) == []  # type: ignore[operator]
    assert "Lee^Ann" in dsrdump(path)  # type: ignore[operator]
    (finding,) = parse_findings(report.content)
    (review,) = parse_reviews(report.content)
    assert finding.judgement.quality == "non-standard"
    assert (review.verdict, review.criteria) == ("standard", (("CRIT-GAIN", True),))
    assert (review.reader, review.reason) == ("Lee^Ann", "measurable")
    predecessor = report.dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert predecessor.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == first
    assert report.dataset.VerificationFlag == "UNVERIFIED"
    exam.store.close()
