"""An override by command arrives in a real Orthanc as an amended report with both verdicts."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from qc_daemon.cli.app import app
from qc_daemon.deliver.c_store import StoreSCU
from qc_daemon.deliver.transport import OutgoingObject
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.parse import parse_findings, parse_reviews
from qc_daemon.settings import DestinationSettings
from tests.interop.conftest import Deployment
from tests.support.dicom_objects import part10
from tests.support.orthanc import Orthanc
from tests.support.report_objects import nuchal_finding, ultrasound_header
from tests.support.scored_exam import ScoredExam
from tests.support.waiting import eventually
from training.phantom.dicom import exam


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
    scored = ScoredExam(tmp_path / "site", ["sr"])
    config = tmp_path / "qc.toml"
    config.write_text(
        f'[store]\nurl = "{scored.settings.store.url}"\nspool = "{scored.settings.store.spool}"\n'
        "[review]\nshare = 0.0\nrisk_share = 0.0\n"
    )
    header = ultrasound_header()
    scored.receive(header, nuchal_finding(SourceInstance.of(header, "")))
    scored.close()
    assert scored.report()
    result = CliRunner().invoke(
        app,
        [
            *("review", "override", "1", "--verdict", "standard", "--criterion", "GAIN=met"),
            *("--reason", "measurable", "--reader", "Lee^Ann", "--config", str(config)),
        ],
    )
    assert result.exit_code == 0, result.exception
    assert "an amended report is queued" in result.stdout
    assert scored.report()
    deliver(scored, pacs)
    first, amended = (each.sop_instance_uid for each in scored.sent())
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
    scored.store.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_running_service_sends_the_amended_report(
    make_deployment: Callable[..., Deployment], tmp_path: Path
) -> None:
    """From the machine to the archive; then what a person says by command arrives there too."""
    deployment = make_deployment()
    # No reading is drawn for a blinded second one, which the amended report would wait for.
    deployment.service.settings += "[review]\nshare = 0.0\nrisk_share = 0.0\n"
    deployment.pacs.start()
    deployment.service.start()
    (image, *_) = exam(77)
    path = tmp_path / "image.dcm"
    path.write_bytes(part10(image))
    runner = CliRunner()
    to = f"QCDAEMON@127.0.0.1:{deployment.service.port}"
    sent = runner.invoke(app, ["send", str(path), "--to", to, "--calling", "DCMSEND"])
    assert sent.exit_code == 0, sent.output
    config = ["--config", str(deployment.service.config)]

    def reports() -> list[bytes]:
        return [
            each.content
            for each in map(deployment.pacs.received, deployment.pacs.instances().values())
            if each.dataset.Modality == "SR"
        ]

    (first,) = eventually(reports, 600)
    before = parse_findings(first)
    listed = runner.invoke(app, ["review", "list", "--all", "--format", "jsonl", *config])
    row = json.loads(listed.stdout.splitlines()[0])
    other = "non-standard" if row["verdict"] == "standard" else "standard"
    words = ["--view", "NT", "--verdict", other, "--reason", "criterion", "--reader", "Lee^Ann"]
    result = runner.invoke(app, ["review", "override", str(row["finding"]), *words, *config])
    assert result.exit_code == 0, result.exception
    assert "an amended report is queued" in result.stdout
    eventually(lambda: len(reports()) == 2, 600)
    (amended,) = (each for each in reports() if parse_reviews(each))
    assert [each.to_json() for each in parse_findings(amended)] == [
        each.to_json() for each in before
    ]
    assert [(each.reader, each.verdict) for each in parse_reviews(amended)] == [("Lee^Ann", other)]
