"""Two patients under one Study Instance UID: every page, list and report of each says so."""

import csv
import io
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from detector.console import UsageError
from detector.errors import Flag, QCError
from qc_daemon.cli.app import app
from qc_daemon.operations.exams import describe_exams, write_summary
from qc_daemon.operations.results import stored_findings
from qc_daemon.report.source import SourceInstance
from qc_daemon.report.sr.parse import parse_findings
from tests.support import pdf
from tests.support.scored_exam import ScoredExam

Make = Callable[..., Any]
STUDY = "1.2.826.0.1.3680043.10.1.2"
runner = CliRunner()


@pytest.fixture
def scored_exam(tmp_path: Path) -> Iterator[ScoredExam]:
    scored = ScoredExam(tmp_path, ["sr", "pdf"])
    (tmp_path / "qc.toml").write_text(
        f'[store]\nurl = "sqlite:///{tmp_path / "qc.db"}"\nspool = "."\n'
    )
    yield scored
    scored.store.close()


@pytest.fixture
def arrive(scored_exam: ScoredExam, us_header: Make, a_finding: Make) -> Make:
    """An image of a patient comes."""

    def receive(patient: str, uid: str) -> None:
        header = us_header(PatientID=patient, PatientName=f"{patient}^W", SOPInstanceUID=uid)
        for keyword, value in (
            ("SamplesPerPixel", 1),
            ("PhotometricInterpretation", "MONOCHROME2"),
            ("BitsAllocated", 8),
            ("BitsStored", 8),
            ("HighBit", 7),
            ("PixelRepresentation", 0),
            ("PixelData", np.full((120, 160), 90, np.uint8).tobytes()),
        ):
            setattr(header, keyword, value)
        scored_exam.receive_image(header, flags=())

    return receive


def reports(scored_exam: ScoredExam) -> dict[str, list[Any]]:
    """The reports of each patient, oldest first."""
    by_patient: dict[str, list[Any]] = {}
    for each in scored_exam.sent():
        if each.kind == "sr":
            report = dcmread(BytesIO(each.payload or b""))
            by_patient.setdefault(str(report.PatientID), []).append(report)
    return by_patient


def is_flagged(report: Any) -> bool:
    (finding,) = parse_findings(report)
    return Flag.OTHER_PATIENT_IN_STUDY in finding.judgement.flags


def test_report_of_each_says_so_the_earlier_one_by_an_amendment(
    scored_exam: ScoredExam, arrive: Make
) -> None:
    arrive("RIGHT", "1.2.3.1")
    scored_exam.close()
    assert scored_exam.report()
    assert not is_flagged(reports(scored_exam)["RIGHT"][0])
    arrive("WRONG", "1.2.3.2")
    scored_exam.close()
    while scored_exam.report():
        pass
    new_reports = reports(scored_exam)
    assert [is_flagged(each) for each in new_reports["RIGHT"]] == [False, True]
    assert [is_flagged(each) for each in new_reports["WRONG"]] == [True]
    # No word of the other patient.
    assert "WRONG" not in str(new_reports["RIGHT"][1])
    assert "RIGHT" not in str(new_reports["WRONG"][0])
    # Said once: nothing more comes of it.
    arrive("WRONG", "1.2.3.3")
    scored_exam.close()
    while scored_exam.report():
        pass
    assert len(reports(scored_exam)["RIGHT"]) == 2


def test_page_and_lists_of_each_say_so(
    scored_exam: ScoredExam, arrive: Make, tmp_path: Path
) -> None:
    arrive("RIGHT", "1.2.3.1")
    assert "share" not in " ".join(describe_exams(scored_exam.settings, STUDY))
    arrive("WRONG", "1.2.3.2")
    assert (
        "2 patients share this study (exams 1, 2)" in describe_exams(scored_exam.settings, STUDY)[0]
    )
    findings = stored_findings(scored_exam.settings, STUDY, None)
    assert [f["flags"] for f in findings] == [[Flag.OTHER_PATIENT_IN_STUDY]] * 2
    listed = runner.invoke(
        app, ["results", "--format", "csv", "--config", str(tmp_path / "qc.toml")]
    )
    rows = list(csv.DictReader(io.StringIO(listed.stdout)))
    assert [Flag.OTHER_PATIENT_IN_STUDY in row["flags"] for row in rows] == [True, True]
    scored_exam.close()
    while scored_exam.report():
        pass
    pdfs = [each.payload for each in scored_exam.sent() if each.kind == "pdf"]
    assert len(pdfs) == 2
    for number, payload in enumerate(pdfs):
        document = tmp_path / f"{number}.pdf"
        document.write_bytes(dcmread(BytesIO(payload or b"")).EncapsulatedDocument)
        assert "Imagesofanotherpatientstandunderthesamestudy" in pdf.text(document)


def test_the_summary_needs_the_patient_and_shows_no_other(
    scored_exam: ScoredExam, arrive: Make, tmp_path: Path
) -> None:
    arrive("RIGHT", "1.2.3.1")
    arrive("WRONG", "1.2.3.2")
    out = tmp_path / "exam.html"
    config = ["--out", str(out), "--config", str(tmp_path / "qc.toml")]
    result = runner.invoke(app, ["summary", "--study", STUDY, *config])
    assert isinstance(result.exception, UsageError)
    message = str(result.exception)
    assert "--exam 1 (1 object," in message
    assert "--exam 2 (1 object," in message
    assert "RIGHT" not in message
    assert not out.exists()
    for options, visible, hidden in (
        (("--study", STUDY, "--exam", "1"), "RIGHT", "WRONG"),
        (("--exam", "2"), "WRONG", "RIGHT"),
        (("--study", STUDY, "--patient", "RIGHT"), "RIGHT", "WRONG"),
    ):
        assert runner.invoke(app, ["summary", *options, *config]).exit_code == 0
        page = out.read_text(encoding="utf-8")
        assert visible in page
        assert hidden not in page
        assert "Images of another patient stand under the same study" in page
    for options in (
        ("--study", STUDY, "--exam", "9"),
        ("--study", STUDY, "--patient", "NOBODY"),
        ("--exam", "9"),
    ):
        refused = runner.invoke(app, ["summary", *options, *config])
        assert isinstance(refused.exception, QCError)
        assert "NOBODY" not in str(refused.exception)
    assert isinstance(runner.invoke(app, ["summary", *config]).exception, UsageError)


def test_a_terminal_prompts_for_the_exam(
    scored_exam: ScoredExam, arrive: Make, tmp_path: Path
) -> None:
    arrive("RIGHT", "1.2.3.1")
    arrive("WRONG", "1.2.3.2")
    offered: list[str] = []

    def choose(choices: Any) -> int:
        offered.extend(each.patient_id for each in choices)
        return int(choices[1].exam_id)

    out = tmp_path / "exam.html"
    write_summary(scored_exam.settings, STUDY, out, choose=choose)
    assert offered == ["RIGHT", "WRONG"]
    assert "WRONG" in out.read_text(encoding="utf-8")


def test_objects_without_study_uid_share_none(
    scored_exam: ScoredExam, us_header: Make, a_finding: Make
) -> None:
    for patient, uid in (("A", "1.2.3.1"), ("B", "1.2.3.2")):
        header = us_header(PatientID=patient, SOPInstanceUID=uid, StudyInstanceUID="")
        scored_exam.receive(
            header, a_finding(SourceInstance.of(us_header(SOPInstanceUID=uid), ""), flags=())
        )
    assert [f["flags"] for f in stored_findings(scored_exam.settings, None, None)] == [[], []]
